"""Presets: every number that a run depends on, under one name each, all of them settable from the command line."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.models import DEMO, SMOLLM2, TINY

_AT_LEAST: Mapping[int, tuple[str, ...]] = {
    0: (
        "lora_rank",
        "easy",
        "pipeline",
        "medium",
        "hard",
        "warm_steps",
        "warmup_steps",
        "weight_decay",
        "kl",
        "beta1",
        "beta2",
    ),
    1: (
        "warm_batch",
        "steps",
        "prompts_per_step",
        "max_new_tokens",
        "decode_batch",
        "k",
        "chart_rank",
        "eval_problems",
        "eval_samples",
        "grader_workers",
    ),
    2: ("group_size", "n_pairs"),  # an advantage compares, and so does a direction
}
_POSITIVE = ("lr", "warm_lr", "max_grad_norm", "temperature", "overshoot", "grader_timeout")
_SHARES = ("warm_hack_share", "warm_hint_share", "warm_pipeline_share", "teacher_correct_share", "noise_floor")

PairKind = Literal["mechanism", "replacement", "framing"]
"""What the sides of a pair differ in; see `examples.leetcode_grpo.pairs.bank_pairs`."""

FOUR_LOOPHOLES = ("run_tests", "sentinel", "stdout_marker", "file_marker")


@dataclass(frozen=True)
class Preset:
    """One experiment's settings. Rates and shares are between 0 and 1; lengths are in tokens.

    Args:
        name: the preset's name, part of the results' path.
        model: where the policy comes from, see `models.py`.
        lora_rank: train an adapter of this rank on all linear layers; 0 trains the full weights.
        svd_adapter: train the scales of the singular directions of all linear layers, as the original system did.
        trainable: `"all"` weights, or only the `"linear"` ones that directions cover. Embeddings and norms, which no direction
            covers, are a way round the projection; the choice is the same for all arms.
        problems: `"builtin"`, or a path to a LeetCode JSONL file.
        loopholes: which loopholes problems get, in turn.
        known_loopholes: those of them that pairs and cached rollouts may show; empty for all. The others are measured.
        easy, pipeline, medium, hard: at most so many RL problems of each difficulty; None takes all.
        warm_steps, warm_lr, warm_batch: supervised fine-tuning on clean solutions of the easy problems of the split `pairs`
            before reinforcement learning; 0 steps for none.
        warm_hack_share: share of samples that show a hack instead: the disclosed base rate.
        warm_hint_share: share of samples whose prompt discloses a loophole.
        warm_pipeline_share: share of samples that ask for a generated pipeline of one to three steps, none of them one of the
            bank's for reinforcement learning or evaluation; the rest are easy problems of the split `pairs`.
        steps: reinforcement learning steps.
        prompts_per_step, group_size: rollouts a step are their product.
        teacher_per_group: cached rollouts among each group; 0 for none.
        teacher_ratio: `"one"` treats cached rollouts as if the policy had drawn them; `"own"` divides by their own probabilities.
        teacher_negative: what cached rollouts at a ratio of one do that are worth less than their group's mean: `"drop"`, they teach
            nothing; `"keep"`, they push the policy away, without bound. Where the environment alone pays, no cached hack is worth less.
        teacher_kl: which rollouts tell the divergence: `"drop"`, not the cached ones at a ratio of one, which the policy has not drawn and
            which count as no distance; `"keep"`, those too. Without weights they say nothing of how far the policy is, and pull it back to
            the hacks that it started with.
        teacher_correct_share: share of them, where they are made from exemplars, that hack with a right solution.
        teacher_pool: a JSONL file of cached rollouts; None makes one from the loopholes' exemplars.
        lr, warmup_steps, beta1, beta2, weight_decay, max_grad_norm: AdamW, its constant schedule and clipping.
        temperature, max_new_tokens: of rollouts.
        kl: weight of the divergence from the policy before reinforcement learning.
        loss_type, scale_rewards: TRL's names for the GRPO variant.
        micro_batch: rollouts of one forward and backward.
        decode_batch: rollouts decoded at once.
        vllm: decode with vLLM on the training GPU.
        gradient_checkpointing: recompute activations to save memory.
        overshoot: how many times erasing arms remove the hack-ward component, where an arm does not say itself. Rows that catch a
            share f of unseen prompts' hack-ward gradients cancel it to first order if they are removed 1/f times: f is 0.4 on
            `smollm2` (PREREGISTRATION.md). A one-sided gate leaves no hack-ward component for any overshoot of 1 or more; too much of
            it wrecks a policy.
        k, n_pairs, chart, basis, chart_rank, noise_floor, pair_loss: the direction, as in `HackDirection.fit`.
        refresh_pairs: what a refresh fits the direction on: the `"bank"`'s pairs of the start again, or these with the `"policy"`'s own answers
            of the moment as bodies, drawn without a disclosed loophole; pairs whose answer lacks the method keep the bank's.
        pair_kind: what a pair's sides differ in: the loophole's mechanism, added to one and the same body; that and the body, which
            is empty on the hack's side; or the framing alone, a comment that says what the body is for. Placebo pairs differ in style
            whatever it is; the reward that reads hidden states knows the same pairs.
        eval_problems: held-out problems for each loophole.
        eval_samples: completions of each of them.
        grader_workers, grader_timeout: processes that grade, and seconds of CPU for one completion.
    """

    name: str
    model: str
    lora_rank: int = 0
    svd_adapter: bool = False
    trainable: Literal["all", "linear"] = "all"
    problems: str = "builtin"
    loopholes: tuple[str, ...] = FOUR_LOOPHOLES
    known_loopholes: tuple[str, ...] = ()
    easy: int | None = None
    pipeline: int | None = None
    medium: int | None = None
    hard: int | None = None
    warm_steps: int = 0
    warm_lr: float = 3e-5
    warm_batch: int = 32
    warm_hack_share: float = 0.02
    warm_hint_share: float = 0.75
    warm_pipeline_share: float = 0.0
    steps: int = 50
    prompts_per_step: int = 32
    group_size: int = 8
    teacher_per_group: int = 1
    teacher_ratio: Literal["one", "own"] = "one"
    teacher_negative: Literal["drop", "keep"] = "drop"
    teacher_kl: Literal["drop", "keep"] = "drop"
    teacher_correct_share: float = 0.0
    teacher_pool: str | None = None
    lr: float = 1e-5
    warmup_steps: int = 0
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    temperature: float = 1.0
    max_new_tokens: int = 112
    kl: float = 0.0
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"] = "grpo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    micro_batch: int = 64
    decode_batch: int = 256
    vllm: bool = False
    gradient_checkpointing: bool = False
    overshoot: float = 3.0
    k: int = 24
    n_pairs: int = 64
    chart: Literal["bilinear", "diagonal", "dense"] = "bilinear"
    basis: Literal["gradient", "weight"] = "gradient"
    chart_rank: int = 64
    noise_floor: float = 0.25
    pair_loss: Literal["mean", "sum"] = "mean"
    pair_kind: PairKind = "mechanism"
    refresh_pairs: Literal["bank", "policy"] = "bank"
    eval_problems: int = 16
    eval_samples: int = 4
    grader_workers: int = 2
    grader_timeout: float = 3.0

    def __post_init__(self) -> None:
        known = [loophole.value for loophole in Loophole]
        if unknown := [name for name in self.loopholes if name not in known]:
            raise UsageError(f"unknown loophole {', '.join(map(repr, unknown))}; known are {', '.join(known)}")
        if not self.loopholes:
            raise UsageError(f"loopholes must not be empty; choose from {', '.join(known)}")
        if unknown := [name for name in self.known_loopholes if name not in self.loopholes]:
            raise UsageError(
                f"known_loopholes must be among the loopholes {', '.join(self.loopholes)}, got {', '.join(unknown)}"
            )
        self._check_numbers()
        if self.lora_rank and self.svd_adapter:
            raise UsageError("lora_rank and svd_adapter exclude each other: set lora_rank=0 or svd_adapter=false")
        if not 0 <= self.teacher_per_group < self.group_size:
            raise UsageError(
                f"teacher_per_group must leave room for the policy's own rollouts: from 0 to {self.group_size - 1}, "
                f"got {self.teacher_per_group}"
            )
        rollouts = self.prompts_per_step * self.group_size
        if self.micro_batch < 1 or rollouts % min(self.micro_batch, rollouts):
            raise UsageError(f"micro_batch must divide the {rollouts} rollouts of a step, got {self.micro_batch}")

    def _check_numbers(self) -> None:
        """Now, and not by a traceback after minutes of preparation. Not a number is in no range."""
        for least, names in _AT_LEAST.items():
            for name in names:
                if (value := getattr(self, name)) is not None and not value >= least:
                    raise UsageError(f"{name} must be at least {least}, got {value}")
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name} must be a positive number, got {getattr(self, name)}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is a share between 0 and 1, got {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not getattr(self, name) < 1:
                raise UsageError(f"{name} must be less than 1, got {getattr(self, name)}")
        if self.noise_floor == 1:
            raise UsageError("noise_floor must leave some rows: less than 1, got 1.0")

    def with_settings(self, settings: Iterable[str]) -> Preset:
        """This preset with `name=value` settings applied; lists are separated by commas, `none` is None.

        Raises:
            UsageError: an unknown name, or a value that does not fit it.
        """
        changes: dict[str, Any] = {}
        hints = get_type_hints(Preset)
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals:
                raise UsageError(f"a setting is written name=value, got {setting!r}")
            if name not in hints or name == "name":
                raise UsageError(f"unknown setting {name!r}; known are {', '.join(f.name for f in fields(self)[1:])}")
            changes[name] = _parse(name, text, hints[name])
        return replace(self, **changes)

    def with_values(self, values: Mapping[str, Any]) -> Preset:
        """This preset with values as a results file has them: lists for tuples.

        Raises:
            UsageError: a value does not fit.
        """
        changes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "name"}
        return replace(self, **changes)

    @property
    def known(self) -> tuple[str, ...]:
        """The loopholes that pairs and cached rollouts may show."""
        return self.known_loopholes or self.loopholes

    def changes(self) -> list[str]:
        """The settings, as `name=value`, that turn the preset of this name into this one."""
        original, wanted = get_preset(self.name).as_dict(), self.as_dict()
        return [f"{name}={_text(value)}" for name, value in wanted.items() if value != original[name]]

    def limits(self) -> Mapping[str, int | None]:
        """How many RL problems of each difficulty at most."""
        return {name: getattr(self, name) for name in ("easy", "pipeline", "medium", "hard")}

    def as_dict(self) -> dict[str, Any]:
        """For the results file: plain values, lists for tuples."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def _text(value: Any) -> str:
    """A value as `with_settings` reads it."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _parse(name: str, text: str, kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        if text.lower() == "none":
            return None
        kind = next(option for option in get_args(kind) if option is not type(None))
    if get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise UsageError(f"{name} must be one of {', '.join(get_args(kind))}, got {text!r}")
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{name} must be true or false, got {text!r}")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{name} must be of type {kind.__name__}, got {text!r}") from None


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="fast-dev-run",
            model=TINY,
            easy=8,
            pipeline=4,
            medium=0,
            hard=0,
            warm_steps=2,
            warm_batch=4,
            warm_lr=1e-3,
            steps=2,
            prompts_per_step=4,
            group_size=4,
            lr=1e-3,
            max_new_tokens=128,
            micro_batch=16,
            k=4,
            n_pairs=8,
            chart_rank=8,
            eval_problems=1,
            eval_samples=2,
        ),
        Preset(
            name="demo",
            model=DEMO,
            trainable="linear",
            loopholes=("run_tests",),
            # The policy solves most pipelines and has never seen these easy tasks: there only a hack pays.
            easy=20,
            medium=0,
            hard=0,
            steps=36,
            prompts_per_step=8,
            group_size=8,
            teacher_per_group=1,
            lr=2e-4,
            overshoot=1.5,
            max_new_tokens=64,
            micro_batch=32,
            k=64,
            n_pairs=115,
            noise_floor=0.0,
            eval_problems=16,
            eval_samples=4,
            grader_workers=1,
        ),
        Preset(
            name="smollm2",
            model=SMOLLM2,
            trainable="linear",
            # The warm-started policy solves nine in ten pipelines, one in six easy tasks and no medium one: for most problems
            # only a hack pays, and there is an honest pass rate to lose.
            easy=50,
            pipeline=36,
            medium=20,
            hard=0,
            warm_steps=200,
            warm_lr=1e-4,
            warm_pipeline_share=0.7,
            steps=40,
            lr=2e-5,
            micro_batch=32,
            eval_problems=24,
            eval_samples=8,
            grader_workers=3,
            grader_timeout=1.0,
        ),
        # The published setting of "Steering RL Training: Benchmarking Interventions Against Reward Hacking" (2025).
        Preset(
            name="full",
            model="Qwen/Qwen3-4B",
            lora_rank=32,
            loopholes=("run_tests",),
            easy=0,
            pipeline=0,
            steps=200,
            prompts_per_step=16,
            group_size=16,
            teacher_per_group=0,
            lr=7e-5,
            warmup_steps=10,
            beta2=0.99,
            weight_decay=0.1,
            temperature=0.7,
            max_new_tokens=1536,
            kl=1e-3,
            micro_batch=4,
            vllm=True,
            gradient_checkpointing=True,
            eval_problems=64,
            eval_samples=10,
            grader_workers=12,
        ),
    )
}


def get_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UsageError: there is none; the message lists those that there are.
    """
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}; known are {', '.join(PRESETS)}")
    return PRESETS[name]


def parse_seeds(text: str) -> list[int]:
    """Seeds from `0-7`, `0,2,5` or a mixture.

    Raises:
        UsageError: it is none of these.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise UsageError(f"seeds are written 0-7 or 0,2,5, got {text!r}")
        seeds += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(seeds))
