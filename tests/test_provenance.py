"""Provenance: other weights are noticed and named; figures never outlive the rows that they were measured on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor

from svdproj import DirectionMetadata, HackDirection, ProjectedOptimizer
from svdproj.controls import matched_random_direction, placebo_direction, random_direction
from svdproj.metadata import model_id
from tests.tiny import tiny_llama, tiny_pairs, tiny_tokenizer

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def direction(tokenizer: Any) -> HackDirection:
    return HackDirection.fit(tiny_llama(), tokenizer, tiny_pairs(12), k=3, chart_rank=6, progress=False)


@pytest.fixture(scope="module")
def saved(direction: HackDirection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("direction") / "d.safetensors"
    direction.save(path)
    return path


def test_the_weights_that_it_was_fitted_on_are_recognised(saved: Path) -> None:
    direction = HackDirection.load(saved, tiny_llama())
    assert direction.check_weights(tiny_llama()) == ()
    assert set(direction.metadata.weight_fingerprints) == set(direction.subspaces)


def test_each_changed_weight_is_named(saved: Path) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.get_parameter(NAME)[0, 0] += 1e-6
    with pytest.warns(UserWarning, match=rf"fitted on other weights: 1 of \d+ covered parameters differ \({NAME}"):
        direction = HackDirection.load(saved, model)
    with pytest.warns(UserWarning, match="other weights"):
        assert direction.check_weights(model) == (NAME,)


def test_weights_that_are_not_covered_do_not_matter(saved: Path) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.norm.weight += 1
    HackDirection.load(saved, model)


def test_another_model_of_the_same_shape_differs_everywhere(direction: HackDirection) -> None:
    with pytest.warns(UserWarning, match="other weights"):
        assert set(direction.check_weights(tiny_llama(seed=1))) == set(direction.subspaces)


def test_another_precision_is_another_set_of_weights_and_the_warning_says_so(direction: HackDirection) -> None:
    with pytest.warns(UserWarning, match="in another precision, that is as it should be"):
        direction.check_weights(tiny_llama().to(torch.bfloat16))


def test_names_and_shapes_that_do_not_fit_are_an_error(saved: Path) -> None:
    with pytest.raises(ValueError, match="belongs to another model"):
        HackDirection.load(saved, tiny_llama(hidden_size=32))
    with pytest.raises(ValueError, match="matches none"):
        HackDirection.load(saved, nn.Linear(2, 2))


def test_a_part_of_a_direction_knows_its_weights(direction: HackDirection) -> None:
    part = direction.truncate(noise_floor=0.7)
    assert 0 < len(part) < len(direction)
    assert part.check_weights(tiny_llama()) == ()


def test_wrapped_models_are_recognised(direction: HackDirection) -> None:
    assert direction.check_weights(torch.compile(tiny_llama(), backend="eager")) == ()


def test_a_direction_from_gradients_has_no_weights_to_compare() -> None:
    direction = HackDirection.from_gradients({"weight": torch.randn(3, 4, 4)}, chart="dense", k=2)
    assert direction.check_weights(nn.Linear(4, 4)) == ()


@pytest.fixture
def process_group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_sharded_weights_are_refused(direction: HackDirection) -> None:
    model = tiny_llama()
    mesh = init_device_mesh("cpu", (1,))
    up = model.model.layers[0].mlp.up_proj
    up.weight = nn.Parameter(distribute_tensor(up.weight.detach(), mesh, [Replicate()]))
    with pytest.raises(ValueError, match="compare weights before fully_shard"):
        direction.check_weights(model)


def test_the_fit_records_what_it_knows(direction: HackDirection) -> None:
    metadata = direction.metadata
    assert metadata.n_pairs + metadata.n_held_out == 12
    assert len(metadata.fitted_prompts) == metadata.n_pairs
    assert metadata.validation["n_pairs"] == metadata.n_held_out
    assert metadata.validation["sign_accuracy"] == metadata.held_out_accuracy
    assert metadata.control == ""
    for value in (metadata.created, metadata.model_id, metadata.pairs_hash, metadata.weights_fingerprint):
        assert value


ROWS, CHARTS = ("rows", "rows_held_out", "rows_random"), ("chart", "chart_held_out", "chart_random")


def assert_no_figures(metadata: DirectionMetadata, same_charts: bool = True) -> None:
    """Nothing that was measured on other rows is left, and of their charts what is still true alone."""
    energies = [metadata.energy, *metadata.energy_by_parameter.values()]
    assert all(isnan(getattr(energy, part)) for energy in energies for part in ROWS)
    assert all(isnan(getattr(energy, part)) != same_charts for energy in energies for part in CHARTS)
    assert isnan(metadata.held_out_accuracy)
    assert isnan(metadata.halves_overlap)
    assert isnan(metadata.halves_overlap_random)
    assert metadata.validation == {}


def test_figures_do_not_outlive_their_rows(direction: HackDirection) -> None:
    for name in ("halves_overlap", "halves_overlap_random"):
        assert not isnan(getattr(direction.metadata, name))
    assert_no_figures(direction.truncate(1).metadata)
    for text in ("verdict", "two halves"):
        assert text in direction.summary()
        assert text not in direction.truncate(1).summary()


def test_shares_over_all_parameters_do_not_outlive_one_of_them(direction: HackDirection) -> None:
    part = direction.truncate(noise_floor=0.7)
    assert len(part) < len(direction)
    assert isnan(part.metadata.energy.chart)
    assert set(part.metadata.energy_by_parameter) == set(part.subspaces)
    for name, energy in part.metadata.energy_by_parameter.items():
        assert energy.chart == direction.metadata.energy_by_parameter[name].chart


def test_controls_say_that_they_are_controls(direction: HackDirection, tokenizer: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the pairs' own energy asks for more rows than the small charts have
        matched = matched_random_direction(direction, 0)
    placebo = placebo_direction(tiny_llama(), tokenizer, tiny_pairs(8), k=3, chart_rank=6, progress=False)
    labels = {
        "random rows in the charts": direction.random_like(0),
        "random rows in random charts": random_direction(direction, 0, ambient=True),
        "random rows in the charts, matched in energy": matched,
        "clean against clean (placebo)": placebo,
    }
    for label, control in labels.items():
        assert control.metadata.control == label
        assert label in control.summary()
        if control is not placebo:
            assert_no_figures(control.metadata, same_charts="random charts" not in label)


def test_a_truncated_direction_s_rows_are_its_first(direction: HackDirection) -> None:
    part = direction.truncate(2)
    for name, subspace in part.subspaces.items():
        assert torch.equal(subspace.rows, direction.subspaces[name].rows[:2])
    assert part.metadata.k == 2
    with pytest.raises(ValueError, match="at least 1"):
        direction.truncate(0)


def test_overlap_is_that_of_decoded_rows(direction: HackDirection) -> None:
    other = direction.random_like(3)
    for name, overlap in direction.overlap(other).items():
        a, b = direction.subspaces[name], other.subspaces[name]
        decoded = [torch.stack([s.chart.decode(row).flatten() for row in s.rows]) for s in (a, b)]
        expected = float((decoded[0] @ decoded[1].T).square().sum()) / min(a.k, b.k)
        assert overlap == pytest.approx(expected, abs=1e-5)
    assert min(direction.overlap(direction.truncate(1)).values()) == pytest.approx(1.0, abs=1e-4)


def test_a_direction_saved_in_half_precision_is_compared_and_refreshed(
    direction: HackDirection, tmp_path: Path
) -> None:
    direction.to(dtype=torch.bfloat16).save(tmp_path / "half.safetensors")
    half = HackDirection.load(tmp_path / "half.safetensors")
    model = tiny_llama()
    optimizer = ProjectedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), half, model)
    overlaps = optimizer.direction.overlap(direction)  # what a refresh logs
    assert min(overlaps.values()) > 0.99
    optimizer.set_direction(direction)
    assert optimizer.direction is direction


@pytest.mark.parametrize(
    ("origin", "stored"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("gpt2", "gpt2"),
        ("{here}/my-model", "my-model"),
        ("/nowhere/at/all/", "all"),
        ("./my-model", "my-model"),
        ("../{name}/my-model/", "my-model"),
        ("~/my-model", "my-model"),
        ("some/my-model", "my-model"),  # a folder, though it is written as a name on the hub is
        (".", "{name}"),
        ("", "LlamaForCausalLM"),
    ],
)
def test_where_a_local_model_lay_is_not_stored(
    origin: str, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "my-model").mkdir(parents=True)
    model = tiny_llama()
    model.config._name_or_path = origin.format(here=tmp_path, name=tmp_path.name)
    assert model_id(model) == stored.format(name=tmp_path.name)
