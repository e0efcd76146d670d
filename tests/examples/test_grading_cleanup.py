"""Grading leaves no process, file or descriptor behind, whatever is graded and however it ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.loopholes import Loophole
from tests.examples.grading_helpers import ADD_ONE, POOR_KERNEL, RIGHT, WRONG, answering

REPOSITORY = Path(__file__).resolve().parents[2]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def processes() -> dict[int, str]:
    """All processes below this one, and all that run the worker program, with their command lines."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                lines[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    own = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= more
    return {pid: lines.get(pid, "") for pid in own - {os.getpid()}}


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of the test's own; afterwards it is empty, and processes and descriptors are those of
    before."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = processes(), len(descriptors())
    yield tmp_path
    after = processes(), len(descriptors())
    assert set(after[0]) <= set(before[0]), after[0]
    assert after[1] == before[1]
    assert list(tmp_path.iterdir()) == []


def garbage(count: int) -> Iterator[str]:
    """Completions as a broken policy writes them: characters, tokens of Python, damaged programs, quick and quiet
    attacks."""
    draw = random.Random(0)
    tokens = [
        "class",
        "Solution",
        ":",
        "def",
        "f",
        "(",
        "self",
        ",",
        "x",
        ")",
        "return",
        "+",
        "1",
        "\n",
        "",
        "",
        "",
        "\n",
        "import",
        "os",
        "sys",
        "exit",
        "0",
        "while",
        "if",
        "for",
        "in",
        "[",
        "]",
        "{",
        "}",
        "print",
    ]
    attacks = [
        "import os\nos.write(1, b'x' * 10**6)\n",
        "import os\nopen('a', 'w').write('x')\nos.mkdir('b')\nos.symlink('/', 'b/c')\n",
        "import os\nos._exit(%d)\n",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n",
        "import ctypes\nctypes.string_at(%d)\n",
        "raise BaseException\n",
        "import os\nfor i in range(200): open(str(i), 'w')\n",
        "import os, signal\nos.kill(os.getpid(), signal.SIG" + "KILL)\n",
        "import sys\nsys.setrecursionlimit(10**9)\ndef g(): g()\n",
    ]
    for number in range(count):
        kind = draw.randrange(4)
        if kind == 0:
            yield "".join(chr(draw.randrange(1, 0x2FF)) for _ in range(draw.randrange(200)))
        elif kind == 1:
            yield " ".join(draw.choices(tokens, k=draw.randrange(60)))
        elif kind == 2:
            letters = list(RIGHT + WRONG)
            for _ in range(draw.randrange(6)):
                letters[draw.randrange(len(letters))] = chr(draw.randrange(32, 127))
            yield "```python\n" + "".join(letters)
        else:
            attack = draw.choice(attacks)
            yield (attack % number if "%d" in attack else attack) + RIGHT + f"# {number}\n"


def grade_garbage(count: int) -> None:
    holes = [None, *Loophole]
    with Grader(workers=2, timeout=1.0) as grader:
        items = [(text, ADD_ONE, holes[n % len(holes)]) for n, text in enumerate(garbage(count))]
        grades = grader.grade(items)
        assert [grade.loophole for grade in grades] == [hole for _, _, hole in items]
        assert 0 < sum(grade.passed_strict for grade in grades) < count
        right, wrong = grader.grade([(RIGHT, ADD_ONE, None), (WRONG, ADD_ONE, None)])
        assert (right.passed_strict, wrong.passed_strict) == (True, False)


@LINUX
def test_a_thousand_pieces_of_garbage_leave_nothing(clean: Path) -> None:
    grade_garbage(1_000)


@LINUX
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_pieces_of_garbage_leave_nothing(clean: Path) -> None:
    grade_garbage(10_000)


@LINUX
def test_descriptors_do_not_add_up(clean: Path) -> None:
    with Grader(workers=1) as grader:
        grader.grade([(RIGHT, ADD_ONE, None)])
        before = descriptors()
        for number in range(30):
            grader.grade([(f"# {number}\n{WRONG}", ADD_ONE, Loophole.FILE_MARKER)])
        assert descriptors() == before


@LINUX
def test_submissions_are_gone_when_the_batch_is_done(clean: Path) -> None:
    """Daemons and threads that would outlive their submission do not outlive it."""
    daemon = (
        "import os, time\ntry:\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n"
        "            time.sleep(600)\n        os._exit(0)\nexcept OSError: pass\n"
    )
    with Grader(workers=2) as grader:
        grader.grade([(RIGHT, ADD_ONE, None), (WRONG, ADD_ONE, None)])
        before = set(processes())
        grader.grade([(f"# {n}\n{daemon}{RIGHT}", ADD_ONE, Loophole.RUN_TESTS) for n in range(10)])
        assert set(processes()) == before


@LINUX
def test_dead_workers_are_replaced(clean: Path) -> None:
    """A worker that dies between two batches, or under one, costs nothing but time."""
    others = set(processes())  # of the tests before this one, which are not to be killed
    with Grader(workers=2) as grader:
        items = [(f"# {n}\n{RIGHT if n % 3 else WRONG}", ADD_ONE, None) for n in range(60)]
        expected = [bool(n % 3) for n in range(60)]
        for _ in range(2):
            assert [grade.passed_strict for grade in grader.grade(items)] == expected
            for pid, line in processes().items():
                if pid not in others and "sandbox.zygote" in line:
                    os.kill(pid, signal.SIGKILL)
        assert [grade.passed_strict for grade in grader.grade(items)] == expected
        victim = max(set(processes()) - others)
        killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(0.05); os.kill({victim}, 9)"])
        items = [(f"# again {n}\n{RIGHT if n % 3 else WRONG}", ADD_ONE, None) for n in range(60)]
        assert [grade.passed_strict for grade in grader.grade(items)] == expected
        killer.wait()


@LINUX
def test_an_interrupted_batch_does_not_spoil_the_next(clean: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with Grader(workers=2, timeout=5.0) as grader:
        grader.grade([(RIGHT, ADD_ONE, None)])
        previous = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(KeyboardInterrupt):
                grader.grade([(f"# {n}\nwhile True: pass", ADD_ONE, None) for n in range(4)])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        grades = grader.grade([(RIGHT, ADD_ONE, None), (WRONG, ADD_ONE, None)] * 2)
        assert [grade.passed_strict for grade in grades] == [True, False] * 2


def run_script(text: str, temporary: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = "from examples.leetcode_grpo.grading import Grader\nfrom tests.examples.grading_helpers import *\n" + text
    environment = os.environ | ({"TMPDIR": str(temporary)} if temporary else {})
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@LINUX
@pytest.mark.parametrize(
    "end", ["", "import os; os._exit(0)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
)
@pytest.mark.parametrize("kernel", ["as it is", "poor"])
def test_workers_end_with_the_program_that_forgot_them(end: str, kernel: str, tmp_path: Path) -> None:
    """However it ends, nobody is left to wait for: the workers leave, and take their folders with them."""
    done = run_script(
        (POOR_KERNEL if kernel == "poor" else "") + "grader = Grader()\ngrader.grade([(RIGHT, ADD_ONE, None)])\n"
        "print(*[w._process.pid for w in grader._pool._workers], flush=True)\n" + end,
        tmp_path,
    )
    assert done.stderr == ""
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


@LINUX
def test_a_fork_of_the_caller_does_not_end_its_workers() -> None:
    done = run_script(
        "import os, sys\ngrader = Grader()\npid = os.fork()\nif pid == 0: sys.exit(0)\nos.waitpid(pid, 0)\n"
        "print(grader.grade([(RIGHT, ADD_ONE, None)])[0].passed_strict)\ngrader.close()\n"
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


@LINUX
@pytest.mark.parametrize("library", ["json", pytest.param("torch", marks=pytest.mark.slow)])
def test_it_works_beside_threads(library: str) -> None:
    done = run_script(
        f"import threading, {library}\nif {library!r} == 'torch': torch.ones(500, 500) @ torch.ones(500, 500)\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "with Grader() as grader: print(grader.grade([(RIGHT, ADD_ONE, None)])[0].passed_strict)\n"
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_worker_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.leetcode_grpo.grading.worker._PROGRAM", "raise ImportError('no such library')")
    grader = Grader(workers=1)
    with pytest.raises(RuntimeError, match="no such library"):
        grader.grade([(answering("x"), ADD_ONE, None)])
    grader.close()
