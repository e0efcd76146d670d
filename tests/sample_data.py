"""Where the published sample files lie that some tests read."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "SVDPROJ_SAMPLE_DATA"


def sample_folder() -> Path:
    """The folder that the environment variable names, else `shared/data` next to the clone."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"


ROWS = sample_folder() / "leetcode_medhard_sample.jsonl"
"""Rows of the published LeetCode problems."""

ROLLOUTS = sample_folder() / "teacher_pool_sample.jsonl"
"""Graded rollouts of a published teacher pool."""
