"""Shared set-up: svdproj's shapes and types are checked at run time, one torch thread to a process, no network."""

from __future__ import annotations

import os
from pathlib import Path

# Before anything imports torch, a tokenizer or a hub client. Two processes with two threads each oversubscribe two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from jaxtyping import install_import_hook

install_import_hook("svdproj", "beartype.beartype")

import hypothesis
import pytest
import torch

from tests.sample_data import VARIABLE, sample_folder

torch.set_num_threads(1)

# A slow machine is no failure. The seed is fixed, yet hypothesis also tries constants of whatever modules are loaded.
hypothesis.settings.register_profile("svdproj", deadline=None, derandomize=True, max_examples=40, print_blob=True)
hypothesis.settings.load_profile("svdproj")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real LeetCode rows and graded rollouts, where they are at hand."""
    folder = sample_folder()
    if not folder.is_dir():
        pytest.skip(f"the sample files are not in {folder}; {VARIABLE} names another folder")
    return folder
