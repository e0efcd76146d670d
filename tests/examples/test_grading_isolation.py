"""The walls: which ones stand here, and that grading stays right where the kernel grants none of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.leetcode_grpo.grading import Grader
from tests.examples.grading_helpers import ADD_ONE, answering

REPOSITORY = Path(__file__).resolve().parents[2]

# Takes away the system calls that make namespaces (and, by argument, Landlock too), as a strict container would.
POOR_KERNEL = """
import sys
from examples.leetcode_grpo.grading.sandbox import landlock, libc, seccomp
libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
gone = {"unshare": (272, 97), "mount": (165, 40), "pidfd_open": (434, 434)}
gone |= {"landlock_create_ruleset": (444, 444)} if "landlock" in sys.argv else {}
seccomp.install(seccomp.assemble([numbers[seccomp.column()] for numbers in gone.values()]))
"""


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
    needs(grader, "net")
    assert answers(grader, "[name for _, name in socket.if_nameindex()] == ['lo']", "import socket") or answers(
        grader, "not allowed", "import socket\ntry: allowed = socket.if_nameindex()\nexcept OSError: allowed = []"
    )


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


@pytest.mark.skipif(sys.platform != "linux", reason="takes system calls away, as Linux can")
@pytest.mark.parametrize("missing", ["namespaces", pytest.param("landlock", marks=pytest.mark.slow)])
def test_attacks_fail_without_namespaces_too(missing: str) -> None:
    """The grades do not lean on the walls: with limits, another user where possible, and killing, they stay right."""
    names = [
        "forged results", "object equal to all", "os._exit", "endless loop", "sleeps", "stops itself", "daemon", "many files",
        "deep folders", "locked folder", "memory bomb", "fork bomb", "loops in a thread", "kills its group", "huge output",
    ]  # fmt: skip
    script = POOR_KERNEL + (
        "from tests.examples.test_grading_attacks import *\n"
        f"names = {names!r}\n"
        "with Grader(workers=2, timeout=0.5) as grader:\n"
        "    assert not grader.isolation & {'pid', 'files', 'net', 'user'}, grader.isolation\n"
        f"    assert ('landlock' in grader.isolation) <= ({missing!r} != 'landlock')\n"
        "    codes = [c for name in names for c in (RIGHT + f'# {name}', ATTACKS[name], WRONG + f'# {name}')]\n"
        "    grades = grader.grade([(code, ADD_ONE, None) for code in codes])\n"
        "    print([g.passed_strict for g in grades] == [True, False, False] * len(names))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, missing],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


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
