"""The cache of singular vectors: used when it is right, recomputed when it is not, never half written."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from svdproj.adapters import cache_folder
from svdproj.adapters.singular import singular_vectors, weight_fingerprint


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SVDPROJ_CACHE", str(tmp_path))
    return tmp_path / "svd"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry for each decomposition that was really computed."""
    calls: list[Any] = []
    original = torch.linalg.svd

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(args[0].dtype)
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.linalg, "svd", counting)
    return calls


WEIGHT = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))


def test_an_entry_is_written_once_and_read_from_then_on(folder: Path, computed: list[Any]) -> None:
    first = singular_vectors(WEIGHT.bfloat16())
    second = singular_vectors(WEIGHT.bfloat16().float())  # the same values in another type
    assert computed == [torch.float32]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert [p.suffix for p in folder.iterdir()] == [".safetensors"]
    singular_vectors(WEIGHT)
    assert len(computed) == 2


def test_all_vectors_serve_every_rank_but_not_the_other_way_round(folder: Path, computed: list[Any]) -> None:
    u, vh = singular_vectors(WEIGHT, 3)
    assert (u.shape, vh.shape) == ((12, 3), (3, 8))
    singular_vectors(WEIGHT, 5)
    assert len(computed) == 2
    whole = singular_vectors(WEIGHT)
    few = singular_vectors(WEIGHT, 4)
    assert len(computed) == 3
    assert torch.equal(few[0], whole[0][:, :4])
    assert torch.equal(few[1], whole[1][:4])
    assert singular_vectors(WEIGHT, 100)[0].shape == (12, 8)
    assert len(computed) == 3


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def garbage(path: Path) -> None:
    path.write_bytes(b"not safetensors at all")


def foreign(path: Path) -> None:
    u, s, vh = torch.linalg.svd(WEIGHT.flip(0), full_matrices=False)
    save_file({"u": u.contiguous(), "s": s, "vh": vh.contiguous()}, path)


def flipped(path: Path) -> None:
    entry = load_file(path)
    entry["u"][3, 2] += 0.1
    save_file(entry, path)


def unordered(path: Path) -> None:
    entry = load_file(path)
    save_file({"u": entry["u"].flip(1).contiguous(), "s": entry["s"], "vh": entry["vh"]}, path)


def not_finite(path: Path) -> None:
    entry = load_file(path)
    entry["vh"][0, 0] = float("nan")
    save_file(entry, path)


def without_a_part(path: Path) -> None:
    save_file({"u": load_file(path)["u"]}, path)


@pytest.mark.parametrize("damage", [truncated, garbage, foreign, flipped, unordered, not_finite, without_a_part])
def test_wrong_entries_are_computed_again_and_replaced(
    damage: Any, folder: Path, computed: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    right = singular_vectors(WEIGHT)
    (path,) = folder.iterdir()
    damage(path)
    computed.clear()
    with caplog.at_level(logging.WARNING, "svdproj"):
        again = singular_vectors(WEIGHT)
    assert computed == [torch.float32]
    assert "computed again" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(right, again, strict=True))
    computed.clear()
    singular_vectors(WEIGHT)
    assert not computed, "the entry was not repaired"


def test_a_failed_write_leaves_nothing_and_does_not_stop_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with caplog.at_level(logging.WARNING, "svdproj"):
        assert singular_vectors(WEIGHT)[0].shape == (12, 8)
    assert "set SVDPROJ_CACHE to a writable folder" in caplog.text
    assert list(folder.iterdir()) == []


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, computed: list[Any]) -> None:
    monkeypatch.setenv("SVDPROJ_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine" / "svd"
    monkeypatch.delenv("SVDPROJ_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "svdproj" / "svd"
    monkeypatch.setenv("SVDPROJ_CACHE", "")
    assert cache_folder() is None
    singular_vectors(WEIGHT)
    singular_vectors(WEIGHT)
    assert len(computed) == 2


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="not finite has no singular vectors"):
        singular_vectors(torch.full((3, 3), float("inf")))


@given(st.integers(1, 14), st.integers(1, 14), st.integers(1, 20), st.integers(0, 2**31), st.sampled_from([-20, 0, 20]))
def test_every_shape_is_decomposed(out: int, in_: int, rank: int, seed: int, exponent: int) -> None:
    """Tall, wide, single rows and columns, tiny and huge values; the product of the parts is the best of its rank."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, in_, generator=generator) * 2.0**exponent
    u, vh = singular_vectors(weight, rank)
    kept = min(rank, out, in_)
    assert (u.shape, vh.shape) == ((out, kept), (kept, in_))
    torch.testing.assert_close(u.mT @ u, torch.eye(kept), rtol=0, atol=1e-5)
    torch.testing.assert_close(vh @ vh.mT, torch.eye(kept), rtol=0, atol=1e-5)
    singular = torch.linalg.svdvals(weight.double())
    core = (u.mT.double() @ weight.double() @ vh.mT.double()).diagonal()
    torch.testing.assert_close(core, singular[:kept], rtol=1e-4, atol=1e-5 * float(singular[0]))


def test_fingerprints_tell_weights_apart() -> None:
    other = WEIGHT.clone()
    other[0, 0] += 1e-6
    assert weight_fingerprint(WEIGHT) == weight_fingerprint(WEIGHT.double())
    assert len({weight_fingerprint(w) for w in (WEIGHT, other, WEIGHT.mT, -WEIGHT, WEIGHT.bfloat16())}) == 5
