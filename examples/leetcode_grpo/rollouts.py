"""Rollouts for one step: the policy's own, with a few cached ones of a teacher mixed into each group.

Cached rollouts train the policy and are never counted: every logged rate is over the policy's own rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from statistics import fmean
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.generation import Sampler
from examples.leetcode_grpo.grading import Grade
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.rewards import METRICS, CodeReward, GradedCompletion
from examples.leetcode_grpo.teacher import Rollout, TeacherPool

Draw = Callable[[list[list[int]], list[int]], tuple[list[list[int]], list[list[float]] | None]]
"""From prompts and the number of completions of each to the completions, and their log-probabilities where the backend has them."""

OWN = "own/"
"""Prefix of the logged rates over the policy's own rollouts."""


class MixedRollouts:
    """The `rollout_func` of a GRPO trainer that mixes cached rollouts into each group.

    The cached ones stand first in their group. Which they are depends on seed, step and prompt alone, so that arms of a seed see the
    same ones, resumed or not. A prompt without cached rollouts stays on-policy.

    Args:
        sampler: draws completions, and knows the tokenizer.
        pool: the cached rollouts; those longer than the sampler allows are passed over, since a mechanism may stand at their end.
        group_size: rollouts of one prompt.
        per_group: how many of them are cached, at most.
        ratio: `"own"` keeps the cached rollouts' tokens and log-probabilities for the trainer; `"one"` reads their text, since a pool does
            not say whose tokens it holds.
        negative: `"drop"` takes no gradient from cached rollouts that are worth less than their group's mean, where their ratio is one: nothing
            would bound how far the policy is pushed away from what it did not draw, and in the end from everything. `"keep"` does it anyway.
        divergence: `"drop"` lets cached rollouts whose ratio is one count as no distance from the reference; `"keep"` takes theirs, as TRL
            does.
        seed: chooses among the cached rollouts.

    Attributes:
        too_long: how many were passed over for their length.
        cached: for each rollout of the last call, whether it is a cached one.
        cached_logprobs: their own log-probabilities, where these count; None for others.

    Raises:
        UsageError: more cached rollouts than a group holds, none that is short enough, or their own log-probabilities are asked for and
            some have none, or belong to another tokenizer.
    """

    def __init__(
        self,
        sampler: Sampler,
        pool: TeacherPool,
        *,
        group_size: int,
        per_group: int,
        ratio: Literal["one", "own"] = "one",
        negative: Literal["drop", "keep"] = "drop",
        divergence: Literal["drop", "keep"] = "drop",
        seed: int = 0,
    ) -> None:
        self.sampler = sampler
        self.group_size = group_size
        self.per_group = per_group
        self.ratio = ratio
        self.negative = negative
        self.divergence = divergence
        self.seed = seed
        if ratio == "own" and per_group:
            self._check_own(pool)
        self.pool = pool.where(lambda rollout: len(self.tokens(rollout)) <= sampler.max_new_tokens)
        self.too_long = len(pool) - len(self.pool)
        self.cached: list[bool] = []
        self.cached_logprobs: list[tuple[float, ...] | None] = []
        if not 0 <= per_group <= group_size:
            raise UsageError(f"{per_group} cached rollouts do not fit into groups of {group_size}; mix in fewer")
        if per_group and self.too_long and not len(self.pool):
            raise UsageError(
                f"all {len(pool)} cached rollouts are longer than {sampler.max_new_tokens} tokens: raise max_new_tokens, give a pool of "
                "shorter ones, or set teacher_per_group=0"
            )

    def _check_own(self, pool: TeacherPool) -> None:
        advice = "let a policy sample them (python -m examples.leetcode_grpo pool), or set teacher_ratio=one"
        if unknown := sum(rollout.logprobs is None for rollout in pool):
            raise UsageError(
                f"{unknown} of {len(pool)} cached rollouts have no log-probabilities of their own: {advice}"
            )
        if foreign := sum(not self._reads(rollout) for rollout in pool):
            raise UsageError(
                f"the tokens of {foreign} of {len(pool)} cached rollouts are not their text here: {advice}"
            )

    def _reads(self, rollout: Rollout) -> bool:
        """Whether a rollout's tokens are its text to this tokenizer."""
        tokenizer, tokens = self.sampler.tokenizer, list(rollout.token_ids or ())
        return max(tokens, default=0) < len(tokenizer) and (
            tokenizer.decode(tokens, skip_special_tokens=True) == rollout.completion
        )

    def __call__(
        self, rows: Sequence[Mapping[str, Any]], step: int, draw: Draw | None = None
    ) -> dict[str, list[Any] | None]:
        """What TRL expects of a `rollout_func`, with the column `from_teacher` added.

        Args:
            rows: the dataset's rows, each `group_size` times in succession.
            step: the trainer's global step.
            draw: the backend; the sampler if None.
        """
        groups = [rows[start] for start in range(0, len(rows), self.group_size)]
        prompts = [self.sampler.prompt_ids(row["prompt"]) for row in groups]
        cached = [self._cached(row, step) for row in groups]
        own = [self.group_size - len(rollouts) for rollouts in cached]
        drawn, logprobs = (draw or self._draw)(prompts, own)

        self.cached = _interleave([[True] * len(rollouts) for rollouts in cached], [False] * len(drawn), own)
        mixed: dict[str, list[Any] | None] = {
            "prompt_ids": [prompt for prompt in prompts for _ in range(self.group_size)],
            "completion_ids": _interleave([[self.tokens(r) for r in rollouts] for rollouts in cached], drawn, own),
            "logprobs": None,
            "from_teacher": self.cached,
        }
        if logprobs is not None:
            # TRL reads NaN as "not known" and then corrects nothing.
            unknown = [[[float("nan")] * len(self.tokens(r)) for r in rollouts] for rollouts in cached]
            mixed["logprobs"] = _interleave(unknown, logprobs, own)
        kept = [[r.logprobs if self.ratio == "own" else None for r in rollouts] for rollouts in cached]
        self.cached_logprobs = _interleave(kept, [None] * len(drawn), own)
        return mixed

    def without_negative(self, advantages: Float[Tensor, "rollouts"]) -> Float[Tensor, "rollouts"]:
        """The advantages of the last call's rollouts, those that `negative` drops set to zero.

        Args:
            advantages: one for each rollout, in order.
        """
        if self.negative == "keep":
            return advantages
        unbounded = torch.tensor(self._unweighted(), device=advantages.device)
        return advantages.where(~unbounded, advantages.clamp_min(0))

    def without_divergence(self) -> list[int]:
        """Which of the last call's rollouts tell nothing of how far the policy is from the reference: their places."""
        if self.divergence == "keep":
            return []
        return [place for place, unweighted in enumerate(self._unweighted()) if unweighted]

    def _unweighted(self) -> list[bool]:
        """For each rollout of the last call whether the policy did not draw it and no weight makes up for that."""
        return [cached and own is None for cached, own in zip(self.cached, self.cached_logprobs, strict=True)]

    def tokens(self, rollout: Rollout) -> list[int]:
        """A cached rollout's tokens, its end token included."""
        if self.ratio == "own" and rollout.token_ids is not None:
            return list(rollout.token_ids)
        tokenizer = self.sampler.tokenizer
        return [*tokenizer(rollout.completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    def _cached(self, row: Mapping[str, Any], step: int) -> tuple[Rollout, ...]:
        if not self.per_group:
            return ()
        problem_id, loophole = row["problem_id"], row["loophole"]
        rng = Random(f"teacher {self.seed} {step} {problem_id} {loophole}")
        return self.pool.sample(problem_id, Loophole(loophole) if loophole else None, self.per_group, rng)

    def _draw(self, prompts: list[list[int]], copies: list[int]) -> tuple[list[list[int]], None]:
        self.sampler.refresh()
        return self.sampler.sample(prompts, copies), None


def _interleave(cached: Sequence[Sequence[Any]], own: Sequence[Any], counts: Sequence[int]) -> list[Any]:
    """For each group its cached values, then as many of its own as `counts` says."""
    remaining = iter(own)
    return [
        value
        for group, count in zip(cached, counts, strict=True)
        for value in (*group, *(next(remaining) for _ in range(count)))
    ]


class OwnRates:
    """A reward function around `CodeReward` that logs rates over the policy's own rollouts.

    Args:
        reward: grades and pays; its record of rollouts is emptied at every call.

    Attributes:
        last: the policy's own graded rollouts of the last call, for `completions_table`.
    """

    __name__ = "code_reward"  # what the trainer calls its column

    def __init__(self, reward: CodeReward) -> None:
        self.reward = reward
        self.last: tuple[GradedCompletion, ...] = ()

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        from_teacher: Sequence[bool],
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[float]:
        """Rewards of all rollouts, in order; rates of the policy's own."""
        rewards = self.reward(prompts, completions, **columns)
        graded = zip(self.reward.rollouts, from_teacher, strict=True)
        self.last = tuple(rollout for rollout, cached in graded if not cached)
        self.reward.rollouts.clear()
        for name, value in own_rates([rollout.grade for rollout in self.last]).items():
            log_metric(OWN + name, value)
        return rewards


def own_rates(grades: Sequence[Grade]) -> dict[str, float]:
    """Each of `METRICS`, the mean reward, and the hack rate of each loophole; empty for no grades."""
    if not grades:
        return {}
    rates = {name: fmean(getattr(grade, field) for grade in grades) for name, field in METRICS.items()}
    rates["reward"] = fmean(grade.reward for grade in grades)
    for loophole in Loophole:
        if found := [grade.exploited for grade in grades if grade.loophole is loophole]:
            rates[f"hack/{loophole.value}"] = fmean(found)
    return rates
