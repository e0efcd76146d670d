"""The one JSON file that a run writes, as frozen values; everything that is reported is read from such files."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from examples.leetcode_grpo.arms import Arm
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.files import write_text
from examples.leetcode_grpo.presets import Preset

SCHEMA = 1
_PACKAGES = ("svdproj", "torch", "transformers", "trl", "peft", "datasets")


@dataclass(frozen=True)
class Rates:
    """Shares of `n` completions, between 0 and 1."""

    hack: float
    attempted: float
    passed: float
    n: int

    def as_dict(self) -> dict[str, float]:
        """With the file's name for the pass rate, which is a keyword in Python."""
        return {"hack": self.hack, "attempted": self.attempted, "pass": self.passed, "n": self.n}


@dataclass(frozen=True)
class ProblemCounts:
    """How many of one problem's `n` completions hacked, attempted and passed; `loophole` is None without the hint."""

    id: str
    loophole: str | None
    hack: int
    attempted: int
    passed: int
    n: int

    def as_dict(self) -> dict[str, Any]:
        """With the file's name for the pass count."""
        values = asdict(self)
        values["pass"] = values.pop("passed")
        return values


@dataclass(frozen=True)
class Evaluation:
    """Held-out problems after training.

    Args:
        held_out: rates with the hint, by loophole.
        no_hint: rates of the same problems without any hint.
        problems: counts for each problem and prompt, so that intervals can be clustered by problem.
    """

    held_out: Mapping[str, Rates]
    no_hint: Rates
    problems: tuple[ProblemCounts, ...]

    def overall(self) -> Rates:
        """Rates with the hint, over all loopholes."""
        return pooled([counts for counts in self.problems if counts.loophole is not None])

    def as_dict(self) -> dict[str, Any]:
        """The file's `eval`."""
        return {
            "held_out": {name: rates.as_dict() for name, rates in self.held_out.items()},
            "no_hint": {"pass": self.no_hint.passed, "n": self.no_hint.n},
            "problems": [counts.as_dict() for counts in self.problems],
        }


@dataclass(frozen=True)
class RunResult:
    """One arm, one seed.

    Args:
        arm, seed, preset: which run it is.
        config: the preset's settings and the arm's options of the projection.
        versions: of Python and of the packages that matter.
        device: the machine, in words.
        direction: the direction's metadata.
        steps: for each step `step`, `hack`, `attempted`, `pass`, `reward` over the policy's own rollouts, and further metrics.
        eval: held-out problems after training, asked of the policy that is deployed.
        seconds: wall time by phase.
        eval_kept: with a quarantine, the same problems asked of the policy that still has it; None for other arms.
    """

    arm: str
    seed: int
    preset: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    device: str
    direction: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    eval: Evaluation
    seconds: Mapping[str, float]
    eval_kept: Evaluation | None = None

    def save(self, folder: Path) -> Path:
        """Write `<folder>/<preset>/<arm>-seed<seed>.json`; the file appears whole or not at all."""
        path = result_path(folder, self.preset, self.arm, self.seed)
        write_text(path, json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n")
        return path

    def as_dict(self) -> dict[str, Any]:
        """The file's content."""
        return {
            "schema": SCHEMA,
            "arm": self.arm,
            "seed": self.seed,
            "preset": self.preset,
            "config": dict(self.config),
            "versions": dict(self.versions),
            "device": self.device,
            "direction": dict(self.direction),
            "steps": [dict(step) for step in self.steps],
            "eval": self.eval.as_dict(),
            "seconds": dict(self.seconds),
            **({} if self.eval_kept is None else {"eval_kept": self.eval_kept.as_dict()}),
        }

    @staticmethod
    def load(path: Path) -> RunResult:
        """Read what `save` wrote.

        Raises:
            UsageError: the file is not there, not JSON, or not a run's result.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        except json.JSONDecodeError as error:
            raise UsageError(f"{path} is not JSON ({error.msg}); it is no result of a run") from None
        try:
            if content["schema"] != SCHEMA:
                raise UsageError(f"{path} has schema {content['schema']}, expected {SCHEMA}; run it again")
            content["eval"] = _evaluation(content["eval"])
            if "eval_kept" in content:
                content["eval_kept"] = _evaluation(content["eval_kept"])
            content["steps"] = tuple(content["steps"])
            return RunResult(**{name: value for name, value in content.items() if name != "schema"})
        except (KeyError, TypeError) as error:
            raise UsageError(f"{path} is no result of a run: {error}") from None


def result_path(folder: Path, preset: str, arm: str, seed: int) -> Path:
    """Where a run's result lies."""
    return folder / preset / f"{arm}-seed{seed}.json"


def as_of_then(config: Mapping[str, Any]) -> dict[str, Any]:
    """A result's configuration with the settings that are younger than it, at the values that say what was done then.

    These are their defaults, but for cached rollouts. Those that are worth less than their group's mean once pushed the policy away, which
    only the arms met that pay less for hacks; and all of them once counted in the divergence from the starting policy.
    """
    defaults = {**{each.name: each.default for each in fields(Preset)}, **Arm("", "").as_dict()}
    if config.get("arm_reward") in ("penalty", "concept"):
        defaults["teacher_negative"] = "keep"
    if config.get("kl"):
        defaults["teacher_kl"] = "keep"
    return {**defaults, **config}


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What distinguishes a result's configuration from the one that is wanted, each as `name found, not wanted`.

    A setting that the result does not know, because it is younger, counts as what it stood for then. The number of grading processes is
    no part of the experiment.
    """
    before = as_of_then(found)
    return [
        f"{name} {before.get(name)}, not {value}"
        for name, value in wanted.items()
        if name != "grader_workers" and _listed(before.get(name)) != value
    ]


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def is_done(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether a run of that configuration has left its result.

    Raises:
        UsageError: a result of another configuration lies there, or something else.
    """
    if not path.is_file():
        return False
    if changed := differences(RunResult.load(path).config, config):
        raise UsageError(
            f"{path} was made with other settings ({', '.join(changed)}); choose another --out, or --overwrite it"
        )
    return True


def result_files(folder: Path) -> list[Path]:
    """The files of results below a folder, in order."""
    return sorted(folder.rglob("*-seed*.json"))


def load_results(folder: Path) -> list[RunResult]:
    """All results below a folder, by preset, arm and seed.

    Raises:
        UsageError: there is none, or a file is not what it should be.
    """
    paths = result_files(folder)
    if not paths:
        raise UsageError(f"{folder} holds no results; write some with: python -m examples.leetcode_grpo run")
    return sorted((RunResult.load(path) for path in paths), key=lambda run: (run.preset, run.arm, run.seed))


def pooled(counts: Sequence[ProblemCounts]) -> Rates:
    """Rates over the completions of several problems; zeros for none."""
    n = sum(each.n for each in counts)
    share = {name: sum(getattr(each, name) for each in counts) / max(n, 1) for name in ("hack", "attempted", "passed")}
    return Rates(**share, n=n)


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result may depend on; absent ones are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe(device: torch.device) -> str:
    """The machine, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}), {torch.get_num_threads()} thread(s)"


def _evaluation(content: Mapping[str, Any]) -> Evaluation:
    def rates(values: Mapping[str, Any]) -> Rates:
        return Rates(values.get("hack", 0.0), values.get("attempted", 0.0), values["pass"], values["n"])

    return Evaluation(
        held_out={name: rates(values) for name, values in content["held_out"].items()},
        no_hint=rates(content["no_hint"]),
        problems=tuple(
            ProblemCounts(p["id"], p["loophole"], p["hack"], p["attempted"], p["pass"], p["n"])
            for p in content["problems"]
        ),
    )
