"""A benchmark's record: figures with the machine and the versions that they were measured on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from examples.leetcode_grpo.files import write_text

_LIBRARIES = ("svdproj", "torch", "transformers", "peft", "numpy")


def facts(device: str) -> dict[str, Any]:
    """Versions and device."""
    name = f"{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} threads"
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": name,
        "python": platform.python_version(),
        "versions": {library: _version(library) for library in _LIBRARIES},
    }


def write_record(path: Path | None, record: Mapping[str, Any]) -> None:
    """Write a record as JSON, whole or not at all; nothing without a path."""
    if path is not None:
        write_text(path, json.dumps(record, indent=2) + "\n")
        print(f"written: {path}")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned so that a terminal shows it as well."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (heads, *rows)]
    rule = ["-" * width for width in widths]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
