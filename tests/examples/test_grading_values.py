"""Two values have the same text exactly if they are equal by value and by exact type."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from examples.leetcode_grpo.grading.sandbox.prelude import DEFAULT_SETUP
from examples.leetcode_grpo.grading.sandbox.values import UnencodableError, dumps, loads
from examples.leetcode_grpo.problems.problem import Structure

NAMES: dict[str, Any] = {}
exec(DEFAULT_SETUP, NAMES)
ListNode, TreeNode = NAMES["ListNode"], NAMES["TreeNode"]
BUILDERS = {name: NAMES[name] for name in ("list_node", "tree_node")}

# Among them surrogates, alone and in pairs, and the character that a pair of them stands for elsewhere.
texts = st.text() | st.text(st.sampled_from("a\ud83d\ude00\U0001f600"), max_size=3)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary() | st.complex_numbers()
hashable = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=6)
plain = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(hashable, inner, max_size=4) | st.sets(hashable, max_size=4)
    ),
    max_leaves=12,
)
values_of_nodes = st.none() | st.booleans() | st.integers(0, 2)
linked = st.lists(values_of_nodes, max_size=4).map(BUILDERS["list_node"])
trees = st.recursive(
    st.none(),
    lambda inner: st.builds(TreeNode, values_of_nodes.filter(lambda value: value is not None), inner, inner),
    max_leaves=8,
)
nodes = linked | trees
with_nodes = plain | nodes | st.lists(nodes, max_size=3)


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
    if isinstance(a, ListNode | TreeNode):
        return same(vars(a), vars(b))
    return bool(a == b)


@given(with_nodes)
def test_values_survive_the_journey(value: Any) -> None:
    text = dumps(value)
    assert "\n" not in text
    assert text.isascii()
    assert same(loads(text, BUILDERS), value)


@given(with_nodes, with_nodes)
@example(TreeNode(1), ListNode(1))
@example(ListNode(1, ListNode(None)), ListNode(1))
def test_texts_are_equal_exactly_if_values_are(a: Any, b: Any) -> None:
    assert (dumps(a) == dumps(b)) == same(a, b)


@given(nodes, nodes)
def test_nodes_of_equal_text_are_equal(a: Any, b: Any) -> None:
    assert (dumps(a) == dumps(b)) == same(a, b)


@given(st.lists(st.none() | st.integers(0, 9), max_size=6), st.sampled_from(["list_node", "tree_node"]))
@example([0, None, None, 0], "tree_node")  # a value below two gaps, which the constructor never reads
def test_structures_are_what_their_constructor_makes(values: list[Any], kind: Any) -> None:
    if kind == "tree_node" and values[:1] == [None]:
        return  # no tree has a gap for a root
    assert dumps(Structure(kind, tuple(values)), Structure) == dumps(BUILDERS[kind](values))


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
        (Structure("list_node", (1, None)), Structure("list_node", (1,))),
        (Structure("list_node", (None,)), None),
        ("\ud83d\ude00", "\U0001f600"),
        ({"surrogates": ""}, ""),
    ],
)
def test_different_values_have_different_texts(a: Any, b: Any) -> None:
    assert dumps(a, Structure) != dumps(b, Structure)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (math.nan, float("nan")),
        (0.0, -0.0),
        ({1: 2, 3: 4}, {3: 4, 1: 2}),
        (10**3000, 10**3000),
        (Structure("tree_node", (1, None, 2, None)), Structure("tree_node", (1, None, 2))),
        (Structure("list_node", ()), None),
        (Structure("tree_node", (None,)), None),
    ],
)
def test_equal_values_have_equal_texts(a: Any, b: Any) -> None:
    assert dumps(a, Structure) == dumps(b, Structure)


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


def test_a_tree_node_without_a_value_is_no_gap() -> None:
    for tree in (TreeNode(None), TreeNode(1, TreeNode(None))):
        with pytest.raises(UnencodableError, match="a tree node without a value"):
            dumps(tree)


def test_structures_are_known_to_the_trusted_side_alone() -> None:
    """A submission may call a class of its own by that name."""
    with pytest.raises(UnencodableError, match="Structure"):
        dumps(Structure("tuple", (1, 2)))  # type: ignore[arg-type]


def test_values_that_contain_themselves_are_refused() -> None:
    knot: list[Any] = []
    knot.append(knot)
    with pytest.raises(UnencodableError, match="contains itself"):
        dumps(knot)
