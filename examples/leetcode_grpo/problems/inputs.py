"""Kinds of test inputs: numbers, texts, lists, dictionaries, each with its edge cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from examples.leetcode_grpo.problems.building import Inputs

VOCABULARY = (
    "apple", "bee", "Cat", "dog", "echo", "fig", "go", "hat", "Ink", "jam", "kiwi", "level", "moon", "noon", "Owl",
    "pear", "quiz", "red", "sun", "tea", "up", "vase", "wow", "yak", "zoo", "banana", "book", "eve", "a", "mississippi",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """Values for one parameter: the edge cases, and a way to draw one more."""

    edges: tuple[Any, ...]
    draw: Callable[[Random], Any]


def each(*kinds: Kind) -> Inputs:
    """Independent parameters: edge cases side by side (the shorter lists start over), draws one by one."""
    rows = max(len(kind.edges) for kind in kinds)
    edges = tuple(tuple(kind.edges[row % len(kind.edges)] for kind in kinds) for row in range(rows))
    return Inputs(edges, lambda rng: tuple(kind.draw(rng) for kind in kinds))


def integer(low: int, high: int, *edges: int) -> Kind:
    """Whole numbers from `low` to `high`, both included."""
    return Kind(edges or (low, high), lambda rng: rng.randint(low, high))


def numbers(low: int = -9, high: int = 20, shortest: int = 0, longest: int = 8) -> Kind:
    """Lists of whole numbers, often with duplicates."""
    edges: tuple[list[int], ...] = ([], [low], [high], [1, 1, 1], [low, 0, low, high], [1, 2, 3, 4, 5])
    kept = tuple(edge for edge in edges if len(edge) >= shortest and all(low <= x <= high for x in edge))

    def draw(rng: Random) -> list[int]:
        # A narrow range now and then, or duplicates would be rare.
        top = rng.choice((high, min(high, low + 6)))
        return [rng.randint(low, top) for _ in range(rng.randint(max(shortest, 2), longest))]

    return Kind(kept, draw)


def sorted_numbers(shortest: int = 0) -> Kind:
    """Ascending lists of whole numbers."""
    return mapped(numbers(shortest=shortest), sorted)


def mapped(kind: Kind, change: Callable[[Any], Any]) -> Kind:
    """Every value of `kind`, changed."""
    return Kind(tuple(change(edge) for edge in kind.edges), lambda rng: change(kind.draw(rng)))


def chosen(*values: Any) -> Kind:
    """One of a few values."""
    return Kind(values, lambda rng: rng.choice(values))


def _draw_word(rng: Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(VOCABULARY)
    return "".join(rng.choice("aabcdeEoXyz19") for _ in range(rng.randint(1, 7)))


def _draw_text(rng: Random) -> str:
    return " ".join(_draw_word(rng) for _ in range(rng.randint(2, 5)))


def words(shortest: int = 0, longest: int = 6) -> Kind:
    """Lists of words, sometimes with duplicates."""
    edges: tuple[list[str], ...] = ([], [""], ["a"], ["b", "a", "b"], ["noon", "Level", "up", "up"])

    def draw(rng: Random) -> list[str]:
        drawn = [_draw_word(rng) for _ in range(rng.randint(max(shortest, 2), longest))]
        return drawn + drawn[:1] if rng.random() < 0.3 else drawn

    return Kind(tuple(edge for edge in edges if len(edge) >= shortest), draw)


def matrix(low: int = -9, high: int = 9, square: bool = False) -> Kind:
    """Rectangular lists of rows, never empty."""

    def draw(rng: Random) -> list[list[int]]:
        height = rng.randint(1, 4)
        width = height if square else rng.randint(1, 4)
        return [[rng.randint(low, high) for _ in range(width)] for _ in range(height)]

    edges: tuple[list[list[int]], ...] = ([[1]], [[1, 2], [3, 4]], [[0, 0], [0, 0]])
    return Kind(edges if square else (*edges, [[1, 2, 3]], [[4], [5], [6]]), draw)


def _draw_scores(rng: Random) -> dict[str, int]:
    return {rng.choice(VOCABULARY): rng.randint(-3, 9) for _ in range(rng.randint(2, 6))}


INTS = numbers()
SOME_INTS = numbers(shortest=1)
NATURALS = numbers(low=0, high=12)
SORTED = sorted_numbers()
SOME_SORTED = sorted_numbers(shortest=1)
BITS = numbers(low=0, high=1)
INT = integer(-30, 99, 0, 1, -1, 12, -25, 100)
NATURAL = integer(0, 60, 0, 1, 2, 9, 10, 100)
POSITIVE = integer(1, 60, 1, 2, 3, 10, 17, 36, 100)
COUNT = integer(0, 5, 2, 0, 1, 3)
STEP = integer(1, 4, 2, 1, 3)
SMALL = integer(-5, 12, 0, 1, -2, 5)
WORD = Kind(("", "a", "level", "Hello", "aab"), _draw_word)
SOME_WORD = Kind(("a", "level", "Hello", "aab"), _draw_word)
LETTER = chosen("a", "e", "o", "l", "b")
TEXT = Kind(("", "one", "a b a", "Hello big World", "noon level go"), _draw_text)
SOME_TEXT = Kind(("one", "a b a", "Hello big World", "noon level go"), _draw_text)
DIGITS = Kind(("0", "7", "12", "9090"), lambda rng: str(rng.randint(0, 99999)))
WORDS = words()
SOME_WORDS = words(shortest=1)
MATRIX = matrix()
SQUARE = matrix(square=True)
SCORES = Kind(({}, {"a": 1}, {"b": 2, "a": 2}, {"x": 0, "y": -3}), _draw_scores)
SOME_SCORES = Kind(({"a": 1}, {"b": 2, "a": 7}, {"x": 0, "y": -3}), _draw_scores)
