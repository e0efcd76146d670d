"""Singular vectors of weights, computed once and kept on disk.

The decomposition of a large model's weights takes minutes, and every run of an adapter needs it again. Entries lie in
`$SVDPROJ_CACHE` (or `~/.cache/svdproj`), one safetensors file under a hash of the weight's values. An entry is trusted
only after it has been checked against the weight, so a damaged or foreign file costs a recomputation and nothing else.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from svdproj.metadata import tensors_hash
from svdproj.precision import full_float32
from svdproj.serialization import save_atomically

logger = logging.getLogger(__name__)

# float32 decompositions are off by 1e-6 to 1e-5 of the largest singular value; a wrong entry is off by 1.
_TOLERANCE = 1e-3


def cache_folder() -> Path | None:
    """Where decompositions are kept: `$SVDPROJ_CACHE`, else `$XDG_CACHE_HOME/svdproj`, else `~/.cache/svdproj`; nowhere if
    `SVDPROJ_CACHE` is set and empty.

    Example:
        >>> import os
        >>> os.environ["SVDPROJ_CACHE"] = "scratch"
        >>> str(cache_folder())
        'scratch/svd'
    """
    if (chosen := os.environ.get("SVDPROJ_CACHE")) is not None:
        return Path(chosen).expanduser() / "svd" if chosen else None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "svdproj" / "svd"


def weight_fingerprint(weight: Float[Tensor, "out in"]) -> str:
    """A hash of a weight's values, the same on every device and for every floating-point type that holds them."""
    return tensors_hash([("", weight)])


def singular_vectors(
    weight: Float[Tensor, "out in"], rank: int | None = None
) -> tuple[Float[Tensor, "out r"], Float[Tensor, "r in"]]:
    """The leading left and right singular vectors of a weight, in float32 on its device, from the cache or computed.

    Args:
        weight: any floating-point type.
        rank: how many; None, or more than there are, for all `min(out, in)`.

    Raises:
        ValueError: the weight is not finite.
    """
    weight = weight.detach().float()
    most = min(weight.shape)
    rank = most if rank is None else min(rank, most)
    folder = cache_folder()
    key = weight_fingerprint(weight)
    with torch.no_grad(), full_float32(weight.device.type):
        if folder is not None:
            # All singular vectors serve any rank.
            for stored in dict.fromkeys((rank, most)):
                if (found := _read(folder / _file_name(key, stored), weight, stored)) is not None:
                    return found[0][:, :rank].contiguous(), found[1][:rank].contiguous()
        if not weight.isfinite().all():
            raise ValueError("a weight with entries that are not finite has no singular vectors; load the weights anew")
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        u, s, vh = u[:, :rank].contiguous(), s[:rank].contiguous(), vh[:rank].contiguous()
    if folder is not None:
        _write(folder / _file_name(key, rank), {"u": u, "s": s, "vh": vh})
    return u, vh


def _file_name(key: str, rank: int) -> str:
    return f"{key[:40]}-r{rank}.safetensors"


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_atomically(path, {name: tensor.cpu() for name, tensor in tensors.items()}, {"format": "svdproj-svd-1"})
    except OSError as error:
        # A full or read-only disk costs time at the next start; it is no reason not to train now.
        logger.warning(
            "singular vectors are not kept for the next run (%s); set SVDPROJ_CACHE to a writable folder", error
        )


def _read(path: Path, weight: Float[Tensor, "out in"], rank: int) -> tuple[Tensor, Tensor] | None:
    """An entry of the cache, if it is there and holds what its name says."""
    if not path.is_file():
        return None
    try:
        entry = load_file(path, device=str(weight.device))
        u, s, vh = entry["u"], entry["s"], entry["vh"]
    except (OSError, SafetensorError, KeyError) as error:
        logger.warning("%s is damaged (%s: %s) and is computed again", path, type(error).__name__, error)
        return None
    if not _belongs_to(weight, u, s, vh, rank):
        logger.warning("%s does not hold the weight's singular vectors and is computed again", path)
        return None
    return u, vh


def _belongs_to(weight: Tensor, u: Tensor, s: Tensor, vh: Tensor, rank: int) -> bool:
    """Whether these are singular vectors of the weight: orthonormal, `Uᵀ W = S Vᵀ` and `W V = U S`."""
    out, in_ = weight.shape
    if u.shape != (out, rank) or s.shape != (rank,) or vh.shape != (rank, in_) or u.dtype != torch.float32:
        return False
    one = torch.eye(rank, device=u.device)
    errors = (
        (u.mT @ u - one).abs().amax(),
        (vh @ vh.mT - one).abs().amax(),
        (u.mT @ weight - s[:, None] * vh).norm() / weight.norm().clamp_min(torch.finfo(torch.float32).tiny),
        (weight @ vh.mT - u * s).norm() / weight.norm().clamp_min(torch.finfo(torch.float32).tiny),
    )
    # Written so that a NaN is refused too.
    return bool(torch.stack(errors).max() <= _TOLERANCE)
