"""Classic tasks of dynamic programming: best choices and numbers of ways."""

from __future__ import annotations

from random import Random

from examples.leetcode_grpo.problems.building import Inputs, Task
from examples.leetcode_grpo.problems.classics_strings import letters
from examples.leetcode_grpo.problems.inputs import INTS, Kind, each, integer, matrix, numbers


def _draw_coins(rng: Random) -> tuple[list[int], int]:
    return rng.sample(range(2, 12), rng.randint(1, 4)), rng.randint(0, 30)


def _draw_sack(rng: Random) -> tuple[list[int], list[int], int]:
    size = rng.randint(1, 6)
    return [rng.randint(1, 8) for _ in range(size)], [rng.randint(1, 9) for _ in range(size)], rng.randint(0, 20)


def _draw_prices(rng: Random) -> tuple[list[int], int]:
    return [rng.randint(1, 12) for _ in range(rng.randint(2, 9))], rng.randint(0, 3)


COINS = Inputs((([2, 5], 0), ([3], 5), ([1, 5, 10], 27), ([1, 3, 4], 6), ([7], 14), ([4, 1], 1)), _draw_coins)
WALLED = Kind(([[0]], [[1]], [[0, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0, 0]]), matrix(0, 1).draw)
TWO_WORDS = each(letters("abc", 8, "abc", "a", "cab"), letters("abc", 8, "acb", "b", "bca"))

MEDIUM: tuple[Task, ...] = (
    Task(
        "fewest_coins",
        "c, n",
        "The list c holds values of coins, each available without limit. Return the smallest number of coins that "
        "add up to n, or -1 if that is impossible.",
        """
best = [0] + [float("inf")] * n
for total in range(1, n + 1):
    for coin in c:
        if coin <= total:
            best[total] = min(best[total], best[total - coin] + 1)
return best[n] if best[n] < float("inf") else -1
""",
        COINS,
    ),
    Task(
        "coin_ways",
        "c, n",
        "The list c holds different values of coins, each available without limit. Return in how many ways coins can "
        "add up to n, regardless of their order.",
        """
ways = [1] + [0] * n
for coin in c:
    for total in range(coin, n + 1):
        ways[total] += ways[total - coin]
return ways[n]
""",
        COINS,
    ),
    Task(
        "best_without_neighbours",
        "a",
        "Choose items of a, none of them next to another, so that their sum is as large as possible. Return the sum, "
        "0 if nothing is worth choosing.",
        """
taken = skipped = 0
for x in a:
    taken, skipped = skipped + x, max(taken, skipped)
return max(taken, skipped)
""",
        each(INTS),
    ),
    Task(
        "count_paths",
        "m",
        "In the table m, a 1 is a wall. Return the number of ways from the top left to the bottom right cell that "
        "only go right or down and touch no wall.",
        """
ways = [1] + [0] * (len(m[0]) - 1)
for row in m:
    for j, wall in enumerate(row):
        if wall:
            ways[j] = 0
        elif j:
            ways[j] += ways[j - 1]
return ways[-1]
""",
        each(WALLED),
    ),
    Task(
        "cheapest_walk",
        "m",
        "Walk from the top left to the bottom right cell of the table m, only right or down. Return the smallest "
        "possible sum of the numbers on the way, both ends included.",
        """
inf = float("inf")
cost = [0] + [inf] * (len(m[0]) - 1)
for row in m:
    for j, x in enumerate(row):
        cost[j] = x + min(cost[j], cost[j - 1] if j else inf)
return cost[-1]
""",
        each(matrix(0, 9)),
    ),
    Task(
        "longest_rise",
        "a",
        "Return the length of the longest strictly ascending list that is left after deleting items of a.",
        """
from bisect import bisect_left

ends = []
for x in a:
    place = bisect_left(ends, x)
    ends[place : place + 1] = [x]
return len(ends)
""",
        each(INTS),
    ),
    Task(
        "common_subsequence",
        "s, t",
        "Return the length of the longest string that can be made from s and also from t by deleting characters.",
        """
row = [0] * (len(t) + 1)
for x in s:
    above = row[:]
    for j, y in enumerate(t):
        row[j + 1] = above[j] + 1 if x == y else max(above[j + 1], row[j])
return row[-1]
""",
        TWO_WORDS,
    ),
    Task(
        "splits_evenly",
        "a",
        "The list a holds natural numbers. Say whether they can be divided into two groups with equal sums; a group "
        "may be empty.",
        """
sums = {0}
for x in a:
    sums |= {total + x for total in sums}
return sum(a) % 2 == 0 and sum(a) // 2 in sums
""",
        each(numbers(0, 9)),
    ),
    Task(
        "decodings",
        "s",
        "Letters A to Z are written as the numbers 1 to 26, one after another without spaces. Return how many texts "
        "the non-empty string of digits s can stand for.",
        """
before, now = 0, 1
for i, c in enumerate(s):
    two = before if i and "10" <= s[i - 1 : i + 1] <= "26" else 0
    before, now = now, (now if c != "0" else 0) + two
return now
""",
        each(
            Kind(
                ("0", "7", "10", "226", "2101", "30", "1111", "261", "100", "27"),
                lambda rng: "".join(rng.choices("1120", k=rng.randint(2, 7))),
            )
        ),
    ),
    Task(
        "largest_square",
        "m",
        "The table m holds zeros and ones. Return the side of the largest square in it that holds only ones.",
        """
best = 0
above = [0] * (len(m[0]) + 1)
for row in m:
    sides = [0]
    for j, x in enumerate(row):
        sides.append(1 + min(above[j], above[j + 1], sides[j]) if x else 0)
    best = max(best, *sides)
    above = sides
return best
""",
        each(
            Kind(
                ([[0]], [[1]], [[1, 1], [1, 1]], [[1, 0], [1, 1]], [[1, 1, 1], [1, 1, 1], [1, 1, 1]]), matrix(0, 1).draw
            )
        ),
    ),
    Task(
        "fullest_sack",
        "w, v, n",
        "Item i weighs w[i] and is worth v[i]. Return the largest total worth of items that together weigh at most n.",
        """
best = [0] * (n + 1)
for weight, value in zip(w, v):
    for room in range(n, weight - 1, -1):
        best[room] = max(best[room], best[room - weight] + value)
return best[n]
""",
        Inputs((([], [], 5), ([3], [4], 2), ([3], [4], 3), ([1, 2, 3], [6, 10, 12], 5)), _draw_sack),
    ),
    Task(
        "sign_choices",
        "a, k",
        "Put a plus or a minus before each number of a. Return how many of these choices make the sum k.",
        """
ways = {0: 1}
for x in a:
    step = {}
    for total, count in ways.items():
        for reached in (total + x, total - x):
            step[reached] = step.get(reached, 0) + count
    ways = step
return ways.get(k, 0)
""",
        each(numbers(0, 4, longest=7), integer(0, 5, 0, 1, 3)),
    ),
)

HARD: tuple[Task, ...] = (
    Task(
        "chain_cost",
        "d",
        "Matrix i has d[i] rows and d[i + 1] columns, and multiplying an x by y matrix with a y by z one costs "
        "x*y*z. Return the smallest cost of multiplying all of them, in the best order of multiplications.",
        """
from functools import cache

@cache
def cost(low, high):
    if high - low < 2:
        return 0
    return min(cost(low, cut) + cost(cut, high) + d[low] * d[cut] * d[high] for cut in range(low + 1, high))

return cost(0, len(d) - 1)
""",
        each(
            Kind(
                ([2, 3], [1, 2, 3], [10, 1, 10, 1], [5, 5, 5, 5]),
                lambda rng: rng.choices(range(1, 9), k=rng.randint(3, 7)),
            )
        ),
    ),
    Task(
        "best_trades",
        "p, k",
        "The list p holds a price for each day. Return the largest profit from at most k purchases, each followed by a "
        "sale on a later day before the next purchase.",
        """
held = [float("-inf")] * (k + 1)
free = [0] * (k + 1)
for price in p:
    for i in range(k, 0, -1):
        free[i] = max(free[i], held[i] + price)
        held[i] = max(held[i], free[i - 1] - price)
return free[k]
""",
        Inputs(
            (([], 2), ([5], 1), ([1, 5, 2, 8], 0), ([1, 5, 2, 8], 1), ([1, 5, 2, 8], 2), ([3, 2, 1], 2)), _draw_prices
        ),
    ),
    Task(
        "drop_tests",
        "k, n",
        "An egg breaks when it falls from some unknown floor or higher, out of n floors, or from none. Return the "
        "smallest number of drops that surely finds the floor with k equal eggs.",
        """
floors = [0] * (k + 1)
drops = 0
while floors[k] < n:
    drops += 1
    for eggs in range(k, 0, -1):
        floors[eggs] += floors[eggs - 1] + 1
return drops
""",
        each(integer(1, 4, 1, 2, 3), integer(0, 30, 0, 1, 10, 6, 14)),
    ),
)
