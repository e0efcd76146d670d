"""Classic tasks on strings: windows, brackets, matching, small languages."""

from __future__ import annotations

from random import Random

from examples.leetcode_grpo.problems.building import Inputs, Task
from examples.leetcode_grpo.problems.inputs import Kind, each, integer


def letters(alphabet: str, longest: int, *edges: str) -> Kind:
    """Random strings over an alphabet."""
    return Kind(("", *edges), lambda rng: "".join(rng.choice(alphabet) for _ in range(rng.randint(2, longest))))


def _draw_repeats(rng: Random, depth: int = 2) -> str:
    parts = [rng.choice("abc") for _ in range(rng.randint(1, 2))]
    if depth:
        parts.append(f"{rng.randint(0, 11)}[{_draw_repeats(rng, depth - 1)}]")
    rng.shuffle(parts)
    return "".join(parts)


def _draw_sum(rng: Random, depth: int = 0) -> str:
    def operand() -> str:
        if depth and rng.random() < 0.4:
            return f"({_draw_sum(rng, depth - 1)})"
        return str(rng.randint(0, 19))

    return operand() + "".join(rng.choice("+-*") + operand() for _ in range(rng.randint(1, 4)))


def _draw_cut(rng: Random) -> tuple[str, list[str]]:
    vocabulary = ["".join(rng.choice("ab") for _ in range(rng.randint(1, 3))) for _ in range(rng.randint(1, 4))]
    text = "".join(rng.choice([*vocabulary, rng.choice("ab")]) for _ in range(rng.randint(1, 4)))
    return text, vocabulary


def _draw_wildcards(rng: Random) -> tuple[str, str]:
    text = "".join(rng.choice("ab") for _ in range(rng.randint(0, 6)))
    pattern = "".join(rng.choice([c, c, "?", "*", ""]) for c in text) + rng.choice(["", "", "*", "a"])
    return text, pattern


def _draw_words(rng: Random) -> list[str]:
    return ["".join(rng.choice("abt") for _ in range(rng.randint(1, 3))) for _ in range(rng.randint(2, 8))]


def _draw_interleaved(rng: Random) -> tuple[str, str, str]:
    left, right = ("".join(rng.choice("ab") for _ in range(rng.randint(0, 4))) for _ in range(2))
    rest = [list(left), list(right)]
    mixed = ""
    while any(rest):
        mixed += rng.choice([part for part in rest if part]).pop(0)
    return left, right, mixed if rng.random() < 0.6 else "".join(rng.sample(mixed, len(mixed)))


BRACKETS = letters("()[]", 8, "()", "([)]", "([])", "[", "))")
ROUND = letters("()", 10, "()", ")(", "(()", "()()", ")))")
FEW_LETTERS = letters("abc", 9, "a", "aa", "abcba", "abcabc")
PAIR = each(
    letters("abc", 7, "abc", "a", "aab", "", "ac", "b", "cab"),
    letters("abc", 5, "abc", "ba", "cc", "b", "abc", "bab", ""),
)

MEDIUM: tuple[Task, ...] = (
    Task(
        "longest_unique_run",
        "s",
        "Return the length of the longest run of neighbouring characters of s in which no character occurs twice.",
        """
last = {}
start = best = 0
for i, c in enumerate(s):
    start = max(start, last.get(c, -1) + 1)
    last[c] = i
    best = max(best, i - start + 1)
return best
""",
        each(letters("abcde", 12, "a", "bb", "abcabc", "abba")),
    ),
    Task(
        "longest_palindrome",
        "s",
        "Return the longest run of neighbouring characters of s that reads the same backwards; among equally long ones "
        "the one that starts first.",
        """
best = ""
for centre in range(2 * len(s)):
    low, high = centre // 2, (centre + 1) // 2
    while low >= 0 and high < len(s) and s[low] == s[high]:
        low -= 1
        high += 1
    if high - low - 1 > len(best):
        best = s[low + 1 : high]
return best
""",
        each(FEW_LETTERS),
    ),
    Task(
        "group_anagrams",
        "w",
        "Group the words of w that have the same letters equally often. Groups, and words within a group, are in the "
        "order in which they first appear.",
        """
groups = {}
for word in w:
    groups.setdefault("".join(sorted(word)), []).append(word)
return list(groups.values())
""",
        each(Kind(([], [""], ["tab", "bat", "at"], ["a", "a"]), _draw_words)),
    ),
    Task(
        "is_balanced",
        "s",
        "The string s consists of round and square brackets. Say whether every bracket is closed by one of its kind, "
        "in the right order.",
        """
waiting = []
for c in s:
    if c in "([":
        waiting.append(c)
    elif not waiting or waiting.pop() + c not in ("()", "[]"):
        return False
return not waiting
""",
        each(Kind((*BRACKETS.edges, "[()]()", "([[]])"), BRACKETS.draw)),
    ),
    Task(
        "expand",
        "s",
        "In s, a number followed by a part in square brackets stands for that part repeated so many times, possibly "
        "nested. Return s with everything written out.",
        """
stack = []
text, count = "", 0
for c in s:
    if c.isdigit():
        count = 10 * count + int(c)
    elif c == "[":
        stack.append((text, count))
        text, count = "", 0
    elif c == "]":
        before, times = stack.pop()
        text = before + times * text
    else:
        text += c
return text
""",
        each(Kind(("", "ab", "3[a]", "2[a2[b]]c", "0[x]y", "10[z]"), _draw_repeats)),
    ),
    Task(
        "calculate",
        "s",
        "The string s is a sum, difference or product of natural numbers, such as 2+3*4, without spaces. Return its "
        "value; products come first, the rest goes from left to right.",
        """
terms, number, sign = [], 0, "+"
for c in s + "+":
    if c.isdigit():
        number = 10 * number + int(c)
    else:
        if sign == "*":
            terms.append(terms.pop() * number)
        else:
            terms.append(number if sign == "+" else -number)
        number, sign = 0, c
return sum(terms)
""",
        each(Kind(("0", "42", "2+3*4", "2*3-10", "1-1-1", "7*0+5"), _draw_sum)),
    ),
    Task(
        "can_be_cut",
        "s, w",
        "Say whether s can be cut into words of the list w, each of which may be used any number of times.",
        """
reachable = [True] + [False] * len(s)
for end in range(1, len(s) + 1):
    for word in w:
        if s[:end].endswith(word) and word and reachable[end - len(word)]:
            reachable[end] = True
return reachable[-1]
""",
        Inputs((("", ["a"]), ("aab", ["a", "ab"]), ("aba", ["ab", "ba"]), ("b", []), ("abab", ["ab"])), _draw_cut),
    ),
    Task(
        "distinct_orders",
        "s",
        "Return all different strings that can be made by reordering the characters of s, sorted.",
        """
if not s:
    return [""]
result = []
for c in sorted(set(s)):
    i = s.index(c)
    result += [c + rest for rest in self.distinct_orders(s[:i] + s[i + 1 :])]
return result
""",
        each(letters("abc", 4, "a", "aa", "cab", "abab")),
    ),
    Task(
        "brackets_to_add",
        "s",
        "The string s consists of round brackets. Return the smallest number of brackets that must be inserted so that "
        "every one has its partner.",
        """
open_now = added = 0
for c in s:
    if c == "(":
        open_now += 1
    elif open_now:
        open_now -= 1
    else:
        added += 1
return open_now + added
""",
        each(ROUND),
    ),
    Task(
        "to_roman",
        "n",
        "Return the number n, between 1 and 3999, in Roman numerals, with subtractive pairs such as IV and CM.",
        """
signs = [(1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"),
         (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]
result = ""
for value, sign in signs:
    result += n // value * sign
    n %= value
return result
""",
        each(integer(1, 3999, 1, 4, 9, 40, 1994, 3999, 2024, 400, 444, 500, 90)),
    ),
)

HARD: tuple[Task, ...] = (
    Task(
        "edit_distance",
        "s, t",
        "Return the smallest number of single characters to insert, delete or replace that turns s into t.",
        """
row = list(range(len(t) + 1))
for i, x in enumerate(s, 1):
    above, row = row, [i]
    for j, y in enumerate(t, 1):
        row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
return row[-1]
""",
        PAIR,
    ),
    Task(
        "smallest_window",
        "s, t",
        "Return the shortest run of neighbouring characters of s that contains every character of t at least as "
        "often as t does; among equals the leftmost, and an empty string if there is none.",
        """
from collections import Counter

missing = Counter(t)
open_count = len(t)
best = None
start = 0
for end, c in enumerate(s, 1):
    open_count -= missing[c] > 0
    missing[c] -= 1
    while open_count == 0 and start < end:
        if best is None or end - start < best[1] - best[0]:
            best = start, end
        missing[s[start]] += 1
        open_count += missing[s[start]] > 0
        start += 1
return s[best[0] : best[1]] if best and t else ""
""",
        each(letters("abcd", 10, "abc", "a", "aab", "cabac"), letters("abc", 3, "a", "cb", "aa", "b")),
    ),
    Task(
        "matches",
        "s, p",
        "In the pattern p, a question mark stands for any one character and a star for any characters or none. Say "
        "whether p matches the whole of s.",
        """
fits = [True] + [False] * len(s)
for c in p:
    if c == "*":
        for i in range(len(s)):
            fits[i + 1] = fits[i + 1] or fits[i]
    else:
        fits = [False] + [fits[i] and c in ("?", s[i]) for i in range(len(s))]
return fits[-1]
""",
        Inputs(
            (("", ""), ("", "*"), ("a", "?"), ("ab", "a"), ("abba", "a*a"), ("abb", "*a"), ("", "?"), ("a", "")),
            _draw_wildcards,
        ),
    ),
    Task(
        "longest_balanced",
        "s",
        "The string s consists of round brackets. Return the length of the longest run of neighbouring characters in "
        "which every bracket has its partner.",
        """
best = 0
waiting = [-1]
for i, c in enumerate(s):
    if c == "(":
        waiting.append(i)
    else:
        waiting.pop()
        if waiting:
            best = max(best, i - waiting[-1])
        else:
            waiting.append(i)
return best
""",
        each(ROUND),
    ),
    Task(
        "count_subsequences",
        "s, t",
        "Return in how many ways t can be obtained from s by deleting characters; ways that delete other positions are "
        "different.",
        """
ways = [1] + [0] * len(t)
for x in s:
    for j in reversed(range(len(t))):
        if t[j] == x:
            ways[j + 1] += ways[j]
return ways[-1]
""",
        each(letters("ab", 9, "aab", "bbb", "a"), letters("ab", 3, "ab", "b", "aa")),
    ),
    Task(
        "calculate_nested",
        "s",
        "The string s is an expression of natural numbers, +, -, * and round brackets, without spaces. Return its "
        "value by the usual rules.",
        """
position = 0

def factor():
    nonlocal position
    if s[position] == "(":
        position += 1
        value = total()
        position += 1
        return value
    start = position
    while position < len(s) and s[position].isdigit():
        position += 1
    return int(s[start:position])

def term():
    nonlocal position
    value = factor()
    while position < len(s) and s[position] == "*":
        position += 1
        value *= factor()
    return value

def total():
    nonlocal position
    value = term()
    while position < len(s) and s[position] in "+-":
        sign = 1 if s[position] == "+" else -1
        position += 1
        value += sign * term()
    return value

return total()
""",
        each(Kind(("7", "(3)", "2*(3+4)", "10-(2-(1-5))", "((2+1))*(4-1)"), lambda rng: _draw_sum(rng, 2))),
    ),
    Task(
        "palindrome_cuts",
        "s",
        "Return the smallest number of cuts that divide s into parts that all read the same backwards; an empty string "
        "needs none.",
        """
cuts = [-1]
for end in range(1, len(s) + 1):
    parts = [start for start in range(end) if s[start:end] == s[start:end][::-1]]
    cuts.append(1 + min(cuts[start] for start in parts))
return max(cuts[-1], 0)
""",
        each(FEW_LETTERS),
    ),
    Task(
        "is_interleaved",
        "s, t, u",
        "Say whether u can be made by merging s and t, so that the characters of each stay in their order.",
        """
if len(s) + len(t) != len(u):
    return False
reachable = {(0, 0)}
for c in u:
    reachable = {
        step
        for i, j in reachable
        for step, fits in (((i + 1, j), s[i : i + 1] == c), ((i, j + 1), t[j : j + 1] == c))
        if fits
    }
return bool(reachable)
""",
        Inputs(
            (("", "", ""), ("a", "", "b"), ("ab", "ab", "aabb"), ("a", "b", "ab"), ("ab", "b", "a")), _draw_interleaved
        ),
    ),
)
