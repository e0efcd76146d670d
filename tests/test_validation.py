"""Validation and scores: equal to the loop of backwards, honest about random directions, on held-out pairs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svdproj import ContrastivePair, DenseChart, HackDirection, Scores, Validation
from svdproj.batches import completion_sample
from svdproj.fitting import orientation
from svdproj.readings import Reading, Readings, read_samples
from svdproj.subspace import Subspace
from svdproj.tokens import encode_completion
from svdproj.validation import _pair_figures, verdict
from tests.tiny import tiny_llama, tiny_pairs, tiny_tokenizer

FIT = {"k": 4, "chart_rank": 8, "progress": False}
PAIRS = tiny_pairs(16)
FRESH = tiny_pairs(10, start=40)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny_llama()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def direction(model: nn.Module, tokenizer: Any) -> HackDirection:
    return HackDirection.fit(model, tokenizer, PAIRS, **FIT)


@pytest.fixture(scope="module")
def validation(direction: HackDirection, model: nn.Module, tokenizer: Any) -> Validation:
    return direction.validate(model, tokenizer, FRESH, progress=False)


def gradients(model: nn.Module, tokenizer: Any, pair: ContrastivePair, text: str) -> dict[str, Tensor]:
    """The gradient of one completion's mean negative log likelihood, by one backward."""
    encoded = encode_completion(tokenizer, pair.prompt, text)
    ids = torch.tensor([encoded.ids])
    labels = ids.clone()
    labels[:, : encoded.prompt_length] = -100
    model.zero_grad()
    model(input_ids=ids, labels=labels).loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def reading(direction: HackDirection, gradient: dict[str, Tensor]) -> tuple[float, float, float]:
    """Sum of all coefficients, norm of the positive ones, norm of the gradient."""
    coefficients = torch.cat([s.coefficients(gradient[name]) for name, s in direction.subspaces.items()])
    norm = torch.stack([gradient[name].norm() for name in direction.subspaces]).norm()
    return float(coefficients.sum()), float(coefficients.relu().norm()), float(norm)


def test_scores_are_those_of_a_loop_of_backwards(direction: HackDirection, model: nn.Module, tokenizer: Any) -> None:
    asked = [(pair, text) for pair in FRESH[:4] for text in (pair.hack, pair.clean + " and more of it")]
    scores = direction.score(model, tokenizer, [(pair.prompt, text) for pair, text in asked], batch_size=3)
    assert len(scores) == len(asked)
    for i, (pair, text) in enumerate(asked):
        total, hackward, norm = reading(direction, gradients(model, tokenizer, pair, text))
        assert float(scores.signed[i]) == pytest.approx(total / norm, rel=1e-4, abs=1e-6)
        assert float(scores.cos[i]) == pytest.approx(hackward / norm, rel=1e-4, abs=1e-6)


def test_validation_is_that_of_a_loop_of_backwards(
    direction: HackDirection, validation: Validation, model: nn.Module, tokenizer: Any
) -> None:
    cosines = []
    for i, pair in enumerate(FRESH):
        hack, clean = (gradients(model, tokenizer, pair, text) for text in (pair.hack, pair.clean))
        total, hackward, norm = reading(direction, {name: hack[name] - clean[name] for name in hack})
        assert validation.coefficients[i] == pytest.approx(total, rel=1e-3)
        assert validation.scores[i] == pytest.approx(total / norm, rel=1e-3)
        cosines.append(hackward / norm)
    assert validation.cos == pytest.approx(math.sqrt(sum(c * c for c in cosines) / len(cosines)), rel=1e-3)


def test_scores_do_not_depend_on_how_they_are_batched(
    direction: HackDirection, model: nn.Module, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    completions = [(pair.prompt, pair.hack * (i % 3 + 1)) for i, pair in enumerate(FRESH)]
    whole = direction.score(model, tokenizer, completions, batch_size=16)
    monkeypatch.setattr("svdproj.scoring._AT_ONCE", 3)
    parts = direction.score(model, tokenizer, completions, batch_size=2)
    for name in ("cos", "signed", "null_cos", "chart_null_cos"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-4, atol=1e-6)


def test_nulls_are_what_random_directions_score(direction: HackDirection, model: nn.Module, tokenizer: Any) -> None:
    completions = [(pair.prompt, pair.hack) for pair in FRESH[:3]]
    scores = direction.score(model, tokenizer, completions)
    samples = [completion_sample(encode_completion(tokenizer, *each), "mean") for each in completions]
    # The gradients are read once: two hundred random directions in the same charts see the same coordinates.
    read = read_samples(direction.subspaces, model, samples, batch_size=3).by_parameter
    squares = []
    for seed in range(200):
        drawn = direction.random_like(seed).subspaces
        squares.append(Readings({n: replace(r, subspace=drawn[n]) for n, r in read.items()}).cosines.square())
    mean, error = torch.stack(squares).mean(0), torch.stack(squares).std(0) / math.sqrt(len(squares))
    assert bool(((mean - scores.chart_null_cos.square()).abs() < 4 * error).all())
    assert bool((error < 0.1 * mean).all())
    assert bool((scores.null_cos < scores.chart_null_cos).all())


def test_hacks_score_above_clean_answers(direction: HackDirection, model: nn.Module, tokenizer: Any) -> None:
    hack, clean = (
        direction.score(model, tokenizer, [(pair.prompt, getattr(pair, side)) for pair in FRESH])
        for side in ("hack", "clean")
    )
    assert isinstance(hack, Scores)
    assert bool((hack.signed > clean.signed).all())


def test_a_good_direction_is_called_better_than_random(validation: Validation) -> None:
    assert validation.better_than_random
    assert validation.verdict == "better than random"
    assert validation.sign_accuracy == validation.auroc == 1.0
    assert validation.n_fitted == 0
    assert validation.cos > 2 * validation.chart_null_cos > 2 * validation.null_cos


def test_random_directions_are_called_no_better_than_random(
    direction: HackDirection, model: nn.Module, tokenizer: Any
) -> None:
    for seed in (1, 2, 3):
        found = direction.random_like(seed).validate(model, tokenizer, FRESH, progress=False)
        assert not found.better_than_random
        assert found.verdict == "no better than random"
        assert "no better than random" in str(found)


@pytest.mark.parametrize("turned", [False, True])
def test_the_verdict_errs_on_random_directions_no_more_often_than_its_level_says(turned: bool) -> None:
    """Also on random rows that other pairs have turned hack-ward, as they turn a fitted direction's."""
    # Pairs with a strong common contrast: half of all random directions get every sign right, and all that are turned.
    generator = torch.Generator().manual_seed(0)
    pairs, m, k = 12, 300, 5
    contrast = 3 * torch.randn(m, generator=generator)
    encoded, others = (contrast + torch.randn(pairs, m, generator=generator) for _ in range(2))
    prompts = [str(i) for i in range(pairs)]
    called_better = accurate = 0
    for seed in range(100):
        rows = Subspace(DenseChart((m,)), torch.zeros(k, m), torch.ones(k)).random_like(
            torch.Generator().manual_seed(seed)
        )
        if turned:
            rows = replace(rows, rows=rows.rows * orientation(others @ rows.rows.mT)[:, None])
        figures = _pair_figures(Readings({"w": Reading(rows, encoded, encoded.square().sum(-1))}), prompts, seed)
        accurate += figures["p_value"] <= 0.05
        called_better += verdict(figures) == "better than random"
    assert accurate > (90 if turned else 30)
    assert called_better <= 10


def test_rows_that_are_all_of_a_chart_are_no_better_than_random_ones() -> None:
    encoded = 3 * torch.randn(8) + torch.randn(12, 8)
    rows = Subspace(DenseChart((8,)), torch.linalg.qr(torch.randn(8, 8)).Q, torch.ones(8))
    rows = replace(rows, rows=rows.rows * orientation(encoded @ rows.rows.mT)[:, None])
    reading = Reading(rows, encoded, encoded.square().sum(-1))
    figures = _pair_figures(Readings({"w": reading}), [str(i) for i in range(12)], seed=0)
    assert figures["p_value"] < 0.01
    assert figures["random_p_value"] == 1.0


def test_no_random_direction_as_good_still_leaves_a_p_value_above_zero() -> None:
    encoded = torch.randn(300) + 0.1 * torch.randn(12, 300)
    mean = nn.functional.normalize(encoded.mean(0, keepdim=True))
    reading = Reading(Subspace(DenseChart((300,)), mean, torch.ones(1)), encoded, encoded.square().sum(-1))
    figures = _pair_figures(Readings({"w": reading}), [str(i) for i in range(12)], seed=0)
    assert figures["random_p_value"] == pytest.approx(1 / 200)


def test_what_random_directions_reach_is_said(direction: HackDirection, model: nn.Module, tokenizer: Any) -> None:
    validation = direction.validate(model, tokenizer, FRESH[:6], progress=False)
    drawn = [direction.random_like(seed).validate(model, tokenizer, FRESH[:6], progress=False) for seed in range(8)]
    for name in ("sign_accuracy", "auroc", "t_statistic"):
        above = sum(getattr(d, name) > getattr(validation, f"random_{name}") for d in drawn)
        assert above <= 3
    assert f"reach {validation.random_auroc:.3f}" in str(validation)


def test_swapped_pairs_point_the_other_way(direction: HackDirection, model: nn.Module, tokenizer: Any) -> None:
    swapped = direction.validate(model, tokenizer, [pair.swap() for pair in FRESH], progress=False)
    assert swapped.sign_accuracy == swapped.auroc == 0.0
    assert not swapped.better_than_random


def test_too_few_prompts_are_called_that(direction: HackDirection, model: nn.Module, tokenizer: Any) -> None:
    one_prompt = [ContrastivePair("The same task.", hack=p.hack, clean=p.clean) for p in FRESH]
    found = direction.validate(model, tokenizer, one_prompt, progress=False)
    assert (found.n_pairs, found.n_prompts) == (len(FRESH), 1)
    assert "too few prompts" in found.verdict
    assert f"Validation on {len(FRESH)} pairs of 1 prompt: too few prompts" in str(found)
    assert "t statistic                 undefined, p = 0.5" in str(found)
    assert math.isnan(found.halves_overlap)


def test_from_five_prompts_on_there_is_a_verdict(direction: HackDirection, model: nn.Module, tokenizer: Any) -> None:
    four, five = (direction.validate(model, tokenizer, FRESH[:n], progress=False) for n in (4, 5))
    assert four.sign_accuracy == five.sign_accuracy == 1.0
    assert "too few prompts to tell it from a random direction (at least 5 are needed)" in four.verdict
    assert five.verdict == "better than random"


def test_pairs_that_were_fitted_on_are_counted_and_can_be_left_out(
    direction: HackDirection, model: nn.Module, tokenizer: Any
) -> None:
    held_out = direction.held_out(PAIRS)
    assert len(held_out) == direction.metadata.n_held_out == 4
    assert direction.held_out(FRESH) == FRESH
    found = direction.validate(model, tokenizer, PAIRS, progress=False)
    assert found.n_fitted == len(PAIRS) - len(held_out)
    assert f"note: {found.n_fitted} of the pairs have prompts" in str(found)


def test_a_direction_that_does_not_know_its_prompts_says_so(model: nn.Module, tokenizer: Any) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    unknown = HackDirection.from_gradients({name: torch.randn(6, 24, 16)}, chart="dense", k=2)
    with pytest.raises(ValueError, match="does not know which prompts it was fitted on"):
        unknown.held_out(FRESH)
    found = unknown.validate(model, tokenizer, FRESH[:3], progress=False)
    assert found.n_fitted is None
    assert math.isnan(found.figures["n_fitted"])
    assert found.to_json()["n_fitted"] is None
    assert "does not know which prompts it was fitted on" in str(found)


def test_the_fit_s_own_figures_are_those_of_validating_its_held_out_pairs(
    direction: HackDirection, model: nn.Module, tokenizer: Any
) -> None:
    again = direction.validate(model, tokenizer, direction.held_out(PAIRS), progress=False).figures
    for name, value in direction.metadata.validation.items():
        assert value == pytest.approx(again[name], rel=1e-3, nan_ok=True), name


def test_two_halves_of_like_pairs_agree_more_than_random_rows(validation: Validation) -> None:
    assert validation.halves_overlap > 4 * validation.halves_overlap_random


def test_validation_leaves_the_model_as_it_was(direction: HackDirection, model: nn.Module, tokenizer: Any) -> None:
    model.train()
    try:
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        direction.validate(model, tokenizer, FRESH[:3], progress=False)
        direction.score(model, tokenizer, [("a", "b")])
        assert model.training
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    finally:
        model.eval()


def test_figures_become_plain_json(validation: Validation) -> None:
    plain = json.loads(json.dumps(validation.to_json(), allow_nan=False))
    assert plain["better_than_random"] is True
    assert plain["verdict"] == "better than random"
    assert len(plain["scores"]) == plain["n_pairs"] == len(FRESH)


def test_bad_input_is_named(direction: HackDirection, model: nn.Module, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="needs pairs, got none"):
        direction.validate(model, tokenizer, [])
    with pytest.raises(ValueError, match="empty direction"):
        HackDirection.empty().validate(model, tokenizer, FRESH)
    with pytest.raises(ValueError, match="scoring needs completions"):
        direction.score(model, tokenizer, [])
    for call in (direction.score, direction.validate):
        with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
            call(model, tokenizer, FRESH if call == direction.validate else [("a", "b")], batch_size=0)
    with pytest.raises(ValueError, match=r"completion 1: .* takes 3.. tokens, the model's context is 256"):
        direction.score(model, tokenizer, [("a", "b"), ("a", "b" * 300)])
    with pytest.raises(ValueError, match="belongs to another model"):
        direction.score(tiny_llama(hidden_size=32), tokenizer, [("a", "b")])


def test_tokens_that_the_model_has_no_row_for_are_named(direction: HackDirection, model: nn.Module) -> None:
    larger = tiny_tokenizer()
    larger.add_tokens(["<think>"])
    with pytest.raises(ValueError, match=r"token 258 \('<think>'\) has no row .* has 258: .*resize_token_embeddings"):
        direction.score(model, larger, [("a", "b"), ("a", "<think>b")])
    direction.score(model, larger, [("a", "b")])  # the tokens that it has are as good as ever


def test_gradients_that_are_not_finite_are_an_error(direction: HackDirection, tokenizer: Any) -> None:
    broken = tiny_llama()
    with torch.no_grad():
        broken.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="are not finite for 2 of 2 samples"):
        direction.score(broken, tokenizer, [("a", "b"), ("c", "d")])
