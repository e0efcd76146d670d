"""Values as canonical text: two values have the same text exactly if they are equal by value and by exact type.

Inputs travel to the submission in this form and results come back in it. The trusted side never decodes what comes
back: it encodes the expected value and compares texts, so there is no parser for a submission to attack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

MAX_NODES = 100_000
"""Nodes of a linked list or tree; a longer one is taken for a cycle."""

_INLINE_INT = 2**63
_SURROGATES = re.compile("[\ud800-\udfff]")


class UnencodableError(ValueError):
    """A value, or a part of it, is not of a known plain type, is cyclic, or nests too deeply."""


def dumps(value: Any, structure: type | None = None) -> str:
    """Canonical ASCII text of a value, on one line.

    Known are None, bool, int, float (`nan` equals `nan`, `-0.0` equals `0.0`), complex, str, bytes, list, tuple, dict,
    set, frozenset, list and tree nodes, each by exact type: a subclass of `int` is not an `int`.

    Args:
        value: to be encoded.
        structure: the class of linked lists and trees that are not yet nodes (`Structure`), for the trusted side alone: a
            submission could give a class of its own that name.

    Raises:
        UnencodableError: see there.
    """
    try:
        return json.dumps(_encode(value, structure), separators=(",", ":"))
    except RecursionError:
        raise UnencodableError("nests too deeply, or contains itself") from None


def _encode(value: Any, structure: type | None) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        # JSON writes a character beyond the first plane as two surrogates, and would read two as that character.
        return {"surrogates": value.encode("utf-8", "surrogatepass").hex()} if _SURROGATES.search(value) else value
    if kind is int:
        # Decimal digits of large integers are quadratic to compute and refused by the interpreter beyond a few
        # thousand.
        return value if -_INLINE_INT < value < _INLINE_INT else {"int": hex(value)}
    if kind is float:
        return value + 0.0  # turns -0.0 into 0.0
    if kind is list:
        return [_encode(item, structure) for item in value]
    if kind is tuple:
        return {"tuple": [_encode(item, structure) for item in value]}
    if kind is dict:
        pairs = [[_encode(key, structure), _encode(item, structure)] for key, item in value.items()]
        return {"dict": sorted(pairs, key=lambda pair: json.dumps(pair[0]))}
    if kind is set or kind is frozenset:
        return {kind.__name__: sorted((_encode(item, structure) for item in value), key=json.dumps)}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is complex:
        return {"complex": [value.real + 0.0, value.imag + 0.0]}
    if kind is structure:
        return _nodes(value.kind, list(value.values), structure)
    return _encode_nodes(value)


def _encode_nodes(value: Any) -> Any:
    """Linked lists and trees, by their names: submissions define node classes anew."""
    name = type(value).__name__
    if name == "ListNode":
        items: list[Any] = []
        node = value
        while node is not None:
            items.append(node.val)
            node = node.next
            if len(items) > MAX_NODES:
                raise UnencodableError("a linked list that does not end")
        return _nodes("list_node", items)
    if name == "TreeNode":
        row, items = [value], []
        while row:
            items += [None if node is None else _value_of(node) for node in row]
            row = [child for node in row if node is not None for child in (node.left, node.right)]
            if len(items) > MAX_NODES:
                raise UnencodableError("a tree that does not end")
        return _nodes("tree_node", items)
    raise UnencodableError(f"an object of type {name}")


def _value_of(node: Any) -> Any:
    if node.val is None:
        raise UnencodableError("a tree node without a value, which would be taken for a gap")
    return node.val


def _nodes(kind: str, items: list[Any], structure: type | None = None) -> Any:
    if kind == "tree_node":
        items = _level_order(items)
    # The published constructors make None of [].
    return {kind: [_encode(item, structure) for item in items]} if items else None


def _level_order(items: list[Any]) -> list[Any]:
    """What the published constructor reads of a tree: no value below a gap, and no gap behind the last node."""
    places, read, last = 1, 0, 0
    while read < len(items) and places:
        node = items[read] is not None
        places += 1 if node else -1
        read += 1
        last = read if node else last
    return items[:last]


def loads(text: str, builders: dict[str, Callable[[list[Any]], Any]]) -> Any:
    """The value of a text; `builders` makes nodes from `"list_node"` and `"tree_node"`."""
    return _decode(json.loads(text), builders)


def _decode(data: Any, builders: dict[str, Callable[[list[Any]], Any]]) -> Any:
    if isinstance(data, list):
        return [_decode(item, builders) for item in data]
    if not isinstance(data, dict):
        return data
    ((kind, body),) = data.items()
    if kind == "int":
        return int(body, 16)
    if kind == "bytes":
        return bytes.fromhex(body)
    if kind == "surrogates":
        return bytes.fromhex(body).decode("utf-8", "surrogatepass")
    items = [_decode(item, builders) for item in body]
    plain: dict[str, Callable[[Any], Any]] = {
        "tuple": tuple,
        "dict": dict,
        "set": set,
        "frozenset": frozenset,
        "complex": lambda parts: complex(*parts),
    }
    return (plain | builders)[kind](items)
