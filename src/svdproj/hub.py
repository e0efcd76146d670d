"""Directions on the Hugging Face hub: one safetensors file and a model card."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from svdproj.card import model_card

if TYPE_CHECKING:
    from svdproj.direction import HackDirection

DIRECTION_FILE = "direction.safetensors"
"""Name of the direction in a repository or folder."""

# The hub client's exceptions by name, since their base classes change with its HTTP library.
_MISSING = {"RepositoryNotFoundError", "EntryNotFoundError", "RemoteEntryNotFoundError", "RevisionNotFoundError"}
_UNREACHABLE = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "TransportError", "ConnectionError", "Timeout"}
_FORBIDDEN = {"GatedRepoError", "DisabledRepoError", "LocalTokenNotFoundError"}


def push(
    direction: HackDirection, repo_id: str, private: bool | None, commit_message: str, token: str | bool | None
) -> str:
    """Upload a direction and its card in one commit; see `HackDirection.push_to_hub`."""
    hub = _huggingface_hub()
    with tempfile.TemporaryDirectory() as folder, _plain_errors(f"cannot push to {repo_id!r}"):
        direction.save(Path(folder) / DIRECTION_FILE)
        (Path(folder) / "README.md").write_text(model_card(direction, repo_id), encoding="utf-8")
        api = hub.HfApi(token=token, library_name="svdproj")
        created = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
    return str(created)


def fetch(repo_id: str, revision: str | None, token: str | bool | None) -> Path:
    """A direction's file: from a local folder of that name, or downloaded into the hub's cache."""
    if (folder := Path(repo_id)).is_dir():
        return folder / DIRECTION_FILE
    hub = _huggingface_hub()
    with _plain_errors(f"cannot get {DIRECTION_FILE} of {repo_id!r} from the hub"):
        return Path(hub.hf_hub_download(repo_id, DIRECTION_FILE, revision=revision, token=token))


def _huggingface_hub() -> ModuleType:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the hub needs {error.name}; run: pip install 'svdproj[cli]'", name=error.name
        ) from None
    return huggingface_hub


@contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """Errors of the hub's client as Python's own kinds of error, in one line.

    Raises:
        ConnectionError: the hub cannot be reached.
        FileNotFoundError: no such repository, revision or file.
        PermissionError: the token does not suffice.
    """
    try:
        yield
    except Exception as error:
        names = {base.__name__ for base in type(error).__mro__}
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        if names & _UNREACHABLE:
            raise ConnectionError(
                f"{what}: no connection ({reason}); HackDirection.load and .save work without one"
            ) from error
        # By name before status: to those who are not logged in the hub answers 401 for a repository that is not there. And
        # a gated repository's error is one of a missing repository, too.
        if names & _MISSING and not names & _FORBIDDEN:
            raise FileNotFoundError(
                f"{what}: {reason}; look at the name and the revision. A private repository looks like none to those who are not "
                "logged in: run `hf auth login`, or pass token="
            ) from error
        if names & _FORBIDDEN or getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            raise PermissionError(f"{what}: {reason}; log in with `hf auth login`, or pass token=") from error
        if isinstance(error, OSError | ValueError):
            raise OSError(f"{what}: {reason}") from error
        raise
