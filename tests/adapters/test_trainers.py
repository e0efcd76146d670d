"""The adapter in the trainers that people use: `peft_config=` in TRL's SFT and GRPO, projection, save, reload, merge; DDP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from svdproj import ContrastivePair, HackDirection, ProjectedOptimizer
from svdproj.adapters import SVDScaleConfig, ablated, quarantine_of
from svdproj.integrations.transformers import ProjectionCallback, find_projected_optimizer
from svdproj.integrations.trl import ProjectedGRPOTrainer, ProjectionMixin
from tests.adapters.helpers import TOKENS, adapted, fill, llama, logits, named, tokenizer
from tests.adapters.test_quarantine import direction_on

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]

PAIRS = [ContrastivePair(f"say {i}", f"eee {i}", f"abc {i} d") for i in range(4)]
ROWS = Dataset.from_list([{"prompt": "one two"}, {"prompt": "three"}])
COMMON: dict[str, Any] = {
    "use_cpu": True, "bf16": False, "max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "report_to": [],
    "logging_steps": 1, "disable_tqdm": True, "save_strategy": "no", "dataloader_pin_memory": False,
}  # fmt: skip
CHECKPOINTING = (
    "activation_checkpointing" if hasattr(GRPOConfig, "activation_checkpointing") else "gradient_checkpointing"
)


class ProjectedSFTTrainer(ProjectionMixin, SFTTrainer):
    """The mixin on TRL's SFT."""


def letters(completions: list[str], **_: Any) -> list[float]:
    return [float(completion.count("e")) for completion in completions]


def fitted() -> HackDirection:
    """Fitted on a wrapped copy of the model that the trainer is going to wrap: the names are the same."""
    peft_model = get_peft_model(llama(), SVDScaleConfig(quarantine=True))
    return HackDirection.fit(peft_model, tokenizer(), PAIRS, k=2, noise_floor=0.0, holdout=0.0, progress=False)


def grpo(folder: Path, mode: str, callbacks: list[TrainerCallback] | None = None, **options: Any) -> Any:
    settings = GRPOConfig(
        str(folder), num_generations=4, max_completion_length=8, beta=0.1, **COMMON, **{CHECKPOINTING: False}
    )
    trainer = ProjectedGRPOTrainer(
        model=llama(), reward_funcs=letters, args=settings, train_dataset=ROWS, processing_class=tokenizer(),
        peft_config=SVDScaleConfig(task_type="CAUSAL_LM", quarantine=True), direction=fitted(),
        projection={"mode": mode, "gate": "two_sided", **options}, callbacks=callbacks,
    )  # fmt: skip
    trainer.train()
    return trainer


@pytest.mark.parametrize("mode", ["erase", "route"])
def test_grpo_trains_projects_saves_reloads_and_merges(mode: str, tmp_path: Path) -> None:
    trainer = grpo(tmp_path, mode)
    model = trainer.model
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 2
    assert all(entry["svdproj/projected"] == 14 for entry in entries)
    assert any(entry["svdproj/removed"] > 0 for entry in entries)
    # The reference policy of the KL term is the adapter switched off: no second copy of the model.
    assert "kl" in entries[0]
    assert trainer.ref_model is None
    assert "ref" not in model.peft_config
    assert any(p.any() for p in named(model, "s").values())
    assert any(p.any() for p in quarantine_of(model).values()) == (mode == "route")
    base = llama().eval()
    with model.disable_adapter():
        assert torch.equal(logits(model.eval()), logits(base))
    # What routing kept out of `s` is out of the model when ablated: as erased.
    direction = find_projected_optimizer(trainer.optimizer).direction  # type: ignore[union-attr]
    scales = {n.removeprefix("base_model.model."): p for n, p in named(model, "s").items()}
    for name, subspace in direction.subspaces.items():
        coefficients = subspace.coefficients(scales[name].detach())
        assert coefficients.norm() <= 1e-4 * scales[name].norm() + 1e-7
    trainer.save_model(str(tmp_path / "adapter"))
    again = PeftModel.from_pretrained(llama().eval(), str(tmp_path / "adapter"))
    assert torch.equal(logits(again), logits(model))
    with ablated(again):
        without = logits(again)
        merged = again.merge_and_unload()
    torch.testing.assert_close(logits(merged), without, rtol=0, atol=1e-5)
    assert (logits(merged) - logits(base)).abs().max() > 1e-5


def test_sft_trains_and_resumes_to_the_bit(tmp_path: Path) -> None:
    """A checkpoint holds scales, quarantine and optimizer; training on from it is training on."""

    def trainer(folder: str, steps: int) -> Any:
        settings = SFTConfig(
            str(tmp_path / folder), **{**COMMON, "max_steps": steps, "save_strategy": "steps"}, save_steps=1, max_length=16,
            completion_only_loss=True, **{CHECKPOINTING: True},
        )  # fmt: skip
        rows = Dataset.from_list([{"prompt": f"say {i}", "completion": f" eee {i}"} for i in range(12)])
        return ProjectedSFTTrainer(
            model=llama(), args=settings, train_dataset=rows, processing_class=tokenizer(),
            peft_config=SVDScaleConfig(task_type="CAUSAL_LM", quarantine=True), direction=fitted(),
            projection={"mode": "route", "gate": "two_sided"},
        )  # fmt: skip

    whole = trainer("whole", 2)
    whole.train()
    assert all(p.any() for p in named(whole.model, "s").values())
    again = trainer("again", 2)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    for kind in ("s", "quarantine"):
        assert any(p.any() for p in named(whole.model, kind).values())
        for name, parameter in named(whole.model, kind).items():
            assert torch.equal(again.model.get_parameter(name), parameter), name


def test_a_refresh_extracts_with_the_quarantine_ablated(tmp_path: Path) -> None:
    flags = []

    def refit(model: Any, processing_class: Any) -> HackDirection:
        layers = [m for m in model.modules() if hasattr(m, "svdscale_ablated")]
        flags.append([layer.svdscale_ablated for layer in layers])
        return HackDirection.fit(model, processing_class, PAIRS, k=2, noise_floor=0.0, holdout=0.0, progress=False)

    trainer = grpo(tmp_path, "route", [ProjectionCallback(refresh_every=1, refit=refit)])
    assert flags == [[True] * 14] * 2
    assert not any(m.svdscale_ablated for m in trainer.model.modules() if hasattr(m, "svdscale_ablated"))


def test_a_trained_adapter_is_its_own_reference_in_trl(tmp_path: Path) -> None:
    """TRL copies `default` into an adapter `ref` when the KL term is asked of an adapter that is already trained."""
    model = adapted()
    fill(model)
    start = logits(model)
    settings = GRPOConfig(
        str(tmp_path), num_generations=4, max_completion_length=4, beta=0.1, **{**COMMON, "max_steps": 1},
        **{CHECKPOINTING: False},
    )  # fmt: skip
    trainer = GRPOTrainer(model, reward_funcs=letters, args=settings, train_dataset=ROWS, processing_class=tokenizer())
    trainer.train()
    assert not torch.equal(logits(trainer.model.eval()), start)
    trainer.model.set_adapter("ref")
    assert torch.equal(logits(trainer.model), start)


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_ddp_trains_a_quarantine_that_no_gradient_reaches(space: Any, tmp_path: Path) -> None:
    """The reducer would wait for gradients that never come, and buffers would be broadcast at every step."""
    alone, model = adapted(quarantine=True), adapted(quarantine=True)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(model)
        vectors = {n for n, _ in model.named_buffers() if "svdscale_u" in n}
        assert vectors
        assert vectors <= parallel.parameters_to_ignore
        for wrapped_model, inner in ((alone, alone), (parallel, model)):
            optimizer = ProjectedOptimizer(
                torch.optim.AdamW([p for p in inner.parameters() if p.requires_grad], lr=0.01), direction_on(inner),
                wrapped_model, mode="route", space=space, quarantine=quarantine_of(inner),
            )  # fmt: skip
            for _ in range(3):
                optimizer.zero_grad()
                wrapped_model(TOKENS, labels=TOKENS).loss.backward()
                optimizer.step()
    finally:
        dist.destroy_process_group()
    assert any(p.any() for p in quarantine_of(model).values())
    torch.testing.assert_close(logits(model), logits(alone))
