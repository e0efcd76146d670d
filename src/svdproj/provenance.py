"""Are these the weights that a direction was fitted on?"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from torch import nn
from torch.distributed.tensor import DTensor

from svdproj.coverage import listing
from svdproj.metadata import DirectionMetadata, model_id, weights_identity
from svdproj.names import canonical_name
from svdproj.subspace import Subspace


def differing_weights(
    subspaces: Mapping[str, Subspace], metadata: DirectionMetadata, model: nn.Module
) -> tuple[str, ...]:
    """Names of covered parameters whose values are not those at the time of fitting; see `HackDirection.check_weights`.

    Warns:
        UserWarning: there are some; the warning says which.
    """
    expected = {name: h for name, h in metadata.weight_fingerprints.items() if name in subspaces}
    if not expected:
        return ()
    parameters = {canonical_name(name): p for name, p in model.named_parameters(remove_duplicate=False)}
    there = {name: parameters[name] for name in expected if name in parameters}
    if sharded := [name for name, parameter in there.items() if isinstance(parameter, DTensor)]:
        raise ValueError(f"{sharded[0]} is sharded, and its shards have no hash; compare weights before fully_shard")
    found = weights_identity(there.items())["weight_fingerprints"]
    differing = tuple(name for name, fingerprint in found.items() if fingerprint != expected[name])
    if differing:
        model_name = model_id(model)
        origin = f"{metadata.model_id!r}" + (f", not {model_name!r}" if model_name != metadata.model_id else " as well")
        warnings.warn(
            f"the direction was fitted on other weights: {len(differing)} of {len(expected)} covered parameters differ "
            f"({listing(differing, 3)}; from {origin}). After training, or in another precision, that is as it should be; "
            "otherwise extract a direction on this model",
            stacklevel=4,
        )
    return differing
