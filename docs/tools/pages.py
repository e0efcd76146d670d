"""mkdocs hook: entries of the nav whose page does not exist yet are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Prune the nav before mkdocs checks it."""
    config.nav = _existing(config.nav, Path(config.docs_dir))
    return config


def _existing(entry: Any, docs: Path) -> Any:
    if isinstance(entry, str):
        return entry if (docs / entry).is_file() else None
    if isinstance(entry, dict):
        kept = {title: page for title, inner in entry.items() if (page := _existing(inner, docs))}
        return kept or None
    return [kept for each in entry if (kept := _existing(each, docs))]
