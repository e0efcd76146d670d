"""The sampler agrees with `transformers`' own generation, and keeps order however it batches."""

from __future__ import annotations

import peft
import pytest
import torch

from examples.leetcode_grpo.generation import Sampler, _bfloat16_copy
from examples.leetcode_grpo.problems import load_problems
from examples.leetcode_grpo.sampling import policy_answers
from examples.leetcode_grpo.tiny_model import tiny_model
from examples.leetcode_grpo.trainer import known_warnings


@pytest.mark.parametrize("fixed", [False, True], ids=["shrinking", "fixed shapes"])
@pytest.mark.parametrize("batch_size", [256, 8, 3, 1])
def test_greedy_completions_equal_those_of_generate(batch_size: int, fixed: bool) -> None:
    model, tokenizer = tiny_model(seed=3)
    with torch.no_grad():  # a flat distribution never ends: make the end likely enough to come at different times
        model.model.embed_tokens.weight[tokenizer.eos_token_id] *= 3
    sampler = Sampler(model, tokenizer, max_new_tokens=12, temperature=0, batch_size=batch_size)
    if fixed:  # what a GPU does, without the graph
        sampler._fixed = sampler._fixed_decoder()
    prompts = [sampler.prompt_ids(problem.prompt()) for problem in load_problems("builtin")[:5]]
    copies = [2, 1, 3, 0, 1]
    expected = []
    for prompt, count in zip(prompts, copies, strict=True):
        ids = torch.tensor([prompt])
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, temperature=None
        )
        expected += [output[0, len(prompt) :].tolist()] * count
    assert sampler.sample(prompts, copies) == expected


def test_sampled_completions_end_at_the_first_end_token_or_at_the_limit() -> None:
    model, tokenizer = tiny_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.eos_token_id] *= 20
    sampler = Sampler(model, tokenizer, max_new_tokens=20)
    completions = sampler.sample([[5, 6, 7]], [64])
    end = tokenizer.eos_token_id
    lengths = [len(completion) for completion in completions]
    assert all(end not in completion[:-1] for completion in completions)
    assert all(completion[-1] == end or len(completion) == 20 for completion in completions)
    assert min(lengths) < 20
    assert len(set(map(tuple, completions))) > 32  # copies are drawn independently


def test_sampling_follows_the_global_random_state() -> None:
    model, tokenizer = tiny_model()
    sampler = Sampler(model, tokenizer, max_new_tokens=8)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(sampler.sample([[5, 6, 7], [8, 9]], [3, 3]))
    assert draws[0] == draws[1] != draws[2]


def test_a_batch_in_fixed_shapes_moves_to_a_smaller_one_as_completions_end() -> None:
    model, tokenizer = tiny_model(seed=3)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.eos_token_id] *= 3
    sampler = Sampler(model, tokenizer, max_new_tokens=40, temperature=0, batch_size=32)
    prompts = [[5 + i, 6, 7] for i in range(32)]
    expected = sampler.sample(prompts, [1] * 32)
    sampler._fixed = sampler._fixed_decoder()
    assert sampler.sample(prompts, [1] * 32) == expected
    assert len(sampler._fixed._decodings) > 1, "the batch never moved: the test would pass for nothing"
    assert sampler.sample(prompts[:5], [3] * 5) == [row for row in expected[:5] for _ in range(3)]  # buffers are reused


@pytest.mark.parametrize("fixed", [False, True], ids=["shrinking", "fixed shapes"])
def test_temperature_follows_the_policys_own_probabilities(fixed: bool) -> None:
    model, tokenizer = tiny_model()
    prompt = [5, 6, 7]
    sampler = Sampler(model, tokenizer, max_new_tokens=1, batch_size=20_000)
    if fixed:
        sampler._fixed = sampler._fixed_decoder()
    counts = torch.bincount(torch.tensor(sampler.sample([prompt], [20_000])).flatten(), minlength=len(tokenizer))
    expected = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
    assert (counts / 20_000 - expected).abs().max() < 0.005


def test_the_decoding_copy_follows_the_policy_only_when_refreshed() -> None:
    model, tokenizer = tiny_model()
    sampler = Sampler(model, tokenizer, max_new_tokens=4, temperature=0)
    sampler._decoder = _bfloat16_copy(model)  # what a GPU decodes with
    model.forward = lambda *_, **__: pytest.fail("trainers patch the policy's forward; the copy has its own")
    before = sampler.sample([[5, 6, 7]], [1])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    assert sampler.sample([[5, 6, 7]], [1]) == before
    sampler.refresh()
    for copied, parameter in zip(sampler._decoder.parameters(), model.parameters(), strict=True):
        assert copied.dtype == torch.bfloat16
        assert not copied.requires_grad
        assert torch.equal(copied, parameter.bfloat16())


def test_a_policys_answers_come_with_the_log_probabilities_that_drew_them() -> None:
    model, tokenizer = tiny_model()
    with torch.no_grad():  # or no completion would end before the limit
        model.model.embed_tokens.weight[tokenizer.eos_token_id] *= 20
    sampler = Sampler(model, tokenizer, max_new_tokens=20, temperature=0.7)
    prompts = [problem.prompt() for problem in load_problems("builtin")[:10]]
    answers = policy_answers(sampler)(prompts)
    assert len({len(answer.token_ids or ()) for answer in answers}) > 1
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.token_ids is not None
        assert answer.logprobs is not None
        assert answer.completion == tokenizer.decode(answer.token_ids, skip_special_tokens=True)
        asked = sampler.prompt_ids(prompt)
        for place, (token, logprob) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True)):
            alone = torch.tensor([[*asked, *answer.token_ids[:place]]])
            expected = (model(input_ids=alone).logits[0, -1].detach() / 0.7).log_softmax(-1)[token]
            assert logprob == pytest.approx(float(expected), abs=1e-4)


def test_a_policy_that_recomputes_its_activations_can_be_sampled_and_trains_on() -> None:
    model, tokenizer = tiny_model()
    expected = Sampler(model, tokenizer, max_new_tokens=4, temperature=0).sample([[5, 6, 7]], [1])
    for layer in model.model.layers:
        layer.gradient_checkpointing = True
    model.train()
    assert Sampler(model, tokenizer, max_new_tokens=4, temperature=0).sample([[5, 6, 7]], [1]) == expected
    assert model.training


def test_an_adapters_change_is_part_of_what_a_gpu_decodes_with() -> None:
    model, _ = tiny_model()
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    with known_warnings():
        adapted = peft.get_peft_model(model, config)
    copy = _bfloat16_copy(adapted)
    with known_warnings():
        merged = adapted.merge_and_unload()
    plain, _ = tiny_model()
    moved = 0
    for (name, copied), parameter, before in zip(
        copy.named_parameters(), merged.parameters(), plain.parameters(), strict=True
    ):
        assert torch.equal(copied, parameter.bfloat16()), name
        moved += not torch.equal(parameter, before)
    assert moved == 7 * merged.config.num_hidden_layers
