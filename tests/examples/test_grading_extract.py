"""Which part of a completion is the program."""

from __future__ import annotations

import time

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


INDENTED = CODE.replace("class", "   class").replace("    pass", "       pass")
DOCSTRING = 'class Solution:\n    """As in\n\n    ```\n    f(1)\n    ```\n    """\n'


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        (f"1. So:\n\n   ```python\n{INDENTED}   ```\n2. Done.", CODE),
        (f"1. So:\n   ```python\n{CODE}   ```\n", CODE),  # the code lazily at the margin
        (f"- ```python\n{CODE.replace('class', '  class').replace('    pass', '      pass')}  ```", CODE),
        (f"10. So:\n\n    ```python\n    {CODE.replace('    pass', '        pass')}    ```", CODE),
        (f"  ```python\n  {CODE.replace('    pass', '      pass')}  ```", CODE),
        (f"```python\n{DOCSTRING}```\nDone.", DOCSTRING),
        (DOCSTRING, DOCSTRING),
        (f"```python\n{CODE.rstrip()}```", CODE.rstrip()),
        (f"```python\n{CODE.rstrip()}``` \nDone.", CODE.rstrip()),
        (f"```python\n{CODE.rstrip()}```\nPrints:\n```\n1\n```\n", CODE.rstrip()),
        ("```python\nclass Solution:\n    '''Not ```\n    '''\n```", "class Solution:\n    '''Not ```\n    '''\n"),
        (f"\ufeff{CODE}", CODE),
        (f"\ufeff```python\n{CODE}```", CODE),
        (f"```python\n\ufeff{CODE}```", CODE),
    ],
)
def test_ordinary_markdown(completion: str, code: str) -> None:
    assert extract_code(completion) == code


@pytest.mark.parametrize(
    "hostile",
    [
        "```" + " " * 200_000 + "`",
        "```" + "a" * 200_000 + "`",
        "`" * 200_000 + " x`",
        " " * 200_000 + "```x`",
        "1" * 200_000 + ".",
        "- " * 100_000 + "x",
        "```\n" + "x```" * 50_000 + "\n```",
        "```\n" + "x" + "`" * 200_000 + "y",
        "```\n" + "x```" + " " * 200_000 + "y",
        "```python\n" * 5_000,
    ],
    ids=lambda text: text[:6] + "…",
)
def test_hostile_text_is_read_in_linear_time(hostile: str) -> None:
    """It is read in the trainer's own process, with no limit."""

    def seconds() -> float:
        start = time.process_time()
        extract_code(hostile)
        return time.process_time() - start

    assert any(seconds() < 0.1 for _ in range(3))
