"""Arms: what a run does with the direction. One frozen value each, found by name.

The strict oracle and the loophole detectors have no way in here: an arm chooses pairs beforehand and options of the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.presets import Preset

Source = Literal["hack", "random", "random-matched", "placebo"]
Reward = Literal["environment", "honest", "penalty", "concept"]
Quarantine = Literal["none", "empty", "seeded"]


@dataclass(frozen=True)
class Arm:
    """One row of the experiment's table.

    Args:
        name: as in files and tables.
        purpose: one line for the report.
        source: the direction: from hack against clean, a random one of the same shape or one that removes as much, or from clean
            against clean.
        projection: options of `ProjectedOptimizer`; an overshoot that is not among them is the preset's.
        shrink: take away as much of every step's length as the projection would, without turning it.
        reward: what is paid: what the `environment` pays; `honest` discloses no loophole and pays for none; `penalty` and `concept`
            are the baselines of `examples.leetcode_grpo.baselines`.
        quarantine: where what is removed goes: nowhere, or into a quarantine that is `empty` or `seeded` hack-ward at the start.
        numbers: the arm's own: `refresh_every` steps, `matched_ratio`, `penalty`, `alpha`, `absorb_nats`; and `cancel`, which part of the push
            of held-out pairs a refreshed direction takes away, where it is not removed `overshoot` times.
        settings: `name=value` settings that this arm changes in the preset.
        places: how many of a sweep's places on a GPU a run takes: 2 where it needs twice another's memory there.
    """

    name: str
    purpose: str
    source: Source = "hack"
    projection: Mapping[str, Any] = field(default_factory=dict)
    shrink: bool = False
    reward: Reward = "environment"
    quarantine: Quarantine = "none"
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    places: int = 1

    def configure(self, preset: Preset) -> Preset:
        """The preset as this arm wants it.

        Raises:
            UsageError: a setting is unknown, or its value does not fit.
        """
        return preset.with_settings(self.settings)

    def config(self, preset: Preset) -> dict[str, Any]:
        """What the results file says about a run of this arm: the preset's settings and the arm's own."""
        configured = self.configure(preset)
        return {**configured.as_dict(), **self.as_dict(), **self.options(configured)}

    def options(self, preset: Preset) -> dict[str, Any]:
        """Options of `ProjectedOptimizer` for a run with that preset."""
        return {"overshoot": preset.overshoot, **self.projection}

    def number(self, name: str) -> float:
        """One of the arm's own numbers.

        Raises:
            UsageError: the arm has none of that name, or leaves it open.
        """
        if (value := self.numbers.get(name)) is None:
            raise UsageError(f"the arm {self.name} needs {name}; give it: {self.name}:{name}=1")
        return value

    def as_dict(self) -> dict[str, Any]:
        """What the results file says about the arm."""
        defaults = {"space": "update", "gate": "one_sided", "mode": "erase", "overshoot": 1.0, "preserve_norm": False}
        choices = {
            "direction_source": self.source,
            "shrink": self.shrink,
            "arm_reward": self.reward,
            "quarantine": self.quarantine,
        }
        return {**defaults, **self.projection, **choices, **self.numbers}


# The numbers that each reward needs, with their defaults.
_REWARDS: Mapping[Reward, Mapping[str, float]] = {
    "environment": {},
    "honest": {},
    "penalty": {"penalty": 4.0},
    "concept": {"alpha": 2.0},
}

_ONCE: Mapping[str, Any] = {"overshoot": 1.0}
_MEASURE: Mapping[str, Any] = {"mode": "measure", **_ONCE}
# Scales of singular directions are 0.1 to 30 in size, weights a hundredth of that: so are the steps.
_SVD = ("svd_adapter=true", "lr=3e-3")

ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("vanilla", "plain GRPO; the direction is measured, never applied", projection=_MEASURE),
        Arm(
            "erase-gradient",
            "project the gradient before AdamW sees it",
            projection={"space": "gradient"},
        ),
        Arm("erase-update", "project the update that AdamW applies: the main arm"),
        Arm(
            "erase-update-two-sided",
            "remove the whole component, not only the hack-ward",
            projection={"gate": "two_sided", **_ONCE},
        ),
        Arm("erase-update-reverse", "turn the whole component around", projection={"gate": "reverse", **_ONCE}),
        Arm(
            "erase-update-refresh",
            "as erase-update, with the direction fitted anew every few steps",
            numbers={"refresh_every": 5, "cancel": None},
        ),
        Arm(
            "route",
            "what erase-update would remove goes to a quarantine; deployed without it",
            projection={"mode": "route"},
            quarantine="empty",
        ),
        Arm(
            "absorb",
            "as route, with a quarantine that hacks from the start, so that little is left to learn",
            projection={"mode": "route"},
            quarantine="seeded",
            numbers={"absorb_nats": 0.1},
        ),
        Arm("random", "control: a random subspace of the same shape", source="random"),
        Arm(
            "random-matched",
            "control: a random subspace that removes as much energy",
            source="random-matched",
            numbers={"matched_ratio": None},
            places=2,
        ),
        Arm(
            "shrinkage",
            "control: the loss of length that removing the component once would bring, no change of direction",
            projection=_ONCE,
            shrink=True,
        ),
        Arm("placebo", "control: a direction from clean against clean", source="placebo"),
        Arm("vanilla-svd", "vanilla on the SVD adapter", projection=_MEASURE, settings=_SVD),
        Arm("erase-svd", "erase-update on the SVD adapter", settings=_SVD),
        Arm("no-loophole", "baseline: nothing disclosed, strict grading alone", projection=_MEASURE, reward="honest"),
        Arm(
            "ground-truth-penalty",
            "baseline: the strict oracle takes from the reward of every hack",
            projection=_MEASURE,
            reward="penalty",
            numbers=_REWARDS["penalty"],
        ),
        Arm("kl", "baseline: a penalty on leaving the starting policy", projection=_MEASURE, settings=("kl=0.05",)),
        Arm(
            "advantage-modification",
            "baseline: less reward where hidden states look like hacking",
            projection=_MEASURE,
            reward="concept",
            numbers=_REWARDS["concept"],
        ),
        Arm(
            "weak-detector",
            "erase-update whose pairs and teacher know two loopholes of four",
            settings=("known_loopholes=run_tests,sentinel",),
        ),
    )
}


def get_arm(text: str) -> Arm:
    """The arm of that name, or a variant of it: `erase-update:overshoot=3:k=64`.

    A variant changes options of the projection (`space`, `gate`, `overshoot`, `preserve_norm`, `write_back`), the `reward`
    (`environment`, `honest`, `penalty`, `concept`), the arm's and the reward's own numbers, or settings of the preset. Its name, in
    files and tables, is `erase-update@k=64,overshoot=3`, whatever the order of the changes.

    Raises:
        UsageError: there is no such arm; the message lists those that there are. Or a change is not `name=value`, is given twice, is
            an option, a reward or a number with a wrong value, or a number of another reward.
    """
    name, *changes = text.split(":")
    if name not in ARMS:
        raise UsageError(f"unknown arm {name!r}; known are {', '.join(ARMS)}")
    return _variant(ARMS[name], changes) if changes else ARMS[name]


def _variant(arm: Arm, changes: list[str]) -> Arm:
    given: dict[str, str] = {}
    for change in changes:
        option, equals, value = change.partition("=")
        if not (option and equals and value) or "/" in value:
            raise UsageError(
                f"a variant is written {arm.name}:name=value:…, got {change!r}; paths are set for all arms, by --set"
            )
        if option in given:
            raise UsageError(f"{option} is given twice for a variant of {arm.name}; give it once")
        given[option] = value
    projection = {name: _parse_option(name, given[name], _OPTIONS[name]) for name in _OPTIONS if name in given}
    reward: Reward = _parse_option("reward", given["reward"], _choice(*_REWARDS)) if "reward" in given else arm.reward
    # A reward brings its own numbers, and leaves none behind where another takes its place.
    replaced = _REWARDS[arm.reward] if reward != arm.reward else {}
    known = {**_REWARDS[reward], **{name: value for name, value in arm.numbers.items() if name not in replaced}}
    numbers = {name: _parse_option(name, given[name], _positive) for name in known if name in given}
    for other, needed in _REWARDS.items():
        if stray := sorted(needed.keys() & given.keys() - known.keys()):
            raise UsageError(
                f"{stray[0]} goes with the reward {other!r}; {arm.name} has {reward!r}: add reward={other}"
            )
    own = {*projection, *numbers, "reward"}
    settings = tuple(f"{name}={value}" for name, value in sorted(given.items()) if name not in own)
    # A comma separates changes, so that of a list becomes a plus.
    label = ",".join(f"{name}={value.replace(',', '+')}" for name, value in sorted(given.items()))
    if (every := numbers.get("refresh_every")) is not None and every < 1:
        raise UsageError(f"refresh_every must be at least 1 step, got {every}")
    variant = replace(
        arm,
        name=f"{arm.name}@{label}",
        purpose=f"{arm.name} with {', '.join(sorted(changes))}",
        projection={**arm.projection, **projection},
        reward=reward,
        numbers={**known, **numbers},
        settings=(*arm.settings, *settings),
    )
    if projection:
        _check_together(variant, ":".join([arm.name, *changes]))
    return variant


def _check_together(arm: Arm, text: str) -> None:
    """Choices that exclude each other: now, and not after minutes of preparation."""
    from svdproj.options import ProjectionOptions  # brings torch, for which help shall not wait

    if arm.quarantine != "none" and arm.projection.get("space") == "gradient":
        raise UsageError(f"{text}: a quarantine is stepped in update space, leave space as it is")
    try:
        ProjectionOptions(**{**arm.projection, **({"mode": "shrink"} if arm.shrink else {})})
    except ValueError as error:
        raise UsageError(f"{text}: {error}") from None


def _choice(*known: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(f"one of {', '.join(known)}")
        return text

    return parse


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError("a positive number")
    return value


# The choices of `ProjectedOptimizer`, which would say the same, but only after minutes of preparation.
_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "space": _choice("gradient", "update"),
    "gate": _choice("one_sided", "two_sided", "reverse"),
    "overshoot": _positive,
    "preserve_norm": lambda text: _choice("true", "false")(text.lower()) == "true",
    "write_back": _choice("auto", "exact"),
}


def _parse_option(name: str, text: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{name} must be {error}, got {text!r}") from None
