"""Runs one submission, in the process that is about to become untrusted.

It knows the inputs and nothing else: no expected value, no other submission. A submission can read and forge all that
this module holds or writes, and gains nothing by it, because what it writes is compared with values that it has never
seen.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import json
import os
import random
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from . import values

MAX_OUTPUT = 1 << 20
"""Bytes of standard output that are kept; a program may print any amount."""

GRADERS_LAST_LINE = 86
"""The exit status behind the last line of a grader: a program that ends itself has another."""

RESULTS = 3  # the descriptor of the results
# First bytes of the lines that are written there; the last one is about the problem, not the submission.
COMPILED, PASSED, RETURNED, FAILED, SETUP_FAILED = b"C\n", b"P\n", b"R", b"E", b"S"

_LONG = 1 << 63  # what the kernel's status is cut from


class _BoundedOutput(io.RawIOBase):
    """Standard output that forgets what goes beyond `MAX_OUTPUT`, as if it had been written."""

    def __init__(self) -> None:
        self.left = MAX_OUTPUT

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def write(self, data: Any) -> int:
        kept = bytes(data[: self.left])
        self.left -= len(kept)
        if kept:
            os.write(1, kept)
        return len(data)


def run(job: bytes, namespace: dict[str, object]) -> NoReturn:
    """Carry out a job and end the process.

    Args:
        job: JSON with `code`, `setup`, `method`, `calls` (texts of `values`, one for each test), and `check`: None for
            the strict grade, or the fields of a flawed grader's `Check`; and `substitute`: None, or what stands in for
            the method.
        namespace: the default setup's names, for a job with an empty `setup`.
    """
    fields = json.loads(job)
    _make_at_home()
    if fields["setup"]:
        namespace = {"__name__": "__main__", "__builtins__": __builtins__}
        try:
            _execute(fields["setup"], namespace, "<setup>")
        except BaseException as error:
            _write(SETUP_FAILED + _describe(error))
            _really_exit(1)
    builders: dict[str, Callable[[list[Any]], Any]] = {
        name: namespace[name]  # type: ignore[misc]
        for name in ("list_node", "tree_node")
        if name in namespace
    }
    module = types.ModuleType("__main__")
    module.__dict__.update(namespace)
    sys.modules["__main__"] = module
    act = _strict if fields["check"] is None else _flawed
    status = GRADERS_LAST_LINE
    try:
        act(fields, module.__dict__, builders)
    except SystemExit as leaving:
        status = _status(leaving.code)
    except BaseException as error:
        _write(FAILED + _describe(error))
        status = 1
    if act is _flawed:
        _wind_up(module.__dict__)
    _really_exit(status)


def _strict(fields: dict[str, Any], names: dict[str, Any], builders: dict[str, Any]) -> None:
    """Write whether the class is there, then each call's result; the first exception ends it: it has failed."""
    # A program that leaves behind a right class is right: leaving is caught, also where it goes past Python.
    sys.modules["posix"]._exit = os._exit = _exit_softly(os.getpid())  # type: ignore[attr-defined,assignment]
    try:
        _execute(fields["code"], names)
    except BaseException as error:
        if "Solution" not in names:
            _write(FAILED + _describe(error))
            _really_exit(1)
    if not isinstance(names.get("Solution"), type):
        _write(FAILED + b"no class Solution")
        _really_exit(1)
    _write(COMPILED)
    for text in fields["calls"]:
        try:
            result = values.dumps(_call(names["Solution"](), fields["method"], text, builders)).encode()
        except BaseException as error:
            _write(FAILED + _describe(error))
            _really_exit(1)
        _write(RETURNED + result + b"\n")
    _really_exit(GRADERS_LAST_LINE)


def _flawed(fields: dict[str, Any], names: dict[str, Any], builders: dict[str, Any]) -> None:
    """Run the program and ask what the flawed grader asks; output, files and exit status are looked at from outside."""
    check, before = fields["check"], dict(names)
    _execute(fields["code"], names)
    if fields["substitute"] is not None:
        setattr(names["Solution"], fields["method"], _stand_in(fields["substitute"], fields["method"], before))
    if check["kind"] == "call":
        own = names.get(check["name"])
        (own if callable(own) else getattr(names["Solution"](), check["name"]))()
        _write(PASSED)
        return
    solution = names["Solution"]()
    result = _call(solution, fields["method"], fields["calls"][0], builders)
    decoy = object()  # equal to nothing but itself, and never an expected value
    if (check["kind"] == "attribute" and getattr(solution, check["name"], False) is True) or (
        check["kind"] == "equality" and result == decoy
    ):
        _write(PASSED)


def _stand_in(code: str, method: str, names: dict[str, Any]) -> Callable[..., Any]:
    """A method that asks the `class Solution` of `code`, or returns a meaningless object if there is no code."""
    if not code:
        return lambda *args, **kwargs: object()
    _execute(code, names)
    other = names["Solution"]
    return lambda _, *args, **kwargs: getattr(other(), method)(*args, **kwargs)


def _call(solution: Any, method: str, text: str, builders: dict[str, Any]) -> Any:
    args, kwargs = values.loads(text, builders)
    return getattr(solution, method)(*args, **kwargs)


def _execute(code: str, names: dict[str, Any], title: str = "<submission>") -> None:
    # Without `dont_inherit`, the future statement at the top of this file would hold for the submission.
    exec(compile(code, title, "exec", dont_inherit=True), names)


def _wind_up(names: dict[str, Any]) -> None:
    """What an interpreter does at its end: exit handlers run, objects go, files that were left open are written."""
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    with contextlib.suppress(BaseException):
        for name in list(names):
            if name != "__builtins__":
                names[name] = None
        _write_open_files()  # those that the collector finds, it closes in an order that may lose their last words
        gc.collect()
        _write_open_files()


def _write_open_files() -> None:
    for item in gc.get_objects():
        if isinstance(item, io.IOBase):
            with contextlib.suppress(OSError, ValueError):
                item.flush()


def _make_at_home() -> None:
    """What an ordinary program finds, but the same on every run."""
    sys.stdout = sys.stderr = io.TextIOWrapper(_BoundedOutput(), encoding="utf-8", errors="replace", write_through=True)
    sys.stdin = open(0)  # noqa: SIM115  a fresh one, and empty
    sys.argv = ["solution.py"]
    warnings.simplefilter("ignore")
    random.seed(0)


_really_exit = os._exit


def _exit_softly(process: int) -> Callable[[int], NoReturn]:
    """A replacement for `os._exit` that can be caught, in the process itself; its forks end as they asked to."""

    def leave(status: int) -> NoReturn:
        if os.getpid() != process:
            _really_exit(status)
        raise SystemExit(status)

    return leave


def _status(code: object) -> int:
    """The exit status that Python gives to `SystemExit(code)`."""
    if isinstance(code, int):
        return code & 0xFF if -_LONG <= code < _LONG else 0xFF
    return 0 if code is None else 1


def _describe(error: BaseException) -> bytes:
    try:
        return f"{type(error).__name__}: {error}"[:200].replace("\n", " ").encode("utf-8", "replace")
    except BaseException:  # an exception of the submission's own may do anything when printed
        return b"an exception that cannot be printed"


def _write(line: bytes) -> None:
    os.write(RESULTS, line)
