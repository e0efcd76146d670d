"""Where problems come from: one name in, a list of problems out."""

from __future__ import annotations

import re
from pathlib import Path

from examples.leetcode_grpo.errors import UsageError, require
from examples.leetcode_grpo.problems.classics import classic_problems
from examples.leetcode_grpo.problems.easy import easy_problems
from examples.leetcode_grpo.problems.pipelines import bank_pipelines
from examples.leetcode_grpo.problems.problem import Problem
from examples.leetcode_grpo.problems.published import load_published

BUILTIN = "builtin"

_HUB_FILE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[\w./-]+\.jsonl)")
_HUB_REPO = re.compile(r"[\w.-]+/[\w.-]+")


def load_problems(source: str | Path = BUILTIN) -> list[Problem]:
    """All problems of a source, in a fixed order; their splits are part of them.

    Args:
        source: `"builtin"` for the bank, the path of a published LeetCode JSONL file, or one in a dataset on the hub,
            as `owner/dataset/file.jsonl`. An existing path wins over the hub.

    Raises:
        UsageError: there is no such source, it cannot be fetched, or a row cannot be read.

    Example:
        >>> sorted({problem.difficulty for problem in load_problems("builtin")})
        ['easy', 'hard', 'medium', 'pipeline']
    """
    if source == BUILTIN:
        return [*easy_problems(), *bank_pipelines(), *classic_problems()]
    if Path(source).is_file():
        try:
            return load_published(source)
        except OSError as error:
            raise UsageError(f"cannot read the problems of {source}: {error.strerror}") from None
    if found := _HUB_FILE.fullmatch(str(source)):
        return load_published(_fetch(found["repo"], found["file"]))
    if _HUB_REPO.fullmatch(str(source)) and not str(source).endswith(".jsonl"):
        raise UsageError(f"{source} may be a dataset on the hub: name the file in it too, as {source}/file.jsonl")
    raise UsageError(
        f"no problems at {str(source)!r}: expected {BUILTIN!r}, an existing JSONL file, "
        "or owner/dataset/file.jsonl on the hub"
    )


def _fetch(repo: str, file: str) -> str:
    hub = require("huggingface_hub", "examples")
    try:
        # One question with a deadline, since the download would retry for half a minute and print every attempt.
        hub.HfApi().dataset_info(repo, timeout=10)
        return str(hub.hf_hub_download(repo, file, repo_type="dataset"))
    except Exception as error:  # the hub's client raises its own, the standard library's and its HTTP library's errors
        if isinstance(cached := hub.try_to_load_from_cache(repo, file, repo_type="dataset"), str):
            return cached
        reason = str(error).strip().split("\n")[0]
        raise UsageError(
            f"no file {repo}/{file} here, and it cannot be fetched from the hub ({type(error).__name__}: {reason}); "
            "check the name and the network, or download the file and pass its path"
        ) from error
