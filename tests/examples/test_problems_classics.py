"""Classic tasks against brute force: short programs that follow the question to the letter, on inputs of their own."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Any

import pytest

from examples.leetcode_grpo.problems.building import Task, solution_code, trusted_method
from examples.leetcode_grpo.problems.classics import classic_problems
from examples.leetcode_grpo.problems.classics_arrays import HARD as HARD_ARRAYS
from examples.leetcode_grpo.problems.classics_arrays import MEDIUM as ARRAYS
from examples.leetcode_grpo.problems.classics_dynamic import HARD as HARD_DYNAMIC
from examples.leetcode_grpo.problems.classics_dynamic import MEDIUM as DYNAMIC
from examples.leetcode_grpo.problems.classics_graphs import HARD as HARD_GRAPHS
from examples.leetcode_grpo.problems.classics_graphs import MEDIUM as GRAPHS
from examples.leetcode_grpo.problems.classics_strings import HARD as HARD_STRINGS
from examples.leetcode_grpo.problems.classics_strings import MEDIUM as STRINGS

TASKS = {
    task.method: task
    for task in (*ARRAYS, *HARD_ARRAYS, *STRINGS, *HARD_STRINGS, *DYNAMIC, *HARD_DYNAMIC, *GRAPHS, *HARD_GRAPHS)
}
DRAWS = 40

REFERENCES: dict[str, Callable[..., Any]] = {}


def reference(function: Callable[..., Any]) -> Callable[..., Any]:
    REFERENCES[function.__name__] = function
    return function


def runs(a: Any) -> Iterator[Any]:
    """All runs of neighbours but the empty one, from left to right, short before long."""
    return (a[i:j] for i in range(len(a)) for j in range(i + 1, len(a) + 1))


def choices(a: Any) -> Iterator[tuple[Any, ...]]:
    """All ways to pick items, in their order."""
    return itertools.chain.from_iterable(itertools.combinations(a, size) for size in range(len(a) + 1))


def balanced(s: str) -> bool:
    while "()" in s:
        s = s.replace("()", "")
    return not s


# lists


@reference
def pair_with_sum(a: list[int], k: int) -> list[int]:
    return next(([i, j] for i, j in itertools.combinations(range(len(a)), 2) if a[i] + a[j] == k), [])


@reference
def merge_intervals(v: list[list[int]]) -> list[list[int]]:
    # In half steps, so that intervals with a gap of one between them stay apart.
    covered = {x for start, end in v for x in range(2 * start, 2 * end + 1)}
    starts = sorted(x for x in covered if x - 1 not in covered)
    ends = sorted(x for x in covered if x + 1 not in covered)
    return [[start // 2, end // 2] for start, end in zip(starts, ends, strict=True)]


@reference
def free_gaps(v: list[list[int]]) -> list[list[int]]:
    merged = merge_intervals(v)
    return [[left[1], right[0]] for left, right in itertools.pairwise(merged)]


@reference
def most_meetings(v: list[list[int]]) -> int:
    def apart(meetings: tuple[list[int], ...]) -> bool:
        return all(x[1] <= y[0] or y[1] <= x[0] for x, y in itertools.combinations(meetings, 2))

    return max(len(meetings) for meetings in choices(v) if apart(meetings))


@reference
def rooms_needed(v: list[list[int]]) -> int:
    return max((sum(start <= moment < end for start, end in v) for moment in range(40)), default=0)


@reference
def best_run(a: list[int]) -> int:
    return max(map(sum, runs(a)))


@reference
def best_product(a: list[int]) -> int:
    return max(map(math.prod, runs(a)))


@reference
def products_of_others(a: list[int]) -> list[int]:
    return [math.prod(a[:i] + a[i + 1 :]) for i in range(len(a))]


@reference
def next_greater(a: list[int]) -> list[int | None]:
    return [next((y for y in a[i:] if y > x), None) for i, x in enumerate(a)]


@reference
def longest_streak(a: list[int]) -> int:
    return max((n for n in range(1, len(a) + 1) for x in a if set(range(x, x + n)) <= set(a)), default=0)


@reference
def runs_with_sum(a: list[int], k: int) -> int:
    return sum(sum(run) == k for run in runs(a))


@reference
def search_rotated(a: list[int], k: int) -> int:
    return a.index(k) if k in a else -1


@reference
def kth_largest(a: list[int], k: int) -> int:
    return sorted(a)[-k]


@reference
def widest_basin(h: list[int]) -> int:
    return max(((j - i) * min(h[i], h[j]) for i, j in itertools.combinations(range(len(h)), 2)), default=0)


@reference
def zero_triples(a: list[int]) -> list[list[int]]:
    return [list(t) for t in sorted({tuple(sorted(t)) for t in itertools.combinations(a, 3) if sum(t) == 0})]


@reference
def longest_ones(a: list[int], k: int) -> int:
    return max((len(run) for run in runs(a) if run.count(0) <= k), default=0)


@reference
def fewest_jumps(a: list[int]) -> int:
    fewest = {0: 0}
    for i, x in enumerate(a):
        for j in range(i + 1, i + x + 1):
            if i in fewest:
                fewest[j] = min(fewest.get(j, len(a)), fewest[i] + 1)
    return fewest.get(len(a) - 1, -1)


@reference
def next_order(a: list[int]) -> list[int]:
    orders = sorted(set(itertools.permutations(a)))
    return list(orders[(orders.index(tuple(a)) + 1) % len(orders)])


@reference
def trapped_water(h: list[int]) -> int:
    return sum(min(max(h[: i + 1]), max(h[i:])) - x for i, x in enumerate(h))


@reference
def largest_rectangle(h: list[int]) -> int:
    return max((len(run) * min(run) for run in runs(h)), default=0)


@reference
def sliding_largest(a: list[int], k: int) -> list[int]:
    return [max(a[i : i + k]) for i in range(len(a) - k + 1)]


@reference
def median_of_two(a: list[int], b: list[int]) -> float:
    c = sorted(a + b)
    return (c[(len(c) - 1) // 2] + c[len(c) // 2]) / 2


@reference
def first_missing(a: list[int]) -> int:
    return next(x for x in itertools.count(1) if x not in a)


@reference
def count_inversions(a: list[int]) -> int:
    return sum(x > y for x, y in itertools.combinations(a, 2))


@reference
def largest_block(m: list[list[int]]) -> int:
    blocks = [
        (bottom - top) * (right - left)
        for top, bottom in itertools.combinations(range(len(m) + 1), 2)
        for left, right in itertools.combinations(range(len(m[0]) + 1), 2)
        if all(m[i][j] for i in range(top, bottom) for j in range(left, right))
    ]
    return max(blocks, default=0)


# strings


@reference
def longest_unique_run(s: str) -> int:
    return max((len(run) for run in runs(s) if len(set(run)) == len(run)), default=0)


@reference
def longest_palindrome(s: str) -> str:
    return max((run for run in runs(s) if run == run[::-1]), key=len, default="")


@reference
def is_balanced(s: str) -> bool:
    while s != (s := s.replace("()", "").replace("[]", "")):
        pass
    return not s


@reference
def expand(s: str) -> str:
    while found := re.search(r"(\d+)\[([a-z]*)\]", s):
        s = s[: found.start()] + int(found[1]) * found[2] + s[found.end() :]
    return s


@reference
def calculate(s: str) -> int:
    return int(eval(re.sub(r"\d+", lambda number: str(int(number[0])), s)))


@reference
def calculate_nested(s: str) -> int:
    return calculate(s)


@reference
def can_be_cut(s: str, w: list[str]) -> bool:
    return not s or any(word and s.startswith(word) and can_be_cut(s[len(word) :], w) for word in w)


@reference
def distinct_orders(s: str) -> list[str]:
    return sorted({"".join(order) for order in itertools.permutations(s)})


@reference
def brackets_to_add(s: str) -> int:
    # Insertions and deletions are the same number: what is left when all partners are gone.
    while "()" in s:
        s = s.replace("()", "")
    return len(s)


@reference
def edit_distance(s: str, t: str) -> int:
    if not s or not t:
        return len(s) + len(t)
    return min(edit_distance(s[1:], t) + 1, edit_distance(s, t[1:]) + 1, edit_distance(s[1:], t[1:]) + (s[0] != t[0]))


@reference
def smallest_window(s: str, t: str) -> str:
    fitting = (run for run in runs(s) if all(run.count(c) >= t.count(c) for c in t))
    return min(fitting, key=len, default="") if t else ""


@reference
def matches(s: str, p: str) -> bool:
    return re.fullmatch(p.replace("?", ".").replace("*", ".*"), s) is not None


@reference
def longest_balanced(s: str) -> int:
    return max((len(run) for run in runs(s) if balanced(run)), default=0)


@reference
def count_subsequences(s: str, t: str) -> int:
    return sum("".join(choice) == t for choice in itertools.combinations(s, len(t)))


@reference
def palindrome_cuts(s: str) -> int:
    if s == s[::-1]:
        return 0
    return min(1 + palindrome_cuts(s[i:]) for i in range(1, len(s)) if s[:i] == s[:i][::-1])


@reference
def is_interleaved(s: str, t: str, u: str) -> bool:
    if not u:
        return not s and not t
    return bool(s and s[0] == u[0] and is_interleaved(s[1:], t, u[1:])) or bool(
        t and t[0] == u[0] and is_interleaved(s, t[1:], u[1:])
    )


# dynamic programming


@reference
def fewest_coins(c: list[int], n: int) -> int:
    totals, count = {0}, 0
    while n not in totals and any(total < n for total in totals):
        totals = {total + coin for total in totals for coin in c if total + coin <= n}
        count += 1
    return count if n in totals else -1


@reference
def coin_ways(c: list[int], n: int) -> int:
    if not c:
        return int(n == 0)
    return sum(coin_ways(c[1:], n - count * c[0]) for count in range(n // c[0] + 1))


@reference
def best_without_neighbours(a: list[int]) -> int:
    apart = (chosen for chosen in choices(range(len(a))) if all(y - x > 1 for x, y in itertools.pairwise(chosen)))
    return max(sum(a[i] for i in chosen) for chosen in apart)


def walks(m: list[list[int]]) -> Iterator[list[int]]:
    """The numbers on all ways that go right or down."""
    down, right = len(m) - 1, len(m[0]) - 1
    for turns in itertools.combinations(range(down + right), down):
        i = j = 0
        walk = [m[0][0]]
        for step in range(down + right):
            i, j = (i + 1, j) if step in turns else (i, j + 1)
            walk.append(m[i][j])
        yield walk


@reference
def count_paths(m: list[list[int]]) -> int:
    return sum(not any(walk) for walk in walks(m))


@reference
def cheapest_walk(m: list[list[int]]) -> int:
    return min(map(sum, walks(m)))


@reference
def longest_rise(a: list[int]) -> int:
    return max(len(chosen) for chosen in choices(a) if all(x < y for x, y in itertools.pairwise(chosen)))


@reference
def common_subsequence(s: str, t: str) -> int:
    return max(map(len, set(choices(s)) & set(choices(t))))


@reference
def splits_evenly(a: list[int]) -> bool:
    return any(2 * sum(chosen) == sum(a) for chosen in choices(a))


@reference
def decodings(s: str) -> int:
    if not s:
        return 1
    return sum(decodings(s[size:]) for size in (1, 2) if len(s) >= size and s[0] != "0" and 1 <= int(s[:size]) <= 26)


@reference
def largest_square(m: list[list[int]]) -> int:
    return max(
        (
            side
            for side in range(1, min(len(m), len(m[0])) + 1)
            for i in range(len(m) - side + 1)
            for j in range(len(m[0]) - side + 1)
            if all(all(row[j : j + side]) for row in m[i : i + side])
        ),
        default=0,
    )


@reference
def fullest_sack(w: list[int], v: list[int], n: int) -> int:
    return max(sum(v[i] for i in chosen) for chosen in choices(range(len(w))) if sum(w[i] for i in chosen) <= n)


@reference
def sign_choices(a: list[int], k: int) -> int:
    return sum(sum(map(math.prod, zip(a, s, strict=True))) == k for s in itertools.product((1, -1), repeat=len(a)))


@reference
def chain_cost(d: list[int]) -> int:
    if len(d) < 3:
        return 0
    return min(d[i - 1] * d[i] * d[i + 1] + chain_cost(d[:i] + d[i + 1 :]) for i in range(1, len(d) - 1))


@reference
def best_trades(p: list[int], k: int) -> int:
    days = (c for c in choices(range(len(p))) if len(c) % 2 == 0 and len(c) <= 2 * k)
    return max(sum(p[sold] - p[bought] for bought, sold in zip(c[::2], c[1::2], strict=True)) for c in days)


@reference
def drop_tests(k: int, n: int) -> int:
    @cache
    def worst(eggs: int, floors: int) -> int:
        if floors == 0 or eggs == 1:
            return floors
        return 1 + min(max(worst(eggs - 1, x - 1), worst(eggs, floors - x)) for x in range(1, floors + 1))

    return worst(k, n)


# graphs and searches


@reference
def first_order(n: int, e: list[list[int]]) -> list[int]:
    allowed = (o for o in itertools.permutations(range(n)) if all(o.index(x) < o.index(y) for x, y in e))
    return list(next(allowed, ()))


@reference
def can_finish(n: int, e: list[list[int]]) -> bool:
    return len(first_order(n, e)) == n


@reference
def shortest_route(n: int, e: list[list[int]]) -> int:
    far = [0.0] + [math.inf] * (n - 1)
    for _ in range(n):
        for x, y, length in e:
            far[x], far[y] = min(far[x], far[y] + length), min(far[y], far[x] + length)
    return -1 if far[-1] == math.inf else int(far[-1])


@reference
def count_groups(n: int, e: list[list[int]]) -> int:
    groups = [{x} for x in range(n)]
    for x, y in e:
        united = set().union(*(group for group in groups if x in group or y in group))
        groups = [group for group in groups if not group & united] + [united]
    return len(groups)


@reference
def critical_links(n: int, e: list[list[int]]) -> list[list[int]]:
    return sorted(link for link in e if count_groups(n, [x for x in e if x != link]) > count_groups(n, e))


@reference
def cheapest_network(n: int, e: list[list[int]]) -> int:
    costs = [
        sum(cable[2] for cable in chosen) for chosen in choices(e) if count_groups(n, [c[:2] for c in chosen]) == 1
    ]
    return min(costs, default=-1)


@reference
def two_teams(n: int, e: list[list[int]]) -> bool:
    return any(all(teams[x] != teams[y] for x, y in e) for teams in itertools.product((0, 1), repeat=n))


@reference
def all_choices(a: list[int]) -> list[list[int]]:
    return sorted((list(chosen) for chosen in choices(sorted(a))), key=lambda chosen: (len(chosen), chosen))


@reference
def choices_with_sum(a: list[int], n: int) -> list[list[int]]:
    counts = itertools.product(*(range(n // x + 1) for x in sorted(a)))
    lists = [[x for x, count in zip(sorted(a), c, strict=True) for _ in range(count)] for c in counts]
    return sorted(chosen for chosen in lists if sum(chosen) == n)


@reference
def queens(n: int) -> int:
    return sum(
        all(abs(x - y) != abs(i - j) for (i, x), (j, y) in itertools.combinations(enumerate(columns), 2))
        for columns in itertools.permutations(range(n))
    )


@reference
def fair_shares(a: list[int], k: int) -> bool:
    def sums(groups: tuple[int, ...]) -> set[int]:
        return {sum(x for x, group in zip(a, groups, strict=True) if group == g) for g in range(k)}

    return any(len(sums(groups)) == 1 for groups in itertools.product(range(k), repeat=len(a)))


def fresh_inputs(task: Task) -> list[tuple[Any, ...]]:
    rng = Random("not the bank's")
    return [*task.inputs.edges, *(task.inputs.draw(rng) for _ in range(DRAWS))]


def test_every_reference_belongs_to_a_task() -> None:
    assert set(REFERENCES) <= set(TASKS)
    assert len(TASKS) == len(classic_problems())
    assert len(REFERENCES) >= 0.75 * len(TASKS)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_classic_agrees_with_brute_force(name: str) -> None:
    task = TASKS[name]
    method = trusted_method(solution_code(task.method, task.params, task.body), task.method)
    for arguments in fresh_inputs(task):
        found, expected = method(*copy.deepcopy(arguments)), REFERENCES[name](*copy.deepcopy(arguments))
        assert repr(found) == repr(expected), arguments
