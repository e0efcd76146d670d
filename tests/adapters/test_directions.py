"""Directions on adapters: fitted on their own parameters, or pulled back from the weights through their frame."""

from __future__ import annotations

from dataclasses import replace
from math import isnan
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from svdproj import ContrastivePair, DenseChart, HackDirection, ProjectedOptimizer
from svdproj.adapters import SVDScaleConfig, ablated, pull_back
from svdproj.batches import pair_sample
from svdproj.capture import visit_gradients
from svdproj.differences import Differences
from svdproj.targets import select_targets
from svdproj.tokens import encode_pair
from tests.adapters.helpers import IGNORE_RENAMED, TOKENS, adapted, fill, llama, named, tokenizer

pytestmark = IGNORE_RENAMED

PAIRS = [
    ContrastivePair(f"def f{i}(x):", f" return {i} if True else x", f" y = x + {i}\n return y * {i + 1}")
    for i in range(6)
]
FIT: dict[str, Any] = {"k": 3, "noise_floor": 0.0, "holdout": 0.0, "progress": False}


def seen(model: nn.Module, targets: Any = "all-linear") -> dict[str, Tensor]:
    """The pairs' gradient differences by the batched capture, for every target."""
    samples = [pair_sample(encode_pair(tokenizer(), pair), "mean") for pair in PAIRS]
    found: dict[str, Tensor] = {}

    def visit(name: str, indices: Any, differences: Differences) -> None:
        shape = next(t.parameter.shape for t in selected if t.name == name)
        rows = found.setdefault(name, torch.zeros(len(samples), *shape))
        rows[list(indices)] = differences.encode(DenseChart(tuple(shape))).reshape(-1, *shape)

    selected = select_targets(model, targets)
    visit_gradients(model, selected, samples, visit, batch_size=4)
    return found


def looped(model: Any, names: set[str]) -> dict[str, Tensor]:
    """The same by one backward for each completion."""
    parameters = {n.removeprefix("base_model.model."): p for n, p in model.named_parameters()}
    chosen = {n: parameters[n] for n in names}
    rows: dict[str, list[Tensor]] = {n: [] for n in names}
    for pair in PAIRS:
        difference = {n: torch.zeros_like(p) for n, p in chosen.items()}
        for completion, sign in ((pair.hack, 1), (pair.clean, -1)):
            prompt = tokenizer()(pair.prompt)["input_ids"]
            answer = [*tokenizer()(completion)["input_ids"], tokenizer().eos_token_id]
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            nll = nn.functional.cross_entropy(logits, torch.tensor(answer))
            for n, g in zip(chosen, torch.autograd.grad(nll, list(chosen.values())), strict=True):
                difference[n] += sign * g
        for n in names:
            rows[n].append(difference[n])
    return {n: torch.stack(r) for n, r in rows.items()}


# --- on the adapter's own parameters


@pytest.mark.parametrize("size", [0.0, 0.3])
@pytest.mark.parametrize("rank", [None, 5])
def test_the_closed_form_of_the_scales_gradients_is_a_loop_of_backwards(size: float, rank: int | None) -> None:
    """At `s = 0` too, where a product with `s` has nothing to differentiate but `s` itself."""
    model = adapted(quarantine=True, rank=rank)
    fill(model, "s", size=size)
    fill(model, "quarantine", size=size, seed=1)
    batched = seen(model)
    assert set(batched) == {n.removeprefix("base_model.model.") for n in named(model, "s")}, "a quarantine is no target"
    for name, expected in looped(model, set(batched)).items():
        assert expected.norm() > 0
        torch.testing.assert_close(batched[name], expected, rtol=1e-4, atol=1e-6, msg=name)


def test_what_is_off_has_no_gradient() -> None:
    model = adapted()
    fill(model)
    model.add_adapter("other", SVDScaleConfig(target_modules=["q_proj"]))
    message = "merged or disabled has no gradient: unmerge or enable it first"
    with pytest.raises(ValueError, match=message):
        seen(model, ["*svdscale_s.other*"])
    model.merge_adapter()
    with pytest.raises(ValueError, match=message):
        seen(model, ["*svdscale_s.default*"])


def test_a_direction_on_fresh_scales_is_the_diagonal_chart_on_the_weights() -> None:
    """`∂L/∂s = diag(Uᵀ ∂L/∂W V)`: the same rows up to the signs that singular vectors leave open, the same spectrum."""
    model = llama()
    on_weights = HackDirection.fit(model, tokenizer(), PAIRS, chart="diagonal", **FIT)
    on_scales = HackDirection.fit(adapted(), tokenizer(), PAIRS, **FIT)
    assert len(on_weights) == len(on_scales) == 14
    for name, weight in on_weights.subspaces.items():
        scales = on_scales.subspaces[f"{name.removesuffix('.weight')}.svdscale_s.default.weight"]
        assert isinstance(scales.chart, DenseChart)
        torch.testing.assert_close(scales.singular_values, weight.singular_values, rtol=1e-4, atol=0)
        torch.testing.assert_close(scales.rows, weight.rows, rtol=0, atol=2e-3)


def test_fitting_with_the_quarantine_ablated_does_not_see_it() -> None:
    clean, model = adapted(), adapted(quarantine=True)
    fill(model, "quarantine", size=0.5)
    kept = HackDirection.fit(model, tokenizer(), PAIRS, **FIT)
    with ablated(model):
        without = HackDirection.fit(model, tokenizer(), PAIRS, **FIT)
    bare = HackDirection.fit(clean, tokenizer(), PAIRS, **FIT)
    assert without.fingerprint == bare.fingerprint
    assert kept.fingerprint != bare.fingerprint


def test_a_fresh_lora_has_a_direction_on_b_alone() -> None:
    """`B` starts at zero, and `∂L/∂A = c Bᵀ G` with it: there is nothing to name on `A` yet."""
    model = lora()
    with torch.no_grad():
        for parameter in (p for n, p in model.named_parameters() if "lora_B" in n):
            parameter.zero_()
    fresh = HackDirection.fit(model, tokenizer(), PAIRS, **FIT)
    assert {n.split(".")[-3] for n in fresh.subspaces} == {"lora_B"}
    trained = HackDirection.fit(lora(), tokenizer(), PAIRS, **FIT)
    assert {n.split(".")[-3] for n in trained.subspaces} == {"lora_A", "lora_B"}


# --- pulled back from the weights


def lora(dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **options)
    model = get_peft_model(llama().to(dtype).eval(), config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.fixture(scope="module")
def on_weights() -> HackDirection:
    generator = torch.Generator().manual_seed(5)
    gradients = {
        name: torch.randn(6, *parameter.shape, generator=generator)
        for name, parameter in llama().named_parameters()
        if "proj" in name
    }
    return HackDirection.from_gradients(gradients, k=2, noise_floor=0.0, chart_rank=16)


def deltas(model: Any) -> dict[str, Tensor]:
    """`ΔW` of every adapted layer, by the weight's name."""
    return {
        f"{name.removeprefix('base_model.model.')}.weight": layer.get_delta_weight("default").detach().double()
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


def leak(direction: HackDirection, moved: dict[str, Tensor]) -> float:
    """Share of the weights' displacement that lies in the subspaces."""
    inside = [direction.subspaces[n].to(dtype=torch.float64).coefficients(d) for n, d in moved.items()]
    return float(torch.cat(inside).norm() / torch.cat([d.flatten() for d in moved.values()]).norm())


def run(model: Any, direction: HackDirection, steps: int, lr: float, refresh: bool = False) -> dict[str, Tensor]:
    """Train under the direction pulled back once, or at every step; how far the weights went."""
    start = deltas(model)
    trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    inner = torch.optim.SGD([p for _, p in trainable], lr=lr)
    wrapped = ProjectedOptimizer(inner, pull_back(direction, model), trainable, gate="two_sided")
    for step in range(steps):
        if refresh and step:
            wrapped.set_direction(pull_back(direction, model))
        model.zero_grad()
        model(TOKENS, labels=TOKENS).loss.backward()
        wrapped.step()
    return {n: d - start[n] for n, d in deltas(model).items()}


def test_diagonal_rows_pulled_back_are_the_scales_own_rows() -> None:
    model = llama()
    diagonal = HackDirection.fit(model, tokenizer(), PAIRS, chart="diagonal", **FIT)
    pulled = pull_back(diagonal, adapted())
    fitted = HackDirection.fit(adapted(), tokenizer(), PAIRS, **FIT)
    assert pulled.overlap(fitted) == pytest.approx(dict.fromkeys(fitted.subspaces, 1.0), abs=1e-4)
    for name, subspace in pulled.subspaces.items():
        torch.testing.assert_close(subspace.rows, fitted.subspaces[name].rows, rtol=0, atol=5e-3)
    assert pulled.metadata.pairs_hash == diagonal.metadata.pairs_hash


def test_figures_of_the_weights_rows_are_not_those_of_the_pulled_ones() -> None:
    on_weights = HackDirection.fit(llama(), tokenizer(), PAIRS, **FIT)
    metadata = replace(on_weights.metadata, validation={"auroc": 1.0}, halves_overlap=0.5)
    pulled = pull_back(HackDirection(on_weights.subspaces, metadata), adapted())
    assert pulled.metadata.validation == {}
    assert pulled.metadata.energy_by_parameter == {}
    assert isnan(pulled.metadata.halves_overlap)


def test_the_svd_adapters_frame_stands_still(on_weights: HackDirection) -> None:
    """One pull-back holds for ever: after many large steps the weights have not entered the subspace."""
    moved = run(adapted(), on_weights, steps=10, lr=5.0)
    assert leak(on_weights, moved) < 1e-5
    free = adapted()
    unprojected = dict(pull_back(on_weights, free).random_like(0).subspaces.items())
    start = deltas(free)
    trainable = [(n, p) for n, p in free.named_parameters() if p.requires_grad]
    wrapped = ProjectedOptimizer(
        torch.optim.SGD([p for _, p in trainable], lr=5.0), HackDirection(unprojected), trainable, gate="two_sided"
    )
    for _ in range(10):
        free.zero_grad()
        free(TOKENS, labels=TOKENS).loss.backward()
        wrapped.step()
    assert leak(on_weights, {n: d - start[n] for n, d in deltas(free).items()}) > 1e-3, "nothing to keep out"


def test_loras_frame_holds_to_first_order_within_a_step(on_weights: HackDirection) -> None:
    """What leaks is `c dB dA`: half the step, half the share of the displacement."""
    leaks = [leak(on_weights, run(lora(torch.float64), on_weights, steps=1, lr=lr)) for lr in (0.4, 0.2, 0.1)]
    assert leaks[1] == pytest.approx(leaks[0] / 2, rel=0.15)
    assert leaks[2] == pytest.approx(leaks[1] / 2, rel=0.15)


def test_loras_frame_moves_and_pulling_back_anew_follows_it(on_weights: HackDirection) -> None:
    stale = leak(on_weights, run(lora(torch.float64), on_weights, steps=12, lr=0.2))
    fresh = leak(on_weights, run(lora(torch.float64), on_weights, steps=12, lr=0.2, refresh=True))
    assert fresh < stale / 3, (fresh, stale)


def test_loras_pulled_rows_are_the_chain_rule(on_weights: HackDirection) -> None:
    """Against autograd: the derivative of `⟨ΔW, R⟩` by `A` and `B` lies in the pulled-back spans, and spans them."""
    model = lora()
    pulled = pull_back(on_weights, model)
    for name, layer in model.named_modules():
        if not hasattr(layer, "get_delta_weight"):
            continue
        base = name.removeprefix("base_model.model.")
        on_weight = on_weights.subspaces[f"{base}.weight"]
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        for kind, parameter in (("lora_A", a), ("lora_B", b)):
            delta = layer.scaling["default"] * (b @ a)
            gradients = torch.stack(
                [torch.autograd.grad(c, parameter, retain_graph=True)[0] for c in on_weight.coefficients(delta)]
            )
            subspace = pulled.subspaces[f"{base}.{kind}.default.weight"]
            assert subspace.k == on_weight.k
            inside = subspace.coefficients(gradients).norm()
            torch.testing.assert_close(inside, gradients.norm(), rtol=1e-4, atol=0)


def test_conv1d_weights_are_pulled_back_in_their_own_layout() -> None:
    class Gpt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c_attn = Conv1D(12, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.c_attn(x)

    direction = HackDirection.from_gradients(
        {"c_attn.weight": torch.randn(4, 8, 12)}, k=2, noise_floor=0.0, chart="dense"
    )
    for config in (
        SVDScaleConfig(target_modules=["c_attn"]),
        LoraConfig(r=3, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False),
    ):
        model: Any = get_peft_model(Gpt(), config)
        layer = model.base_model.model.c_attn
        pulled = pull_back(direction, model)
        for name, subspace in pulled.subspaces.items():
            parameter = dict(model.named_parameters())[f"base_model.model.{name}"]
            before = layer.get_delta_weight("default").detach().clone()
            orthogonal = torch.randn_like(parameter)
            orthogonal -= subspace.decode(subspace.coefficients(orthogonal))
            with torch.no_grad():
                parameter += orthogonal
            moved = layer.get_delta_weight("default").detach() - before
            assert direction.subspaces["c_attn.weight"].coefficients(moved).norm() < 1e-4 * moved.norm()
            with torch.no_grad():
                parameter -= orthogonal


def test_what_cannot_be_pulled_back_is_named(on_weights: HackDirection) -> None:
    with pytest.raises(ValueError, match="fit it on the bare model"):
        pull_back(on_weights, llama())
    with pytest.raises(ValueError, match="named 'other'"):
        pull_back(on_weights, adapted(), "other")
    with pytest.raises(NotImplementedError, match="has the LoRA variant DoraLinearVariant"):
        pull_back(on_weights, lora(use_dora=True))
