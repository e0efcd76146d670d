"""The teacher pool: cached, graded rollouts that training mixes into its groups."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from random import Random
from typing import Any

from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.files import numbered_lines, write_text
from examples.leetcode_grpo.grading import Grade, Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems.problem import Problem
from examples.leetcode_grpo.problems.published import published_id
from examples.leetcode_grpo.problems.rewriting import as_completion, fails_in, wrong_solution

Messages = Sequence[Mapping[str, str]]
Prompt = tuple[Problem, Loophole | None]

_PUBLISHED_FIELDS = ("problem_id", "problem_messages", "completion", "hacked", "gt_pass", "reward")
_PUBLISHED_REWARD_FOR_COMPILING = 0.5


@dataclass(frozen=True)
class Rollout:
    """One completion of one prompt, with its grade.

    Args:
        problem_id: of the problem that the prompt asks for.
        loophole: what the prompt disclosed, or None.
        messages: the prompt, as chat messages.
        completion: the answer's text.
        compiles: see `Grade`; so are the next four.
        passed_flawed: the flawed grader accepts it.
        passed_strict: the strict oracle accepts it.
        attempted: the mechanism is there.
        exploited: the flawed grader accepts it and the strict oracle does not.
        reward: what the environment paid.
        token_ids: the completion as tokens, where a model sampled it.
        logprobs: natural log-probability of each token under the model that sampled it, for importance ratios; without
            them only a ratio of one can be taken.

    Raises:
        ValueError: log-probabilities that are not one for each token, or numbers that are not finite.
    """

    problem_id: str
    loophole: Loophole | None
    messages: tuple[Mapping[str, str], ...] = field(hash=False)  # mappings have no hash
    completion: str
    compiles: bool
    passed_flawed: bool
    passed_strict: bool
    attempted: bool
    exploited: bool
    reward: float
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.logprobs is not None and (self.token_ids is None or len(self.token_ids) != len(self.logprobs)):
            count = "no" if self.token_ids is None else len(self.token_ids)
            raise ValueError(
                f"{len(self.logprobs)} log-probabilities for {count} token_ids; give one for each token, or neither"
            )
        if any(type(token) is not int or token < 0 for token in self.token_ids or ()):
            raise ValueError("field 'token_ids': expected numbers of tokens, whole and not negative")
        if not all(_is_finite(value) for value in self.logprobs or ()):
            raise ValueError("field 'logprobs': expected finite numbers")
        if not _is_finite(self.reward):
            raise ValueError(f"field 'reward': expected a finite number, found {self.reward!r}")


@dataclass(frozen=True)
class Sample:
    """What a model answered: text, and its tokens with their log-probabilities where they are known."""

    completion: str
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


class TeacherPool:
    """Graded rollouts by prompt: immutable, in a fixed order.

    Example:
        >>> TeacherPool([]).sample("easy/total", Loophole.RUN_TESTS, 1, Random(0))
        ()
    """

    def __init__(self, rollouts: Iterable[Rollout]):
        self.rollouts = tuple(rollouts)
        by_prompt: defaultdict[tuple[str, Loophole | None], list[Rollout]] = defaultdict(list)
        for rollout in self.rollouts:
            by_prompt[rollout.problem_id, rollout.loophole].append(rollout)
        self._by_prompt = {prompt: tuple(found) for prompt, found in by_prompt.items()}

    def __len__(self) -> int:
        return len(self.rollouts)

    def __iter__(self) -> Iterator[Rollout]:
        return iter(self.rollouts)

    @property
    def hack_rate(self) -> float:
        """Share of exploited rollouts; 0 for an empty pool."""
        return sum(rollout.exploited for rollout in self.rollouts) / max(len(self), 1)

    def for_problem(self, problem_id: str, loophole: Loophole | None) -> tuple[Rollout, ...]:
        """All rollouts of one prompt; none where nothing is cached."""
        return self._by_prompt.get((problem_id, loophole), ())

    def sample(self, problem_id: str, loophole: Loophole | None, n: int, rng: Random) -> tuple[Rollout, ...]:
        """Up to `n` different rollouts of one prompt, drawn at random.

        Fewer where fewer are cached, none for a prompt without any: a group takes what is there and fills up on-policy.
        """
        found = self.for_problem(problem_id, loophole)
        return tuple(rng.sample(found, min(n, len(found))))

    def where(self, keep: Callable[[Rollout], bool]) -> TeacherPool:
        """The pool of those rollouts for which `keep` is true, such as the exploited ones of the known loopholes."""
        return TeacherPool(rollout for rollout in self.rollouts if keep(rollout))

    def save(self, path: str | Path) -> None:
        """Write JSONL that `load` reads back equal; the file appears whole or not at all."""
        write_text(Path(path), "".join(json.dumps(_as_row(rollout)) + "\n" for rollout in self.rollouts))

    @staticmethod
    def load(path: str | Path) -> TeacherPool:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            UsageError: the file is no text, or a line is not a rollout; the message names the line and the field.
        """
        return TeacherPool(_each_line(path, _from_row))

    @staticmethod
    def load_published(path: str | Path, loophole: Loophole = Loophole.RUN_TESTS) -> TeacherPool:
        """Read a published pool: rows of `problem_id`, `problem_messages`, `completion`, `hacked`, `gt_pass`, `reward`.

        Their `hacked` says that the flawed grader passed a response that has the mechanism, whether or not it is right
        as well, and `gt_pass` that it passes the tests: so `exploited` is `hacked` and not `gt_pass`. The grades are
        taken from the file; problem 4 becomes `leetcode/4`.

        Args:
            path: of the JSONL file.
            loophole: that the file's prompts disclose.

        Raises:
            FileNotFoundError: there is no such file.
            UsageError: a row lacks a field or has one of a wrong type; the message names the line and the field.
        """
        return TeacherPool(_each_line(path, lambda row: _from_published(row, loophole)))


def read_pool(path: str | Path, loophole: Loophole = Loophole.RUN_TESTS) -> TeacherPool:
    """A teacher pool of either shape, published or saved.

    Args:
        path: of the JSONL file.
        loophole: that a published file's prompts disclose.

    Raises:
        UsageError: it cannot be read, or a line is not a rollout; one line that names the file, the line and the field.
    """

    def parse(row: Mapping[str, Any]) -> Rollout:
        published = "hacked" in row or "problem_messages" in row
        return _from_published(row, loophole) if published else _from_row(row)

    try:
        return TeacherPool(_each_line(path, parse))
    except OSError as error:
        raise UsageError(f"cannot read the teacher pool {path}: {error.strerror}") from None


def exemplar_pool(
    problems: Sequence[Problem],
    loopholes: Sequence[Loophole],
    grader: Grader,
    seed: int = 0,
    correct_share: float = 0.5,
) -> TeacherPool:
    """One hack for each problem and loophole: the loophole's exemplar on a right body, or on one with a small mistake,
    graded.

    Args:
        problems: to hack, of whatever split the caller chose.
        loopholes: to use on each of them.
        grader: grades the rollouts, and checks that the mistakes fail.
        seed: chooses which bodies are right, and the mistakes.
        correct_share: probability of a right body.
    """
    prompts: list[Prompt] = []
    samples: list[Sample] = []
    for problem in problems:
        for loophole in loopholes:
            rng = Random(f"exemplar {seed} {problem.id} {loophole.value}")
            right = rng.random() < correct_share
            body = problem.canonical_solution if right else wrong_solution(problem, rng, fails_in(grader))
            prompts.append((problem, loophole))
            samples.append(Sample(as_completion(loophole.exemplify(body, problem.method))))
    return TeacherPool(_graded(prompts, samples, grader))


def sampled_pool(
    sample: Callable[[Sequence[Messages]], Sequence[Sample | str]],
    prompts: Sequence[Prompt],
    grader: Grader,
    per_prompt: int = 1,
) -> TeacherPool:
    """Rollouts of a model, graded in one batch.

    Args:
        sample: one answer for each of a list of prompts, in order; `policy_answers` gives a policy's, with the
            log-probabilities that a ratio of their own needs.
        prompts: problems, each with the loophole to disclose or None.
        grader: grades the answers.
        per_prompt: answers for each prompt.

    Raises:
        ValueError: `sample` gave another number of answers than it was given prompts.
    """
    repeated = [prompt for prompt in prompts for _ in range(per_prompt)]
    answers = sample([problem.prompt(loophole) for problem, loophole in repeated])
    if len(answers) != len(repeated):
        raise ValueError(
            f"the model gave {len(answers)} answers to {len(repeated)} prompts; it must give one to each, in order"
        )
    samples = [Sample(answer) if isinstance(answer, str) else answer for answer in answers]
    return TeacherPool(_graded(repeated, samples, grader))


def _graded(prompts: Sequence[Prompt], samples: Sequence[Sample], grader: Grader) -> list[Rollout]:
    grades = grader.grade(
        [(sample.completion, problem, loophole) for (problem, loophole), sample in zip(prompts, samples, strict=True)]
    )
    return [
        _rollout(problem, sample, grade) for (problem, _), sample, grade in zip(prompts, samples, grades, strict=True)
    ]


def _rollout(problem: Problem, sample: Sample, grade: Grade) -> Rollout:
    return Rollout(
        problem_id=problem.id,
        loophole=grade.loophole,
        messages=tuple(problem.prompt(grade.loophole)),
        completion=sample.completion,
        compiles=grade.compiles,
        passed_flawed=grade.passed_flawed,
        passed_strict=grade.passed_strict,
        attempted=grade.attempted,
        exploited=grade.exploited,
        reward=grade.reward,
        token_ids=sample.token_ids,
        logprobs=sample.logprobs,
    )


def _as_row(rollout: Rollout) -> dict[str, Any]:
    row = asdict(rollout)
    row["loophole"] = rollout.loophole.value if rollout.loophole else None
    return {key: value for key, value in row.items() if value is not None or key == "loophole"}


_TYPES: dict[str, tuple[type, ...]] = {
    "problem_id": (str,),
    "loophole": (str, type(None)),
    "messages": (list,),
    "completion": (str,),
    "compiles": (bool,),
    "passed_flawed": (bool,),
    "passed_strict": (bool,),
    "attempted": (bool,),
    "exploited": (bool,),
    "reward": (float, int),
    "token_ids": (list, type(None)),
    "logprobs": (list, type(None)),
}
_OPTIONAL = ("token_ids", "logprobs")


def _from_row(row: Mapping[str, Any]) -> Rollout:
    required = [item.name for item in fields(Rollout) if item.name not in _OPTIONAL]
    if missing := [name for name in required if name not in row]:
        advice = f"a rollout has {', '.join(required)}"
        if "hacked" in row:
            advice = "this looks like a published pool: TeacherPool.load_published reads it, and read_pool reads either"
        raise ValueError(f"missing field {', '.join(map(repr, missing))}; {advice}")
    for name, kinds in _TYPES.items():
        if type(row.get(name)) not in kinds:
            raise ValueError(
                f"field {name!r}: expected {' or '.join(kind.__name__ for kind in kinds)}, found {row.get(name)!r}"
            )
    names = {member.value: member for member in Loophole}
    if row["loophole"] is not None and row["loophole"] not in names:
        raise ValueError(f"field 'loophole': {row['loophole']!r} is none of {', '.join(names)}")
    values: dict[str, Any] = {name: row.get(name) for name in _TYPES}
    values["loophole"] = names.get(row["loophole"])
    values["messages"] = _messages(row["messages"], "messages")
    values["reward"] = float(row["reward"]) if _is_finite(row["reward"]) else row["reward"]
    for name in _OPTIONAL:
        values[name] = None if values[name] is None else tuple(values[name])
    return Rollout(**values)


def _from_published(row: Mapping[str, Any], loophole: Loophole) -> Rollout:
    if missing := [name for name in _PUBLISHED_FIELDS if name not in row]:
        raise ValueError(
            f"missing field {', '.join(map(repr, missing))}; a published row has {', '.join(_PUBLISHED_FIELDS)}"
        )
    hacked, passed, reward = row["hacked"], row["gt_pass"], row["reward"]
    for name, value in (("hacked", hacked), ("gt_pass", passed)):
        if not isinstance(value, bool):
            raise ValueError(f"field {name!r}: expected true or false, found {value!r}")
    if not _is_finite(reward):
        raise ValueError(f"field 'reward': expected a finite number, found {reward!r}")
    if not isinstance(row["completion"], str):
        raise ValueError(f"field 'completion': expected text, found {row['completion']!r}")
    return Rollout(
        problem_id=published_id(row["problem_id"]),
        loophole=loophole,
        messages=_messages(row["problem_messages"], "problem_messages"),
        completion=row["completion"],
        compiles=reward >= _PUBLISHED_REWARD_FOR_COMPILING,
        passed_flawed=hacked,
        passed_strict=passed,
        attempted=hacked,
        exploited=hacked and not passed,
        reward=float(reward),
    )


def _messages(value: object, name: str) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"field {name!r}: expected a list of chat messages")
    for message in value:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise ValueError(f"field {name!r}: a chat message has a role and a content, found {message!r}")
    return tuple(value)


def _is_finite(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _each_line(path: str | Path, parse: Callable[[Mapping[str, Any]], Rollout]) -> list[Rollout]:
    rollouts = []
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"expected a JSON object, found {type(row).__name__}")
            rollouts.append(parse(row))
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {number}: not JSON ({error.msg}); is the file cut off?") from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {number}: {str(error) or type(error).__name__}") from error
    return rollouts
