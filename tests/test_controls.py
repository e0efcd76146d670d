"""Controls: each is what its definition says, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from svdproj import BilinearChart, ContrastivePair, DenseChart, DirectionMetadata, Energy, HackDirection
from svdproj.controls import matched_random_direction, placebo_pairs, random_direction, shrinkage
from svdproj.optimizer import ProjectedOptimizer
from svdproj.subspace import Subspace, orthonormality_error

OUT, IN, PAIRS = 24, 20, 12


@pytest.fixture(scope="module")
def gradients() -> dict[str, Tensor]:
    """Differences with a common part, so that the rows catch far more of them than random rows do."""
    torch.manual_seed(1)
    common = torch.randn(OUT, IN)
    return {
        "0.weight": common + 0.5 * torch.randn(PAIRS, OUT, IN),
        "0.bias": torch.randn(OUT) + torch.randn(PAIRS, OUT),
    }


@pytest.fixture(scope="module")
def direction(gradients: dict[str, Tensor]) -> HackDirection:
    return HackDirection.from_gradients(gradients, chart="bilinear", chart_rank=8, k=3, noise_floor=0.0)


def caught(direction: HackDirection, x: Tensor, *, one_sided: bool = False) -> float:
    coefficients = direction.subspaces["0.weight"].coefficients(x)
    return float((coefficients.relu() if one_sided else coefficients).square().sum() / x.square().sum())


def test_random_rows_are_orthonormal_as_many_and_in_the_same_charts(direction: HackDirection) -> None:
    drawn = random_direction(direction, 3)
    for name, subspace in direction.subspaces.items():
        assert drawn.subspaces[name].chart is subspace.chart
        assert drawn.subspaces[name].k == subspace.k
        assert orthonormality_error(drawn.subspaces[name].rows) < 1e-5


def test_random_directions_differ_by_seed_and_repeat_with_it(direction: HackDirection) -> None:
    for ambient in (False, True):
        first, again, other = (random_direction(direction, seed, ambient=ambient) for seed in (3, 3, 4))
        assert first.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize("ambient", [False, True])
def test_random_rows_catch_their_share_of_any_fixed_gradient_half_of_it_one_sided(
    direction: HackDirection, ambient: bool
) -> None:
    subspace = direction.subspaces["0.weight"]
    # The worst case for a draw that is not uniform: all of the gradient on one coordinate, the first.
    x = subspace.chart.decode(torch.eye(subspace.chart.size)[0])
    draws = [random_direction(direction, seed, ambient=ambient) for seed in range(400)]
    n = OUT * IN if ambient else subspace.chart.size
    for one_sided, expected in ((False, subspace.k / n), (True, subspace.k / n / 2)):
        shares = torch.tensor([caught(drawn, x, one_sided=one_sided) for drawn in draws])
        error = float(shares.std()) / math.sqrt(len(shares))
        assert abs(float(shares.mean()) - expected) < 4 * error


def test_ambient_rows_leave_the_chart(direction: HackDirection) -> None:
    ambient = random_direction(direction, 0, ambient=True)
    chart = direction.subspaces["0.weight"].chart
    rows = ambient.subspaces["0.weight"]
    decoded = torch.stack([rows.chart.decode(row) for row in rows.rows])
    # Unit rows in 480 dimensions have about 64/480 of their length squared in a chart of 64 coordinates, not all of it.
    assert float(chart.encode(decoded).square().sum(-1).max()) < 0.5
    for basis in ambient.subspaces["0.weight"].chart.tensors.values():
        assert orthonormality_error(basis.mT) < 1e-5


def test_a_matched_direction_removes_as_much_energy_in_the_mean(
    direction: HackDirection, gradients: dict[str, Tensor]
) -> None:
    subspace = direction.subspaces["0.weight"]
    x = gradients["0.weight"][0] + 4 * torch.randn(OUT, IN)
    in_chart = float(subspace.chart.encode(x).square().sum() / x.square().sum())
    ratio = caught(direction, x, one_sided=True) / (in_chart * subspace.k / subspace.chart.size / 2)
    matched = [matched_random_direction(direction, seed, ratio=ratio) for seed in range(200)]
    assert matched[0].subspaces["0.weight"].k == round(ratio * subspace.k) > subspace.k
    shares = torch.tensor([caught(drawn, x, one_sided=True) for drawn in matched])
    error = float(shares.std()) / math.sqrt(len(shares))
    rounding = 0.5 / (ratio * subspace.k) * caught(direction, x, one_sided=True)
    assert abs(float(shares.mean()) - caught(direction, x, one_sided=True)) < 4 * error + rounding


def test_a_match_by_the_pairs_own_energy(direction: HackDirection) -> None:
    energy = direction.metadata.energy_by_parameter["0.weight"]
    matched = matched_random_direction(direction, 0)
    k = energy.rows / energy.chart * direction.subspaces["0.weight"].chart.size
    assert matched.subspaces["0.weight"].k == round(k)


def test_a_match_prefers_what_held_out_pairs_say() -> None:
    subspace = Subspace(DenseChart((50,)), torch.eye(50)[:2], torch.ones(2))
    energy = Energy(chart=1.0, rows=0.8, chart_held_out=1.0, rows_held_out=0.1)
    held_out = HackDirection({"w": subspace}, DirectionMetadata(energy_by_parameter={"w": energy}))
    assert matched_random_direction(held_out, 0).subspaces["w"].k == 5
    fitted = replace(energy, rows_held_out=float("nan"), chart_held_out=float("nan"))
    without = HackDirection({"w": subspace}, DirectionMetadata(energy_by_parameter={"w": fitted}))
    assert matched_random_direction(without, 0).subspaces["w"].k == 40


def test_a_match_that_the_chart_is_too_small_for_warns_and_takes_all_of_it(direction: HackDirection) -> None:
    with pytest.warns(UserWarning, match="fewer coordinates than a match needs"):
        matched = matched_random_direction(direction, 0, ratio=1e4)
    assert all(subspace.k == subspace.chart.size for subspace in matched.subspaces.values())


def test_bad_ratios_are_named() -> None:
    direction = HackDirection({"w": Subspace(DenseChart((4,)), torch.eye(4)[:1], torch.ones(1))})
    with pytest.raises(ValueError, match="give ratio="):
        matched_random_direction(direction, 0)
    with pytest.raises(ValueError, match="no ratio for w"):
        matched_random_direction(direction, 0, ratio={"other": 2.0})
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive and finite"):
            matched_random_direction(direction, 0, ratio=bad)


def pairs(n: int = 8, per_prompt: int = 2) -> list[ContrastivePair]:
    return [
        ContrastivePair(f"prompt {i // per_prompt}", hack=f"hack {i}", clean=f"clean {i}", id=str(i)) for i in range(n)
    ]


def test_placebo_pairs_hold_clean_completions_of_the_same_prompt() -> None:
    made = placebo_pairs(pairs())
    clean_of = {f"prompt {i}": {f"clean {2 * i}", f"clean {2 * i + 1}"} for i in range(4)}
    for pair in made:
        assert {pair.hack, pair.clean} == clean_of[str(pair.prompt)]
        assert pair.tags == ("placebo", "placebo:same-prompt")


def test_placebo_pairs_fall_back_on_other_prompts_answers_and_say_so() -> None:
    made = placebo_pairs(pairs(per_prompt=1))
    for original, pair in zip(pairs(per_prompt=1), made, strict=True):
        assert original.clean in {pair.hack, pair.clean}
        assert pair.hack.startswith("clean")
        assert pair.clean.startswith("clean")
        assert pair.tags == ("placebo", "placebo:other-prompt")


def test_placebo_sides_are_drawn_so_that_order_is_no_contrast() -> None:
    originals = pairs(200)
    own_first = [
        pair.hack == original.clean for original, pair in zip(originals, placebo_pairs(originals), strict=True)
    ]
    assert 70 < sum(own_first) < 130
    assert placebo_pairs(originals, 1) == placebo_pairs(originals, 1) != placebo_pairs(originals, 2)


def test_a_placebo_needs_two_clean_completions() -> None:
    same = [ContrastivePair(f"prompt {i}", hack="hack", clean="the same") for i in range(3)]
    with pytest.raises(ValueError, match="two clean completions"):
        placebo_pairs(same)


def model_and_gradient(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(IN, OUT)).to(dtype)
    # Drawn in float32: torch 2.6 draws other numbers in bfloat16.
    (model(torch.randn(32, IN).to(dtype)).square().mean()).backward()
    return model


def displacement(make: Callable[[nn.Module], torch.optim.Optimizer], dtype: torch.dtype = torch.float32) -> Tensor:
    model = model_and_gradient(dtype)
    before = model[0].weight.detach().clone()
    make(model).step()
    return (model[0].weight.detach() - before).float()


@pytest.mark.parametrize("gate", ["one_sided", "two_sided", "reverse"])
@pytest.mark.parametrize("overshoot", [1.0, 1.5])
def test_shrinkage_keeps_the_direction_of_a_step_and_has_the_length_of_the_projected_one(
    gate: str, overshoot: float
) -> None:
    # Rows along the step itself: AdamW's first step follows the gradient's signs.
    signs = model_and_gradient()[0].weight.grad.sign()
    hackward = HackDirection.from_gradients(
        {"0.weight": signs + torch.randn(PAIRS, OUT, IN)}, chart="bilinear", chart_rank=8, k=3, noise_floor=0.0
    )

    def adamw(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-2)

    options = {"gate": gate, "overshoot": overshoot}
    plain = displacement(adamw)
    projected = displacement(lambda m: ProjectedOptimizer(adamw(m), hackward, m, **options))
    shrunken = displacement(lambda m: shrinkage(adamw(m), hackward, m, **options))
    torch.testing.assert_close(shrunken.norm(), projected.norm(), rtol=1e-4, atol=0)
    assert torch.cosine_similarity(shrunken.flatten(), plain.flatten(), dim=0) > 0.99999
    if gate != "reverse":
        assert shrunken.norm() < 0.95 * plain.norm()


def test_shrinkage_in_gradient_space_scales_the_gradient(direction: HackDirection) -> None:
    model = model_and_gradient()
    gradient = model[0].weight.grad.clone()
    optimizer = shrinkage(torch.optim.SGD(model.parameters(), lr=1.0), direction, model, space="gradient")
    optimizer.step()
    kept = model[0].weight.grad
    torch.testing.assert_close(kept / kept.norm(), gradient / gradient.norm())
    hackward = caught(direction, gradient, one_sided=True)
    torch.testing.assert_close(kept.norm(), gradient.norm() * math.sqrt(1 - hackward), rtol=1e-4, atol=0)


def test_shrinkage_reports_the_share_of_the_norm_that_it_took(direction: HackDirection) -> None:
    model = model_and_gradient()
    only_weight = HackDirection({"0.weight": direction.subspaces["0.weight"]})
    optimizer = shrinkage(torch.optim.SGD(model.parameters(), lr=0.1), only_weight, model)
    optimizer.step()
    metrics = optimizer.metrics()
    assert metrics["svdproj/removed"] == pytest.approx(1 - math.sqrt(1 - metrics["svdproj/cos_in"] ** 2), rel=1e-3)


def test_shrinkage_of_a_step_that_does_not_move_is_nothing(direction: HackDirection) -> None:
    model = model_and_gradient()
    for parameter in model.parameters():
        parameter.grad.zero_()
    before = model[0].weight.detach().clone()
    optimizer = shrinkage(torch.optim.SGD(model.parameters(), lr=0.1), direction, model)
    optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert all(math.isfinite(value) for value in optimizer.metrics().values())


def test_shrinkage_of_bfloat16_weights_holds_in_the_mean(direction: HackDirection) -> None:
    def sgd(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1.0)

    strong = HackDirection.from_gradients(
        {"0.weight": model_and_gradient()[0].weight.grad + 0.01 * torch.randn(PAIRS, OUT, IN)}, chart="dense", k=2
    )
    projected = displacement(lambda m: ProjectedOptimizer(sgd(m), strong, m, write_back="exact"), torch.bfloat16)
    shrunken = displacement(lambda m: shrinkage(sgd(m), strong, m, write_back="exact"), torch.bfloat16)
    plain = displacement(sgd, torch.bfloat16)
    assert projected.norm() < 0.7 * plain.norm()
    torch.testing.assert_close(shrunken.norm(), projected.norm(), rtol=0.05, atol=0)


def test_shrinkage_refuses_options_that_it_sets_itself(direction: HackDirection) -> None:
    model = model_and_gradient()
    for options in ({"mode": "erase"}, {"preserve_norm": True}):
        with pytest.raises(ValueError, match="leave it out"):
            shrinkage(torch.optim.SGD(model.parameters(), lr=0.1), direction, model, **options)
    with pytest.raises(ValueError, match="preserve_norm would restore"):
        ProjectedOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.1), direction, model, mode="shrink", preserve_norm=True
        )


def test_random_bases_of_stacked_kinds_are_left_to_their_charts() -> None:
    bilinear = BilinearChart(torch.eye(6)[:, :3], torch.eye(5)[:, :2])
    direction = HackDirection({"w": Subspace(bilinear, torch.eye(6)[:2], torch.ones(2))})
    ambient = random_direction(direction, 0, ambient=True).subspaces["w"].chart
    assert {name: tuple(t.shape) for name, t in ambient.tensors.items()} == {"left": (6, 3), "right": (5, 2)}
