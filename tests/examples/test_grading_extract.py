"""Which part of a completion is the program."""

from __future__ import annotations

import pytest

from examples.leetcode_grpo.grading import extract_code

CODE = "class Solution:\n    pass\n"


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        (CODE, CODE),
        (f"```python\n{CODE}```", CODE),
        (f"Here:\n```python\n{CODE}```\nDone.", CODE),
        (f"```py\n{CODE}```", CODE),
        (f"```Python3\n{CODE}```", CODE),
        (f"```\n{CODE}```", CODE),
        (f"~~~python\n{CODE}~~~", CODE),
        (f"```python\r\n{CODE}```".replace("\n", "\r\n").replace("\r\r", "\r"), CODE),
        (f"```python\n{CODE}", CODE),
        (f"```python\ndraft = 1\n```\nBetter:\n```python\n{CODE}```", CODE),
        (f"```python\n{CODE}```\nUsage:\n```python\nSolution()\n```", CODE),
        (f"```python\n{CODE}```\nOutput:\n```text\nclass Solution\n```", CODE),
        (f"```python\n{CODE}```\nThen:\n```python\n{CODE}x = 1\n```", CODE + "x = 1\n"),
        (f"```bash\npip install x\n```\n```python\n{CODE}```", CODE),
        (f"```python\ndraft = 1\n\n```python\n{CODE}```", CODE),
        ("```bash\nls\n```", "```bash\nls\n```"),
        (f"````python\ns = '```'\n{CODE}````", f"s = '```'\n{CODE}"),
        ("", ""),
        ("```python\n", ""),
    ],
)
def test_extract_code(completion: str, code: str) -> None:
    assert extract_code(completion) == code
