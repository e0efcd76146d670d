"""Fitting: from a model it finds what from_gradients finds in the loop's gradients, and it says what it caught."""

from __future__ import annotations

import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import svdproj.fit
from svdproj import BilinearChart, ContrastivePair, DenseChart, DiagonalChart, HackDirection
from svdproj.fitting import split_by_prompt
from svdproj.metadata import pairs_hash
from svdproj.tokens import encode_pair, prompt_key
from tests.extraction_helpers import gpt2, llama, qwen3, reference_differences


class Letters:
    """A tokenizer of single characters."""

    eos_token_id = 2
    chat_template = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [3 + ord(letter) % 50 for letter in text]}


WORDS = ["list", "sort", "map", "join", "fold", "keep", "drop", "take"]


def make_pairs(n: int = 8) -> list[ContrastivePair]:
    return [
        ContrastivePair(
            f"{WORDS[i % 8]} {i}?", hack=f"pass {WORDS[i % 8]}{i}", clean=f"go {WORDS[(i + 3) % 8]} {i * i}"
        )
        for i in range(n)
    ]


def fit(model: Any, pairs: list[ContrastivePair], **options: Any) -> HackDirection:
    return HackDirection.fit(model, Letters(), pairs, **({"progress": False, "k": 4, "chart_rank": 8} | options))


def fitted_pairs(pairs: list[ContrastivePair], holdout: float, seed: int = 0) -> list[int]:
    return split_by_prompt([prompt_key(p.prompt) for p in pairs], holdout, torch.Generator().manual_seed(seed))[0]


def loop_gradients(model: Any, names: Any, pairs: list[ContrastivePair], loss: str = "mean") -> dict[str, Tensor]:
    return reference_differences(model, list(names), [encode_pair(Letters(), pair) for pair in pairs], loss)


@pytest.mark.parametrize("make", [llama, qwen3, gpt2])
@pytest.mark.parametrize("chart", ["dense", "bilinear"])
def test_a_fit_is_from_gradients_of_the_loops_gradients(make: Any, chart: str) -> None:
    """Rank 24 of at most 32 makes the sketch exact, so that the bases are the same on both ways."""
    model, pairs = make(), make_pairs()
    direct = fit(model, pairs, chart=chart, chart_rank=24, noise_floor=0.0, holdout=0.0)
    gradients = loop_gradients(model, direct.subspaces, pairs)
    indirect = HackDirection.from_gradients(gradients, chart=chart, chart_rank=24, k=4, noise_floor=0.0)
    assert direct.subspaces.keys() == indirect.subspaces.keys()
    assert min(direct.overlap(indirect).values()) > 0.999
    for name, subspace in direct.subspaces.items():
        other = indirect.subspaces[name]
        torch.testing.assert_close(subspace.singular_values, other.singular_values, atol=1e-5, rtol=1e-3)
        # The first row is well apart from the others: it is the same one, with the same sign.
        torch.testing.assert_close(
            subspace.decode(torch.eye(4)[0]), other.decode(torch.eye(4)[0]), atol=0.02, rtol=0.02
        )
    assert direct.metadata.energy.rows == pytest.approx(indirect.metadata.energy.rows, rel=1e-3)


def test_bases_and_rows_come_from_the_fitting_share_alone() -> None:
    model, pairs = llama(), make_pairs(10)
    fitted = fitted_pairs(pairs, 0.3)
    whole = fit(model, pairs, holdout=0.3)
    alone = HackDirection.from_gradients(
        loop_gradients(model, whole.subspaces, [pairs[i] for i in fitted]), chart_rank=8, k=4
    )
    assert whole.metadata.n_pairs == len(fitted) == 7
    assert whole.metadata.n_held_out == 3
    assert min(whole.overlap(alone).values()) > 0.99
    # And the held-out pairs' energies are what the rows catch of their gradients.
    held = [pair for i, pair in enumerate(pairs) if i not in fitted]
    gradients = loop_gradients(model, whole.subspaces, held)
    caught = sum(float(s.coefficients(gradients[n]).square().sum()) for n, s in whole.subspaces.items())
    total = sum(float(gradients[n].square().sum()) for n in whole.subspaces)
    assert whole.metadata.energy.rows_held_out == pytest.approx(caught / total, rel=1e-3)
    scores = sum(s.coefficients(gradients[n]).sum(-1) for n, s in whole.subspaces.items())
    assert whole.metadata.held_out_accuracy == pytest.approx(float((torch.as_tensor(scores) > 0).float().mean()))


@pytest.mark.parametrize("basis", ["gradient", "weight"])
@pytest.mark.parametrize("chart", ["dense", "bilinear", "diagonal"])
def test_every_chart_and_basis_reports_what_it_catches_beside_the_random_figure(chart: str, basis: str) -> None:
    direction = fit(llama(), make_pairs(), chart=chart, basis=basis, noise_floor=0.0)
    kind = {"dense": DenseChart, "bilinear": BilinearChart, "diagonal": DiagonalChart}[chart]
    assert all(isinstance(s.chart, kind) for s in direction.subspaces.values())
    energy = direction.metadata.energy
    assert 0 < energy.rows <= energy.chart <= 1 + 1e-5
    for name, share in direction.metadata.energy_by_parameter.items():
        subspace = direction.subspaces[name]
        assert share.chart_random == pytest.approx(subspace.chart.size / math.prod(subspace.chart.shape))
        assert share.rows_random == pytest.approx(subspace.k / math.prod(subspace.chart.shape))
    assert energy.rows > energy.rows_random
    if chart == "bilinear" and basis == "gradient":
        assert energy.chart > 0.9
    assert set(direction.metadata.energy_by_parameter) == set(direction.subspaces)


def test_the_loss_decides_how_tokens_are_weighed() -> None:
    model, pairs = llama(), make_pairs()
    by_sum = fit(model, pairs, loss="sum", chart="dense", holdout=0.0, noise_floor=0.0)
    gradients = loop_gradients(model, by_sum.subspaces, pairs, loss="sum")
    again = HackDirection.from_gradients(gradients, chart="dense", k=4, noise_floor=0.0)
    assert min(by_sum.overlap(again).values()) > 0.999
    assert min(by_sum.overlap(fit(model, pairs, chart="dense", holdout=0.0, noise_floor=0.0)).values()) < 0.98


def test_swapping_labels_keeps_the_span_and_turns_the_rows() -> None:
    model, pairs = llama(), make_pairs()
    one = fit(model, pairs, noise_floor=0.0)
    other = fit(model, [pair.swap() for pair in pairs], noise_floor=0.0)
    assert min(one.overlap(other).values()) > 0.999
    for name, subspace in one.subspaces.items():
        first = subspace.decode(torch.eye(subspace.k)[0])
        turned = other.subspaces[name].decode(torch.eye(subspace.k)[0])
        assert float((first * turned).sum()) < -0.99


def test_rank_never_exceeds_the_fitting_pairs() -> None:
    direction = fit(llama(), make_pairs(5), k=64, holdout=0.2, noise_floor=0.0)
    assert direction.metadata.n_pairs == 4
    assert {s.k for s in direction.subspaces.values()} == {4}


def test_vectors_and_small_matrices_get_dense_charts() -> None:
    direction = fit(llama(), make_pairs(), targets=["*norm*", "*.q_proj.weight"], chart_rank=32, noise_floor=0.0)
    assert all(isinstance(s.chart, DenseChart) for s in direction.subspaces.values())
    assert "model.norm.weight" in direction.subspaces


def test_batches_of_every_size_give_the_same_direction() -> None:
    model, pairs = llama(), make_pairs()
    directions = [fit(model, pairs, batch_size=size, noise_floor=0.0) for size in (1, 3, 100)]
    assert min(min(directions[0].overlap(other).values()) for other in directions[1:]) > 0.999


def everything(model: Any, pairs: list[ContrastivePair], chart: str) -> list[Any]:
    """What a fit, a validation, scores and a fit on gradients say, as plain data."""
    fitted = fit(model, pairs, chart=chart)
    gradients = {"w": torch.linspace(0, 99, 6 * 12 * 12).sin().reshape(6, 12, 12)}
    own = HackDirection.from_gradients(gradients, chart=chart, chart_rank=4, k=2)
    validation = fitted.validate(model, Letters(), pairs[:3], progress=False)
    scores = fitted.score(model, Letters(), [(pair.prompt, pair.hack) for pair in pairs[:3]])
    metadata = [{**each.metadata.to_json(), "created": ""} for each in (fitted, own)]
    columns = [getattr(scores, name).tolist() for name in ("cos", "signed", "null_cos", "chart_null_cos")]
    return [fitted.fingerprint, own.fingerprint, *metadata, validation.to_json(), columns, fitted.overlap(fitted)]


@pytest.mark.parametrize("chart", ["dense", "bilinear"])
def test_autocast_changes_nothing(chart: str) -> None:
    model, pairs = llama(), make_pairs()
    expected = everything(model, pairs, chart)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert everything(model, pairs, chart) == expected


def test_layouts_are_compared_in_full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    compared = svdproj.fit.can_share_prompts
    monkeypatch.setattr(
        "svdproj.fit.can_share_prompts",
        lambda *args: seen.append(torch.is_autocast_enabled("cpu")) or compared(*args),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fit(llama(), make_pairs())
    assert seen == [False]


def test_no_layers_gradients_outlive_the_visit_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit never holds the pairs' full gradients, nor what they are made of, of more than one layer and batch."""
    visit_gradients, past, kept = svdproj.fit.visit_gradients, [], []

    def watched(model: Any, targets: Any, samples: Any, visit: Any, **options: Any) -> None:
        def look(name: str, indices: Any, differences: Any) -> None:
            kept.append(sum(each() is not None for each in past))
            visit(name, indices, differences)
            parts = [differences.outer, differences.inner]
            if "explicit" in vars(differences):
                parts.append(differences.explicit.tensors)
            past[:] = [each for each in past if each() is not None] + [weakref.ref(part) for part in parts]

        visit_gradients(model, targets, samples, look, **options)

    monkeypatch.setattr("svdproj.fit.visit_gradients", watched)
    fit(llama(), make_pairs(), batch_size=2)
    # Three batches of fitting pairs for the bases and four of all for the coordinates, fourteen weights each.
    assert kept == [0] * 14 * (3 + 4)


def test_a_fit_warns_of_lengths() -> None:
    pairs = [ContrastivePair(p.prompt, p.hack + " and a lot more of it", p.clean) for p in make_pairs()]
    with pytest.warns(UserWarning, match="hack completions are the longer ones in 100%"):
        fit(llama(), pairs)


def test_the_hash_of_the_pairs_is_that_of_all_of_them_in_order() -> None:
    pairs = make_pairs(4)
    found = fit(llama(), pairs, targets="*.q_proj.weight").metadata.pairs_hash
    assert found == pairs_hash(pairs)
    changed = [
        [*pairs[:3], ContrastivePair(pairs[3].prompt, pairs[3].hack, "else")],
        [*pairs[:3], pairs[3].swap()],
        pairs[::-1],
        pairs[:3],
    ]
    assert len({pairs_hash(each) for each in changed} | {found}) == 5


def test_progress_counts_both_passes(capsys: pytest.CaptureFixture[str]) -> None:
    fit(llama(), make_pairs(), progress=True)
    shown = capsys.readouterr().err
    assert "14/14" in shown.replace("\r", "\n")  # six of eight pairs for the bases, all eight for the coordinates
    fit(llama(), make_pairs(), progress=True, chart_rank=64)
    assert "8/8" in capsys.readouterr().err.replace("\r", "\n")  # charts that come out dense have no bases


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chart": "cubic"}, "unknown chart 'cubic'; choose one of 'dense', 'bilinear', 'diagonal'"),
        ({"basis": "none"}, "unknown basis"),
        ({"loss": "max"}, "unknown loss"),
        ({"loss": ""}, "unknown loss"),
        ({"k": 0}, "k must be at least 1"),
        ({"chart_rank": 0}, "chart_rank must be at least 1"),
        ({"noise_floor": 1.0}, "noise_floor must be"),
        ({"holdout": 1.0}, "holdout must be"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"targets": "nothing"}, "select no parameter"),
    ],
)
def test_unknown_options_are_value_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(llama(), make_pairs(), **options)


def test_one_pair_and_pairs_beyond_the_context_are_value_errors() -> None:
    with pytest.raises(ValueError, match="at least two pairs, got 1"):
        fit(llama(), make_pairs(1))
    with pytest.raises(ValueError, match="the model's context is 16"):
        fit(llama(max_position_embeddings=16), make_pairs())


@pytest.mark.parametrize(
    ("gradients", "options", "message"),
    [
        ({}, {}, "got \\[\\]"),
        ({"a": torch.zeros(0, 2, 2)}, {}, "at least one"),
        ({"a": torch.zeros(2, 2, 2), "b": torch.zeros(3, 2, 2)}, {}, "same number of pairs"),
        ({"a": torch.full((2, 2, 2), float("nan"))}, {}, "a are not finite"),
        ({"a": torch.zeros(2, 2, 2)}, {"chart": "diagonal"}, "needs the weights"),
    ],
)
def test_gradients_that_cannot_be_fitted(gradients: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HackDirection.from_gradients(gradients, **options)


def test_a_model_whose_gradients_are_not_finite_is_named() -> None:
    model = llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"model.layers.* are not finite; .*float16"):
        fit(model, make_pairs())


def test_names_of_wrapped_gradients_are_canonical() -> None:
    direction = HackDirection.from_gradients({"module.w": torch.randn(3, 4, 5)}, noise_floor=0.0)
    assert list(direction.subspaces) == ["w"]
