"""Classic tasks on lists of numbers: windows, stacks, intervals, searches."""

from __future__ import annotations

from random import Random

from examples.leetcode_grpo.problems.building import Inputs, Task
from examples.leetcode_grpo.problems.inputs import INTS, SOME_INTS, Kind, each, integer, matrix, numbers

HEIGHTS = numbers(0, 9, longest=10)
NEAR_ZERO = numbers(-5, 5, longest=9)


def _draw_intervals(rng: Random) -> list[list[int]]:
    starts = [rng.randint(0, 20) for _ in range(rng.randint(2, 7))]
    return [[start, start + rng.randint(1, 6)] for start in starts]


def _draw_rotated(rng: Random) -> tuple[list[int], int]:
    ascending = sorted(rng.sample(range(-20, 40), rng.randint(1, 10)))
    cut = rng.randrange(len(ascending))
    return ascending[cut:] + ascending[:cut], rng.choice([*ascending, rng.randint(-20, 40)])


def _draw_with_rank(rng: Random) -> tuple[list[int], int]:
    values = [rng.randint(-9, 9) for _ in range(rng.randint(1, 9))]
    return values, rng.randint(1, len(values))


INTERVALS = Kind(
    ([], [[1, 3]], [[1, 4], [4, 6]], [[5, 6], [1, 9], [2, 3]], [[1, 2], [1, 2]], [[0, 1], [3, 4]]), _draw_intervals
)
RANKED = Inputs((([5], 1), ([2, 2, 2], 2), ([3, 1, 2], 3), ([-1, -5, 4], 1)), _draw_with_rank)

MEDIUM: tuple[Task, ...] = (
    Task(
        "pair_with_sum",
        "a, k",
        "Find two positions i < j in a whose items add up to k and return [i, j]. Of several such pairs take the one "
        "with the smallest i, then the smallest j; if there is none, return an empty list.",
        """
best = []
seen = {}
for j, x in enumerate(a):
    if k - x in seen and (not best or seen[k - x] < best[0]):
        best = [seen[k - x], j]
    seen.setdefault(x, j)
return best
""",
        each(numbers(-4, 9, longest=9), integer(-4, 14, 0, 2, 6)),
    ),
    Task(
        "merge_intervals",
        "v",
        "Each item of v is an interval [start, end]. Unite all intervals that overlap or touch and return the result "
        "in ascending order.",
        """
merged = []
for start, end in sorted(v):
    if merged and start <= merged[-1][1]:
        merged[-1][1] = max(merged[-1][1], end)
    else:
        merged.append([start, end])
return merged
""",
        each(INTERVALS),
    ),
    Task(
        "free_gaps",
        "v",
        "Each item of v is a busy interval [start, end]. Return, in ascending order, the gaps between them in which "
        "nothing is busy, as [start, end] pairs of positive length.",
        """
gaps = []
reached = None
for start, end in sorted(v):
    if reached is not None and start > reached:
        gaps.append([reached, start])
    reached = end if reached is None else max(reached, end)
return gaps
""",
        each(INTERVALS),
    ),
    Task(
        "most_meetings",
        "v",
        "Each item of v is a meeting [start, end]. Return how many of them one person can attend at most, when a "
        "meeting may start at the moment at which another one ends.",
        """
count = 0
free = float("-inf")
for start, end in sorted(v, key=lambda meeting: meeting[1]):
    if start >= free:
        count += 1
        free = end
return count
""",
        each(INTERVALS),
    ),
    Task(
        "rooms_needed",
        "v",
        "Each item of v is a meeting [start, end]. Return the smallest number of rooms in which all of them can take "
        "place; a room is free again at the moment at which its meeting ends.",
        """
changes = sorted([(start, 1) for start, _ in v] + [(end, -1) for _, end in v])
rooms = needed = 0
for _, change in changes:
    rooms += change
    needed = max(needed, rooms)
return needed
""",
        each(INTERVALS),
    ),
    Task(
        "best_run",
        "a",
        "Return the largest sum of a run of one or more neighbouring items of the non-empty list a.",
        """
best = here = a[0]
for x in a[1:]:
    here = max(x, here + x)
    best = max(best, here)
return best
""",
        each(SOME_INTS),
    ),
    Task(
        "best_product",
        "a",
        "Return the largest product of a run of one or more neighbouring items of the non-empty list a.",
        """
best = high = low = a[0]
for x in a[1:]:
    high, low = max(x, high * x, low * x), min(x, high * x, low * x)
    best = max(best, high)
return best
""",
        each(numbers(-4, 4, shortest=1)),
    ),
    Task(
        "products_of_others",
        "a",
        "Return a list that holds, for each position of a, the product of the items at all other positions.",
        """
result = [1] * len(a)
product = 1
for i in range(len(a)):
    result[i] *= product
    product *= a[i]
product = 1
for i in reversed(range(len(a))):
    result[i] *= product
    product *= a[i]
return result
""",
        each(NEAR_ZERO),
    ),
    Task(
        "next_greater",
        "a",
        "For each item of a, find the first larger item to its right. Return the list of these items, with None where "
        "there is no such item.",
        """
result = [None] * len(a)
waiting = []
for i, x in enumerate(a):
    while waiting and a[waiting[-1]] < x:
        result[waiting.pop()] = x
    waiting.append(i)
return result
""",
        each(INTS),
    ),
    Task(
        "longest_streak",
        "a",
        "Return the length of the longest series of consecutive whole numbers that can be picked from a, in any order.",
        """
present = set(a)
best = 0
for x in present:
    if x - 1 not in present:
        end = x
        while end in present:
            end += 1
        best = max(best, end - x)
return best
""",
        each(numbers(0, 12, longest=10)),
    ),
    Task(
        "runs_with_sum",
        "a, k",
        "Return how many runs of one or more neighbouring items of a have the sum k.",
        """
seen = {0: 1}
total = count = 0
for x in a:
    total += x
    count += seen.get(total - k, 0)
    seen[total] = seen.get(total, 0) + 1
return count
""",
        each(NEAR_ZERO, integer(-4, 6, 0, 1, 3)),
    ),
    Task(
        "search_rotated",
        "a, k",
        "An ascending list of different numbers was cut in two and its parts exchanged, which gave a. Return the "
        "index of k in a, or -1 if it is missing, in logarithmic time.",
        """
low, high = 0, len(a) - 1
while low <= high:
    middle = (low + high) // 2
    if a[middle] == k:
        return middle
    if a[low] <= a[middle]:
        if a[low] <= k < a[middle]:
            high = middle - 1
        else:
            low = middle + 1
    elif a[middle] < k <= a[high]:
        low = middle + 1
    else:
        high = middle - 1
return -1
""",
        Inputs(
            (
                *(([], 3), ([3], 3), ([3], 4), ([2, 1], 1), ([4, 5, 1, 2, 3], 5), ([2, 0, 1], 1), ([3, 0, 1, 2], 2)),
                *(
                    (list(range(cut, 12)) + list(range(cut)), k)
                    for cut, k in ((7, 0), (7, 11), (2, 5), (10, 10), (4, 12))
                ),
                *((list(range(cut, 12)) + list(range(cut)), k) for cut, k in ((6, 6), (6, 5), (1, 2), (11, 9), (5, 8))),
            ),
            _draw_rotated,
        ),
    ),
    Task(
        "kth_largest",
        "a, k",
        "Return the k-th largest item of a, where repeats count one by one and k is between 1 and the length of a.",
        """
import heapq

return heapq.nlargest(k, a)[-1]
""",
        RANKED,
    ),
    Task(
        "most_frequent",
        "a, k",
        "Return the k different numbers that occur most often in a, the most frequent first; among equally frequent "
        "ones the smaller comes first. If there are fewer than k, return them all.",
        """
counts = {}
for x in a:
    counts[x] = counts.get(x, 0) + 1
return sorted(counts, key=lambda x: (-counts[x], x))[:k]
""",
        each(numbers(0, 4, longest=10), integer(0, 4, 1, 2, 0, 3)),
    ),
    Task(
        "widest_basin",
        "h",
        "Walls of heights h stand one step apart. Choose two that hold the most water between them, ignoring the walls "
        "in between, and return the amount: their distance times the lower height, or 0 without two walls.",
        """
low, high, best = 0, len(h) - 1, 0
while low < high:
    best = max(best, (high - low) * min(h[low], h[high]))
    if h[low] < h[high]:
        low += 1
    else:
        high -= 1
return best
""",
        each(HEIGHTS),
    ),
    Task(
        "zero_triples",
        "a",
        "Return all different triples of items at three different positions of a that add up to 0. Each triple is "
        "ascending, and the triples are in ascending order.",
        """
a = sorted(a)
found = set()
for i, x in enumerate(a):
    low, high = i + 1, len(a) - 1
    while low < high:
        total = x + a[low] + a[high]
        if total == 0:
            found.add((x, a[low], a[high]))
        if total < 0:
            low += 1
        else:
            high -= 1
return [list(triple) for triple in sorted(found)]
""",
        each(NEAR_ZERO),
    ),
    Task(
        "spiral",
        "m",
        "Walk through the table m from its top left corner, clockwise and inwards, and return the numbers in the "
        "order of the walk.",
        """
walk = []
while m:
    walk += m[0]
    m = [list(row) for row in zip(*m[1:])][::-1]
return walk
""",
        each(matrix()),
    ),
    Task(
        "longest_ones",
        "a, k",
        "The list a holds zeros and ones. Return the length of the longest run of ones after at most k zeros have been "
        "turned into ones.",
        """
start = zeros = best = 0
for end, x in enumerate(a):
    zeros += x == 0
    while zeros > k:
        zeros -= a[start] == 0
        start += 1
    best = max(best, end - start + 1)
return best
""",
        each(numbers(0, 1, longest=12), integer(0, 3, 1, 0, 2)),
    ),
    Task(
        "fewest_jumps",
        "a",
        "From index i of the non-empty list a you may jump forward by 1 up to a[i] places. Return the smallest "
        "number of jumps from index 0 to the last index, or -1 if it cannot be reached.",
        """
jumps = reached = limit = 0
for i, x in enumerate(a):
    if i > reached:
        return -1
    if i > limit:
        jumps += 1
        limit = reached
    reached = max(reached, i + x)
return jumps
""",
        each(numbers(0, 4, shortest=1, longest=10)),
    ),
    Task(
        "next_order",
        "a",
        "Return the order of the items of a that comes next in dictionary order, or the ascending order if a is "
        "already the last one.",
        """
i = len(a) - 2
while i >= 0 and a[i] >= a[i + 1]:
    i -= 1
if i >= 0:
    j = len(a) - 1
    while a[j] <= a[i]:
        j -= 1
    a[i], a[j] = a[j], a[i]
return a[: i + 1] + a[i + 1 :][::-1]
""",
        each(numbers(0, 5, longest=6)),
    ),
)

HARD: tuple[Task, ...] = (
    Task(
        "trapped_water",
        "h",
        "The numbers h are heights of columns of width 1, side by side. Return how many units of rain stay between "
        "them.",
        """
low, high = 0, len(h) - 1
left = right = water = 0
while low < high:
    if h[low] < h[high]:
        left = max(left, h[low])
        water += left - h[low]
        low += 1
    else:
        right = max(right, h[high])
        water += right - h[high]
        high -= 1
return water
""",
        each(HEIGHTS),
    ),
    Task(
        "largest_rectangle",
        "h",
        "The numbers h are heights of columns of width 1, side by side. Return the area of the largest upright "
        "rectangle that fits into them.",
        """
best = 0
waiting = []
for i, x in enumerate([*h, 0]):
    start = i
    while waiting and waiting[-1][1] >= x:
        start, height = waiting.pop()
        best = max(best, height * (i - start))
    waiting.append((start, x))
return best
""",
        each(HEIGHTS),
    ),
    Task(
        "sliding_largest",
        "a, k",
        "Return the list of the largest items of all runs of k neighbouring items of a, from left to right, in "
        "linear time.",
        """
from collections import deque

result = []
candidates = deque()
for i, x in enumerate(a):
    while candidates and a[candidates[-1]] <= x:
        candidates.pop()
    candidates.append(i)
    if candidates[0] <= i - k:
        candidates.popleft()
    if i >= k - 1:
        result.append(a[candidates[0]])
return result
""",
        RANKED,
    ),
    Task(
        "median_of_two",
        "a, b",
        "Both lists are ascending and at least one is not empty. Return the median of all their items as a float; of "
        "two middle items, their mean.",
        """
if len(a) > len(b):
    a, b = b, a
inf = float("inf")
size = len(a) + len(b)
low, high = 0, len(a)
while True:
    i = (low + high) // 2
    j = (size + 1) // 2 - i
    left_a, right_a = (a[i - 1] if i else -inf), (a[i] if i < len(a) else inf)
    left_b, right_b = (b[j - 1] if j else -inf), (b[j] if j < len(b) else inf)
    if left_a > right_b:
        high = i - 1
    elif left_b > right_a:
        low = i + 1
    elif size % 2:
        return float(max(left_a, left_b))
    else:
        return (max(left_a, left_b) + min(right_a, right_b)) / 2
""",
        Inputs(
            (
                *(([], [1]), ([2, 3], []), ([1, 3], [2]), ([1, 2], [3, 4]), ([5, 5], [5])),
                *(([10, 11, 12, 13], [1, 2, 3, 4, 5]), ([1, 2, 3], [10, 11, 12, 13]), ([9, 9, 9], [1, 2, 3, 4, 5, 6])),
                *(([1, 2, 10, 20], [3, 4, 5, 6, 7, 8]), ([1, 2, 3, 4, 5, 30], [6, 7, 8, 9, 10, 11])),
            ),
            lambda rng: (
                sorted(rng.randint(-9, 20) for _ in range(rng.randint(0, 7))),
                sorted(rng.randint(-9, 20) for _ in range(rng.randint(1, 7))),
            ),
        ),
    ),
    Task(
        "first_missing",
        "a",
        "Return the smallest positive whole number that is not in a, with linear time and without extra lists or sets.",
        """
for i in range(len(a)):
    while 0 < a[i] <= len(a) and a[a[i] - 1] != a[i]:
        target = a[i] - 1
        a[i], a[target] = a[target], a[i]
for i, x in enumerate(a):
    if x != i + 1:
        return i + 1
return len(a) + 1
""",
        each(numbers(-2, 7, longest=10)),
    ),
    Task(
        "count_inversions",
        "a",
        "Return how many pairs of positions i < j of a have a[i] > a[j], in less than quadratic time.",
        """
def sort(items):
    if len(items) < 2:
        return items, 0
    half = len(items) // 2
    left, before = sort(items[:half])
    right, after = sort(items[half:])
    merged, count = [], before + after
    while left and right:
        if left[-1] > right[-1]:
            count += len(right)
            merged.append(left.pop())
        else:
            merged.append(right.pop())
    return left + right + merged[::-1], count

return sort(a)[1]
""",
        each(INTS),
    ),
    Task(
        "largest_block",
        "m",
        "The table m holds zeros and ones. Return the area of the largest rectangle in it that holds only ones.",
        """
best = 0
heights = [0] * len(m[0])
for row in m:
    heights = [height + 1 if x else 0 for height, x in zip(heights, row)]
    for i in range(len(heights)):
        lowest = heights[i]
        for j in range(i, len(heights)):
            lowest = min(lowest, heights[j])
            best = max(best, lowest * (j - i + 1))
return best
""",
        each(matrix(0, 1)),
    ),
)
