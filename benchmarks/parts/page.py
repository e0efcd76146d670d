"""Parts of a documentation page that a script writes."""

from __future__ import annotations

import re
from pathlib import Path

from examples.leetcode_grpo.files import write_text


def fill(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME: -->` and `<!-- :NAME -->`.

    Raises:
        ValueError: the page has no such part, or more than one.
    """
    before = page.read_text(encoding="utf-8")
    part = re.compile(rf"(<!-- {name}: -->\n).*?(<!-- :{name} -->)", re.DOTALL)
    after, count = part.subn(lambda match: f"{match[1]}\n{text}\n{match[2]}", before)
    if count != 1:
        raise ValueError(f"{page} has {count} parts between '<!-- {name}: -->' and '<!-- :{name} -->', not one")
    write_text(page, after)
