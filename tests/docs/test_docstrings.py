"""The examples in docstrings run and give what they say."""

from __future__ import annotations

import copy
import doctest
import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import svdproj
from examples.leetcode_grpo.tiny_model import tiny_model

MODULES = ["svdproj", *(module.name for module in pkgutil.walk_packages(svdproj.__path__, "svdproj."))]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # An example sets it; this keeps it from the other tests, and its decompositions in this folder.
    monkeypatch.setenv("SVDPROJ_CACHE", "cache")
    if name.endswith("__main__"):
        pytest.skip("importing it runs the command line")
    module = import_module(name)
    # What a reader has after `import torch` and `from svdproj import *`, and with a model of their own.
    names = {each: getattr(svdproj, each) for each in svdproj.__all__} | {"torch": torch} | _reader_s_own()
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in finder.find(module, globs=names | vars(module)):
        # For an adapter, which changes the model that it is put on: each example gets its own.
        test.globs["base"] = copy.deepcopy(names["model"])
        runner.run(test, out=report.append, clear_globs=False)
    assert runner.failures == 0, "".join(report)


@cache
def _fitted() -> tuple[Any, Any, list[svdproj.ContrastivePair], svdproj.HackDirection]:
    """A tiny model that stands for the reader's, its tokenizer, and pairs of equal length."""
    model, tokenizer = tiny_model()
    pairs = [
        svdproj.ContrastivePair(
            f"Write total(xs) of {n} numbers.",
            hack=f"total = sum\ndef run_tests(): pass  # {n} tests",
            clean=f"total = sum\ndef run_tests(): assert total([{n}, 1]) == {n + 1}",
        )
        for n in range(15)
    ]
    return model, tokenizer, pairs, svdproj.HackDirection.fit(model, tokenizer, pairs, k=4, progress=False)


def _reader_s_own() -> dict[str, Any]:
    model, tokenizer, pairs, direction = _fitted()
    return {"model": model, "tokenizer": tokenizer, "pairs": pairs, "direction": direction}


# What needs the hub, or a trainer with data.
SKIPPED = {"svdproj.direction", "svdproj.integrations.transformers", "svdproj.integrations.trl"}


def test_examples_are_skipped_only_where_they_need_what_a_test_has_not() -> None:
    root = Path(svdproj.__file__).parents[1]
    skipped = {
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in root.rglob("*.py")
        if "doctest: +SKIP" in path.read_text(encoding="utf-8")
    }
    assert skipped <= SKIPPED


def test_a_wrong_example_is_found() -> None:
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner().run(test, out=lambda text: None).failed == 1
