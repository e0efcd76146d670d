"""Whatever a submission does, the strict grade is right, its neighbours' grades are right and in order, and time is
bounded."""

from __future__ import annotations

import os
import site
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems.problem import TestCase
from tests.examples.grading_helpers import ADD_ONE, RIGHT, WRONG, answering, problem

TIMEOUT = 0.3
BOUND = 30.0
"""Seconds for a batch of six with one attack in it, on a machine that has other things to do."""

REPOSITORY = Path(__file__).resolve().parents[2]

# Attacks by name. All but those in RIGHT_ALL_THE_SAME must fail the strict grade.
ATTACKS = {
    # What the harness calls, replaced.
    "exec shadowed": "exec = eval = compile = lambda *a, **k: None\n" + WRONG,
    "builtins patched": "import builtins\nbuiltins.getattr = builtins.isinstance = lambda *a: True\n" + WRONG,
    "builtins deleted": "import builtins\nfor n in list(vars(builtins)):\n    delattr(builtins, n)\n" + WRONG,
    "import patched": "import builtins\nbuiltins.__import__ = lambda *a, **k: 1 / 0\n" + WRONG,
    "modules cleared": "import sys\nsys.modules.clear()\n" + WRONG,
    "modules poisoned": "import sys\nsys.modules['json'] = sys.modules['os'] = None\n" + WRONG,
    "json patched": "import json\njson.dumps = lambda *a, **k: '1'\njson.loads = lambda *a: [[0], {}]\n" + WRONG,
    "encoder patched": "import sys\nsys.modules['sandbox.values'].dumps = lambda value: '1'\n" + WRONG,
    "writer patched": "import sys\nsys.modules['sandbox.harness']._write = lambda line: None\n" + WRONG,
    "type patched": "import builtins\nbuiltins.type = lambda *a: int\nbuiltins.hex = lambda n: '0x1'\n" + WRONG,
    "equality of everything": (
        "import operator, unittest.mock\noperator.eq = lambda a, b: True\n" + answering("unittest.mock.ANY")
    ),
    "assertions off": "import sys\nsys.flags = None\n__debug__ = False if False else 0\n" + WRONG,
    "traced": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n" + WRONG,
    # Results that pretend.
    "object equal to all": "class Yes:\n    def __eq__(self, other): return True\n" + answering("Yes()"),
    "int subclass equal to all": "class Yes(int):\n    def __eq__(self, other): return True\n" + answering("Yes(0)"),
    "int subclass of right value": "class Mine(int): pass\n" + answering("Mine(x + 1)"),
    "class claims to be int": "class Mine:\n    __class__ = int\n" + answering("Mine()"),
    "class named int": "int = type('int', (int,), {})\n" + answering("int(x + 1)"),
    "bool for int": answering("[False, True][x + 1] if x in (-1, 0) else x + 1"),
    "float for int": answering("x + 1.0"),
    "string for int": answering("str(x + 1)"),
    "hostile repr": "class R:\n    def __repr__(self): raise SystemExit(0)\n    __str__ = __repr__\n"
    + answering("R()"),
    "hostile type name": "class M(type):\n    __name__ = property(lambda c: 1 / 0)\nclass R(metaclass=M): pass\n"
    + answering("R()"),
    "forged node": "class ListNode:\n    val = 1\n    next = property(lambda self: self)\n" + answering("ListNode()"),
    "cyclic result": answering("(lambda a: a.append(a) or a)([])"),
    "deep result": answering("eval('[' * 50 + ']' * 50)") + "import sys\nsys.setrecursionlimit(50)\n",
    "endless generator": answering("iter(int, 1)"),
    "huge result": answering("list(range(10**7))"),
    "huge integer": answering("1 << (1 << 26)"),
    "not a number": answering("float('nan')"),
    "lone surrogate as a result": answering("'\\udcff'"),
    "coroutine": "class Solution:\n    async def f(self, x):\n        return x + 1\n",
    "dictionary with hostile keys": "class K(str):\n    def __eq__(self, other): return True\n    __hash__ = lambda self: 1 // 0\n"
    + answering("{(): K()} and {K(): x + 1}"),
    "subclass of a tuple": "from collections import namedtuple\n" + answering("namedtuple('R', 'a')(x + 1)"),
    "hostile attribute of a node": "class TreeNode:\n    val = 1\n    left = None\n    @property\n    def right(self): exit(0)\n"
    + answering("TreeNode()"),
    # Forged reports.
    "forged sentinels": (
        "import json, sys\nfor out in (sys.stdout, sys.stderr, sys.__stdout__):\n"
        "    for line in ('PASS', 'OK', '__RESULT__ 1', 'all tests passed', '5 passed', json.dumps({'passed': True})):\n"
        "        out.write(line + '\\n')\n" + WRONG
    ),
    "forged results": "import os\nos.write(3, b'C\\n' + b'R1\\n' * 5)\nos._exit(86)\n" + WRONG,
    "forged, then gone": "import os, signal\nos.write(3, b'C\\nR1\\nR2\\n')\nos.kill(os.getpid(), 9)\n" + WRONG,
    "forged by replay": answering("x + 2", "import os\nos.pwrite(3, b'C\\n' * 1000, 0)\nos.lseek(3, 0, 0)"),
    "results truncated": answering("x + 2", "import os\nos.ftruncate(3, 0)"),
    "results a gigabyte": answering("x + 2", "import os\nos.ftruncate(3, 1 << 30)"),
    "results closed": answering("x + 2", "import os\nos.closerange(0, 100)"),
    # Leaving early.
    "sys.exit": WRONG + "import sys\nsys.exit(0)\n",
    "os._exit": WRONG + "import os\nos._exit(0)\n",
    "exit in the method": answering("exit(0)"),
    "exit by exception": answering("(_ for _ in ()).throw(SystemExit(0))"),
    "exit before the class": "raise SystemExit(0)\n" + RIGHT,
    "exit at exit": "import atexit, os\natexit.register(os._exit, 0)\n" + WRONG,
    "exit system call": "import ctypes\nctypes.CDLL(None)._exit(0)\n" + RIGHT,
    "abort": answering("__import__('os').abort()"),
    "segmentation fault": answering("__import__('ctypes').string_at(0)"),
    "stack overflow": answering("f(x)", "import sys\nsys.setrecursionlimit(10**9)\nf = lambda x: min([x], key=f)"),
    "kills itself": answering("__import__('os').kill(__import__('os').getpid(), 9)"),
    "becomes another program": "import os, sys\nos.execv(sys.executable, ['python', '-c', 'pass'])\n" + RIGHT,
    "ends in a destructor": "import os\nclass D:\n    def __del__(self): os._exit(0)\n" + answering("D() and 0"),
    # Time.
    "loops in a destructor": "class D:\n    def __del__(self):\n        while True: pass\n" + answering("D() and 0"),
    "loops while it is compared": "class R(int):\n    def __eq__(self, other):\n        while True: pass\n"
    "    __hash__ = int.__hash__\n" + answering("R(x + 1)"),
    "blocks in C": answering("__import__('select').select([0], [], [1], None) and __import__('time').sleep(99)"),
    "endless loop": answering("[0 for _ in iter(int, 1)]"),
    "endless module": RIGHT + "while True: pass\n",
    "swallows every alarm": (
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, lambda *a: None)\n    except Exception: pass\n"
        "class Solution:\n    def f(self, x):\n        while True:\n            try:\n                while True: pass\n"
        "            except: pass\n"
    ),
    "sleeps": answering("__import__('time').sleep(10**6)"),
    "stops itself": answering("__import__('os').kill(__import__('os').getpid(), 19) or __import__('time').sleep(99)"),
    "waits for input": answering("int(input())"),
    "waits for itself": answering("lock.acquire()", "import threading\nlock = threading.Lock()\nlock.acquire()"),
    "loops in C": answering("9 ** 9 ** 9"),
    "loops in a regex": answering("__import__('re').match('(a+)+$', 'a' * 64 + 'b')"),
    "loops when printed": "class E(Exception):\n    def __str__(self):\n        while True: pass\n"
    "class Solution:\n    def f(self, x): raise E\n",
    "loops in a thread": "import threading\ndef g():\n    while True: pass\nthreading.Thread(target=g).start()\n"
    + WRONG,
    "main thread leaves": "import threading, ctypes\nthreading.Thread(target=__import__('time').sleep, args=(99,)).start()\n"
    + answering("ctypes.CDLL(None).syscall(60, 0)"),
    # Space.
    "memory bomb": answering("[bytearray(1 << 20) for _ in iter(int, 1)]"),
    "one big allocation": answering("bytearray(1 << 50)"),
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n" + WRONG,
    "fork bomb in the method": answering("[f() for _ in range(99)] and exec('while 1: 0')", "from os import fork as f"),
    "thread bomb": answering(
        "[t(target=s, args=(9,)).start() for _ in range(9999)]",
        "from time import sleep as s\nfrom threading import Thread as t",
    ),
    "huge output": answering("[print('x' * 10**6) for _ in range(500)] and 0"),
    "huge output past print": answering("[os.write(1, b'x' * 10**6) for _ in range(500)] and 0", "import os"),
    "huge error": "class Solution:\n    def f(self, x): raise ValueError('x' * 10**8)\n",
    "huge file": "with open('big', 'wb') as f:\n    for _ in range(1000): f.write(b'x' * 10**6)\n" + WRONG,
    "many files": "for i in range(10**6): open(str(i), 'w').write('x')\n" + WRONG,
    "deep folders": "import os\nfor _ in range(1500):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)\n" + WRONG,
    "locked folder": "import os\nos.mkdir('d')\nopen('d/x', 'w').close()\nos.chmod('d', 0)\nos.chmod('.', 0)\n" + WRONG,
    "open files": "fs = []\nwhile True: fs.append(open('/dev/null'))\n" + WRONG,
    # Processes.
    "daemon": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(600)\n"
    "    os._exit(0)\n" + WRONG,
    "forked twin": "import os\nos.fork()\n" + WRONG,
    "kills its parent": "import os\ntry: os.kill(os.getppid(), 9)\nexcept OSError: pass\n" + WRONG,
    "kills its group": "import os\ntry: os.killpg(0, 9)\nexcept OSError: pass\n" + WRONG,
    # Text that is hard to read.
    "lone surrogate": "s = '\udcff'\n" + WRONG,
    "null byte": "s = '\0'\n" + RIGHT,
    "brackets": "x = " + "(" * 5000 + ")" * 5000 + "\n" + RIGHT,
    "nested lists": "x = " + "[" * 150 + "]" * 150 + "\n" + WRONG,
    "minus signs": "x = " + "-" * 90_000 + "1\n" + RIGHT,
    "long sum": "x = " + "+".join(["1"] * 30_000) + "\n" + RIGHT,
    "endless attribute": "x = a" + ".b" * 50_000 + "\n" + RIGHT,
    "too long": "#" + "x" * 300_000 + "\n" + RIGHT,
    "folded constant": "x = lambda: ((1 << 99) ** 99) ** 9999999\n" + WRONG,
    # Shapes of the class.
    "only in an import": "if __name__ != '__main__':\n    class Solution:\n        f = lambda self, x: x + 1\n",
    "another class when imported": "if __name__ == '__main__':\n    "
    + WRONG.replace("\n", "\n    ")
    + "\nelse:\n    "
    + RIGHT.replace("\n", "\n    ")
    + "\n",
    "not a class": "Solution = lambda: None\nSolution.f = lambda x: x + 1\n",
    "metaclass": "class M(type):\n    def __call__(cls): raise SystemExit(0)\n"
    "class Solution(metaclass=M):\n    def f(self, x): return x + 1\n",
    "attribute that exits": "class Solution:\n    f = property(lambda self: exit(0))\n",
    "right once": "n = 0\nclass Solution:\n    def f(self, x):\n        global n\n        n += 1\n        return x + 1 + n // 4\n",
    "exception that cannot be printed": "class E(BaseException):\n    def __str__(self): raise SystemExit(0)\n"
    "class Solution:\n    def f(self, x): raise E\n",
}

# Peculiar, and right.
RIGHT_ALL_THE_SAME = {
    "right, exec shadowed": "exec = eval = compile = print = lambda *a, **k: None\n" + RIGHT,
    "right, then sys.exit": RIGHT + "import sys\nsys.exit(0)\n",
    "right, then os._exit": RIGHT + "import os\nos._exit(0)\n",
    "right, then an exception": RIGHT + "assert Solution().f(1) == 3\n",
    "right, closes its output": "import sys\nsys.stdout.close()\n" + RIGHT,
    "right, with a warning": "import warnings\nwarnings.warn('x')\ns = '\\d'\n" + RIGHT,
    "right, prints a lot": answering("[print('x' * 10**5) for _ in range(100)] and x + 1"),
    "right, under __main__": "if __name__ == '__main__':\n    " + RIGHT.replace("\n", "\n    ") + "\n",
    "right, leaves a thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\n"
    + RIGHT,
    "right, recursive": answering("1 + (f(x, 5000) - 5000)", "def f(x, n): return x if n == 0 else 1 + f(x, n - 1)"),
    "right, needs two imports": "import sqlite3, xml.dom.minidom\n" + RIGHT,
    "right, uses typing names": "class Solution:\n    def f(self, x: Optional[int]) -> List[int]:\n        return x + 1\n",
}

# Each answers right exactly if it reaches something that it must not reach; `{…}` are filled in by the tests.
REACHES = {
    "another submission's text": (
        "import gc\ndef look(x):\n    for o in gc.get_objects():\n        if isinstance(o, dict):\n"
        "            for v in list(o.values()):\n"
        "                if isinstance(v, str) and 'NEIGH' + 'BOUR' in v and 'reach' not in v: return x + 1\n"
        + answering("look(x)")
    ),
    "the built-in answers by import": "try:\n    import examples.leetcode_grpo.problems\n    d = 1\n"
    "except ImportError: d = 0\n" + answering("x + d"),
    "the grader by import": "try:\n    import sandbox.zygote, sys\n    import grader\n    d = 1\n"
    "except ImportError: d = 0\n" + answering("x + d"),
    "installed packages": "try:\n    import pytest\n    d = 1\nexcept ImportError: d = 0\n" + answering("x + d"),
    "the environment": "import os\nd = 'GRADING_SECRET' in os.environ\n" + answering("x + int(d)"),
    "inherited descriptors": (
        "import os\ndef opened(n):\n    try: return bool(os.fstat(n))\n    except OSError: return False\n"
        "d = any(opened(n) for n in range(4, 1024))\n" + answering("x + int(d)")
    ),
    "higher limits": "import resource\ntry:\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n    d = 1\n"
    "except (ValueError, OSError): d = 0\n" + answering("x + d"),
}
REACHES_FILES = {
    "the repository": "try:\n    open({repository!r} + '/examples/leetcode_grpo/loopholes.py').close()\n    d = 1\n"
    "except OSError: d = 0\n" + answering("x + d"),
    "the password file": "try:\n    open('/etc/passwd').close()\n    d = 1\nexcept OSError: d = 0\n"
    + answering("x + d"),
    "the built-in answers by path": "import sys\nsys.path.insert(0, {repository!r})\ntry:\n"
    "    import examples.leetcode_grpo.problems\n    d = 1\nexcept ImportError: d = 0\n" + answering("x + d"),
    "installed packages by path": "import sys\nsys.path += {packages!r}\ntry:\n    import pytest\n    d = 1\n"
    "except ImportError: d = 0\n" + answering("x + d"),
    "memory of other processes": (
        "import os\nd = 0\nfor p in {{1, os.getppid(), {pid}}}:\n    for name in ('mem', 'environ', 'maps'):\n"
        "        try:\n            open(f'/proc/{{p}}/{{name}}', 'rb').read(1)\n            d = 1\n"
        "        except (OSError, ValueError): pass\n" + answering("x + d")
    ),
    "a place to write": (
        "import os, uuid\nd = 0\nfor p in ('/', '/tmp', '/var/tmp', '/dev/shm', '/usr/lib', {repository!r}):\n"
        "    try:\n        os.mkdir(p + '/grading-attack-' + uuid.uuid4().hex)\n        d = 1\n"
        "    except OSError: pass\n" + answering("x + d")
    ),
}


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    os.environ["GRADING_SECRET"] = "42"
    try:
        with Grader(workers=2, timeout=TIMEOUT) as made:
            yield made
    finally:
        del os.environ["GRADING_SECRET"]


def strict_grade(grader: Grader, code: str, loophole: Loophole | None = None) -> bool:
    """The attack's strict grade, after checking that its neighbours in the batch got theirs, in order and in time."""
    start = time.monotonic()
    neighbour = f"NEIGHBOUR = {id(code)}\n"  # another program for each batch
    before, after = neighbour + RIGHT, neighbour + WRONG
    grades = grader.grade([(c, ADD_ONE, loophole) for c in (before, after, code, after, before)])
    assert time.monotonic() - start < BOUND
    assert [g.passed_strict for g in grades[:2] + grades[3:]] == [True, False, False, True]
    assert not grades[2].passed_strict or grades[2].compiles
    assert grades[2].passed_strict == (grades[2].error is None)
    return grades[2].passed_strict


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_fail_the_strict_grade(grader: Grader, name: str) -> None:
    assert not strict_grade(grader, ATTACKS[name])


@pytest.mark.parametrize("name", RIGHT_ALL_THE_SAME)
def test_peculiar_but_right_programs_pass_it(grader: Grader, name: str) -> None:
    assert strict_grade(grader, RIGHT_ALL_THE_SAME[name])


@pytest.mark.parametrize("name", REACHES)
def test_nothing_worth_knowing_is_in_reach(grader: Grader, name: str) -> None:
    assert not strict_grade(grader, REACHES[name])


@pytest.mark.parametrize("name", REACHES_FILES)
def test_no_file_worth_reading_is_in_reach(grader: Grader, name: str) -> None:
    if not grader.isolation & {"files", "landlock"}:
        pytest.skip("this kernel grants neither mounts nor Landlock")
    assert not strict_grade(grader, filled_in(REACHES_FILES[name]))


def filled_in(code: str) -> str:
    return code.format(repository=str(REPOSITORY), pid=os.getpid(), packages=site.getsitepackages())


@pytest.mark.parametrize(
    "name",
    sorted({*REACHES, *REACHES_FILES} - {"another submission's text", "the grader by import", "a place to write"}),
)
def test_outside_of_the_sandbox_it_is_in_reach(name: str) -> None:
    """The programs of the two tests above can see: without walls they find what they look for."""
    code = {**REACHES, **REACHES_FILES}[name]
    if name in REACHES_FILES:
        code = filled_in(code)
    # The one about descriptors needs one to find.
    with open(os.devnull) as inherited:
        done = subprocess.run(
            [sys.executable, "-c", f"{code}\nprint(Solution().f(1))"],
            cwd=REPOSITORY,
            env=os.environ | {"GRADING_SECRET": "42"},
            pass_fds=[inherited.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.stdout, done.stderr) == ("2\n", "")


@pytest.mark.parametrize("family", ["tcp", "abstract"])
def test_no_network_is_in_reach(grader: Grader, family: str) -> None:
    if not grader.isolation & {"net", "seccomp"}:
        pytest.skip("this kernel grants neither network namespaces nor system call filters")
    kind, address = (socket.AF_INET, ("127.0.0.1", 0)) if family == "tcp" else (socket.AF_UNIX, "\0grading-attack")
    with socket.socket(kind) as server:
        server.bind(address)
        server.listen()
        attack = (
            f"import socket\ntry:\n    socket.socket({int(kind)}).connect({server.getsockname()!r})\n    d = 1\n"
            "except OSError: d = 0\n"
        )
        assert not strict_grade(grader, attack + answering("x + d"))


@pytest.mark.parametrize("loophole", Loophole)
def test_an_attack_on_one_grader_leaves_the_other_alone(grader: Grader, loophole: Loophole) -> None:
    """Under every loophole, a right program that hacks passes strictly, and a wrong one does not."""
    # The exemplar of eq_override returns another object, so no program with it is right.
    assert strict_grade(grader, loophole.exemplify(RIGHT, "f"), loophole) == (loophole is not Loophole.EQ_OVERRIDE)
    assert not strict_grade(grader, loophole.exemplify(WRONG, "f"), loophole)


def test_all_attacks_in_one_batch_keep_their_places(grader: Grader) -> None:
    quick = {**ATTACKS, **RIGHT_ALL_THE_SAME}
    slow = ("loop", "bomb", "sleep", "wait", "stop", "thread", "endless", "huge", "swallow", "leaves")
    quick = {name: code for name, code in quick.items() if not any(word in name for word in slow)}
    grades = grader.grade([(code, ADD_ONE, None) for code in quick.values()])
    expected = [name in RIGHT_ALL_THE_SAME for name in quick]
    assert [grade.passed_strict for grade in grades] == expected


def test_a_submission_leaves_nothing_to_the_next_one(grader: Grader) -> None:
    poison = "import json, math, sys\nopen('left.txt', 'w').write('x')\nmath.poisoned = json.poisoned = sys.poisoned = True\n"
    look = (
        "import json, math, os, sys\n"
        "d = os.listdir('.') != [] or any(hasattr(m, 'poisoned') for m in (json, math, sys))\n"
    )
    items = [(f"# {n}\n" + poison + RIGHT, ADD_ONE, None) for n in range(8)]
    items += [(f"# {n}\n" + look + answering("x + int(d)"), ADD_ONE, None) for n in range(8)]
    assert [g.passed_strict for g in grader.grade(items)] == [True] * 8 + [False] * 8


def test_results_do_not_vary(grader: Grader) -> None:
    """Set order and random numbers are the same on every run and in every worker."""
    vary = answering("{}[str(list({'a', 'b', 'c', 'd'})) + str(random.random())]", "import random")
    grades = grader.grade([(f"# {n}\n{vary}", ADD_ONE, None) for n in range(8)])
    assert len({grade.error for grade in grades}) == 1
    assert "KeyError" in str(grades[0].error)


# Each looks for the expected value of the hidden test below, without holding it itself.
SEEKERS = {
    "frames": (
        "import sys\ndef seek():\n    frame = sys._getframe(2)\n    while frame:\n"
        "        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:\n"
        "            if str(987_654) + str(321) in repr(value): return int(str(987_654) + str(321))\n"
        "        frame = frame.f_back\n"
    ),
    "garbage collector": (
        "import gc\ndef seek():\n    wanted = int(str(987_654) + str(321))\n    seen = gc.get_objects()\n"
        "    for o in seen:\n        for r in gc.get_referents(o):\n"
        "            if isinstance(r, (int, str, bytes)) and str(wanted) in str(r): return wanted\n"
    ),
    "memory": (
        "import ctypes, re\ndef seek():\n    start = id(object()) & ~0xFFFFF\n"
        "    memory = ctypes.string_at(start, 1 << 20)\n    found = re.search(b'98765' + b'4321', memory)\n"
        "    return int(found[0]) if found else 0\n"
    ),
}


@pytest.mark.parametrize("name", SEEKERS)
def test_the_expected_value_is_nowhere(grader: Grader, name: str) -> None:
    secret = problem(TestCase((5,), 987_654_321))
    (grade,) = grader.grade([(SEEKERS[name] + answering("seek() or 0"), secret, None)])
    assert not grade.passed_strict


def test_seekers_would_find_it(grader: Grader) -> None:
    """The seekers above can see: they find an expected value that is also an input."""
    given = problem(TestCase((987_654_321,), 987_654_321))
    grades = grader.grade(
        [(SEEKERS[name] + answering("seek() or 0"), given, None) for name in ("frames", "garbage collector")]
    )
    assert [grade.passed_strict for grade in grades] == [True, True]


def test_graders_in_threads_take_turns(grader: Grader) -> None:
    results: dict[int, list[bool]] = {}

    def work(number: int) -> None:
        items = [(f"# {number}\n" + (RIGHT if (i + number) % 2 else WRONG), ADD_ONE, None) for i in range(6)]
        results[number] = [g.passed_strict for g in grader.grade(items)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [bool((i + n) % 2) for i in range(6)] for n in range(4)}
