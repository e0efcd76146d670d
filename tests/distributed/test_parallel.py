"""Two processes train like one: DDP, FSDP2, HSDP and tensor parallelism on gloo; what cannot be supported is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.distributed.ranks import Ranks

on_fsdp2 = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="FSDP2 of this torch (2.6) runs on accelerators alone"
)
FSDP2 = pytest.param("fsdp2", marks=on_fsdp2)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    pool = Ranks(tmp_path_factory.mktemp("ranks"))
    yield pool
    pool.close()


@pytest.mark.parametrize("space", ["gradient", "update"])
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("layout", ["ddp", FSDP2])
def test_parallel_training_equals_a_single_process(ranks: Ranks, layout: str, kind: str, space: str) -> None:
    ranks.run(layout, kind=kind, space=space, gate="one_sided" if kind == "SGD" else "two_sided")


@pytest.mark.parametrize("layout", ["ddp", FSDP2])
def test_norms_are_preserved_in_parallel_too(ranks: Ranks, layout: str) -> None:
    ranks.run(layout, kind="SGD", preserve_norm=True)


@pytest.mark.parametrize("write_back", ["auto", "exact"])
def test_replicas_round_alike(ranks: Ranks, write_back: str) -> None:
    ranks.run("ddp_low_precision", write_back=write_back)


@on_fsdp2
@pytest.mark.parametrize("shape", [[1, 2], [2, 1]])
def test_replicas_of_shards_reduce_over_the_shards_alone(ranks: Ranks, shape: list[int]) -> None:
    ranks.run("hsdp", shape=shape)


@on_fsdp2
@pytest.mark.parametrize("how", ["by name", "accelerate"])
def test_parameters_may_be_replaced_after_the_optimizer_was_made(ranks: Ranks, how: str) -> None:
    ranks.run("replaced_parameters", how=how)


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param("fsdp2_traffic", marks=on_fsdp2),
        pytest.param("empty_shards_may_begin_past_the_end", marks=on_fsdp2),
        pytest.param("left_behind_parameters", marks=on_fsdp2),
        "tensor_parallel",
        "replicas_beside_uneven_shards",
        "two_sharded_dimensions_are_refused",
        "flat_layouts_are_refused",
        "replicas_take_the_first_ranks_refresh",
        pytest.param("a_refresh_of_shards_is_refused", marks=on_fsdp2),
        pytest.param("state_dicts_hold_shards", marks=on_fsdp2),
        "copies_of_shards_take_the_same_next_step",
    ],
)
def test_scenario(ranks: Ranks, scenario: str) -> None:
    ranks.run(scenario)


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_sequence_parallel_gradients_are_refused_until_they_are_reduced(ranks: Ranks, space: str) -> None:
    ranks.run("sequence_parallel", space=space)


@on_fsdp2
@pytest.mark.parametrize("space", ["gradient", "update"])
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_a_new_direction_purges_sharded_momentum(ranks: Ranks, kind: str, space: str) -> None:
    ranks.run("a_new_direction_purges_sharded_momentum", kind=kind, space=space)


@on_fsdp2
@pytest.mark.parametrize("space", ["gradient", "update"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_with_a_quarantine_are_sharded(ranks: Ranks, space: str) -> None:
    ranks.run("routed_adapter", timeout=280.0, space=space)  # the ranks import PEFT and transformers first


@on_fsdp2
@pytest.mark.parametrize("write_back", ["auto", "exact"])
def test_low_precision_shards(ranks: Ranks, write_back: str) -> None:
    ranks.run("low_precision_shards", write_back=write_back)


@on_fsdp2
@pytest.mark.parametrize("write_back", ["auto", "exact"])
def test_sharded_checkpoints_resume_exactly(ranks: Ranks, tmp_path: Path, write_back: str) -> None:
    ranks.run("sharded_checkpoint", folder=str(tmp_path), write_back=write_back)
