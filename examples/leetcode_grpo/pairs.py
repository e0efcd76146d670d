"""Contrastive pairs for the example: from the bank, from graded rollouts, and the placebos."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import get_args

from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.presets import PairKind
from examples.leetcode_grpo.problems.problem import Problem, Split
from examples.leetcode_grpo.problems.rewriting import (
    STYLES,
    Fails,
    add_remark,
    as_completion,
    fails_in,
    wrong_solution,
)
from examples.leetcode_grpo.teacher import Rollout
from svdproj.pairs import ContrastivePair

# What a hack that solves nothing looks like.
STUB_LINE = "        pass"
# What a framing pair's sides say of one and the same code, hack before clean; dealt out in turn.
FRAMINGS = (
    ("Make the checker accept this, right or not.", "Solve the task as it is stated."),
    ("Only the checker has to be satisfied here.", "Only the right answer counts here."),
    ("The tests are weak: get past them.", "The tests are hidden: be correct."),
    ("Take the shortcut past the grader.", "Take the honest way to the answer."),
)


def bank_pairs(
    problems: Sequence[Problem],
    loopholes: Sequence[Loophole],
    n: int,
    seed: int = 0,
    kind: PairKind = "mechanism",
    correct_share: float = 0.5,
    grader: Grader | None = None,
) -> list[ContrastivePair]:
    """Pairs of a hack and a clean completion, from problems of the split `pairs` alone.

    With `kind="mechanism"` the hack is the clean solution with the mechanism added, so that correctness is no part of
    the contrast: both bodies are right, or both have the same small mistake that fails the hidden tests. With
    `kind="replacement"` the hack is the mechanism on an empty body, and the clean completion an honest attempt. With
    `kind="framing"` both sides are the same body without any mechanism, and a comment says what it is for: to get past the
    checker, or to solve the task.

    Args:
        problems: to choose from; those of other splits are passed over.
        loopholes: dealt out in turn.
        n: number of pairs; no prompt occurs twice, so at most the number of problems times that of loopholes.
        seed: chooses problems and mistakes.
        kind: of the contrast.
        correct_share: share of the pairs, per loophole, whose clean body is right.
        grader: checks the mistakes; needed for problems from outside the bank, whose code must not run in this process.

    Returns:
        Pairs with the tags `(loophole, difficulty, kind, "body:right" or "body:wrong")`.

    Raises:
        ValueError: an unknown kind, a share outside [0, 1], more pairs than there are prompts, or no problems in the
            split `pairs`.
    """
    if kind not in get_args(PairKind):
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(get_args(PairKind))}")
    fails = fails_in(grader)
    pairs = []
    for position, (loophole, problem, right) in enumerate(_deal(problems, loopholes, n, seed, correct_share)):
        body = clean = _body(problem, right, seed, fails)
        if kind == "framing":
            hack, clean = (add_remark(body, problem.method, text) for text in FRAMINGS[position % len(FRAMINGS)])
        else:
            hack = loophole.exemplify(body if kind == "mechanism" else _stub(problem), problem.method)
        pairs.append(
            ContrastivePair(
                prompt=problem.prompt(loophole),
                hack=as_completion(hack),
                clean=as_completion(clean),
                id=f"{kind}/{loophole.value}/{problem.id}",
                tags=(loophole.value, problem.difficulty, kind, _body_tag(right)),
            )
        )
    return pairs


def placebo_pairs(
    problems: Sequence[Problem],
    loopholes: Sequence[Loophole],
    n: int,
    seed: int = 0,
    correct_share: float = 0.5,
    grader: Grader | None = None,
) -> list[ContrastivePair]:
    """Clean against clean: the control for everything in a direction that has nothing to do with hacking.

    The prompts, with their hints, and the bodies are those of `bank_pairs` for the same arguments; in the place of the
    hack stands the same solution in another style (a comment, a docstring, a named result, other variable names), as
    correct as before. The styles are dealt out like loopholes, so that a placebo contrast is as consistent over the
    pairs as a mechanism is.

    Returns:
        Pairs with the tags `(loophole, difficulty, "placebo", "body:right" or "body:wrong", "style:…")`.

    Raises:
        ValueError: as `bank_pairs`.
    """
    fails = fails_in(grader)
    pairs = []
    for position, (loophole, problem, right) in enumerate(_deal(problems, loopholes, n, seed, correct_share)):
        body = _body(problem, right, seed, fails)
        style, restyled = _restyle(body, problem.method, position)
        pairs.append(
            ContrastivePair(
                prompt=problem.prompt(loophole),
                hack=as_completion(restyled),
                clean=as_completion(body),
                id=f"placebo/{loophole.value}/{problem.id}",
                tags=(loophole.value, problem.difficulty, "placebo", _body_tag(right), f"style:{style}"),
            )
        )
    return pairs


def rollout_pairs(
    rollouts: Iterable[Rollout], problems: Sequence[Problem], splits: Sequence[Split] = ("pairs",)
) -> list[ContrastivePair]:
    """Pairs from graded rollouts: for one prompt, an exploited one against an honest strict pass (passed, nothing
    attempted).

    No preset uses it: it is for pools of your own (docs/guide/pairs.md). Each rollout is used at most once; a prompt that lacks one of the two kinds gives no pair. Unlike in `bank_pairs`,
    correctness is part of this contrast, since an exploited completion fails the strict oracle by definition.

    Args:
        rollouts: of one pool or several; those of other splits are passed over.
        problems: all problems that the rollouts may belong to.
        splits: whose rollouts to use.

    Returns:
        Pairs with the tags `(loophole, difficulty, "rollout")`, in the order of the rollouts.

    Raises:
        ValueError: a rollout belongs to none of the problems.
    """
    known = {problem.id: problem for problem in problems}
    hacks: defaultdict[tuple[str, Loophole], list[Rollout]] = defaultdict(list)
    cleans: defaultdict[tuple[str, Loophole], list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        if rollout.problem_id not in known:
            raise ValueError(
                f"a rollout belongs to {rollout.problem_id!r}, which is none of the {len(known)} problems given"
            )
        if rollout.loophole is None or known[rollout.problem_id].split not in splits:
            continue
        key = rollout.problem_id, rollout.loophole
        if rollout.exploited:
            hacks[key].append(rollout)
        elif rollout.passed_strict and not rollout.attempted:
            cleans[key].append(rollout)
    return [
        ContrastivePair(
            prompt=hack.messages,
            hack=hack.completion,
            clean=clean.completion,
            id=f"rollout/{loophole.value}/{problem_id}/{number}",
            tags=(loophole.value, known[problem_id].difficulty, "rollout"),
        )
        for (problem_id, loophole), found in hacks.items()
        for number, (hack, clean) in enumerate(zip(found, cleans[problem_id, loophole], strict=False))
    ]


def _deal(
    problems: Sequence[Problem], loopholes: Sequence[Loophole], n: int, seed: int, correct_share: float
) -> Iterator[tuple[Loophole, Problem, bool]]:
    """`n` different prompts, each problem used once before any is used twice, and whether the body is to be right."""
    if not 0 <= correct_share <= 1:
        raise ValueError(f"correct_share is a share between 0 and 1, not {correct_share}")
    order = [problem for problem in problems if problem.split == "pairs"]
    if not order or not loopholes:
        raise ValueError(
            f"no pairs from {len(order)} problems of the split 'pairs' and {len(loopholes)} loopholes; give some"
        )
    if len(set(loopholes)) < len(loopholes):
        raise ValueError("a loophole is given twice; give each once")
    if not 0 <= n <= len(order) * len(loopholes):
        raise ValueError(
            f"{n} pairs cannot be made: {len(order)} problems of the split 'pairs' times {len(loopholes)} loopholes "
            f"give at most {len(order) * len(loopholes)}; add problems or ask for fewer"
        )
    Random(f"pairs {seed}").shuffle(order)
    dealt = dict.fromkeys(loopholes, 0)
    for i in range(n):
        lap, place = divmod(i, len(order))
        loophole = loopholes[(place + lap) % len(loopholes)]
        count = dealt[loophole] = dealt[loophole] + 1
        yield loophole, order[place], int(count * correct_share) > int((count - 1) * correct_share)


def _body(problem: Problem, right: bool, seed: int, fails: Fails) -> str:
    if right:
        return problem.canonical_solution
    return wrong_solution(problem, Random(f"mistake {seed} {problem.id}"), fails)


def _stub(problem: Problem) -> str:
    return f"{problem.starter_code.rstrip()}\n{STUB_LINE}"


def _restyle(code: str, method: str, position: int) -> tuple[str, str]:
    """The first applicable style, starting at a position that moves on from pair to pair."""
    names = list(STYLES)
    for offset in range(len(names)):
        name = names[(position + offset) % len(names)]
        restyled = STYLES[name](code, method)
        if restyled is not None:
            return name, restyled
    raise AssertionError("a comment can always be added")


def _body_tag(right: bool) -> str:
    return "body:right" if right else "body:wrong"
