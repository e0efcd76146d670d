"""The benchmarks of extraction run through, and say what they promise, on a model of a few thousand parameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import choices, extraction
from benchmarks.parts import curves, plan
from benchmarks.parts.choice_tables import tables as choice_tables
from benchmarks.parts.extraction_table import tables as extraction_tables
from benchmarks.parts.page import fill
from benchmarks.parts.policies import load_family


@pytest.mark.filterwarnings("ignore:hack completions are:UserWarning")
def test_extraction_finds_the_loops_gradients_and_times_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "qwen3_4b", lambda: load_family("tiny", "cpu")[0])
    out = tmp_path / "extraction-tiny.json"
    sizes = ["--pairs", "4", "--batch-size", "2", "--equal-pairs", "2", "--plan-tokens", "16"]
    extraction.main(["--model", "tiny", "--device", "cpu", *sizes, "--out", str(out)])
    result = json.loads(out.read_text())
    differences = result["equality"]["largest_relative_difference"]
    assert len(differences) == 5
    for found in differences.values():
        assert 0 < found["coordinates"] < extraction.TARGETS["equality"]
        assert found["norms"] < extraction.TARGETS["equality"]
    assert result["overlap_of_directions"]["min"] > 0.99
    assert set(result["stages"]["fit"]) == {*extraction._STAGES, extraction._PASSES}
    assert result["plan_qwen3_4b"]["first_pass"] > result["plan_qwen3_4b"]["weights"]
    assert "x86" in extraction_tables([out]) or "aarch" in extraction_tables([out])


def test_a_model_of_four_billion_parameters_has_random_weights_where_it_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert sum(p.numel() for p in plan.qwen3_4b().parameters()) == pytest.approx(4.02e9, rel=0.01)
    small = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "head_dim": 8}
    monkeypatch.setattr(plan, "QWEN3_4B", {**plan.QWEN3_4B, **small})
    model = plan.qwen3_4b("cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(p.isfinite().all() and p.abs().sum() > 0 for p in model.parameters())


def test_choices_stand_beside_random_figures_and_make_tables_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "RANKS", (4, curves.RANK))
    monkeypatch.setattr(curves, "PAIRS", (4, 8))
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- choices: -->\nold\n<!-- :choices -->\nb\n")
    monkeypatch.setattr(choices, "PAGE", page)
    sizes = ["--pairs", "8", "--held-out", "4", "--splits", "2", "--stride", "2"]
    folders = ["--out", str(tmp_path), "--draw", str(tmp_path / "figures")]
    choices.main(["--families", "tiny", "--device", "cpu", *sizes, *folders])
    result = json.loads((tmp_path / "choices-tiny.json").read_text())
    for point in result["points"]:
        # More rows never hold less.
        assert point["in_rows_held_out"] == sorted(point["in_rows_held_out"])
        assert point["in_rows_held_out"][-1] <= point["in_chart_held_out"] * 1.001 + 1e-6
        if point["basis"] == "random":
            assert 0.3 < point["in_chart_held_out"] / point["in_chart_random"] < 3
    assert (tmp_path / "figures" / "choices-tiny.svg").stat().st_size > 1000
    assert choice_tables([tmp_path / "choices-tiny.json"]) in page.read_text()
    assert "old" not in page.read_text()


def test_a_page_without_the_place_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    with pytest.raises(ValueError, match="0 parts between '<!-- x: -->'"):
        fill(page, "x", "text")
    assert page.read_text() == "nothing here"
