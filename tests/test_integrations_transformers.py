"""Promises of the Trainer integration: the factory and the mixin project, an empty direction changes nothing, refreshes resume."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from svdproj import ContrastivePair, HackDirection, ProjectedOptimizer
from svdproj.integrations.transformers import (
    DIRECTION_FILE,
    ProjectionCallback,
    ProjectionMixin,
    find_projected_optimizer,
    projected_optimizer_factory,
)
from svdproj.metadata import Energy

STEPS = 4
OPTIONS = {"lr": 1e-2, "weight_decay": 0.1}


class MixedTrainer(ProjectionMixin, Trainer):
    """The mixin on the plain trainer."""


class Tokens(Dataset[dict[str, torch.Tensor]]):
    """Random sequences to predict."""

    def __init__(self) -> None:
        self.rows = torch.randint(40, (32, 12), generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def make_direction(seed: int = 0) -> HackDirection:
    generator = torch.Generator().manual_seed(seed)
    return HackDirection.from_gradients(
        {
            name: torch.randn(6, *parameter.shape, generator=generator)
            for name, parameter in make_model().named_parameters()
            if "proj" in name
        },
        chart="dense",
        k=4,
    )


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    fixed = {
        "use_cpu": True, "max_steps": STEPS, "logging_steps": 1, "report_to": [], "disable_tqdm": True,
        "per_device_train_batch_size": 4, "save_strategy": "no", "learning_rate": OPTIONS["lr"],
        "weight_decay": OPTIONS["weight_decay"], "dataloader_pin_memory": False,
    }  # fmt: skip
    return TrainingArguments(str(folder), **{**fixed, **changes})


def logged(trainer: Trainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


@pytest.mark.parametrize("space", ["update", "gradient"])
def test_the_factory_projects_every_step_and_the_callback_logs_it(space: str, tmp_path: Path) -> None:
    trainer = Trainer(
        make_model(),
        arguments(tmp_path),
        train_dataset=Tokens(),
        optimizer_cls_and_kwargs=projected_optimizer_factory(
            make_direction(), optimizer_kwargs=OPTIONS, space=space, gate="two_sided"
        ),
        callbacks=[ProjectionCallback()],
    )
    trainer.train()
    projected = find_projected_optimizer(trainer.optimizer)
    assert isinstance(projected, ProjectedOptimizer)
    assert f"space={space!r}" in repr(projected)
    assert len(logged(trainer)) == STEPS
    for entry in logged(trainer):
        assert entry["svdproj/projected"] == len(make_direction())
        assert entry["svdproj/removed"] > 0
        assert entry["svdproj/residual"] < 1e-4


@pytest.mark.parametrize("way", ["factory", "mixin"])
def test_an_empty_direction_trains_as_the_bare_trainer_does(way: str, tmp_path: Path) -> None:
    bare = Trainer(make_model(), arguments(tmp_path, optim="adamw_torch"), train_dataset=Tokens())
    bare.train()
    empty = HackDirection.empty()
    common = {"args": arguments(tmp_path, optim="adamw_torch"), "train_dataset": Tokens()}
    if way == "factory":
        factory = projected_optimizer_factory(empty, optimizer_kwargs=OPTIONS)
        wrapped: Trainer = Trainer(make_model(), optimizer_cls_and_kwargs=factory, **common)
    else:
        wrapped = MixedTrainer(make_model(), direction=empty, **common)
    wrapped.train()
    assert all(torch.equal(a, b) for a, b in zip(weights(bare), weights(wrapped), strict=True))
    assert [group["weight_decay"] for group in wrapped.optimizer.param_groups] == [OPTIONS["weight_decay"], 0.0]
    assert [len(group["params"]) for group in wrapped.optimizer.param_groups] == [
        len(group["params"]) for group in bare.optimizer.param_groups
    ]


def test_the_mixin_logs_without_a_callback(tmp_path: Path) -> None:
    trainer = MixedTrainer(make_model(), arguments(tmp_path), train_dataset=Tokens(), direction=make_direction())
    assert trainer.projection_metrics() == {}
    trainer.train()
    assert all(entry["svdproj/cos_in"] > 0 for entry in logged(trainer))
    assert all(entry["svdproj/cos_out"] < 1e-4 for entry in logged(trainer))


def test_a_forgotten_learning_rate_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "svdproj"):
        projected_optimizer_factory(HackDirection.empty())
    assert "args.learning_rate" in caplog.text


def test_a_refresh_changes_the_direction_logs_the_overlap_and_is_saved(tmp_path: Path) -> None:
    refreshed: list[int] = []

    def refit(model: torch.nn.Module, tokenizer: Any) -> HackDirection:
        assert isinstance(model, LlamaForCausalLM)
        refreshed.append(len(refreshed) + 1)
        return make_direction(seed=refreshed[-1])

    trainer = MixedTrainer(
        make_model(),
        arguments(tmp_path, save_strategy="steps", save_steps=STEPS),
        train_dataset=Tokens(),
        direction=make_direction(),
        callbacks=[ProjectionCallback(refresh_every=2, refit=refit)],
    )
    trainer.train()
    assert refreshed == [1, 2]
    overlaps = [entry.get("svdproj/refresh_overlap") for entry in logged(trainer)]
    assert overlaps[0] is overlaps[2] is None
    assert 0 < overlaps[1] < 1  # type: ignore[operator]
    saved = HackDirection.load(tmp_path / f"checkpoint-{STEPS}" / DIRECTION_FILE)
    assert saved.fingerprint == make_direction(seed=2).fingerprint


def test_a_refresh_logs_what_its_rows_catch_of_held_out_pairs_where_it_knows(tmp_path: Path) -> None:
    def refit(*_: Any) -> HackDirection:
        found = make_direction()
        known = Energy(rows_held_out=0.4) if trainer.state.global_step == 2 else Energy()
        return HackDirection(found.subspaces, replace(found.metadata, energy=known))

    trainer = MixedTrainer(
        make_model(),
        arguments(tmp_path),
        train_dataset=Tokens(),
        direction=make_direction(),
        callbacks=[ProjectionCallback(refresh_every=1, refit=refit)],
    )
    trainer.train()
    caught = [entry.get("svdproj/refresh_rows_held_out") for entry in logged(trainer)]
    assert caught == [None, 0.4, *[None] * (STEPS - 2)]


def test_the_mixin_resumes_with_the_refreshed_direction(tmp_path: Path) -> None:
    def train(folder: Path, resume: str | None = None, **changes: Any) -> MixedTrainer:
        trainer = MixedTrainer(
            make_model(),
            arguments(folder, save_strategy="steps", save_steps=2, **changes),
            train_dataset=Tokens(),
            direction=make_direction(),
            callbacks=[ProjectionCallback(refresh_every=2, refit=lambda *_: make_direction(seed=7))],
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = train(tmp_path)
    resumed = train(tmp_path, resume=str(tmp_path / "checkpoint-2"))
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


def test_refreshing_from_pairs_fits_them_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [ContrastivePair("a", "b", "c")]
    seen: list[Any] = []
    monkeypatch.setattr(
        HackDirection, "fit", lambda *args, **options: seen.append((args, options)) or make_direction(3)
    )
    trainer = MixedTrainer(
        make_model(),
        arguments(tmp_path),
        train_dataset=Tokens(),
        direction=make_direction(),
        callbacks=[ProjectionCallback(refresh_every=3, pairs=pairs, fit_options={"k": 2})],
    )
    trainer.train()
    ((args, options),) = seen
    assert args[2] == pairs
    assert options == {"progress": False, "k": 2}


@pytest.mark.parametrize(
    "options",
    [
        {"refresh_every": 0, "pairs": []},
        {"refresh_every": 2},
        {"refresh_every": 2, "pairs": [], "refit": make_direction},
    ],
)
def test_a_callback_that_cannot_refresh_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="refresh_every"):
        ProjectionCallback(**options)


def test_the_callback_is_silent_beside_a_bare_optimizer(tmp_path: Path) -> None:
    trainer = Trainer(make_model(), arguments(tmp_path), train_dataset=Tokens(), callbacks=[ProjectionCallback()])
    trainer.train()
    assert not any(name.startswith("svdproj/") for entry in logged(trainer) for name in entry)
