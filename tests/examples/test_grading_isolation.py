"""The walls: which ones stand here, and that grading stays right where the kernel grants none of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.grading.sandbox import namespaces, seccomp
from tests.examples.grading_helpers import ADD_ONE, NO_PRIVILEGES, POOR_KERNEL, answering

REPOSITORY = Path(__file__).resolve().parents[2]
NOBODY = 12_345


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=1, timeout=1.0) as made:
        yield made


def answers(grader: Grader, expression: str, before: str = "") -> bool:
    """Whether a program finds `expression` to be true where it runs."""
    (grade,) = grader.grade([(answering(f"x + 1 if ({expression}) else 0", before), ADD_ONE, None)])
    assert grade.compiles, grade.error
    return grade.passed_strict


def needs(grader: Grader, layer: str) -> None:
    if layer not in grader.isolation:
        pytest.skip(f"this machine does not grant {layer!r}")


def test_pid_namespace_hides_other_processes(grader: Grader) -> None:
    needs(grader, "pid")
    assert answers(grader, "os.getpid() == 1", "import os")


def test_file_system_holds_the_standard_library_and_an_empty_folder(grader: Grader) -> None:
    needs(grader, "files")
    assert answers(grader, "os.getcwd() == '/box' and os.listdir() == []", "import os")
    hidden = [str(REPOSITORY), "/etc", "/proc", "/sys", "/home", "/var", "/bin"]
    assert answers(grader, f"not any(map(os.path.exists, {hidden!r}))", "import os")


def test_folder_is_small_and_private(grader: Grader) -> None:
    needs(grader, "files")
    assert answers(grader, "os.statvfs('.').f_blocks * os.statvfs('.').f_frsize <= 16 << 20", "import os")


def test_network_is_empty(grader: Grader) -> None:
    """Of the namespace itself, which a submission cannot ask: the filter gives it no socket."""
    needs(grader, "net")
    script = (
        "import socket\nfrom examples.leetcode_grpo.grading.sandbox import namespaces\n"
        "assert 'net' in namespaces.enter(lambda: None)\n"
        "print(*[name for _, name in socket.if_nameindex()], flush=True)\n"
    )
    assert run_apart(script) == {"lo"}


# What the kernel grants to a process that asks by itself, without any of the code under test.
ASK_THE_KERNEL = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
FLAGS = {"uts": 0x04000000, "ipc": 0x08000000, "net": 0x40000000, "pid": 0x20000000}

def granted(flags, *mount):
    child = os.fork()
    if child == 0:
        refused = libc.unshare(flags) or (mount and libc.mount(*mount))
        os._exit(1 if refused else 0)
    return os.waitpid(child, 0)[1] == 0

user = 0 if os.geteuid() == 0 and granted(FLAGS["uts"]) else 0x10000000
print(*["user"] if user and granted(user) else [])
print(*[name for name, flag in FLAGS.items() if granted(user | flag)])
if granted(user | 0x00020000, b"none", b"/", None, 16384 | 1 << 18, None) and (
    granted(user | 0x00020000, b"tmpfs", b"/tmp", b"tmpfs", 0, None)
):
    print("files")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces exist on Linux")
def test_every_namespace_that_the_kernel_grants_is_in_force(grader: Grader) -> None:
    """Or losing one of them would show in nothing but skipped tests."""
    assert grader.isolation & {"user", "uts", "ipc", "net", "pid", "files"} == run_apart(ASK_THE_KERNEL)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_filters_and_landlock_are_in_force_where_the_kernel_has_them(grader: Grader) -> None:
    script = (
        "import ctypes, os\nlibc = ctypes.CDLL(None)\n"
        "print(*['landlock'] if libc.syscall(444, None, ctypes.c_size_t(0), 1) > 0 else [])\n"
        "known = os.uname().machine in ('x86_64', 'aarch64')\n"
        "print(*['seccomp'] if known and libc.prctl(21, 0, 0, 0, 0) >= 0 else [])\n"
    )
    assert grader.isolation & {"landlock", "seccomp"} == run_apart(script)


def test_no_processes_but_threads(grader: Grader) -> None:
    needs(grader, "seccomp")
    fork = "import os\ntry:\n    os.fork()\n    forked = True\nexcept OSError: forked = False\n"
    assert answers(grader, "not forked", fork)
    thread = "import threading\nt = threading.Thread(target=int)\nt.start()\nt.join()\n"
    assert answers(grader, "True", thread)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="the tests do not run as root")
def test_root_becomes_nobody(grader: Grader) -> None:
    assert answers(grader, "min(os.getresuid() + os.getresgid()) > 0 and os.getgroups() == []", "import os")


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities exist on Linux")
def test_no_privilege_is_left(grader: Grader) -> None:
    before = "import ctypes\nlibc = ctypes.CDLL(None)\nheader = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
    before += "sets = (ctypes.c_uint32 * 6)()\nlibc.capget(header, sets)\n"
    assert answers(grader, "not any(sets) and libc.prctl(39, 0, 0, 0, 0) == 1", before)


def test_limits_are_in_force(grader: Grader) -> None:
    names = ("RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CORE")
    before = f"import resource as r\nlimits = [r.getrlimit(getattr(r, n)) for n in {names!r}]\n"
    assert answers(grader, "all(hard != r.RLIM_INFINITY and soft == hard for soft, hard in limits)", before)


def test_no_memory_outside_of_the_limits(grader: Grader) -> None:
    """Memory files and shared segments would not count as address space."""
    needs(grader, "seccomp")
    for call in ("os.memfd_create('x')", "ctypes.CDLL(None, use_errno=True).shmget(0, 4096, 0o1600)"):
        before = f"import ctypes, os\ntry: made = {call} >= 0\nexcept OSError: made = False\n"
        assert answers(grader, "not made", before)


FILTERED = """
import ctypes, fcntl, os, signal, threading
from examples.leetcode_grpo.grading.sandbox import libc, seccomp
handle = ctypes.CDLL(None, use_errno=True)

def answer(number, *arguments):
    ctypes.set_errno(0)
    handle.syscall(*[ctypes.c_long(value) for value in (number, *arguments)])
    if os.getpid() != me:
        os._exit(0)
    return ctypes.get_errno()

me, column = os.getpid(), seccomp.column()
libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install(seccomp.program(me))
"""
"""The beginning of a script: the strictest filter is in force, and `answer` is the error number of a system call."""

REFUSED = {**seccomp._DENIED, **seccomp._SIGNALS} if seccomp.available() else {}


@pytest.fixture(scope="module")
def refused() -> set[str]:
    """The names of the calls that are refused, whatever they are asked for."""
    ask = "for name, numbers in {**seccomp._DENIED, **seccomp._SIGNALS}.items():\n"
    ask += "    if numbers[column] is not None and answer(numbers[column], *[-1] * 6) == 1: print(name)\n"
    return run_apart(FILTERED + ask)


@pytest.mark.parametrize("name", [name for name, numbers in REFUSED.items() if numbers[seccomp.column()] is not None])
def test_the_filter_refuses(name: str, refused: set[str]) -> None:
    assert name in refused


HEADERS = ["x86_64-linux-gnu/asm/unistd_64.h", "asm-generic/unistd.h"]  # arm64 has the generic numbers


@pytest.mark.parametrize("column", [0, 1], ids=["x86_64", "aarch64"])
def test_the_numbers_are_the_kernels(column: int) -> None:
    header = Path("/usr/include", HEADERS[column])
    if not header.exists():
        pytest.skip(f"no {header}")
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", header.read_text())}
    named = {
        **{name: numbers[column] for name, numbers in {**seccomp._DENIED, **seccomp._SIGNALS}.items()},
        **{name: numbers[column] for name, (numbers, _) in seccomp._OWNERS.items()},
        "prlimit64": seccomp._LIMITS[column],
        "prctl": seccomp._PRCTL[column],
        "clone": seccomp._CLONE[column],
        "tgkill": seccomp._THREAD_SIGNAL[column],
        "clone3": seccomp._CLONE3,
    }
    assert {name: known.get(name, number) for name, number in named.items()} == named
    assert len(named.keys() & known.keys()) > 50


@pytest.mark.skipif(not seccomp.available(), reason="this kernel has no filters")
def test_the_filter_lets_a_process_signal_itself_and_nobody_else() -> None:
    script = FILTERED + (
        "seen = []\nsignal.signal(signal.SIGUSR1, lambda *_: seen.append('itself'))\n"
        "signal.raise_signal(signal.SIGUSR1)\nprint(*seen)\n"
        "number, parent = seccomp._THREAD_SIGNAL[column], os.getppid()\n"
        "print({1: 'not-its-parent'}.get(answer(number, parent, parent, 0)))\n"
        "numbers = {'fcntl': (72, 25), 'ioctl': (16, 29)}\n"
        "for name, command in [('fcntl', 8), ('fcntl', 10), ('fcntl', 15), ('ioctl', 0x8901), ('ioctl', 0x8902)]:\n"
        "    print(f'{name}-{command}-{answer(numbers[name][column], 0, command, 0)}')\n"
        "reader, writer = os.pipe()\nfcntl.fcntl(reader, fcntl.F_SETFL, os.O_NONBLOCK)\n"
        "print('other-commands' if fcntl.fcntl(reader, fcntl.F_GETFL) & os.O_NONBLOCK else None)\n"
    )
    owners = {"fcntl-8-1", "fcntl-10-1", "fcntl-15-1", "ioctl-35073-1", "ioctl-35074-1"}
    assert run_apart(script) == {"itself", "not-its-parent", "other-commands"} | owners


def test_a_submission_cannot_outlive_its_worker(grader: Grader) -> None:
    """The kernel kills it when its worker dies, and it may not ask the kernel to forget that."""
    needs(grader, "seccomp")
    before = "import ctypes\nlibc = ctypes.CDLL(None)\nsignal = ctypes.c_int()\n"
    before += "refused = libc.prctl(1, 0, 0, 0, 0) == -1\nlibc.prctl(2, ctypes.byref(signal), 0, 0, 0)\n"
    assert answers(grader, "refused and signal.value == 9", before)


# Attacks on the walls, rather than on the comparison.
ATTACKS_ON_WALLS = [
    "forged results", "object equal to all", "os._exit", "endless loop", "sleeps", "stops itself", "daemon", "many files",
    "deep folders", "locked folder", "memory bomb", "fork bomb", "loops in a thread", "kills its group", "huge output",
]  # fmt: skip
UNDER_ATTACK = (
    "import sys\n"
    "from examples.leetcode_grpo.loopholes import Loophole\n"
    "from tests.examples.test_grading_attacks import *\n"
    f"names = {ATTACKS_ON_WALLS!r}\n"
    "with Grader(workers=2, timeout=0.5) as grader:\n"
    "    codes = [c for name in names for c in (RIGHT + f'# {name}', ATTACKS[name], WRONG + f'# {name}')]\n"
    "    grades = grader.grade([(code, ADD_ONE, None) for code in codes])\n"
    "    assert [g.passed_strict for g in grades] == [True, False, False] * len(names), grades\n"
    "    hacks = [(hole.exemplify(WRONG, 'f'), ADD_ONE, hole) for hole in Loophole]\n"
    "    assert all(grade.exploited for grade in grader.grade(hacks))\n"
    "    print(*sorted(grader.isolation))\n"
)


def run_apart(script: str, *arguments: str, user: int | None = None, temporary: Path | None = None) -> set[str]:
    """Run a script in an interpreter of its own, and return the words that it printed."""
    environment = os.environ | ({"TMPDIR": str(temporary)} if temporary else {})
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, *arguments],
        cwd=REPOSITORY,
        env=environment,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


AS_ROOT = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="takes privileges away, which root alone has"
)
SITUATIONS = {
    "no namespaces": ("", POOR_KERNEL),
    "no namespaces, no Landlock": ("landlock", POOR_KERNEL),
    "no privileges": ("", NO_PRIVILEGES),
    "no privileges, no namespaces": ("", NO_PRIVILEGES + POOR_KERNEL),
    "no privileges, no namespaces, no Landlock": ("landlock", NO_PRIVILEGES + POOR_KERNEL),
}


@pytest.mark.skipif(sys.platform != "linux", reason="takes system calls away, as Linux can")
@pytest.mark.parametrize(
    "situation",
    [
        "no namespaces",
        pytest.param("no namespaces, no Landlock", marks=pytest.mark.slow),
        pytest.param("no privileges", marks=[AS_ROOT, pytest.mark.slow]),
        pytest.param("no privileges, no namespaces", marks=[AS_ROOT, pytest.mark.slow]),
        pytest.param("no privileges, no namespaces, no Landlock", marks=[AS_ROOT, pytest.mark.slow]),
    ],
)
def test_attacks_fail_with_fewer_walls_too(situation: str, tmp_path: Path) -> None:
    """The grades do not lean on the walls: with limits, another user where possible, and killing, they stay right.

    Temporary files lie below a folder that the submission's user may not enter.
    """
    argument, before = SITUATIONS[situation]
    tmp_path.chmod(0o700)
    layers = run_apart(before + UNDER_ATTACK, argument, temporary=tmp_path)
    if "no namespaces" in situation:
        assert not layers & {"pid", "files", "net", "user"}
    if "no privileges" in situation:
        assert "other-user" not in layers
    if "no Landlock" in situation:
        assert "landlock" not in layers
    assert list(tmp_path.iterdir()) == []


# Each ends the process `victim`, where nothing stands between them. The signal of a file's owner ends a program, too.
OWNED = "import fcntl, os, socket, struct\na, b = socket.socketpair()\n{}\n"
OWNED += "fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC)\nb.send(b'x')\n"
KILLERS = {
    "kill": "import os\nos.kill(victim, 9)\n",
    "tgkill": "import ctypes, os\n"
    "ctypes.CDLL(None).syscall(234 if os.uname().machine == 'x86_64' else 131, victim, victim, 9)\n",
    "F_SETOWN": OWNED.format("fcntl.fcntl(a, 8, victim)"),
    "F_SETOWN_EX": OWNED.format("fcntl.fcntl(a, 15, struct.pack('ii', 1, victim))"),
    "FIOSETOWN": OWNED.format("fcntl.ioctl(a, 0x8901, struct.pack('i', victim))"),
    "SIOCSPGRP": OWNED.format("fcntl.ioctl(a, 0x8902, struct.pack('i', victim))"),
}
UNDER_FIRE = (
    "import subprocess, sys, time\n"
    "from tests.examples.test_grading_isolation import *\n"
    "def survives(attack):\n"
    "    victim = subprocess.Popen(['sleep', '60'])\n"
    "    try:\n"
    "        attack(f'victim = {victim.pid}\\n')\n"
    "        time.sleep(0.05)\n"
    "        return victim.poll() is None\n"
    "    finally:\n"
    "        victim.kill()\n"
    "        victim.wait()\n"
)


@AS_ROOT
@pytest.mark.skipif(not seccomp.available(), reason="this kernel has no filters")
def test_no_signal_leaves_where_nothing_but_the_filter_stands() -> None:
    """The submission is of the trainer's own user, and sees its processes."""
    argument, before = SITUATIONS["no privileges, no namespaces, no Landlock"]
    script = UNDER_FIRE + (
        "with Grader(workers=1, timeout=1.0) as grader:\n"
        "    assert grader.isolation == {'seccomp'}, grader.isolation\n"
        "    for name, code in KILLERS.items():\n"
        "        if survives(lambda victim: grader.grade([(victim + code, ADD_ONE, None)])): print(name)\n"
    )
    assert run_apart(before + script, argument) == set(KILLERS)


@pytest.mark.skipif(sys.platform != "linux", reason="sends signals as Linux does")
def test_signals_do_leave_where_nothing_stands() -> None:
    """The programs of the test above can kill."""
    script = UNDER_FIRE + (
        "for name, code in KILLERS.items():\n"
        "    if not survives(lambda victim: subprocess.run([sys.executable, '-c', victim + code])): print(name)\n"
    )
    assert run_apart(script) == set(KILLERS)


@AS_ROOT
@pytest.mark.slow
def test_attacks_fail_for_an_ordinary_user(tmp_path: Path) -> None:
    look = [sys.executable, "-c", "import pytest, tests, examples"]
    try:
        allowed = subprocess.run(look, cwd=REPOSITORY, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True)
    except OSError:
        allowed = None
    if allowed is None or allowed.returncode != 0:
        pytest.skip("the interpreter or the repository lies where ordinary users may not look")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own are closed to others
        os.chown(folder, NOBODY, NOBODY)
        layers = run_apart(UNDER_ATTACK, user=NOBODY, temporary=Path(folder))
        assert os.listdir(folder) == []
    assert "other-user" not in layers


SYSTEM_PYTHON = Path("/usr/bin/python3")


@pytest.mark.skipif(not SYSTEM_PYTHON.exists(), reason=f"no {SYSTEM_PYTHON}")
@pytest.mark.parametrize("kernel", ["as it is", "poor"])
def test_the_systems_own_interpreter_keeps_its_libraries_and_loses_its_packages(kernel: str, grader: Grader) -> None:
    """Its standard library lies inside `/usr/lib`, where shared libraries and Debian's packages are, too."""
    script = (POOR_KERNEL if kernel == "poor" else "") + (
        "import os\nfrom examples.leetcode_grpo.grading import Grader\n"
        "from tests.examples.grading_helpers import ADD_ONE, answering\n"
        "there = sorted(set(os.listdir('/usr/lib')) - {'python3'})\n"
        "look = 'import os\\ndef seen(p):\\n    try: return os.listdir(p)\\n    except OSError: return []\\n'\n"
        "seen = f'all(os.path.lexists(\"/usr/lib/\" + p) for p in {there!r})'\n"
        'hidden = \'not any(map(seen, ("/usr/lib/python3/dist-packages", "/lib/python3/dist-packages")))\'\n'
        "with Grader(workers=1) as grader:\n"
        "    codes = [answering(f'x + 1 if {e} else 0', look) for e in (seen, hidden)]\n"
        "    grades = grader.grade([(code, ADD_ONE, None) for code in codes])\n"
        "    print(*[grade.passed_strict or grade.error for grade in grades], sep=' / ')\n"
        "    print(*sorted(grader.isolation))\n"
    )
    version = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True
    )
    if version.stdout != b"True\n":
        pytest.skip(f"{SYSTEM_PYTHON} is older than 3.11")
    done = subprocess.run(
        [SYSTEM_PYTHON, "-B", "-c", script],
        cwd=REPOSITORY,
        env={"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    grades, _, layers = done.stdout.partition("\n")
    assert (grades, done.stderr) == ("True / True", "")
    if kernel == "as it is":
        assert set(layers.split()) == grader.isolation


def test_hidden_folders_are_left_out_of_what_is_allowed(tmp_path: Path) -> None:
    for name in ("lib/python3/dist-packages/torch", "lib/python3/other", "lib/gcc"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lib" / "up").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "lib")
    for name in ("lib", "link"):
        allowed = list(namespaces.all_but_hidden(str(tmp_path / name), [str(tmp_path / "lib/python3/dist-packages")]))
        assert allowed == [str(tmp_path / "lib" / "gcc"), str(tmp_path / "lib" / "python3" / "other")]
    assert list(namespaces.all_but_hidden(str(tmp_path / "link"), [])) == [str(tmp_path / "lib")]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_program_that_wants_to_run_is_not_idle() -> None:
    """On a host that gives a machine's cores to others, time passes that is neither used nor spent in the queue."""
    script = (
        "import os, sys, time\n"
        "from examples.leetcode_grpo.grading.sandbox import watch\n"
        "proc, (mine, theirs) = os.open('/proc', os.O_RDONLY), os.pipe()\n"
        "watch._cpu_seconds = lambda pid: 0.01\n"
        "watch._family_cpu_seconds = lambda proc: 0.0\n"
        "watch._queued_seconds = lambda proc, name: 0.0\n"
        "for wait in ('while time.monotonic() < end: pass', 'time.sleep(1.0)'):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        end = time.monotonic() + 1.0\n"
        "        exec(wait)\n"
        "        os._exit(0)\n"
        "    child = watch.Child(pid)\n"
        "    print(watch.wait(child, 0.2, proc, mine))\n"
        "    watch.end(child, False, proc)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["itself", "idle"], "")


@pytest.mark.skipif(sys.platform != "linux", reason="the queue for a core is counted on Linux")
def test_waiting_for_a_core_is_not_counted() -> None:
    """Eight programs at once, each of which needs most of its time, on however few cores."""
    code = "import time\nwhile time.process_time() < {}: pass\nclass Solution:\n    def f(self, x): return x + 1\n"
    with Grader(workers=8, timeout=0.6) as grader:
        grades = grader.grade([(code.format(0.25 + n / 1000), ADD_ONE, None) for n in range(8)])
    assert [grade.error for grade in grades] == [None] * 8


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_daemons_are_found_and_killed_without_namespaces() -> None:
    """`watch.end` kills what left the process group and lost its parent."""
    script = (
        "import os, time\n"
        "from examples.leetcode_grpo.grading.sandbox import libc, watch\n"
        "libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)\n"
        "proc = os.open('/proc', os.O_RDONLY)\n"
        "ready, tell = os.pipe()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.setsid()\n"
        "    for _ in range(3):\n"
        "        if os.fork() == 0:\n"
        "            os.setsid()\n"
        "            os.write(tell, b'x')\n"
        "            if os.fork() == 0: time.sleep(600)\n"
        "            os.write(tell, b'x')\n"
        "            time.sleep(600)\n"
        "    os._exit(7)\n"
        "seen = b''\n"
        "while len(seen) < 6: seen += os.read(ready, 6)\n"
        "print(watch.end(watch.Child(pid), False, proc), watch._children(proc, str(os.getpid())))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout in ("7 []\n", "-9 []\n")
    assert done.stderr == ""
