"""The examples in docstrings run and give what they say."""

from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
import torch

import svdproj

MODULES = ["svdproj", *(module.name for module in pkgutil.walk_packages(svdproj.__path__, "svdproj."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name.endswith("__main__"):
        pytest.skip("importing it runs the command line")
    module = import_module(name)
    # What a reader has after `import torch` and `from svdproj import *`.
    names = {each: getattr(svdproj, each) for each in svdproj.__all__} | {"torch": torch}
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in finder.find(module, globs=names | vars(module)):
        runner.run(test, out=report.append, clear_globs=False)
    assert runner.failures == 0, "".join(report)


def test_a_wrong_example_is_found() -> None:
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner().run(test, out=lambda text: None).failed == 1
