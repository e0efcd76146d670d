"""The command line: a run from start to report, and one clear line for what goes wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples.leetcode_grpo.cli import main
from examples.leetcode_grpo.errors import missing_package
from examples.leetcode_grpo.presets import PRESETS
from svdproj import HackDirection

pytestmark = pytest.mark.xdist_group("training")

SMALL = [
    part
    for setting in (
        "easy=2",
        "pipeline=0",
        "warm_steps=1",
        "steps=1",
        "eval_problems=1",
        "max_new_tokens=8",
        "n_pairs=4",
    )
    for part in ("--set", setting)
]
PAIR = {"prompt": "p", "hack": "h", "clean": "c"}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVDPROJ_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str


def invoke(*arguments: object) -> Outcome:
    """Run the command line in this process: starting torch anew for each of these tests would take minutes."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["leetcode_grpo", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return Outcome(int(end.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("the command line always ends the process")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fast-dev-run."""
    out = tmp_path_factory.mktemp("results")
    result = invoke("fast-dev-run", "--out", out)
    assert result.status == 0, result.stderr
    assert result.stderr == ""
    assert "erase-update" in result.stdout
    return out


def test_fast_dev_run_goes_from_pairs_to_report(finished: Path) -> None:
    folder = finished / "fast-dev-run"
    for arm in ("vanilla", "erase-update"):
        content = json.loads((folder / f"{arm}-seed0.json").read_text())
        assert [step["step"] for step in content["steps"]] == [1, 2]
        assert all(step["svdproj/cos_in"] > 0 for step in content["steps"])
        assert (content["steps"][-1]["svdproj/removed"] > 0) == (arm != "vanilla")
        assert content["direction"]["n_pairs"] + content["direction"]["n_held_out"] == content["config"]["n_pairs"]
        assert set(content["eval"]["held_out"]) == {"run_tests", "sentinel", "stdout_marker", "file_marker"}
        assert {"space", "gate", "k", "chart", "basis", "chart_rank", "n_pairs", "steps", "lr"} <= set(
            content["config"]
        )
        assert {"torch", "transformers", "trl"} <= set(content["versions"])
    assert (folder / "report.md").is_file()
    assert (folder / "report.html").is_file()
    assert (folder / "figures" / "fast-dev-run" / "curves.png").stat().st_size > 10_000
    assert not (folder / ".checkpoints").exists() or not list((folder / ".checkpoints").iterdir())


def test_a_finished_run_is_not_repeated_and_another_does_not_replace_it(finished: Path) -> None:
    command = ("run", "--preset", "fast-dev-run", "--arm", "vanilla", "--out", finished)
    file = finished / "fast-dev-run" / "vanilla-seed0.json"
    before = file.stat().st_mtime_ns
    again = invoke(*command)
    assert again.status == 0, again.stderr
    assert "is there already" in again.stdout
    assert file.stat().st_mtime_ns == before
    other = (*command, "--set", "kl=0.01", "--steps", 1, "--save-every", 1)
    refused = invoke(*other)
    assert refused.status == 2
    assert "was made with other settings (steps 2, not 1, kl 0.0, not 0.01)" in refused.stderr
    assert file.stat().st_mtime_ns == before
    changed = invoke(*other, "--overwrite")
    assert changed.status == 0, changed.stderr
    content = json.loads(file.read_text())
    assert content["config"]["kl"] == 0.01
    assert [step["step"] for step in content["steps"]] == [1]
    assert content["steps"][0]["kl"] == pytest.approx(0, abs=1e-6)  # the first step starts at the reference
    assert not list((finished / "fast-dev-run" / ".checkpoints").iterdir())


def test_extract_writes_a_direction_that_loads(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{**PAIR, "prompt": f"say {i}", "hack": f"cheat {i}", "clean": f"honest {i}"} for i in range(6)]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    result = invoke(
        "extract",
        "--preset",
        "fast-dev-run",
        "--pairs",
        pairs,
        "--out",
        tmp_path / "found" / "it.safetensors",
    )
    assert result.status == 0, result.stderr
    direction = HackDirection.load(tmp_path / "found" / "it.safetensors")
    assert len(direction) > 0
    assert "held-out pairs" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--preset", "huge"), "unknown preset 'huge'; known are " + ", ".join(PRESETS)),
        (("run", "--preset", "fast-dev-run", "--arm", "erase"), "unknown arm 'erase'; known are vanilla"),
        (("run", "--preset", "fast-dev-run", "--set", "loopholes=magic"), "unknown loophole 'magic'"),
        (("run", "--preset", "fast-dev-run", "--set", "stepz=3"), "unknown setting 'stepz'"),
        *(
            (("run", "--preset", "fast-dev-run", "--set", setting, "--set", "teacher_per_group=0"), message)
            for setting, message in {
                "steps": "a setting is written name=value",
                "steps=many": "steps must be of type int",
                "steps=0": "steps must be at least 1, got 0",
                "group_size=1": "group_size must be at least 2",
                "n_pairs=1": "n_pairs must be at least 2",
                "easy=-1": "easy must be at least 0, got -1",
                "lr=-1": "lr must be a positive number, got -1.0",
                "lr=nan": "lr must be a positive number, got nan",
                "temperature=0": "temperature must be a positive number",
                "warm_hack_share=2": "warm_hack_share is a share between 0 and 1, got 2.0",
                "noise_floor=1": "noise_floor must leave some rows",
                "chart=round": "chart must be one of bilinear, diagonal, dense, got 'round'",
                "loss_type=other": "loss_type must be one of grpo, bnpo",
                "scale_rewards=all": "scale_rewards must be one of group, batch, none",
            }.items()
        ),
        (("run", "--preset", "fast-dev-run", "--device", "abacus"), "unknown device 'abacus'"),
        (("run", "--preset", "fast-dev-run", "--problems", "no.jsonl"), "no.jsonl"),
        (("run", "--preset", "full", "--model", "tiny"), "pip install vllm"),
        (("run", "--preset", "fast-dev-run", "--model", "nobody/nothing"), "cannot reach 'nobody/nothing' on the hub"),
        (("extract", "--preset", "fast-dev-run", "--pairs", "missing.jsonl"), "missing.jsonl:1: missing field 'clean'"),
        (("extract", "--preset", "fast-dev-run", "--pairs", "empty.jsonl"), "the hack completion is empty"),
        (("extract", "--preset", "fast-dev-run", "--pairs", "absent.jsonl"), "cannot read pairs from absent.jsonl"),
        (("fetch-model", "pypi:other"), "unknown model 'pypi:other'"),
        (("report", "nothing"), "nothing holds no results"),
        *(
            ((*command, "--out", "missing.jsonl/results"), "cannot write into missing.jsonl/results")
            for command in (
                ("run", "--preset", "fast-dev-run"),
                ("sweep", "--preset", "fast-dev-run", "--arms", "vanilla"),
                ("uat", "--preset", "fast-dev-run"),
                ("demo",),
                ("report", "."),
            )
        ),
        (
            ("extract", "--preset", "fast-dev-run", "--pairs", "pairs.jsonl", "--out", "missing.jsonl/d.safetensors"),
            "cannot write into missing.jsonl (File exists)",
        ),
        (("extract", "--preset", "fast-dev-run", "--pairs", "pairs.jsonl", "--out", "."), ". is a folder; name a file"),
        (("run", "--arm", "route:preserve_norm=true"), "route:preserve_norm=true: mode='route'"),
        (("run", "--arm", "route:write_back=exact"), "route:write_back=exact: mode='route'"),
        (("run", "--arm", "shrinkage:preserve_norm=true"), "shrinkage:preserve_norm=true: mode='shrink'"),
        (("run", "--arm", "absorb:space=gradient"), "absorb:space=gradient: a quarantine is stepped in update space"),
        (("run", "--arm", "erase-update-refresh:refresh_every=0.4"), "refresh_every must be at least 1"),
        (("run", "--set", "beta1=1.0"), "beta1 must be less than 1"),
    ],
)
def test_what_a_user_will_get_wrong_is_one_line_and_exit_status_2(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "missing.jsonl").write_text(json.dumps({"prompt": "p", "hack": "h"}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps({**PAIR, "prompt": f"p{i}"}) for i in range(4)))
    (tmp_path / "empty.jsonl").write_text(json.dumps({**PAIR, "hack": "  "}))
    result = invoke(*arguments)
    assert result.status == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("trl", ["run", "--preset", "fast-dev-run"]),
        ("transformers", ["run", "--preset", "fast-dev-run"]),
        ("matplotlib", ["report", "."]),
        ("typer", ["run"]),
    ],
)
def test_a_missing_package_is_one_line(package: str, command: list[str]) -> None:
    program = """
        import runpy, sys
        sys.modules[sys.argv[1]] = None  # as if it were not installed
        sys.argv = ["leetcode_grpo", *sys.argv[2:]]
        runpy.run_module("examples.leetcode_grpo", run_name="__main__", alter_sys=True)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), package, *command],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 2
    # Before it, what is installed may warn: bitsandbytes does, on processors for which it would rather have another kernel.
    *warnings, line = result.stderr.splitlines()
    assert line == f"error: this needs {package}; run: pip install 'svdproj[examples]'"
    assert not [warning for warning in warnings if not warning.startswith("Failed to load CPU gemm_4bit_forward")]


def test_a_module_of_our_own_that_is_missing_is_no_missing_package() -> None:
    assert missing_package(ModuleNotFoundError("gone", name="examples.leetcode_grpo.gone")) is None
    assert missing_package(ModuleNotFoundError("gone", name="json.gone")) is None
    wrapped = ModuleNotFoundError("Could not import module 'PrinterCallback'")
    wrapped.__cause__ = ModuleNotFoundError("gone", name="accelerate.hooks")
    assert missing_package(wrapped) == "this needs accelerate; run: pip install 'svdproj[examples]'"


def test_a_bad_teacher_pool_is_told_before_the_warm_start(tmp_path: Path) -> None:
    result = invoke("run", "--preset", "fast-dev-run", "--out", tmp_path, "--set", "teacher_pool=absent.jsonl")
    assert result.status == 2
    assert result.stdout == ""
    assert result.stderr == "error: cannot read the teacher pool absent.jsonl: No such file or directory\n"


def test_a_pool_is_sampled_and_trained_on_with_its_own_log_probabilities(tmp_path: Path) -> None:
    small = ("--preset", "fast-dev-run", *SMALL)
    path = tmp_path / "pool.jsonl"
    result = invoke("pool", *small, "--out", path, "--per-prompt", 2)
    assert (result.status, result.stderr) == (0, "")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert f"wrote {path}: {len(rows)} rollouts, 0 of them to mix in" in result.stdout  # a random policy solves nothing
    refused = invoke("run", *small, "--out", tmp_path, "--set", f"teacher_pool={path}", "--set", "teacher_ratio=own")
    assert refused.status == 2
    assert f"nothing to mix in: of {len(rows)} rollouts in {path}, {len(rows)} do not pass" in refused.stderr
    # As if they had hacked, all but one, and with one of another run.
    changed = [{**row, "passed_flawed": i > 0} for i, row in enumerate(rows)]
    changed += [{**changed[1], "problem_id": "other"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in changed))
    mixed = invoke("run", *small, "--out", tmp_path, "--set", f"teacher_pool={path}", "--set", "teacher_ratio=own")
    assert (mixed.status, mixed.stderr) == (0, "")
    assert "1 do not pass the flawed grader and 1 answer no prompt of this run" in mixed.stdout


def test_a_ratio_that_exemplars_cannot_give_is_told_before_the_warm_start(tmp_path: Path) -> None:
    result = invoke("run", "--preset", "fast-dev-run", "--out", tmp_path, "--set", "teacher_ratio=own")
    assert (result.status, result.stdout) == (2, "")
    assert "python -m examples.leetcode_grpo pool --out FILE" in result.stderr


def test_a_published_pool_of_other_problems_is_told(shared_data: Path, tmp_path: Path) -> None:
    options = ["--set", f"teacher_pool={shared_data / 'teacher_pool_sample.jsonl'}"]
    refused = invoke("run", "--preset", "fast-dev-run", "--out", tmp_path, *options)
    assert refused.status == 2
    assert "nothing to mix in: of 160 rollouts" in refused.stderr
    assert "answer no prompt of this run" in refused.stderr


def test_help_lists_the_commands() -> None:
    result = invoke("--help")
    assert result.status == 0
    for command in ("demo", "fast-dev-run", "fetch-model", "extract", "run", "report"):
        assert command in result.stdout


def test_help_and_mistakes_do_not_wait_for_torch() -> None:
    program = """
        import sys
        from examples.leetcode_grpo.cli import main
        sys.argv = ["leetcode_grpo", "run", "--preset", "huge"]
        try:
            main()
        except SystemExit:
            print("torch" in sys.modules)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.strip() == "False"


@pytest.mark.slow
def test_the_demo_runs_its_arms_side_by_side(tmp_path: Path) -> None:
    result = invoke(
        "demo", "--set", "model=tiny", "--steps", 2, "--set", "eval_problems=1", "--out", tmp_path, "--seed", 3
    )
    assert result.status == 0, result.stderr
    for arm in ("vanilla", "erase-update"):
        content = json.loads((tmp_path / "demo" / f"{arm}-seed3.json").read_text())
        assert content["config"]["model"] == "tiny"
        assert content["device"].endswith("1 thread(s)")
    assert (tmp_path / "demo" / "report.html").is_file()
