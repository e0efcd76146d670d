"""Waits for a submission, counts the time it uses, and ends it with all that it has started."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

WALL_FACTOR = 20
"""How many times its limit a submission may take by the clock on the wall, on a machine too busy to give it its
share."""

_BLIND_FACTOR = 4  # the patience with a process that seems idle, where the kernel does not tell idling from queueing
_POLL = 0.005  # seconds, where there is nothing to wait on
_PATIENCE = 0.1  # how often to look again at a process that seems idle and is not, as a share of its limit


class Child:
    """A child process; `fd` becomes readable when it has ended, where the kernel has such descriptors."""

    def __init__(self, pid: int):
        self.pid = pid
        self.fd: int | None = None
        self._status: int | None = None
        with contextlib.suppress(AttributeError, OSError):
            self.fd = os.pidfd_open(pid)

    def has_ended(self) -> bool:
        """Whether it has ended; if possible it stays unreaped, so that its number is not given to another process."""
        if self._status is None and hasattr(os, "waitid"):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def reap(self) -> int:
        """Wait for it, and return its exit status (negative: the signal)."""
        if self._status is None:
            self._status = os.waitpid(self.pid, 0)[1]
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
        return os.waitstatus_to_exitcode(self._status)

    def kill(self, group: bool) -> None:
        """Kill it, and with `group` its whole process group; has no effect on one that has ended."""
        with contextlib.suppress(OSError):
            if group:
                os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            if self._status is None:
                os.kill(self.pid, signal.SIGKILL)


def wait(child: Child, timeout: float, proc: int | None, control: int) -> str:
    """Wait until a child has ended or has used up its time; returns `itself`, `cpu`, `idle`, `wall` or `orphaned`.

    Args:
        timeout: seconds of CPU time, and as many again in which it may sleep. Time spent waiting for a free core, or for
            a host that runs other machines, is not counted.
        proc: a descriptor of `/proc`, if there is one.
        control: the control socket; when its other end closes, nobody waits for the result any more.
    """
    start = time.monotonic()
    name = _name_in(proc)
    poller = select.poll()
    poller.register(control, select.POLLHUP | getattr(select, "POLLRDHUP", 0))
    if child.fd is not None:
        poller.register(child.fd, select.POLLIN)
    pause = timeout
    while True:
        events = poller.poll(1000 * (pause if child.fd is not None else _POLL))
        if child.has_ended():
            return "itself"
        if any(fd == control for fd, _ in events):
            return "orphaned"
        wall, cpu, queued = time.monotonic() - start, _cpu_seconds(child.pid), _queued_seconds(proc, name)
        idle_limit = timeout if queued is not None or cpu == 0 else _BLIND_FACTOR * timeout
        idle = wall - cpu - (queued or 0.0)
        if max(cpu, _family_cpu_seconds(proc)) >= timeout:
            return "cpu"
        if wall >= WALL_FACTOR * timeout:
            return "wall"
        # One that wants to run is not idle: its time went where the kernel does not count it.
        if idle >= idle_limit and not _wants_to_run(proc, name):
            return "idle"
        pause = max(_POLL, min(timeout - cpu, max(idle_limit - idle, _PATIENCE * timeout)))


def _cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process; 0 where the system does not say."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # the kernel's number for the CPU clock of a process
    except OSError:
        return 0.0


def _family_cpu_seconds(proc: int | None) -> float:
    """CPU time of all descendants of this process, living or reaped by living ones; in hundredths of a second."""
    ticks = 0
    if proc is not None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            waiting = _children(proc, os.readlink("self", dir_fd=proc))
            while waiting:
                name = waiting.pop()
                # Behind the program's name, which may hold anything: user and system time, of itself and of reaped
                # children.
                ticks += sum(map(int, _read(proc, f"{name}/stat").rpartition(")")[2].split()[11:15]))
                waiting += _children(proc, name)
    return ticks / os.sysconf("SC_CLK_TCK")


def _children(proc: int, name: str) -> list[str]:
    return _read(proc, f"{name}/task/{name}/children").split()


def _name_in(proc: int | None) -> str | None:
    """The name of this process' only child in a `/proc` that may number processes differently."""
    if proc is None:
        return None
    try:
        children = _children(proc, os.readlink("self", dir_fd=proc))
    except OSError:
        return None
    return children[0] if len(children) == 1 else None


def _queued_seconds(proc: int | None, name: str | None) -> float | None:
    """Time that the process was ready to run and had no core; None where the kernel does not say."""
    if proc is None or name is None:
        return None
    try:
        return int(_read(proc, f"{name}/schedstat").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


def _wants_to_run(proc: int | None, name: str | None) -> bool:
    """Whether any thread of the process is running or ready to run."""
    if proc is None or name is None:
        return False
    with contextlib.suppress(OSError, IndexError):
        folder = os.open(f"{name}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
        try:
            return any(
                _read(folder, f"{task}/stat").rpartition(")")[2].split()[0] == "R" for task in os.listdir(folder)
            )
        finally:
            os.close(folder)
    return False


def _read(proc: int, path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        return os.read(fd, 4096).decode()
    finally:
        os.close(fd)


def end(child: Child, first_process: bool, proc: int | None) -> int:
    """Kill a child and all its descendants, and return the child's own exit status (negative: the signal).

    Args:
        first_process: whether the child is the first process of a namespace; the kernel then ends the others with it.
    """
    child.kill(group=not first_process)
    status = child.reap()
    while not first_process and _kill_orphans(proc):
        time.sleep(0.001)
    return status


def _kill_orphans(proc: int | None) -> bool:
    """Kill and reap what was handed to this process when its parents died; True if there was any."""
    found = False
    if proc is not None:
        with contextlib.suppress(OSError):
            for name in _children(proc, os.readlink("self", dir_fd=proc)):
                found = True
                with contextlib.suppress(OSError):
                    os.kill(int(name), signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            found = True
    return found
