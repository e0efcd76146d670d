"""Promises of the TRL integration: the policy gradient's step is projected, and a missing library is named."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from examples.leetcode_grpo.tiny_model import tiny_model
from svdproj import HackDirection
from svdproj.integrations.transformers import find_projected_optimizer
from svdproj.integrations.trl import ProjectedGRPOTrainer

# TRL 1.16 asks for the old name of an option that transformers 5.20 renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def letters(completions: list[str], **_: Any) -> list[float]:
    """A reward in which a random policy's completions differ."""
    return [float(completion.count("e")) for completion in completions]


def configuration(folder: Path) -> GRPOConfig:
    return GRPOConfig(
        str(folder), use_cpu=True, bf16=False, max_steps=2, per_device_train_batch_size=4, num_generations=4,
        max_completion_length=8, learning_rate=1e-3, report_to=[], logging_steps=1, disable_tqdm=True, save_strategy="no",
        dataloader_pin_memory=False, **{CHECKPOINTING: False},
    )  # fmt: skip


CHECKPOINTING = (
    "activation_checkpointing" if hasattr(GRPOConfig, "activation_checkpointing") else "gradient_checkpointing"
)


def train(folder: Path, direction: HackDirection | None, projection: dict[str, Any] | None = None) -> Any:
    model, tokenizer = tiny_model()
    common = {
        "model": model,
        "reward_funcs": letters,
        "args": configuration(folder),
        "train_dataset": Dataset.from_list([{"prompt": "one two"}, {"prompt": "three"}]),
        "processing_class": tokenizer,
    }
    if direction is None:
        trainer: Any = GRPOTrainer(**common)
    else:
        trainer = ProjectedGRPOTrainer(**common, direction=direction, projection=projection)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def direction() -> HackDirection:
    generator = torch.Generator().manual_seed(0)
    return HackDirection.from_gradients(
        {
            name: torch.randn(6, *parameter.shape, generator=generator)
            for name, parameter in tiny_model()[0].named_parameters()
            if "proj" in name
        },
        chart="dense",
        k=4,
    )


def test_grpo_steps_are_projected_and_logged(direction: HackDirection, tmp_path: Path) -> None:
    trainer = train(tmp_path, direction, {"gate": "two_sided"})
    optimizer = find_projected_optimizer(trainer.optimizer)
    assert optimizer is not None
    assert "gate='two_sided'" in repr(optimizer)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 2
    for entry in entries:
        assert entry["svdproj/projected"] == len(direction)
        assert entry["svdproj/cos_in"] > 0
        assert entry["svdproj/residual"] < 1e-4
        assert "reward" in entry


@pytest.mark.parametrize("way", ["empty", "measure"])
def test_without_erasing_it_is_trls_own_trainer(way: str, direction: HackDirection, tmp_path: Path) -> None:
    bare = train(tmp_path, None)
    wrapped = (
        train(tmp_path, HackDirection.empty()) if way == "empty" else train(tmp_path, direction, {"mode": "measure"})
    )
    for (name, expected), value in zip(bare.model.named_parameters(), wrapped.model.parameters(), strict=True):
        assert torch.equal(value, expected), name


@pytest.mark.parametrize(("module", "missing"), [("transformers", "transformers"), ("trl", "trl")])
def test_an_absent_library_is_one_line_that_names_the_extra(module: str, missing: str) -> None:
    program = f"""
        import sys
        sys.modules[{missing!r}] = None
        try:
            import svdproj.integrations.{module}
        except ModuleNotFoundError as error:
            print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, timeout=120
    )
    (line,) = result.stdout.splitlines()
    assert missing in line
    assert "pip install 'svdproj[trl]'" in line
