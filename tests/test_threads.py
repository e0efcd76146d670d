"""Small linear algebra gets few threads, and what comes after it as many as before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import svdproj.sketch
from svdproj import HackDirection
from svdproj.threads import FEW, few_threads
from tests.tiny import tiny_llama, tiny_pairs, tiny_tokenizer


@pytest.fixture
def many() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(3 * FEW)
    yield 3 * FEW
    torch.set_num_threads(before)


def test_few_inside_and_as_before_outside_also_after_an_error(many: int) -> None:
    inside: list[int] = []

    def fail() -> None:
        with few_threads():
            inside.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [FEW]
    assert torch.get_num_threads() == many
    with few_threads(2 * many):
        assert torch.get_num_threads() == many  # never more than there were


def test_blocks_of_two_threads_may_end_in_any_order(many: int) -> None:
    """The second thread finds the first one's few threads; what it puts back must not be those."""
    entered, left = threading.Event(), threading.Event()

    def second() -> None:
        with few_threads(1):
            entered.set()
            left.wait(60)

    with ThreadPoolExecutor(1) as pool:
        with few_threads(1):
            waiting = pool.submit(second)
            entered.wait(60)
        left.set()
        waiting.result(60)
    assert torch.get_num_threads() == many
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == many


def test_threads_that_are_started_inside_have_few_too(many: int) -> None:
    with few_threads(1), ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == many


def test_a_fit_decomposes_its_small_matrices_with_few_threads(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decompose, seen = torch.linalg.eigh, []

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(torch.get_num_threads())
        return decompose(*args, **kwargs)

    monkeypatch.setattr(svdproj.sketch.torch.linalg, "eigh", watched)
    direction = HackDirection.fit(tiny_llama(), tiny_tokenizer(), tiny_pairs(12), k=2, progress=False)
    assert seen
    assert max(seen) == FEW
    assert torch.get_num_threads() == many
    direction.random_like(0)
    assert torch.get_num_threads() == many
