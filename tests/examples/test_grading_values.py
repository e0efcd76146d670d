"""Two values have the same text exactly if they are equal by value and by exact type."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.leetcode_grpo.grading.sandbox.values import UnencodableError, dumps, loads
from examples.leetcode_grpo.problems.problem import Structure

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
hashable = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=6)
plain = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(hashable, inner, max_size=4) | st.sets(hashable, max_size=4)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equality by value and exact type, all the way down; `nan` equals `nan`."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(any(same(k, j) and same(a[k], b[j]) for j in b) for k in a)
    if isinstance(a, set | frozenset):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, complex):
        return same([a.real, a.imag], [b.real, b.imag])
    return bool(a == b)


@given(plain)
def test_values_survive_the_journey(value: Any) -> None:
    text = dumps(value)
    assert "\n" not in text
    assert text.isascii()
    assert same(loads(text, {}), value)


@given(plain, plain)
def test_texts_are_equal_exactly_if_values_are(a: Any, b: Any) -> None:
    assert (dumps(a) == dumps(b)) == same(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, True),
        (0, False),
        (1, 1.0),
        ([1], (1,)),
        ([1, 2], [2, 1]),
        ({1}, frozenset({1})),
        ("1", 1),
        (b"a", "a"),
        (None, []),
        ({1: 2}, [[1, 2]]),
        ({"tuple": [1]}, (1,)),
        (math.inf, -math.inf),
        (2**63, 2**63 + 1),
        (0.1 + 0.2, 0.3),
        (Structure("list_node", (1,)), Structure("tree_node", (1,))),
    ],
)
def test_different_values_have_different_texts(a: Any, b: Any) -> None:
    assert dumps(a) != dumps(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (math.nan, float("nan")),
        (0.0, -0.0),
        ({1: 2, 3: 4}, {3: 4, 1: 2}),
        (10**3000, 10**3000),
        (Structure("tree_node", (1, None, 2, None)), Structure("tree_node", (1, None, 2))),
        (Structure("list_node", ()), None),
    ],
)
def test_equal_values_have_equal_texts(a: Any, b: Any) -> None:
    assert dumps(a) == dumps(b)


class Mine(int):
    pass


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize("value", [Mine(1), Colour.RED, OrderedDict(), Counter(), object(), print, iter([]), range(3)])
def test_subclasses_and_objects_are_no_data(value: Any) -> None:
    with pytest.raises(UnencodableError, match=type(value).__name__):
        dumps(value)
    with pytest.raises(UnencodableError):
        dumps([{"x": (value,)}])


def test_values_that_contain_themselves_are_refused() -> None:
    knot: list[Any] = []
    knot.append(knot)
    with pytest.raises(UnencodableError, match="contains itself"):
        dumps(knot)
