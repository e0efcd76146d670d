"""Gradients from one batched pass are those of a loop of backwards, for every kind of layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from svdproj.batches import completion_sample, pair_sample
from svdproj.capture import visit_gradients
from svdproj.charts import BilinearChart, Chart, DenseChart, DiagonalChart
from svdproj.names import canonical_name
from svdproj.targets import named_targets, select_targets
from svdproj.tokens import Encoded
from tests.extraction_helpers import (
    VOCABULARY,
    captured,
    gpt2,
    llama,
    qwen3,
    random_pairs,
    read_all,
    reference_differences,
    reference_nll,
    relative_error,
)

TOLERANCE = 1e-4
MODELS = {"llama": llama, "qwen3": qwen3, "gpt2": gpt2}


def fixed_chart(shape: tuple[int, ...], kind: str) -> Chart:
    """A chart that does not depend on gradients."""
    if kind == "dense" or len(shape) != 2:
        return DenseChart(shape)
    left, right = (torch.linalg.qr(torch.randn(dim, min(8, *shape))).Q for dim in shape)
    return BilinearChart(left, right) if kind == "bilinear" else DiagonalChart(left, right)


def check(
    model: nn.Module, targets: Any, kind: str = "dense", tolerance: float = TOLERANCE, **options: Any
) -> set[str]:
    """Compare with the loop, on a fixed chart, for five pairs in padded batches of two."""
    selected = select_targets(model, targets)
    pairs = random_pairs(5)
    originals = {canonical_name(name): name for name, _ in model.named_parameters()}
    expected = reference_differences(model, [originals[t.name] for t in selected], pairs, options.get("loss", "mean"))
    charts = {t.name: fixed_chart(tuple(t.parameter.shape), kind) for t in selected}
    found = captured(model, selected, pairs, charts, batch_size=2, **options)
    assert found.keys() == charts.keys()
    for name, chart in charts.items():
        assert relative_error(found[name], chart.encode(expected[originals[name]])) < tolerance, name
    return set(found)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", ["dense", "bilinear", "diagonal"])
@pytest.mark.parametrize("family", MODELS)
def test_linear_weights_equal_a_loop_of_backwards(family: str, kind: str, shared: bool) -> None:
    found = check(MODELS[family](), "all-linear", kind, shared=shared)
    assert len(found) == (8 if family == "gpt2" else 14)


def test_the_sum_over_tokens_is_a_loss_too() -> None:
    check(llama(), "all-linear", loss="sum")


@pytest.mark.parametrize("family", MODELS)
def test_norms_biases_and_tied_embeddings_fall_back_to_a_backward_for_each_pair(family: str) -> None:
    # The embedding is the output head too: both uses have to be in its gradient.
    gpt2_s = ["*.ln_*", "*.bias", "*wte.weight", "*wpe.weight"]
    found = check(MODELS[family](), gpt2_s if family == "gpt2" else ["*norm*", "*embed_tokens.weight"])
    assert any("embed_tokens" in name or "wte" in name for name in found)


def test_an_untied_output_head_is_a_linear_layer_like_any_other() -> None:
    assert check(llama(tie_word_embeddings=False), ["lm_head.weight"]) == {"lm_head.weight"}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft about its own use of transformers
def test_the_trainable_parameters_of_adapters() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        llama(), LoraConfig(r=4, target_modules=["q_proj", "down_proj"], lora_dropout=0.5, init_lora_weights=False)
    )
    found = check(model, "all-linear")
    assert len(found) == 8
    assert all("lora_" in name for name in found)
    assert model.training is False


class TiedLayers(nn.Module):
    """One weight used by two layers and one layer used twice, with or without checkpoints."""

    def __init__(self, checkpoints: str = "none") -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.again = nn.Linear(16, 16)
        self.out = nn.Linear(16, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        hidden = self.embedding(input_ids).cumsum(1)
        for part in (self.first, self.second, self.again, self.again):
            hidden = hidden + self._run(part, hidden)
        return type("Output", (), {"logits": self.out(hidden)})

    def _run(self, part: nn.Module, hidden: Tensor) -> Tensor:
        def block(x: Tensor) -> Tensor:
            return torch.tanh(part(input=x))  # by keyword, as some models call their layers

        if self.checkpoints == "none":
            return block(hidden)
        return checkpoint(block, hidden, use_reentrant=self.checkpoints == "reentrant")  # type: ignore[no-any-return]


@pytest.mark.parametrize("checkpoints", ["none", "non-reentrant"])
def test_uses_of_one_weight_add_up(checkpoints: str) -> None:
    assert check(TiedLayers(checkpoints), ["first.weight", "again.weight"]) == {"first.weight", "again.weight"}


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", MODELS)
def test_gradient_checkpointing_changes_nothing_and_stays_on(family: str, reentrant: bool) -> None:
    model = MODELS[family]()
    # transformers 5 renames it
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    blocks = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False) and m is not model.base_model]
    functions = [block._gradient_checkpointing_func for block in blocks]
    calls = []

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(torch._C._current_graph_task_id() != -1)
            return x

    layer = model.model.layers[1].mlp if family != "gpt2" else model.transformer.h[1].mlp
    layer.register_forward_pre_hook(lambda module, args: (Counted()(args[0]),))
    pairs, selected = random_pairs(5), select_targets(model, "all-linear")
    charts: dict[str, Chart] = {t.name: DenseChart(tuple(t.parameter.shape)) for t in selected}
    found = captured(model, selected, pairs, charts, batch_size=2)
    assert any(calls), "no layer was run again in the backward: checkpointing was off"
    assert [block._gradient_checkpointing_func for block in blocks] == functions
    for block in blocks:
        block.gradient_checkpointing = False
    expected = reference_differences(model, [t.name for t in selected], pairs)
    assert max(relative_error(found[name], expected[name].flatten(1)) for name in found) < TOLERANCE


def test_checkpointed_layers_are_handed_over_one_by_one_not_kept_until_the_end() -> None:
    model, order = TiedLayers("non-reentrant"), []
    samples = [pair_sample(pair, "mean") for pair in random_pairs(2)]

    def visit(name: str, indices: Any, gradients: Any) -> None:
        order.append((name, torch._C._current_graph_task_id() != -1))

    visit_gradients(model, select_targets(model, ["first.weight", "again.weight"]), samples, visit)
    assert order == [("again.weight", True), ("first.weight", True)]


def test_reentrant_checkpoints_of_a_models_own_are_a_clear_error() -> None:
    samples = [pair_sample(pair, "mean") for pair in random_pairs(2)]
    model = TiedLayers("reentrant")
    with pytest.warns(UserWarning, match="requires_grad"), pytest.raises(RuntimeError, match="use_reentrant=False"):
        visit_gradients(model, select_targets(model, ["first.weight"]), samples, lambda *_: None)


def test_weights_in_bfloat16_give_the_loops_gradients_up_to_rounding() -> None:
    """Layers compute in bfloat16 and sums over tokens are taken in float32, so the batched pass is the more exact one."""
    pairs = random_pairs(5)
    low = llama().to(torch.bfloat16)
    exact = llama()
    exact.load_state_dict({name: value.float() for name, value in low.state_dict().items()})
    selected = select_targets(low, "all-linear")
    names = [t.name for t in selected]
    charts: dict[str, Chart] = {t.name: DenseChart(tuple(t.parameter.shape)) for t in selected}
    truth = reference_differences(exact, names, pairs)
    loop = reference_differences(low, names, pairs)
    found = captured(low, selected, pairs, charts, batch_size=2)

    def error(gradients: dict[str, Tensor]) -> float:
        differences = [(gradients[n].flatten(1) - truth[n].flatten(1)).square().sum() for n in names]
        return float(sum(differences) / sum(truth[n].square().sum() for n in names)) ** 0.5

    assert found[names[0]].dtype == torch.float32
    assert error(found) < 0.02
    assert error(found) < 1.1 * error(loop)
    # Computed in float32, the same bfloat16 values give the loop's gradients to the last of the promised digits.
    full = captured(exact, select_targets(exact, "all-linear"), pairs, charts, batch_size=2)
    assert max(relative_error(full[n], truth[n].flatten(1)) for n in names) < TOLERANCE


def test_single_completions_are_samples_too() -> None:
    model = llama()
    selected = select_targets(model, ["model.layers.1.mlp.up_proj.weight"])
    completions = [side for pair in random_pairs(3) for side in pair]
    samples = [completion_sample(side, "mean") for side in completions]
    found = read_all(
        model, selected, samples, lambda _, g: g.encode(DenseChart(tuple(selected[0].parameter.shape))), batch_size=4
    )
    for row, completion in zip(found[selected[0].name], completions, strict=True):
        loss = reference_nll(model, completion, "mean")
        (gradient,) = torch.autograd.grad(loss, [selected[0].parameter])
        assert relative_error(row[None], gradient.flatten()[None]) < TOLERANCE


def test_a_completion_without_a_prompt_is_scored_from_its_second_token() -> None:
    model = llama()
    ids = (5, 9, 4, 22, 7)
    selected = select_targets(model, ["model.layers.0.mlp.up_proj.weight"])
    shape = tuple(selected[0].parameter.shape)
    found = read_all(
        model, selected, [completion_sample(Encoded(ids, 0), "mean")], lambda _, g: g.encode(DenseChart(shape))
    )
    (gradient,) = torch.autograd.grad(reference_nll(model, Encoded(ids, 1), "mean"), [selected[0].parameter])
    assert relative_error(found[selected[0].name], gradient.flatten()[None]) < TOLERANCE


def mixture() -> Any:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            moe_intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_experts=4,
            num_experts_per_tok=2,
            max_position_embeddings=64,
            decoder_sparse_step=1,
        )
    )


class Experts(nn.Module):
    """A layer whose experts see tokens regrouped by expert; there are as many experts as rows in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.expert = nn.Linear(8, 8, bias=False)
        self.out = nn.Linear(8, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        hidden = self.embedding(input_ids)
        rows, tokens, width = hidden.shape
        regrouped = hidden.reshape(rows * tokens, width).roll(1, 0)
        regrouped = regrouped[: rows * (tokens - 1)].reshape(rows, tokens - 1, width)
        mixed = self.expert(regrouped).flatten(0, 1)
        hidden = hidden + torch.cat([mixed, mixed[: hidden.flatten(0, 1).shape[0] - len(mixed)]]).view_as(hidden)
        return type("Output", (), {"logits": self.out(hidden)})


def test_a_mixture_of_experts_is_refused_by_name() -> None:
    with pytest.raises(NotImplementedError, match=r"mixture of experts: model.layers.0.mlp.experts.*targets="):
        select_targets(mixture(), "all-linear")


def test_layers_that_regroup_tokens_are_refused_even_where_the_number_of_rows_fits() -> None:
    model = Experts()
    samples = [pair_sample(pair, "mean") for pair in random_pairs(2)]
    with pytest.raises(NotImplementedError, match=r"expert.weight .*mixture of experts.*targets="):
        visit_gradients(model, select_targets(model, ["expert.weight"]), samples, lambda *_: None)


def test_the_attention_and_the_router_of_a_mixture_of_experts_can_be_had() -> None:
    assert len(check(mixture(), ["*.self_attn.*_proj.weight", "*.mlp.gate.weight"])) == 5


class UsedWithoutCalls(nn.Module):
    """Weights of linear layers that are used and never called, beside one that is; an unused layer, and dropout."""

    def __init__(self, called: bool = True) -> None:
        super().__init__()
        self.called = called
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.functional, self.layer, self.unused = (nn.Linear(16, 16) for _ in range(3))
        self.out = nn.Linear(16, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        hidden = self.embedding(input_ids)
        tokens = hidden.shape[1]
        causal = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        hidden = hidden + self.attention(hidden, hidden, hidden, attn_mask=causal, need_weights=False)[0]
        hidden = hidden + nn.functional.linear(hidden, self.functional.weight).tanh()
        if self.called:
            hidden = hidden + self.layer(hidden).tanh()
        return type("Output", (), {"logits": self.out(hidden)})


@pytest.mark.parametrize("called", [True, False])
def test_weights_that_are_used_without_calling_their_layer_have_their_gradients_too(called: bool) -> None:
    model = UsedWithoutCalls(called)
    names = ["attention.out_proj.weight", "functional.weight", "unused.weight", "layer.weight"]
    assert check(model, names) == set(names)
    assert check(model, "all-linear") == {*names, "out.weight"}


def test_a_layer_that_nothing_depends_on_is_no_reason_to_refuse_the_others() -> None:
    model = UsedWithoutCalls()
    assert check(model, ["unused.weight", "layer.weight"]) == {"unused.weight", "layer.weight"}
    samples = [pair_sample(pair, "mean") for pair in random_pairs(2)]
    with pytest.raises(ValueError, match=r"depends on none of unused.weight"):
        visit_gradients(model, select_targets(model, ["unused.weight"]), samples, lambda *_: None)


def test_a_layer_inside_a_reentrant_checkpoint_is_an_error_also_beside_others() -> None:
    samples = [pair_sample(pair, "mean") for pair in random_pairs(2)]
    model = TiedLayers("reentrant")
    targets = select_targets(model, ["first.weight", "out.weight"])
    with (
        pytest.warns(UserWarning, match="requires_grad"),
        pytest.raises(RuntimeError, match=r"runs the layer of first.weight without autograd.*use_reentrant=False"),
    ):
        visit_gradients(model, targets, samples, lambda *_: None)


def test_names_that_a_model_lacks_are_passed_over() -> None:
    assert named_targets(llama(), ["nothing.weight"]) == []
