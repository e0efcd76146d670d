"""The published LeetCode files: tests read as data, real rows gradable, broken ones named by line and field."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.grading.sandbox.values import dumps
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems import Problem, Structure, TestCase, load_problems
from examples.leetcode_grpo.problems.building import split_of
from examples.leetcode_grpo.problems.published import FIELDS, parse_tests, parse_value
from tests.sample_data import ROWS

with_sample = pytest.mark.skipif(not ROWS.exists(), reason=f"the published sample is not at {ROWS}")

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.sets(st.integers(), max_size=3)
    ),
    max_leaves=8,
)


def row(**changes: Any) -> dict[str, Any]:
    statement = (
        "PROBLEM:\nAdd one to n.\n\u00a0\nExample 1:\n\nInput: n = 1\nOutput: 2\n\n"
        "Your solution to the problem should be a method of the class Solution called addOne and should pass all "
        "tests. Use the following starter code:\n```python\n"
        "class Solution:\n    def addOne(self, n: int) -> int:\n        # Add your code here\n```\n\nSOLUTION:\n"
    )
    return {
        "id": 1,
        "difficulty": "medium",
        "prompt": [{"role": "system", "content": "You program."}, {"role": "user", "content": statement}],
        "gt_answer": ["assert Solution().addOne(n = 1) == 2", "assert Solution().addOne(n = -5) == -4"],
        "setup_code": "import math",
        "canonical_solution": "class Solution:\n    def addOne(self, n: int) -> int:\n        return n + 1\n",
        "func_name": "Solution().addOne",
    } | changes


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in rows))
    return path


def value_of(source: str) -> Any:
    return parse_value(ast.parse(source, mode="eval").body)


def test_row_becomes_a_problem(tmp_path: Path) -> None:
    (problem,) = load_problems(write(tmp_path / "rows.jsonl", row()))
    assert problem == Problem(
        id="leetcode/1",
        difficulty="medium",
        split=split_of("leetcode/1"),
        question="Add one to n.\n \nExample 1:\n\nInput: n = 1\nOutput: 2\n\n"
        "Write the method `addOne` of the class `Solution`.",
        starter_code="class Solution:\n    def addOne(self, n: int) -> int:",
        method="addOne",
        canonical_solution="class Solution:\n    def addOne(self, n: int) -> int:\n        return n + 1",
        tests=(TestCase((), 2, {"n": 1}), TestCase((), -4, {"n": -5})),
        setup_code="import math",
    )


def test_prompt_is_laid_out_like_the_banks(tmp_path: Path) -> None:
    (problem,) = load_problems(str(write(tmp_path / "rows.jsonl", row())))
    plain = problem.prompt()[-1]["content"]
    assert plain.endswith(
        "of the class `Solution`.\n```python\nclass Solution:\n    def addOne(self, n: int) -> int:\n```"
    )
    assert "pass all tests" not in plain  # what is tested, and how, is for the hint to say
    assert Loophole.RUN_TESTS.hint("addOne") in problem.prompt(Loophole.RUN_TESTS)[-1]["content"]


@given(PLAIN)
def test_values_are_read_as_they_were_written(value: Any) -> None:
    assert dumps(value_of(repr(value))) == dumps(value)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("-inf", -math.inf),
        ("[inf, -3, +4]", [math.inf, -3, 4]),
        ("float('-inf')", -math.inf),
        ("math.inf", math.inf),
        ("set()", set()),
        ("list_node([1, -2])", Structure("list_node", (1, -2))),
        ("tree_node([1, None, 2])", Structure("tree_node", (1, None, 2))),
        ("[list_node([]), (True, None)]", [Structure("list_node", ()), (True, None)]),
    ],
)
def test_values_beyond_literals(source: str, value: Any) -> None:
    assert repr(value_of(source)) == repr(value)


def test_nan_is_read() -> None:
    assert math.isnan(value_of("nan"))


@pytest.mark.parametrize(
    "source",
    ["open('x')", "__import__('os')", "[x for x in y]", "n", "f'{1}'", "1 + 1", "9 ** 9 ** 9", "-'a'", "-True",
     "{**{}}", "b'x'", "...", "(lambda: 1)()", "list_node(3)", "inf()", "os.inf"],
)  # fmt: skip
def test_anything_else_is_refused_and_never_run(source: str) -> None:
    with pytest.raises(ValueError, match=r"plain value|a sign before|takes a list"):
        value_of(source)


def test_lists_and_trees_are_compared_as_structures() -> None:
    tests = parse_tests(
        [
            "assert is_same_list(Solution().f(head = list_node([3,1])), list_node([1,3]))",
            "assert is_same_tree(Solution().f(tree_node([1]), k = 2), None)",
        ],
        "f",
    )
    assert tests == (
        TestCase((), Structure("list_node", (1, 3)), {"head": Structure("list_node", (3, 1))}),
        TestCase((Structure("tree_node", (1,)),), Structure("tree_node", ()), {"k": 2}),
    )


def test_one_text_may_hold_several_tests() -> None:
    assert len(parse_tests("assert Solution().f(1) == 2\nassert Solution().f(2) == 3", "f")) == 2


BROKEN = [
    (
        row(gt_answer=["assert Solution().addOne(n = 1) == open('x')"]),
        "field 'gt_answer', test 1: `open('x')` is not a plain",
    ),
    (row(gt_answer=["assert Solution().other(n = 1) == 2"]), "does not call Solution().addOne"),
    (row(gt_answer=["assert Solution().addOne(n = 1) != 2"]), "is no comparison"),
    (row(gt_answer=["assert Solution().addOne(**{}) == 2"]), "not plain data"),
    (row(gt_answer=["assert Solution().addOne(n ="]), "field 'gt_answer', test 1"),
    (row(gt_answer=["x = 1"]), "rewrite or remove this test"),
    (row(gt_answer=["assert Solution().addOne(n = 1) == {[1]}"]), "field 'gt_answer', test 1: unhashable type"),
    (row(gt_answer=["assert Solution().addOne(n = 1) == " + "-" * 100_000 + "1"]), "field 'gt_answer', test 1: "),
    ("[" * 100_000, "JSON that nests too deeply"),
    (row(gt_answer=[]), "no test"),
    (row(gt_answer=7), "expected a list of assert statements"),
    (row(func_name="Solution()"), "field 'func_name'"),
    (row(difficulty="extreme"), "field 'difficulty'"),
    (row(canonical_solution=None), "field 'canonical_solution'"),
    (row(prompt="Add one."), "field 'prompt'"),
    (row(prompt=[{"role": "user", "content": "Add one."}]), "no starter code"),
    ("[1]", "expected a JSON object, found list"),
    ('{"id": 1,', "not JSON"),
    ("version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
    (row(), "already taken"),
    *(({key: value for key, value in row().items() if key != field}, f"missing field '{field}'") for field in FIELDS),
]


@pytest.mark.parametrize(("broken", "message"), BROKEN, ids=[message[:40] for _, message in BROKEN])
def test_broken_row_is_named_by_line_and_field(tmp_path: Path, broken: Any, message: str) -> None:
    path = write(tmp_path / "rows.jsonl", row(), "", broken)
    with pytest.raises(UsageError) as caught:
        load_problems(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"PAR1\x15\x04\xff\xd8")
    with pytest.raises(UsageError, match=r"rows\.jsonl is no UTF-8 text; expected JSONL"):
        load_problems(path)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no problems"):
        load_problems(write(tmp_path / "rows.jsonl", ""))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.jsonl", "expected 'builtin', an existing JSONL file"),
        ("owner/data", "name the file in it too"),
        ("a b", "no problems at"),
    ],
)
def test_unknown_source_is_one_clear_line(source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_problems(source)


def test_hub_file_is_fetched_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    fetched = write(tmp_path / "rows.jsonl", row())
    asked = []

    def download(repo: str, file: str, repo_type: str) -> str:
        asked.append((repo, file, repo_type))
        return str(fetched)

    monkeypatch.setattr(hub.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert [problem.id for problem in load_problems("owner/data/folder/rows.jsonl")] == ["leetcode/1"]
    assert asked == [("owner/data", "folder/rows.jsonl", "dataset")]


def without_network(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hub's client, which gets one question and no answer."""
    hub = pytest.importorskip("huggingface_hub")

    def asked(*_: Any, **__: Any) -> None:
        raise ConnectionError("name not resolved\nwith a long story")

    monkeypatch.setattr(hub.HfApi, "dataset_info", asked)
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: pytest.fail("it would retry for half a minute"))
    return hub


def test_without_network_a_cached_file_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = write(tmp_path / "rows.jsonl", row())
    hub = without_network(monkeypatch)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: str(cached))
    assert [problem.id for problem in load_problems("owner/data/rows.jsonl")] == ["leetcode/1"]


def test_without_network_the_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    without_network(monkeypatch)
    with pytest.raises(UsageError) as caught:
        load_problems("owner/data/rows.jsonl")
    assert "\n" not in str(caught.value)
    assert "name not resolved" in str(caught.value)
    assert "pass its path" in str(caught.value)


@with_sample
def test_published_statements_keep_no_trace_of_the_old_frame() -> None:
    for problem in load_problems(ROWS):
        assert "PROBLEM:" not in problem.question
        assert "Your solution to the problem" not in problem.question
        assert problem.starter_code.startswith("class Solution:\n    def " + problem.method)
        assert all(test.kwargs or test.args for test in problem.tests)
