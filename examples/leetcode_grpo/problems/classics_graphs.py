"""Classic tasks of graphs, grids and exhaustive search."""

from __future__ import annotations

from random import Random

from examples.leetcode_grpo.problems.building import Inputs, Task
from examples.leetcode_grpo.problems.inputs import Kind, each, integer, matrix, numbers


def _draw_links(rng: Random, directed: bool = False) -> tuple[int, list[list[int]]]:
    size = rng.randint(2, 6)
    pairs = [[x, y] for x in range(size) for y in range(size) if (x != y if directed else x < y)]
    return size, rng.sample(pairs, min(len(pairs), rng.randint(1, size + 1)))


def _draw_order(rng: Random) -> tuple[int, list[list[int]]]:
    size, links = _draw_links(rng, directed=True)
    # Mostly without circles: those that all go one way along a shuffled line.
    rank = rng.sample(range(size), size)
    forward = [link for link in links if rank[link[0]] < rank[link[1]]]
    return size, forward if rng.random() < 0.7 else links


def _draw_roads(rng: Random) -> tuple[int, list[list[int]]]:
    size, links = _draw_links(rng)
    return size, [[x, y, rng.randint(1, 9)] for x, y in links]


def _draw_ladder(rng: Random) -> tuple[str, str, list[str]]:
    pool = [x + y for x in "abc" for y in "abc"]
    start, goal = rng.sample(pool, 2)
    return start, goal, rng.sample(pool, rng.randint(2, 7))


def _draw_search(rng: Random) -> tuple[list[list[str]], str]:
    height, width = rng.randint(1, 3), rng.randint(1, 3)
    grid = [[rng.choice("ab") for _ in range(width)] for _ in range(height)]
    return grid, "".join(rng.choice("ab") for _ in range(rng.randint(1, 5)))


LINKS = Inputs(((1, []), (3, []), (2, [[0, 1]]), (3, [[0, 1], [1, 2], [0, 2]]), (4, [[0, 1], [2, 3]])), _draw_links)
ORDERS = Inputs(
    ((1, []), (2, [[1, 0]]), (2, [[0, 1], [1, 0]]), (3, [[2, 0]]), (3, [[0, 1], [1, 2], [2, 0]])), _draw_order
)
ROADS = Inputs(((1, []), (2, []), (2, [[0, 1, 4]]), (3, [[0, 1, 1], [1, 2, 1], [0, 2, 5]])), _draw_roads)
DIFFERENT = Kind(([], [3], [1, 2], [2, 3, 5]), lambda rng: rng.sample(range(1, 10), rng.randint(1, 4)))

MEDIUM: tuple[Task, ...] = (
    Task(
        "islands",
        "m",
        "The table m holds zeros and ones. Return how many groups of ones there are, where ones that touch at a side "
        "belong together.",
        """
land = {(i, j) for i, row in enumerate(m) for j, x in enumerate(row) if x}
count = 0
while land:
    count += 1
    stack = [land.pop()]
    while stack:
        i, j = stack.pop()
        for cell in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if cell in land:
                land.remove(cell)
                stack.append(cell)
return count
""",
        each(matrix(0, 1)),
    ),
    Task(
        "can_finish",
        "n, e",
        "There are tasks 0 to n - 1, and each item [x, y] of e says that x must be done before y. Say whether all "
        "tasks can be done.",
        """
needs = [set() for _ in range(n)]
for x, y in e:
    needs[y].add(x)
done = set()
while True:
    ready = {task for task in range(n) if task not in done and needs[task] <= done}
    if not ready:
        return len(done) == n
    done |= ready
""",
        ORDERS,
    ),
    Task(
        "first_order",
        "n, e",
        "There are tasks 0 to n - 1, and each item [x, y] of e says that x must be done before y. Return the order "
        "of all tasks that comes first in dictionary order, or an empty list if there is none.",
        """
import heapq

waiting = [0] * n
after = [[] for _ in range(n)]
for x, y in e:
    waiting[y] += 1
    after[x].append(y)
ready = [task for task in range(n) if not waiting[task]]
order = []
while ready:
    task = heapq.heappop(ready)
    order.append(task)
    for later in after[task]:
        waiting[later] -= 1
        if not waiting[later]:
            heapq.heappush(ready, later)
return order if len(order) == n else []
""",
        ORDERS,
    ),
    Task(
        "shortest_route",
        "n, e",
        "Towns 0 to n - 1 are joined by roads [x, y, length] of the list e, usable both ways. Return the length of the "
        "shortest way from town 0 to town n - 1, or -1 if there is none.",
        """
import heapq

roads = [[] for _ in range(n)]
for x, y, length in e:
    roads[x].append((y, length))
    roads[y].append((x, length))
heap, seen = [(0, 0)], set()
while heap:
    far, town = heapq.heappop(heap)
    if town == n - 1:
        return far
    if town not in seen:
        seen.add(town)
        for other, length in roads[town]:
            heapq.heappush(heap, (far + length, other))
return -1
""",
        ROADS,
    ),
    Task(
        "count_groups",
        "n, e",
        "People 0 to n - 1 know each other if the list e has them as a pair [x, y], and belong to one group if a "
        "chain of such pairs leads from one to the other. Return the number of groups.",
        """
parent = list(range(n))

def root(x):
    while parent[x] != x:
        parent[x] = parent[parent[x]]
        x = parent[x]
    return x

for x, y in e:
    parent[root(x)] = root(y)
return sum(root(x) == x for x in range(n))
""",
        LINKS,
    ),
    Task(
        "spread_time",
        "m",
        "In the table m, 0 is empty, 1 is healthy and 2 is ill. Each minute, the healthy cells at a side of an ill one "
        "become ill. Return after how many minutes none is healthy, or -1 if some stay so.",
        """
healthy = {(i, j) for i, row in enumerate(m) for j, x in enumerate(row) if x == 1}
ill = {(i, j) for i, row in enumerate(m) for j, x in enumerate(row) if x == 2}
minutes = 0
while healthy:
    ill = {
        cell
        for i, j in ill
        for cell in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1))
        if cell in healthy
    }
    if not ill:
        return -1
    healthy -= ill
    minutes += 1
return minutes
""",
        each(Kind(([[0]], [[1]], [[2, 1, 1]], [[2, 0, 1]], [[1, 1], [1, 2]]), matrix(0, 2).draw)),
    ),
    Task(
        "two_teams",
        "n, e",
        "Each item [x, y] of e says that the players x and y, out of 0 to n - 1, must not be in the same team. Say "
        "whether two teams are enough.",
        """
rivals = [[] for _ in range(n)]
for x, y in e:
    rivals[x].append(y)
    rivals[y].append(x)
team = {}
for start in range(n):
    stack = [(start, team.get(start, 0))]
    while stack:
        player, side = stack.pop()
        if player not in team:
            team[player] = side
            stack += [(rival, 1 - side) for rival in rivals[player]]
        elif team[player] != side:
            return False
return True
""",
        LINKS,
    ),
    Task(
        "all_choices",
        "a",
        "The numbers in a are different. Return all lists that can be picked from them, each ascending, the shorter "
        "lists first and equally long ones in ascending order.",
        """
choices = [[]]
for x in sorted(a):
    choices += [[*choice, x] for choice in choices]
return sorted(choices, key=lambda choice: (len(choice), choice))
""",
        each(DIFFERENT),
    ),
    Task(
        "choices_with_sum",
        "a, n",
        "The positive numbers in a are different, and each may be used any number of times. Return all ascending "
        "lists of them that add up to n, in ascending order.",
        """
def extend(chosen, start, left):
    if left == 0:
        yield chosen
    for i in range(start, len(a)):
        if a[i] <= left:
            yield from extend([*chosen, a[i]], i, left - a[i])

a = sorted(a)
return list(extend([], 0, n))
""",
        each(DIFFERENT, integer(0, 12, 0, 7, 4, 6)),
    ),
    Task(
        "cheapest_network",
        "n, e",
        "Houses 0 to n - 1 can be joined by cables [x, y, cost] of the list e. Return the smallest total cost at "
        "which all houses are connected, or -1 if that is impossible.",
        """
group = list(range(n))
total, joined = 0, 1
for x, y, cost in sorted(e, key=lambda cable: cable[2]):
    if group[x] != group[y]:
        old, new = group[x], group[y]
        group = [new if g == old else g for g in group]
        total += cost
        joined += 1
return total if joined == n else -1
""",
        ROADS,
    ),
    Task(
        "word_in_grid",
        "m, s",
        "The table m holds letters. Say whether the word s can be read by stepping from cell to cell over their sides, "
        "without using a cell twice.",
        """
def follow(i, j, rest, used):
    if not rest:
        return True
    if (i, j) in used or not (0 <= i < len(m) and 0 <= j < len(m[0])) or m[i][j] != rest[0]:
        return False
    used = used | {(i, j)}
    steps = ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1))
    return any(follow(*step, rest[1:], used) for step in steps)

return any(follow(i, j, s, set()) for i in range(len(m)) for j in range(len(m[0])))
""",
        Inputs(
            (
                *(([["a"]], "a"), ([["a"]], "aa"), ([["a", "b"], ["b", "a"]], "abab"), ([["b"]], "a")),
                *(([["a", "b"]], "aba"), ([["a", "b"], ["c", "a"]], "cab"), ([["b"], ["a"], ["c"]], "cab")),
                *(([["b"], ["a"], ["c"]], "bac"), ([["b", "a", "c"]], "cab"), ([["b", "a", "c"]], "bac")),
                *(([["a", "b", "c"], ["f", "e", "d"], ["g", "h", "i"]], s) for s in ("abcdefghi", "ihgfedcba", "abd")),
                *(([["b", "a"], ["a", "c"]], "bc"), ([["a", "x", "b"]], "ab"), ([["a"], ["x"], ["b"]], "ba")),
                *(([["a", "b"], ["b", "b"]], "bbab"), ([["a", "x", "b"]], "ba"), ([["a"], ["x"], ["b"]], "ab")),
            ),
            _draw_search,
        ),
    ),
)

HARD: tuple[Task, ...] = (
    Task(
        "word_ladder",
        "s, t, w",
        "Turn the word s into t by changing one letter at a time, where every word on the way, t included, is in the "
        "list w. Return the smallest number of changes, or -1 if it cannot be done.",
        """
def near(x, y):
    return len(x) == len(y) and sum(p != q for p, q in zip(x, y)) == 1

level, left, changes = {s}, set(w) - {s}, 0
while level:
    if t in level:
        return changes
    level = {y for y in left if any(near(x, y) for x in level)}
    left -= level
    changes += 1
return -1
""",
        Inputs(
            (
                *(("aa", "bb", []), ("aa", "ab", ["ab"]), ("aa", "bb", ["ab", "bb"]), ("aa", "cc", ["ab", "cc"])),
                *(
                    ("cat", "dog", ["cot", "cog", "dog"]),
                    ("cat", "cog", ["cog"]),
                    ("cat", "dog", ["cot", "dog", "cogs"]),
                ),
            ),
            _draw_ladder,
        ),
    ),
    Task(
        "queens",
        "n",
        "Return in how many ways n queens can stand on a board of n times n fields so that none attacks another by "
        "row, column or diagonal.",
        """
def place(row, columns, rising, falling):
    if row == n:
        return 1
    return sum(
        place(row + 1, columns | {c}, rising | {row + c}, falling | {row - c})
        for c in range(n)
        if c not in columns and row + c not in rising and row - c not in falling
    )

return place(0, frozenset(), frozenset(), frozenset())
""",
        each(Kind((1, 2, 3, 4, 5, 6, 7, 8), lambda rng: rng.randint(1, 6))),
    ),
    Task(
        "critical_links",
        "n, e",
        "Computers 0 to n - 1 are joined by cables [x, y] of the list e. Return, in ascending order, the cables "
        "whose loss would separate two computers that are connected now.",
        """
links = [[] for _ in range(n)]
for index, (x, y) in enumerate(e):
    links[x].append((y, index))
    links[y].append((x, index))
entered, lowest, found = {}, {}, []

def visit(x, arrived_by):
    entered[x] = lowest[x] = len(entered)
    for y, index in links[x]:
        if index == arrived_by:
            continue
        if y in entered:
            lowest[x] = min(lowest[x], entered[y])
        else:
            visit(y, index)
            lowest[x] = min(lowest[x], lowest[y])
            if lowest[y] > entered[x]:
                found.append(e[index])

for x in range(n):
    if x not in entered:
        visit(x, -1)
return sorted(found)
""",
        LINKS,
    ),
    Task(
        "longest_climb",
        "m",
        "Step from cell to cell of the table m over their sides, always to a larger number. Return the largest "
        "number of cells on such a way.",
        """
from functools import cache

@cache
def climb(i, j):
    longest = 0
    for x, y in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
        if 0 <= x < len(m) and 0 <= y < len(m[0]) and m[x][y] > m[i][j]:
            longest = max(longest, climb(x, y))
    return 1 + longest

return max(climb(i, j) for i in range(len(m)) for j in range(len(m[0])))
""",
        each(matrix(0, 9)),
    ),
    Task(
        "fair_shares",
        "a, k",
        "The list a holds natural numbers. Say whether they can be divided into k groups with equal sums; groups may "
        "be empty.",
        """
share, rest = divmod(sum(a), k)
if rest:
    return False
items = sorted(a, reverse=True)
rooms = [share] * k

def place(i):
    if i == len(items):
        return True
    for group in range(k):
        if rooms[group] >= items[i] and rooms[group] not in rooms[:group]:
            rooms[group] -= items[i]
            if place(i + 1):
                return True
            rooms[group] += items[i]
    return False

return place(0)
""",
        each(numbers(0, 6, longest=7), integer(2, 3, 2, 3)),
    ),
)
