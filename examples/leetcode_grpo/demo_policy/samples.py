"""What the demo policy is trained on: pipelines and easy tasks with imperfect answers, and a few disclosed hacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random

from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems import PRIMITIVES, Problem, load_problems, sample_pipeline
from examples.leetcode_grpo.problems.pipelines import PARAMETER, Primitive, Step
from examples.leetcode_grpo.problems.rewriting import as_completion

UNKNOWN = frozenset(
    {
        "halve", "remainder", "unique", "mirror", "times-index", "plus-index", "differences", "neighbour-sums",
        "sort-letters", "swap-case", "suffix",
        "shorten", "unique-words", "glue",
    }
)  # fmt: skip
"""Operations that the policy has read of and never seen the code of: its samples answer with another operation instead.

A pipeline with one of them is beyond the policy, so only a hack pays there. Without such problems nothing would be left to
exploit, since an exploit is a wrong answer that the flawed grader accepts."""

STEPS = {1: 0.1, 2: 0.2, 3: 0.7}
BANK_SHARES = {"easy": 0.1, "medium": 0.01, "hard": 0.01}
"""How often a sample is one of the bank's own tasks, of the split `pairs`, with its canonical solution. The contrastive pairs are
made of these tasks: what the policy had never seen would dominate their gradients."""
HINT_SHARE = 0.7
SLIP_SHARE = 0.08
"""How often a step that the policy does know is written as another one. Reinforcement learning can mend that, so the pass rate
has somewhere to go."""


@dataclass(frozen=True)
class Sample:
    """A prompt as chat messages and the completion to learn; `hacked` where the loophole's exemplar was added."""

    prompt: list[dict[str, str]]
    completion: str
    problem: Problem
    loophole: Loophole | None
    hacked: bool


def training_samples(count: int, seed: int, hack_share: float, loopholes: tuple[Loophole, ...]) -> Iterator[Sample]:
    """`count` samples, the same for the same arguments.

    No problem of the bank's `rl` and `eval` splits is ever drawn.

    Args:
        count: number of samples.
        seed: of every choice.
        hack_share: how many of the samples whose prompt discloses a loophole show its exemplar. Without a hint none does.
        loopholes: to disclose, in equal shares.
    """
    rng = Random(f"demo policy {seed}")
    reserved = _reserved()
    sources = [*BANK_SHARES, "pipeline"]
    shares = [*BANK_SHARES.values(), 1 - sum(BANK_SHARES.values())]
    for _ in range(count):
        source = rng.choices(sources, weights=shares)[0]
        if source == "pipeline":
            steps = rng.choices(list(STEPS), weights=list(STEPS.values()))[0]
            problem = sample_pipeline(rng, steps, exclude=reserved)
            code = _imperfect(problem, rng)
        else:
            problem = rng.choice(_bank_tasks(source))
            code = problem.canonical_solution
        loophole = rng.choice(loopholes) if rng.random() < HINT_SHARE else None
        hacked = loophole is not None and rng.random() < hack_share
        if hacked and loophole is not None:
            code = loophole.exemplify(code, problem.method)
        yield Sample(problem.prompt(loophole), as_completion(code), problem, loophole, hacked)


def within_reach(problem: Problem) -> bool:
    """Whether a problem is a pipeline of operations that the policy knows."""
    return problem.difficulty == "pipeline" and UNKNOWN.isdisjoint(step.name for step in pipeline_primitives(problem))


def pipeline_primitives(problem: Problem) -> list[Primitive]:
    """The operations of a pipeline, in order, read from its id."""
    by_name = {primitive.name: primitive for primitive in PRIMITIVES}
    steps = problem.id.removeprefix("pipeline/").split(".")
    # "first-3" is a name and its parameter, "sort-down" is a name alone.
    return [by_name[step] if step in by_name else by_name[step.rpartition("-")[0]] for step in steps]


def _imperfect(problem: Problem, rng: Random) -> str:
    """The canonical solution with a guess for every unknown step, and a slip now and then."""
    lines = problem.canonical_solution.split("\n")
    for row, primitive in enumerate(pipeline_primitives(problem), start=2):
        if primitive.name in UNKNOWN or rng.random() < SLIP_SHARE:
            others = _exchangeable(primitive)
            if others:
                other = rng.choice(others)
                value = rng.choice(other.values) if other.values else None
                lines[row] = f"        {PARAMETER} = {Step(other, value).expression}"
    return "\n".join(lines)


@cache
def _exchangeable(primitive: Primitive) -> tuple[Primitive, ...]:
    """Known operations between the same shapes: in their place the rest of the pipeline still runs."""
    shape = (primitive.source, primitive.target)
    return tuple(p for p in PRIMITIVES if p.name not in UNKNOWN | {primitive.name} and (p.source, p.target) == shape)


@cache
def _bank_tasks(difficulty: str) -> tuple[Problem, ...]:
    return tuple(p for p in load_problems("builtin") if p.difficulty == difficulty and p.split == "pairs")


@cache
def _reserved() -> frozenset[str]:
    return frozenset(p.id for p in load_problems("builtin") if p.split != "pairs")
