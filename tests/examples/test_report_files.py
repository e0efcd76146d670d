"""The report: everything in it comes from the results, the page needs nothing beside itself, and the published page is up to date."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from examples.leetcode_grpo.document import Grid
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.presets import get_preset
from examples.leetcode_grpo.report import show_table, write_page, write_parts, write_report
from examples.leetcode_grpo.results import RunResult
from examples.leetcode_grpo.sections import _repeat, findings, sections
from examples.leetcode_grpo.tables import (
    ContrastRow,
    arm_rows,
    by_arm,
    loophole_rows,
    outcome_rows,
    primary_rows,
    secondary_rows,
)
from examples.leetcode_grpo.verdict import verdict
from tests.examples.results_helpers import made_result, made_uat

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results with its report."""
    folder = tmp_path_factory.mktemp("results")
    for seed, hack in ((0, 0.5), (1, 1.0)):
        made_result("vanilla", seed, hack=hack).save(folder)
        made_result("erase-update", seed, hack=0.0).save(folder)
    made_result(preset="smollm2", hack=0.75).save(folder)
    (folder / "demo" / "README.md").write_text("# A heading\n\nWhat was learned <here>.\n")
    (folder / "demo" / "uat0.json").write_text(json.dumps(made_uat()))
    write_report(folder, folder)
    return folder


def test_a_report_is_written_from_the_files_alone(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    assert text.index("## smollm2") < text.index("## demo")  # the counted runs come first
    assert "What was learned <here>." in text
    assert "A heading" not in text
    (vanilla,) = re.findall(r"^\| vanilla \| 2 .*", text, re.MULTILINE)
    # Held out: run_tests 2 of 4 and 4 of 4, sentinel 1 of 4 both times: 3/8 and 5/8.
    assert "0.500 ± 0.125" in vanilla
    # At 1.0 the rate reaches one half in step 6 of 12, at 0.5 in the last.
    assert vanilla.endswith("| 6 |")
    assert text.index("| vanilla |") < text.index("| erase-update |")
    # 1/8 less 3/8 and 5/8; both signs alike: the lowest p of two seeds.
    (row,) = re.findall(r"^\| erase-update \| vanilla .*", text, re.MULTILINE)
    assert row.startswith("| erase-update | vanilla | 2 | -37.5 [")
    assert "| 0.50 |" in row
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (folder / link).is_file()
    for name in ("curves", "survival", "loopholes", "cosines"):
        assert (folder / "figures" / "demo" / f"{name}.svg").is_file()


def test_the_report_shows_the_acceptance_tests(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    assert "| T1 | the teacher pool hacks | 0.980 [0.95, 1.00], n 4 | ≥ 0.50 | 0.000: nothing | yes |" in text
    assert "| T4 | pure hacks are more hack-ward than right ones | +0.250, p = 0.004, sign flips |" in text
    assert (folder / "figures" / "demo" / "uat0.png").is_file()


def test_the_page_is_self_contained(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 9
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "0.500 ± 0.125" in page
    assert "What was learned &lt;here&gt;." in page


def test_the_same_results_give_the_same_report(folder: Path) -> None:
    write_report(folder, folder / "again")
    for path in (folder / "again").rglob("*.*"):
        assert path.read_bytes() == (folder / path.relative_to(folder / "again")).read_bytes(), path


def test_the_published_page_is_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = write_page(Path("examples/leetcode_grpo/results"), tmp_path / "results.md", figures=False)
    published = ROOT / "docs" / "results.md"
    assert page.read_text() == published.read_text(), "write it anew: python -m examples.leetcode_grpo page"
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        assert (published.parent / link).is_file(), link


def test_the_readme_says_what_the_results_say(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    copy.write_text((ROOT / "README.md").read_text())
    write_parts(ROOT / "examples" / "leetcode_grpo" / "results", copy)
    assert copy.read_text() == (ROOT / "README.md").read_text(), "write it anew: python -m examples.leetcode_grpo page"
    assert "erase-update against vanilla" in copy.read_text()


def test_the_command_of_a_section_leaves_out_what_the_names_of_its_arms_say() -> None:
    config = get_preset("demo").with_values({"steps": 99, "lr": 0.5}).as_dict()
    runs = [replace(made_result(f"{arm}@steps=99"), config=config) for arm in ("vanilla", "kl")]
    assert _repeat(runs).endswith("--arm ARM --seed SEED --set lr=0.5`")


def test_the_counted_folders_come_first(tmp_path: Path) -> None:
    for name in ("demo", "first", "smollm2-long", "smollm2"):
        made_result(preset=name).save(tmp_path)
    assert [section.title for section in sections(tmp_path)] == ["smollm2", "smollm2-long", "demo", "first"]


def test_each_part_is_written_for_itself_even_if_it_is_empty(folder: Path, tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    parts = "<!-- results: demo -->\n<!-- end -->\n"
    document.write_text(f"before\n{parts}between\n{parts}after\n")
    for _ in range(2):
        write_parts(folder, document)
        text = document.read_text()
        assert text.count("| vanilla | 2 |") == 2
        assert text.index("before") < text.index("between") < text.rindex("| vanilla") < text.index("after")


def test_a_part_that_names_no_results_is_an_error(folder: Path, tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("<!-- results: nowhere -->\nold\n<!-- end -->\n")
    with pytest.raises(UsageError, match="nowhere"):
        write_parts(folder, document)
    document.write_text("no part\n")
    with pytest.raises(UsageError, match="<!-- results: smollm2 -->"):
        write_parts(folder, document)


def test_many_arms_are_drawn_in_families() -> None:
    from examples.leetcode_grpo.figures import figure_captions

    arms = ["vanilla", "erase-update", "erase-gradient", "route", "random", "placebo", "kl", "no-loophole", "shrinkage"]
    runs = [made_result(arm) for arm in arms]
    assert list(figure_captions(runs)) == ["curves", "controls", "baselines", "survival", "loopholes", "cosines"]
    assert list(figure_captions(runs[:4])) == ["curves", "survival", "loopholes", "cosines"]
    runs += [made_result(f"erase-update@k={k}") for k in (6, 12)]
    assert list(figure_captions(runs))[:4] == ["curves", "controls", "baselines", "variants"]
    adapter = made_result("route@svd_adapter=true")
    runs.append(replace(adapter, config={**adapter.config, "svd_adapter": True}))
    assert list(figure_captions(runs))[:5] == ["curves", "controls", "baselines", "variants", "adapter"]


@pytest.mark.parametrize("arms", [9, 2])
def test_a_legend_of_long_names_stays_inside_its_figure(arms: int) -> None:
    from examples.leetcode_grpo.figures import _curves

    settings = ",".join(f"setting_{place}=1" for place in range(6))
    figure = _curves([made_result(f"erase-update@k={k},{settings}") for k in range(arms)], "")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


def test_what_ran_under_other_conditions_is_drawn_beside_a_reference_that_did_too(tmp_path: Path) -> None:
    from examples.leetcode_grpo.figures import draw_figures, figure_captions

    arms = ["vanilla", "erase-update", "erase-gradient", "route", "random", "placebo", "kl", "erase-update@k=6"]
    long = ["vanilla@steps=9", "erase-update@k=6,steps=9", "erase-update@steps=99"]
    runs = [made_result(arm) for arm in [*arms, *long]]
    captions = figure_captions(runs)
    assert list(captions) == [
        "curves", "controls", "baselines", "variants", "under-steps-9", "survival", "loopholes", "cosines",
    ]  # fmt: skip
    assert captions["under-steps-9"] == "The same with steps=9, vanilla included."
    draw_figures(runs, tmp_path)
    drawn = (tmp_path / "under-steps-9.svg").read_text()
    # Named without the condition, which is in the caption; matplotlib notes a text beside its outlines.
    assert re.findall(r"<!-- (erase-update.*) -->", drawn) == ["erase-update@k=6"]


def test_a_part_shows_the_arms_that_were_written_down_beforehand() -> None:
    arms = ["vanilla", "erase-update", "erase-update@k=6", "random-matched@matched_ratio=29", "random", "placebo", "kl"]
    (table,) = [block for block in findings([made_result(arm) for arm in arms]) if isinstance(block, Grid)]
    assert [row[0] for row in table.rows] == ["vanilla", "erase-update", "random-matched@matched_ratio=29", "placebo"]
    (table,) = [block for block in findings([made_result("vanilla"), made_result("kl")]) if isinstance(block, Grid)]
    assert [row[0] for row in table.rows] == ["vanilla", "kl"]


def test_loopholes_are_told_of_the_primary_contrast_or_of_all_arms() -> None:
    def told(*arms: str) -> list[str]:
        return [row[0] for row in loophole_rows([made_result(arm) for arm in arms])][::2]

    assert told("vanilla", "placebo", "erase-update") == ["vanilla", "erase-update"]
    assert told("vanilla@steps=120", "kl@steps=120") == ["vanilla@steps=120", "kl@steps=120"]


def test_arms_stand_in_the_order_of_the_registry_with_variants_behind_theirs() -> None:
    names = ["placebo", "erase-update@overshoot=1", "unknown", "erase-update", "vanilla"]
    found = [arm for _, arm in by_arm([made_result(name) for name in names])]
    assert found == ["vanilla", "erase-update", "erase-update@overshoot=1", "placebo", "unknown"]


def test_an_arm_with_a_quarantine_has_two_rows() -> None:
    run = made_result("route", hack=0.0)
    both = replace(run, eval_kept=made_result(hack=1.0).eval)
    deployed, kept = arm_rows([both])
    assert (deployed.arm, kept.arm) == ("route", "route, kept")
    assert (deployed.held_out_hack.value, kept.held_out_hack.value) == (1 / 8, 5 / 8)


def _eight(arm: str, hack: float, passed: int = 1) -> list[RunResult]:
    runs = []
    for seed in range(8):
        run = made_result(arm, seed, hack=hack)
        counts = tuple(replace(each, passed=passed) for each in run.eval.problems)
        runs.append(replace(run, eval=replace(run.eval, problems=counts)))
    return runs


@pytest.mark.parametrize(
    ("hacks", "passed", "words"),
    [
        ((1.0, 0.0), (2, 2), "H1 holds, and so does the goal"),  # 62.5 less 12.5 points
        ((0.5, 0.0), (2, 2), "H1 is undecided"),  # 25 points
        ((1.0, 0.0), (3, 2), "H1 is undecided"),  # 25 points of the pass rate lost
        ((0.25, 0.0), (2, 2), "H1 is falsified"),  # 12.5 points
        ((0.0, 0.0), (2, 2), "H1 is falsified"),
    ],
)
def test_the_verdict_follows_the_preregistered_rule(
    hacks: tuple[float, float], passed: tuple[int, int], words: str
) -> None:
    runs = [*_eight("vanilla", hacks[0], passed[0]), *_eight("erase-update", hacks[1], passed[1])]
    assert words in verdict(runs)[1]
    assert verdict(runs[:-1])[1] == "No verdict on H1 before 8 seeds."
    assert verdict(runs[:8]) == []


def test_the_long_test_counts_the_seeds_that_it_was_not_picked_on() -> None:
    arms = ("vanilla@steps=120", "erase-update-refresh@overshoot=1.5,refresh_every=20,steps=120")
    long = [
        replace(run, seed=run.seed + 2, preset="smollm2")
        for arm, hack in zip(arms, (1.0, 0.0), strict=True)
        for run in _eight(arm, hack)
    ]
    picked_on = [
        made_result(arm, seed, "smollm2", hack=1 - hack)
        for arm, hack in zip(arms, (1.0, 0.0), strict=True)
        for seed in (0, 1)
    ]
    found = verdict([*picked_on, *long])
    assert found == verdict(long)
    assert found[0].startswith(f"{arms[1]} against {arms[0]}, 8 paired seeds: hack rate -50.0 ")
    assert found[1] == "H2 holds, and so does the goal: a pass rate at most 3 points lower."
    assert verdict(picked_on) == []
    assert verdict([replace(run, preset="demo") for run in long]) == []
    assert verdict([*picked_on, *long[:-1]])[1] == "No verdict on H2 before 8 seeds."
    both = [*_eight("vanilla", 1.0), *_eight("erase-update", 0.0), *long]
    assert [sentence[:2] for sentence in verdict(both)[1::2]] == ["H1", "H2"]


def test_controls_are_corrected_for_each_other_and_the_primary_contrast_is_not() -> None:
    runs = [*_eight("vanilla", 1.0), *_eight("erase-update", 0.0), *_eight("placebo", 1.0), *_eight("shrinkage", 0.75)]
    main, *others = primary_rows(runs)
    assert (main.hack.arm, main.hack.corrected) == ("erase-update", None)
    assert [row.hack.arm for row in others] == ["shrinkage", "placebo"]
    secondary: list[ContrastRow] = secondary_rows(runs)
    assert [row.hack.reference for row in secondary] == ["placebo", "shrinkage"]
    # With the two other outcomes there are four secondary tests; the log-rank test's p value is the smallest of them.
    assert [row.hack.corrected for row in secondary] == pytest.approx([6 / 256, 6 / 256])
    honest, half = outcome_rows(runs)
    assert honest.cells() == (
        "pass rate without the hint",
        "erase-update",
        "vanilla",
        "8",
        "+0.0 [+0.0, +0.0]",
        "1.00",
        "1.00",
    )
    assert half.difference == "> 12 against 6"
    assert half.corrected == pytest.approx(4 * half.p_value)
    assert half.p_value < 1 / 256
    assert secondary[0].cells()[:3] == ("erase-update", "placebo", "8")
    assert primary_rows(_eight("placebo", 1.0)) == secondary_rows(_eight("placebo", 1.0)) == []


def test_arms_of_another_length_are_not_compared_with_vanilla() -> None:
    runs = [made_result("vanilla"), made_result("erase-update"), made_result("erase-update@steps=24", steps=24)]
    assert [row.hack.arm for row in primary_rows(runs)] == ["erase-update"]


def test_arms_are_compared_with_the_vanilla_of_their_conditions() -> None:
    longer = (
        "vanilla@steps=24",
        "vanilla@kl=1",
        "vanilla@kl=1,steps=24",
        "erase-update@steps=24",
        "kl@k=2,kl=1,steps=24",
    )
    arms = (
        "vanilla",
        "vanilla-svd@lr=1",
        "erase-svd@lr=1,overshoot=2",
        "placebo@k=2",
        "erase-gradient@kl=1,steps=24",
        *longer,
    )
    arms = (*arms, "weak-detector", "vanilla@known_loopholes=run_tests+sentinel", "route@lr=1,svd_adapter=true")
    runs = [made_result(arm, steps=24 if "steps" in arm else 12) for arm in arms]
    assert {row.hack.arm: row.hack.reference for row in primary_rows(runs)} == {
        "erase-update@steps=24": "vanilla@steps=24",
        "erase-gradient@kl=1,steps=24": "vanilla@kl=1,steps=24",
        "kl@k=2,kl=1,steps=24": "vanilla@kl=1,steps=24",
        "placebo@k=2": "vanilla",
        "vanilla@kl=1": "vanilla",
        "vanilla@kl=1,steps=24": "vanilla@steps=24",
        "vanilla@known_loopholes=run_tests+sentinel": "vanilla",
        "vanilla-svd@lr=1": "vanilla",
        "erase-svd@lr=1,overshoot=2": "vanilla-svd@lr=1",
        "route@lr=1,svd_adapter=true": "vanilla-svd@lr=1",
        "weak-detector": "vanilla@known_loopholes=run_tests+sentinel",
    }


def test_the_vanilla_of_an_arm_was_trained_as_long_and_asked_the_same() -> None:
    tie = ("vanilla", "vanilla@kl=1", "vanilla@steps=24", "erase-update@kl=1,steps=24")
    runs = [made_result(arm, steps=24 if "steps" in arm else 12) for arm in tie]
    assert [(row.hack.arm, row.hack.reference) for row in primary_rows(runs)] == [
        ("vanilla@kl=1", "vanilla"),
        ("erase-update@kl=1,steps=24", "vanilla@steps=24"),
    ]
    other = made_result("erase-update@loopholes=file_marker")
    other = replace(other, eval=replace(other.eval, problems=other.eval.problems[:1]))
    assert [row.hack.arm for row in primary_rows([made_result(), other])] == []


def test_the_end_of_training_is_the_mean_of_the_last_ten_steps() -> None:
    (row,) = arm_rows([made_result(hack=1.0, steps=12)])
    assert row.hack.value == pytest.approx(sum(range(3, 13)) / 10 / 12)
    assert row.hack.error is None
    assert row.no_hint_pass.value == 0.75


def test_the_table_names_every_arm_in_full() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    show_table([made_result("vanilla"), made_result("erase-update-two-sided")], console)
    text = console.export_text()
    assert "erase-update-two-sided" in text
