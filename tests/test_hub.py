"""The hub, against a stand-in of its client's functions: one commit with file and card, and errors of Python's own kinds."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from svdproj import HackDirection
from tests.tiny import tiny_llama, tiny_pairs, tiny_tokenizer


class Hub:
    """Repositories as folders, with the signatures of huggingface_hub that are used."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commits: list[str] = []
        self.asked: dict[str, Any] = {}

    def HfApi(self, token: Any = None, library_name: str | None = None) -> Hub:
        self.asked["token"] = token
        return self

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> str:
        self.asked |= {"private": private, "exist_ok": exist_ok}
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        self.commits.append(commit_message)

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str | None, token: Any) -> str:
        self.asked |= {"revision": revision, "token": token}
        return str(self.root / repo_id / filename)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub(tmp_path)
    for name in ("HfApi", "hf_hub_download"):
        assert hasattr(huggingface_hub, name)
        monkeypatch.setattr(huggingface_hub, name, getattr(stand_in, name))
    return stand_in


@pytest.fixture(scope="module")
def direction() -> HackDirection:
    return HackDirection.fit(tiny_llama(), tiny_tokenizer(), tiny_pairs(30), k=3, chart_rank=6, progress=False)


def test_what_was_pushed_is_what_comes_back(direction: HackDirection, hub: Hub) -> None:
    address = direction.push_to_hub("me/hacks", private=True, commit_message="First", token="secret")
    assert address == "https://hub/me/hacks"
    assert hub.commits == ["First"]
    assert hub.asked == {"token": "secret", "private": True, "exist_ok": True}
    assert {path.name for path in (hub.root / "me" / "hacks").iterdir()} == {"README.md", "direction.safetensors"}
    back = HackDirection.from_pretrained("me/hacks", revision="v1", token="other")
    assert back.fingerprint == direction.fingerprint
    assert back.metadata == direction.metadata
    assert (hub.asked["revision"], hub.asked["token"]) == ("v1", "other")


def test_pushing_again_replaces(direction: HackDirection, hub: Hub) -> None:
    direction.push_to_hub("me/hacks")
    direction.truncate(1).push_to_hub("me/hacks")
    assert len(hub.commits) == 2
    assert HackDirection.from_pretrained("me/hacks").metadata.k == 1


def test_the_stand_in_takes_the_client_s_own_arguments() -> None:
    import inspect

    for function, stand_in in (
        (huggingface_hub.HfApi.create_repo, Hub.create_repo),
        (huggingface_hub.HfApi.upload_folder, Hub.upload_folder),
        (huggingface_hub.HfApi, Hub.HfApi),
        (huggingface_hub.hf_hub_download, Hub.hf_hub_download),
    ):
        known = set(inspect.signature(function).parameters) | {"self"}
        assert set(inspect.signature(stand_in).parameters) <= known


def test_a_local_folder_is_read_without_the_hub(direction: HackDirection, tmp_path: Path) -> None:
    direction.save(tmp_path / "direction.safetensors")
    assert HackDirection.from_pretrained(str(tmp_path)).fingerprint == direction.fingerprint


def test_a_model_is_compared_on_the_way(direction: HackDirection, hub: Hub) -> None:
    direction.push_to_hub("me/hacks")
    HackDirection.from_pretrained("me/hacks", model=tiny_llama())
    with pytest.warns(UserWarning, match="other weights"):
        HackDirection.from_pretrained("me/hacks", model=tiny_llama(seed=1))


def card(direction: HackDirection, hub: Hub) -> tuple[dict[str, Any], str]:
    direction.push_to_hub("me/hacks")
    _, head, body = (hub.root / "me" / "hacks" / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_card_says_what_was_measured_and_against_what(direction: HackDirection, hub: Hub) -> None:
    head, body = card(direction, hub)
    assert head["library_name"] == "svdproj"
    assert "base_model" not in head  # the tiny model has no name on the hub
    assert "On 6 held-out pairs of 6 prompts: **better than random**" in body
    figures = direction.metadata.validation
    assert f"| {figures['sign_accuracy']:.3f} | 5 % reach {figures['random_sign_accuracy']:.3f} |" in body
    assert f"| cosine | {figures['cos']:.3f} | in the mean {figures['chart_null_cos']:.3f} |" in body
    assert direction.summary() in body
    assert direction.fingerprint in body
    assert direction.metadata.pairs_hash in body
    assert 'HackDirection.from_pretrained("me/hacks", model=model)' in body


def test_the_card_names_a_base_model_that_is_on_the_hub_and_no_local_path(
    direction: HackDirection, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "last").mkdir(parents=True)
    names = {"org/model": "org/model", "/home/me": None, "./a/b": None, "a/b/c": None, "runs/last": None}
    for model_id, expected in names.items():
        named = HackDirection(direction.subspaces, replace(direction.metadata, model_id=model_id))
        assert card(named, hub)[0].get("base_model") == expected


def test_the_card_of_a_control_or_an_unmeasured_direction_claims_nothing(direction: HackDirection, hub: Hub) -> None:
    _, body = card(direction.random_like(0), hub)
    assert "**This is a control: random rows in the charts.**" in body
    assert "6 pairs were held out from the fit that this direction was made from" in body
    assert "Nothing was held out" not in body
    assert "better than random**" not in body
    assert "Nothing was held out" not in card(direction.truncate(1), hub)[1]
    gradients = HackDirection.from_gradients({"weight": torch.randn(3, 4, 4)}, chart="dense", k=2)
    assert "an unnamed model" in card(gradients, hub)[1]
    assert "Nothing was held out" in card(gradients, hub)[1]


def test_pairs_that_were_fitted_on_are_never_called_held_out(direction: HackDirection, hub: Hub) -> None:
    from dataclasses import replace

    for n_fitted, words in (
        (3, "6 pairs of 6 prompts, 3 of them with prompts that it was fitted on"),
        (math.nan, "may be among"),
    ):
        figures = {**direction.metadata.validation, "n_fitted": n_fitted}
        measured = HackDirection(direction.subspaces, replace(direction.metadata, validation=figures))
        for text in (measured.summary(), card(measured, hub)[1]):
            assert words in text
            assert "held-out pairs" not in text


class Refused(huggingface_hub.errors.HfHubHTTPError):
    def __init__(self, status: int) -> None:
        Exception.__init__(self, f"{status} Client Error\nand many lines more")
        self.response = type("Response", (), {"status_code": status})()


class Missing(Refused, huggingface_hub.errors.RepositoryNotFoundError):
    pass


class Gated(Refused, huggingface_hub.errors.GatedRepoError):
    pass


ERRORS = [
    (OfflineModeIsEnabled("offline mode is enabled"), ConnectionError, "no connection"),
    (LocalEntryNotFoundError("check your connection"), ConnectionError, "no connection"),
    (Missing(404), FileNotFoundError, "look at the name"),
    # What the hub answers to those who are not logged in.
    (Missing(401), FileNotFoundError, "look at the name .* private repository .*hf auth login"),
    (Gated(403), PermissionError, "hf auth login"),
    (Refused(401), PermissionError, "hf auth login"),
    (Refused(403), PermissionError, "hf auth login"),
    (Refused(500), OSError, "500 Client Error$"),
    (huggingface_hub.errors.HFValidationError("bad name."), OSError, "bad name$"),
]


@pytest.mark.parametrize(("raised", "kind", "message"), ERRORS)
def test_errors_of_the_client_become_python_s_own_in_one_line(
    raised: Exception, kind: type[Exception], message: str, direction: HackDirection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise raised

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fails)
    with pytest.raises(kind, match=message) as caught:
        HackDirection.from_pretrained("me/hacks")
    assert "'me/hacks'" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(kind, match=message):
        direction.push_to_hub("me/hacks")


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'svdproj\[cli\]'"):
        HackDirection.from_pretrained("me/hacks")
