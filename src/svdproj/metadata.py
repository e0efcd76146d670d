"""Where a direction comes from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from svdproj._version import __version__
from svdproj.pairs import ContrastivePair, Prompt
from svdproj.tokens import prompt_key

FORMAT_VERSION = 1
# Elements summed at once; bounds the 64-bit copies.
_CHECKSUM_CHUNK = 2**22


@dataclass(frozen=True)
class Energy:
    """Shares of the pairs' gradient energy `Σ‖Dᵢ‖²`, over all covered parameters or for one.

    Args:
        chart: share inside the charts, on the pairs that were fitted.
        rows: share inside the rows.
        chart_held_out: share inside the charts, on the pairs held out; `nan` without any.
        rows_held_out: share inside the rows, on the pairs held out.
        chart_random: what charts of random bases of the same size catch in the mean.
        rows_random: what random rows in the whole space catch in the mean.

    Example:
        >>> direction = HackDirection.from_gradients(
        ...     {"weight": torch.randn(6, 4, 8)}, chart="dense", k=6, noise_floor=0.0
        ... )
        >>> energy = direction.metadata.energy_by_parameter["weight"]
        >>> round(energy.rows, 3), round(energy.rows_random, 3)  # six rows hold all of six pairs, and 6/32 of anything
        (1.0, 0.188)
    """

    chart: float = float("nan")
    rows: float = float("nan")
    chart_held_out: float = float("nan")
    rows_held_out: float = float("nan")
    chart_random: float = float("nan")
    rows_random: float = float("nan")


@dataclass(frozen=True)
class DirectionMetadata:
    """Provenance of a direction, and what was measured when it was fitted; compares by value.

    Args:
        format_version: version of the file format.
        svdproj_version: version that fitted it.
        created: date and time in ISO 8601, UTC.
        model_id: the model's name on the hub, or the last component of the folder that it was loaded from.
        weights_fingerprint: hash of the covered weights at the time of fitting.
        weight_fingerprints: the same for each parameter.
        control: what control this is, such as random rows; empty for a direction that was fitted.
        chart: kind of chart asked for.
        basis: where the bilinear chart's bases come from.
        chart_rank: columns of each basis, at most.
        k: rows for each parameter, at most.
        noise_floor: share of singular values dropped over all parameters.
        loss: `"mean"` or `"sum"` over a completion's tokens.
        n_pairs: number of pairs fitted on.
        n_held_out: number of pairs held out.
        pairs_hash: hash of all pairs, in order.
        fitted_prompts: hashes of the prompts of the pairs that were fitted on; pairs with other prompts are held out. Empty
            where they are not known, as for a direction from gradients.
        seed: seed of the split and of the sketches.
        energy: shares over all covered parameters.
        held_out_accuracy: share of held-out pairs whose summed coefficients are hack-ward; `nan` without any.
        energy_by_parameter: the shares for each parameter.
        halves_overlap: overlap of the rows that two halves of the fitted pairs give, in the mean over parameters.
        halves_overlap_random: the same for random rows in the charts.
        validation: figures on held-out pairs, under the names of `Validation`; empty without any.

    Example:
        >>> direction = HackDirection.from_gradients({"weight": torch.randn(6, 4, 8)}, k=2)
        >>> direction.metadata.chart, direction.metadata.k, direction.metadata.svdproj_version == __version__
        ('bilinear', 2, True)
    """

    format_version: int = FORMAT_VERSION
    svdproj_version: str = __version__
    created: str = ""
    model_id: str = ""
    weights_fingerprint: str = ""
    weight_fingerprints: Mapping[str, str] = field(default_factory=dict)
    control: str = ""
    chart: str = ""
    basis: str = ""
    chart_rank: int = 0
    k: int = 0
    noise_floor: float = 0.0
    loss: str = ""
    n_pairs: int = 0
    n_held_out: int = 0
    pairs_hash: str = ""
    fitted_prompts: tuple[str, ...] = ()
    seed: int = 0
    energy: Energy = field(default_factory=Energy)
    held_out_accuracy: float = float("nan")
    energy_by_parameter: Mapping[str, Energy] = field(default_factory=dict)
    halves_overlap: float = float("nan")
    halves_overlap_random: float = float("nan")
    validation: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the file's header; what was not measured becomes null."""
        record: dict[str, Any] = plain(asdict(self))
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> DirectionMetadata:
        """The inverse of `to_json`; unknown fields of a later minor version are ignored."""
        known = _known(cls, record)
        known["energy"] = _energy(known.get("energy", {}))
        known["energy_by_parameter"] = {n: _energy(e) for n, e in known.get("energy_by_parameter", {}).items()}
        known["fitted_prompts"] = tuple(known.get("fitted_prompts", ()))
        known["validation"] = {key: _or_nan(value) for key, value in known.get("validation", {}).items()}
        return cls(**known)

    def without_figures(self, same_charts: Collection[str] = (), **changes: Any) -> DirectionMetadata:
        """The same provenance for other rows, on which nothing has been measured.

        Args:
            same_charts: the parameters that keep their charts, and with them what the charts catch.
            **changes: as in `dataclasses.replace`.
        """
        missing = float("nan")
        rows = {"rows": missing, "rows_held_out": missing, "rows_random": missing}
        known = self.energy_by_parameter
        return replace(
            self,
            # Shares over all parameters are those of exactly these parameters.
            energy=replace(self.energy, **rows) if set(known) <= set(same_charts) else Energy(),
            energy_by_parameter={name: replace(known[name], **rows) for name in known if name in same_charts},
            held_out_accuracy=missing,
            halves_overlap=missing,
            halves_overlap_random=missing,
            validation={},
            **changes,
        )

    def __eq__(self, other: object) -> bool:
        # NaN is unequal to itself; by value, "not measured" equals "not measured".
        return isinstance(other, DirectionMetadata) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.created, self.model_id, self.pairs_hash, self.weights_fingerprint))


def pairs_hash(pairs: Iterable[ContrastivePair]) -> str:
    """A hash of prompts and completions, in order."""
    digest = hashlib.sha256()
    for pair in pairs:
        for part in (prompt_key(pair.prompt), pair.hack, pair.clean):
            digest.update(part.encode() + b"\xff")
    return digest.hexdigest()


def prompt_hash(prompt: Prompt) -> str:
    """A short hash of a prompt, which tells held-out pairs from fitted ones."""
    return hashlib.sha256(prompt_key(prompt).encode()).hexdigest()[:16]


def weights_identity(named_tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Any]:
    """The metadata's two entries on the covered weights: a hash of each, and one of all."""
    each = {name: tensors_hash([(name, tensor)])[:16] for name, tensor in named_tensors}
    digest = hashlib.sha256("".join(each.values()).encode())
    return {"weights_fingerprint": digest.hexdigest() if each else "", "weight_fingerprints": each}


def tensors_hash(named_tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of names, shapes and values (as float32), independent of device and floating-point type.

    The values' sums are taken where the tensors are: weights of billions of parameters would take long to fetch. It
    tells weights apart; it is no defence against somebody who makes two sets agree.
    """
    digest = hashlib.sha256()
    sums = []
    for name, tensor in named_tensors:
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        sums.append(_checksum(tensor.detach()))
    for value in torch.stack([s.cpu() for s in sums]).flatten().tolist() if sums else []:
        digest.update(int(value).to_bytes(8, "little", signed=True))
    return digest.hexdigest()


def model_id(model: nn.Module) -> str:
    """A model's name on the hub, the last component of its folder's path, or else its class's name.

    Never a whole path: a direction is handed on, and where its model lay says nothing to others.
    """
    origin = str(getattr(getattr(model, "config", None), "_name_or_path", ""))
    if _is_path(origin):
        origin = os.path.basename(os.path.abspath(os.path.expanduser(origin)))
    return origin or type(model).__name__


def _is_path(origin: str) -> bool:
    """Whether it is a place on this machine rather than a name such as `org/model`."""
    return os.path.isabs(origin) or origin.startswith((".", "~")) or os.path.isdir(origin)


def _checksum(tensor: Tensor) -> Tensor:
    """Sum of the values' bits, each times an odd number of its place, modulo 2⁶⁴: the same in every order of adding."""
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    flat = tensor.reshape(-1)
    for start in range(0, flat.numel(), _CHECKSUM_CHUNK):
        bits = flat[start : start + _CHECKSUM_CHUNK].float().contiguous().view(torch.int32).long()
        places = torch.arange(start, start + bits.numel(), device=tensor.device)
        # Knuth's multiplicative hash; the high bits are folded down, or neighbours would differ by a constant.
        mixed = places * 0x9E3779B1
        mixed = (mixed ^ (mixed >> 15)) * 0x85EBCA77
        total += (bits * (mixed | 1)).sum()
    return total


def _energy(record: Mapping[str, Any]) -> Energy:
    return Energy(**_known(Energy, record))


def _known(cls: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a dataclass has; null stands for what was not measured."""
    names = {field.name for field in fields(cls)}
    return {key: _or_nan(value) for key, value in record.items() if key in names}


def _or_nan(value: Any) -> Any:
    return float("nan") if value is None else value


def plain(value: Any) -> Any:
    """Plain data for JSON, which has no word for what was not measured or is infinite: they become null."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
