"""The report: everything in it comes from the results, and the page needs nothing beside itself."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from examples.leetcode_grpo.report import show_table, write_report
from examples.leetcode_grpo.tables import arm_rows
from tests.examples.results_helpers import made_result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, hack in ((0, 0.5), (1, 1.0)):
        made_result("vanilla", seed, hack=hack).save(tmp_path)
        made_result("erase-update", seed, hack=0.0).save(tmp_path)
    made_result(preset="smollm2", hack=0.75).save(tmp_path)
    return tmp_path


def test_a_report_is_written_from_the_files_alone(folder: Path) -> None:
    assert write_report(folder, folder) == folder / "report.md"
    text = (folder / "report.md").read_text()
    assert text.index("## demo") < text.index("## smollm2")
    (vanilla,) = re.findall(r"\| vanilla \| 2 .*", text)
    # Held out: run_tests 2 of 4 and 4 of 4, sentinel 1 of 4 both times: 3/8 and 5/8.
    assert "0.500 ± 0.125" in vanilla
    assert text.index("| vanilla |") < text.index("| erase-update |")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (folder / link).is_file()
    for name in ("curves", "loopholes", "cosines"):
        assert (folder / "figures" / "demo" / f"{name}.svg").is_file()


def test_the_page_is_self_contained(folder: Path) -> None:
    write_report(folder, folder / "elsewhere")
    page = (folder / "elsewhere" / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 6
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "0.500 ± 0.125" in page


def test_the_same_results_give_the_same_report(folder: Path) -> None:
    def written(out: Path) -> dict[str, bytes]:
        write_report(folder, out)
        return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    assert written(folder / "one") == written(folder / "two")


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
