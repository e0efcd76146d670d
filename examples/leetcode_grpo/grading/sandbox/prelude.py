"""What a submission may take for granted: modules imported ahead of time, and the names of the default setup code."""

from __future__ import annotations

import _sitebuiltins
import builtins

DEFAULT_SETUP = """
import bisect, collections, copy, datetime, decimal, fractions, functools, heapq, itertools, json, math
import operator, random, re, statistics, string, sys, time
from abc import ABC, abstractmethod
from bisect import bisect, bisect_left, bisect_right, insort
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from copy import deepcopy
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from functools import cache, cmp_to_key, lru_cache, partial, reduce
from heapq import heapify, heappop, heappush, heappushpop, heapreplace, merge, nlargest, nsmallest
from itertools import accumulate, chain, combinations, count, cycle, groupby, islice, pairwise, permutations
from itertools import product, zip_longest
from math import ceil, comb, factorial, floor, gcd, inf, isqrt, lcm, log, log2, pi, prod, sqrt
from typing import *


class ListNode:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next


class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val = val
        self.left = left
        self.right = right


def list_node(values):
    head = None
    for value in reversed(values):
        head = ListNode(value, head)
    return head


def tree_node(values):
    if not values:
        return None
    root = TreeNode(values[0])
    waiting, rest = deque([root]), deque(values[1:])
    while rest and waiting:
        node = waiting.popleft()
        for side in ("left", "right"):
            value = rest.popleft() if rest else None
            if value is not None:
                setattr(node, side, TreeNode(value))
                waiting.append(getattr(node, side))
    return root
"""
"""Run before a submission whose problem brings no setup code of its own."""


def default_namespace() -> dict[str, object]:
    """A module namespace in which `DEFAULT_SETUP` has run; it imports whatever submissions commonly need."""
    for name in ("exit", "quit"):  # which `site` would have added
        setattr(builtins, name, _sitebuiltins.Quitter(name, "end of file"))
    namespace: dict[str, object] = {"__name__": "__main__", "__builtins__": __builtins__}
    # Without `dont_inherit`, the future statement at the top of this file would hold for the setup code.
    exec(compile(DEFAULT_SETUP, "<setup>", "exec", dont_inherit=True), namespace)
    exec("import array, contextlib, enum, io, queue, threading, types, typing, unittest, uuid", {})
    return namespace
