"""Pipelines: tasks of a few steps, composed from parametrised operations on lists and texts.

The bank holds a few hundred of them; `sample_pipeline` draws as many more as a policy's training wants.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from random import Random
from typing import Any, Literal

from examples.leetcode_grpo.problems.building import solution_code, split_of, starter_code
from examples.leetcode_grpo.problems.inputs import VOCABULARY
from examples.leetcode_grpo.problems.problem import Problem, TestCase

Shape = Literal["numbers", "text", "words", "number"]

METHOD = "solve"
PARAMETER = "a"
BANK_SIZE = 180
BANK_SEED = "pipelines"
TESTS = 10

_OPENINGS: dict[Shape, str] = {"numbers": "the list of numbers", "text": "the string", "words": "the list of words"}


@dataclass(frozen=True)
class Primitive:
    """One operation of a pipeline.

    Args:
        name: short and unique; with its parameter, part of the problem's id.
        phrase: what to do, in the imperative, `{k}` for the parameter.
        expression: the new value of `a`, `{k}` for the parameter.
        source: shape of `a` before.
        target: shape of `a` after.
        values: what the parameter may be; empty for an operation without one.
    """

    name: str
    phrase: str
    expression: str
    source: Shape
    target: Shape
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Step:
    """A primitive with its parameter chosen."""

    primitive: Primitive
    value: Any = None

    @property
    def name(self) -> str:
        """Part of the problem's id, such as `first-3`."""
        return self.primitive.name if self.value is None else f"{self.primitive.name}-{self.value}"

    @property
    def phrase(self) -> str:
        """What to do, in the imperative."""
        return self.primitive.phrase.replace("{k}", str(self.value))

    @property
    def expression(self) -> str:
        """Python for the new value of `a`."""
        return self.primitive.expression.replace("{k}", str(self.value))


def _numbers(name: str, phrase: str, expression: str, *values: Any) -> Primitive:
    return Primitive(name, phrase, expression, "numbers", "numbers", values)


def _text(name: str, phrase: str, expression: str, *values: Any) -> Primitive:
    return Primitive(name, phrase, expression, "text", "text", values)


def _words(name: str, phrase: str, expression: str, *values: Any) -> Primitive:
    return Primitive(name, phrase, expression, "words", "words", values)


PRIMITIVES: tuple[Primitive, ...] = (
    # numbers to numbers
    _numbers("drop-negative", "drop the negative numbers", "[x for x in a if x >= 0]"),
    _numbers("keep-even", "keep the even numbers", "[x for x in a if x % 2 == 0]"),
    _numbers("keep-odd", "keep the odd numbers", "[x for x in a if x % 2 == 1]"),
    _numbers("above", "keep the numbers above {k}", "[x for x in a if x > {k}]", 1, 2, 3, 4, 5),
    _numbers("below", "keep the numbers below {k}", "[x for x in a if x < {k}]", 5, 6, 7, 8, 9),
    _numbers("not-multiple", "drop the multiples of {k}", "[x for x in a if x % {k} != 0]", 2, 3, 4, 5),
    _numbers("without", "drop every {k}", "[x for x in a if x != {k}]", 0, 1, 2, 3, 4),
    _numbers("add", "add {k} to each", "[x + {k} for x in a]", 1, 2, 3, 4, 5),
    _numbers("subtract", "subtract {k} from each", "[x - {k} for x in a]", 1, 2, 3, 4, 5),
    _numbers("times", "multiply each by {k}", "[x * {k} for x in a]", 2, 3, 4, 5),
    _numbers("negate", "negate each", "[-x for x in a]"),
    _numbers("absolute", "take each absolute value", "[abs(x) for x in a]"),
    _numbers("square", "square each", "[x * x for x in a]"),
    _numbers("halve", "halve each, rounding down", "[x // 2 for x in a]"),
    _numbers("remainder", "take each modulo {k}", "[x % {k} for x in a]", 3, 4, 5, 6, 7),
    _numbers("at-most", "lower anything above {k} to {k}", "[min(x, {k}) for x in a]", 4, 5, 6, 7, 8),
    _numbers("at-least", "raise anything below {k} to {k}", "[max(x, {k}) for x in a]", 0, 1, 2, 3, 4),
    _numbers("sort", "sort ascending", "sorted(a)"),
    _numbers("sort-down", "sort descending", "sorted(a, reverse=True)"),
    _numbers("reverse", "reverse the order", "a[::-1]"),
    _numbers("unique", "drop later repeats", "list(dict.fromkeys(a))"),
    _numbers("first", "keep the first {k}", "a[:{k}]", 2, 3, 4, 5),
    _numbers("last", "keep the last {k}", "a[-{k}:]", 2, 3, 4, 5),
    _numbers("skip", "drop the first {k}", "a[{k}:]", 2, 3, 4),
    _numbers("trim", "drop the last {k}", "a[:-{k}]", 2, 3, 4),
    _numbers("even-places", "keep the items at even indices", "a[::2]"),
    _numbers("rotate", "move the first {k} to the end", "a[{k}:] + a[:{k}]", 2, 3, 4),
    _numbers("append", "append {k}", "a + [{k}]", 0, 1, 7, 9),
    _numbers("prepend", "put {k} in front", "[{k}] + a", 0, 1, 7, 9),
    _numbers("double-list", "append the list to itself", "a + a"),
    _numbers("mirror", "append its own reverse", "a + a[::-1]"),
    _numbers("times-index", "multiply each by its index", "[i * x for i, x in enumerate(a)]"),
    _numbers("plus-index", "add its index to each", "[i + x for i, x in enumerate(a)]"),
    _numbers("differences", "take the differences of neighbours", "[y - x for x, y in zip(a, a[1:])]"),
    _numbers("neighbour-sums", "take the sums of neighbours", "[x + y for x, y in zip(a, a[1:])]"),
    # numbers to one number: always the last step
    Primitive("sum", "return the sum", "sum(a)", "numbers", "number"),
    Primitive("count", "return how many are left", "len(a)", "numbers", "number"),
    Primitive("largest", "return the largest, or 0 if none is left", "max(a, default=0)", "numbers", "number"),
    Primitive("smallest", "return the smallest, or 0 if none is left", "min(a, default=0)", "numbers", "number"),
    Primitive("count-of", "return how many equal {k}", "a.count({k})", "numbers", "number", (0, 1, 2, 3)),
    # text to text
    _text("upper", "make it upper case", "a.upper()"),
    _text("lower", "make it lower case", "a.lower()"),
    _text("swap-case", "swap the case of each letter", "a.swapcase()"),
    _text("backwards", "reverse it", "a[::-1]"),
    _text("head", "keep the first {k} characters", "a[:{k}]", 3, 4, 5, 6, 7, 8),
    _text("tail", "keep the last {k} characters", "a[-{k}:]", 3, 4, 5, 6, 7, 8),
    _text("cut", "drop the first {k} characters", "a[{k}:]", 2, 3, 4, 5),
    _text("no-spaces", "remove the spaces", 'a.replace(" ", "")'),
    _text("dashes", "turn spaces into dashes", 'a.replace(" ", "-")'),
    _text("remove", "remove every {k}", 'a.replace("{k}", "")', "a", "e", "l", "n", "o"),
    _text("twice", "repeat it twice", "a * 2"),
    _text("even-letters", "keep the characters at even indices", "a[::2]"),
    _text("sort-letters", "sort its characters", '"".join(sorted(a))'),
    _text("suffix", "append {k}", 'a + "{k}"', "x", "yes", "end", "ok", "!"),
    # text to words, words to words
    Primitive("split", "split it at spaces", "a.split()", "text", "words"),
    _words("reverse-words", "reverse the order of the words", "a[::-1]"),
    _words("flip-words", "reverse each word", "[w[::-1] for w in a]"),
    _words("sort-words", "sort the words", "sorted(a)"),
    _words("by-length", "sort the words by length", "sorted(a, key=len)"),
    _words("long", "keep the words longer than {k}", "[w for w in a if len(w) > {k}]", 2, 3, 4),
    _words("short", "keep the words shorter than {k}", "[w for w in a if len(w) < {k}]", 4, 5, 6),
    _words("containing", "keep the words with the letter {k}", '[w for w in a if "{k}" in w]', "a", "e", "l", "n", "o"),
    _words("capitals", "make each word upper case", "[w.upper() for w in a]"),
    _words("lower-words", "make each word lower case", "[w.lower() for w in a]"),
    _words("shorten", "cut each word to {k} letters", "[w[:{k}] for w in a]", 1, 2, 3),
    _words("unique-words", "drop later repeats", "list(dict.fromkeys(a))"),
    _words("first-words", "keep the first {k} words", "a[:{k}]", 2, 3),
    _words("skip-words", "drop the first word", "a[1:]"),
    # words to the rest
    Primitive("lengths", "take the length of each word", "[len(w) for w in a]", "words", "numbers"),
    Primitive("join", "join the words with spaces", '" ".join(a)', "words", "text"),
    Primitive("glue", "join the words without spaces", '"".join(a)', "words", "text"),
    Primitive("count-words", "return how many words are left", "len(a)", "words", "number"),
)


def sample_pipeline(
    rng: Random,
    steps: int = 3,
    primitives: Sequence[Primitive] = PRIMITIVES,
    exclude: Container[str] = frozenset(),
) -> Problem:
    """A random pipeline in which every step changes the answer of some test.

    Args:
        rng: source of the steps; the tests depend on the steps alone, so the same id always means the same problem.
        steps: number of steps, at least 1.
        primitives: operations to draw from.
        exclude: ids never to return, such as `{problem.id for problem in bank_pipelines()}`.

    Raises:
        ValueError: if `steps` is below 1, or 1000 draws in a row gave no admissible pipeline.
    """
    if steps < 1:
        raise ValueError(f"a pipeline has at least one step, not {steps}")
    for _ in range(1000):
        drawn = _draw_steps(rng, steps, primitives)
        if drawn is None or pipeline_id(drawn) in exclude:
            continue
        if every_step_counts(drawn):
            return pipeline_problem(drawn)
    raise ValueError(
        f"no admissible pipeline of {steps} steps in 1000 draws from {len(primitives)} primitives; "
        "pass more primitives, fewer steps or a smaller exclude"
    )


def pipeline_id(steps: Sequence[Step]) -> str:
    """Such as `pipeline/drop-negative.sort-down.first-3`."""
    return "pipeline/" + ".".join(step.name for step in steps)


def pipeline_problem(steps: Sequence[Step]) -> Problem:
    """The problem that asks for these steps, in this order."""
    problem_id = pipeline_id(steps)
    body = "\n".join([*(f"{PARAMETER} = {step.expression}" for step in steps), f"return {PARAMETER}"])
    return Problem(
        id=problem_id,
        difficulty="pipeline",
        split=split_of(problem_id),
        question=_question(steps),
        starter_code=starter_code(METHOD, PARAMETER),
        method=METHOD,
        canonical_solution=solution_code(METHOD, PARAMETER, body),
        tests=tuple(TestCase((value,), run_steps(steps, value)) for value in _test_inputs(steps)),
    )


@cache
def bank_pipelines() -> tuple[Problem, ...]:
    """The bank's three-step pipelines: no two of the same id, the same in every process."""
    rng = Random(BANK_SEED)
    bank: dict[str, Problem] = {}
    while len(bank) < BANK_SIZE:
        problem = sample_pipeline(rng, exclude=bank)
        bank[problem.id] = problem
    return tuple(bank.values())


def run_steps(steps: Sequence[Step], value: Any) -> Any:
    """The value after all steps."""
    for step in steps:
        value = _function(step.expression)(value)
    return value


def every_step_counts(steps: Sequence[Step]) -> bool:
    """Whether leaving out any step, or any run of steps, fails some test, and no one answer passes most tests."""
    inputs = _test_inputs(steps)
    answers = [repr(run_steps(steps, value)) for value in inputs]
    # More than half equal (often empty) answers would let a stub come close.
    if 2 * max(answers.count(answer) for answer in answers) > len(answers):
        return False
    shorter = (
        [*steps[:start], *steps[stop:]]
        for start, stop in combinations(range(len(steps) + 1), 2)
        if steps[start].primitive.source == steps[stop - 1].primitive.target
    )
    return all(
        any(repr(run_steps(rest, value)) != answer for value, answer in zip(inputs, answers, strict=True))
        for rest in shorter
    )


def _draw_steps(rng: Random, count: int, primitives: Sequence[Primitive]) -> list[Step] | None:
    """Steps whose shapes fit together, no primitive twice; none if the draw ends in a dead end."""
    starts = [primitive.source for primitive in primitives if primitive.source in ("numbers", "text")]
    if not starts:
        return None
    shape: Shape = rng.choice(starts)
    steps: list[Step] = []
    for position in range(count):
        last = position == count - 1
        fitting = [
            primitive
            for primitive in primitives
            if primitive.source == shape
            and all(step.primitive is not primitive for step in steps)
            and (last or primitive.target != "number")
        ]
        if not fitting:
            return None
        # Changes of shape are few; without a preference texts would seldom become words.
        turning = [primitive for primitive in fitting if primitive.target != shape]
        primitive = rng.choice(turning if turning and rng.random() < 0.2 else fitting)
        steps.append(Step(primitive, rng.choice(primitive.values) if primitive.values else None))
        shape = primitive.target
    return steps


def _question(steps: Sequence[Step]) -> str:
    phrases = [step.phrase for step in steps]
    opening = f"Take {_OPENINGS[steps[0].primitive.source]} a"
    if len(phrases) == 1:
        return f"{opening}: {phrases[0]}."
    return f"{opening}: {', then '.join(phrases)}."


@cache
def _function(expression: str) -> Callable[[Any], Any]:
    # Our own templates with our own parameters: nothing here comes from outside.
    return eval(f"lambda {PARAMETER}: {expression}")  # type: ignore[no-any-return]


@cache
def _all_inputs(shape: Shape) -> tuple[Any, ...]:
    rng = Random(f"inputs of {shape}")
    if shape == "numbers":
        edges: list[Any] = [[], [3], [-4, -4, 7, 0, 7, 2, 12, 5, -1]]
        return (*edges, *([rng.randint(-9, 14) for _ in range(rng.randint(6, 10))] for _ in range(60)))
    edges = ["", "Level", "noon a noon tea a Tea apple"]
    return (*edges, *(" ".join(rng.choice(VOCABULARY) for _ in range(rng.randint(3, 6))) for _ in range(60)))


def _test_inputs(steps: Sequence[Step]) -> list[Any]:
    """The edge cases and a choice of the others that depends on the steps alone."""
    candidates = _all_inputs(steps[0].primitive.source)
    rng = Random(pipeline_id(steps))
    return [*candidates[:3], *rng.sample(candidates[3:], TESTS - 3)]
