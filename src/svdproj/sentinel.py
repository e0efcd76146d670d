"""Notices a projection that projects nothing while training goes on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from svdproj.plan import local

# So many steps that train something, none of it covered, are a mistake in the wiring and not a schedule.
INERT_STEPS = 50
# Elements of each covered weight that tell whether it moved.
_PROBED = 16


class Sentinel:
    """Counts consecutive steps in which no covered parameter had a gradient, though something trained."""

    def __init__(self) -> None:
        self._others_trained = 0
        self._nothing_seen = 0
        self._probe: dict[str, Tensor] = {}

    def reset(self) -> None:
        """A covered parameter was visited."""
        self._others_trained = self._nothing_seen = 0
        self._probe = {}

    def note_idle(self, any_gradient: bool, covered: Mapping[str, Tensor]) -> None:
        """Count a step that visited no covered parameter.

        Args:
            any_gradient: whether another parameter has a gradient.
            covered: the weights that the direction covers, by name.

        Raises:
            RuntimeError: the `INERT_STEPS`-th of them in a row in which others had gradients; or in which nothing had and
                the covered weights moved.
        """
        if any_gradient:
            self._others_trained, self._nothing_seen = self._others_trained + 1, 0
            inert = self._others_trained >= INERT_STEPS
        else:
            inert = self._moved_unseen(covered)
        if inert:
            raise RuntimeError(
                f"no parameter of the direction was visited in {INERT_STEPS} steps, so nothing is protected. Likely "
                "causes: the covered parameters are frozen, or not in this optimizer; the model was wrapped or rebuilt after "
                "the optimizer was made (pass the model instead of (name, parameter) pairs); the weights are stepped during "
                "the backward pass (layer-wise optimizers), which leaves no gradient to this optimizer; the direction "
                f"belongs to another model. The direction covers {', '.join(list(covered)[:3])}, …"
            )

    def _moved_unseen(self, covered: Mapping[str, Tensor]) -> bool:
        """Whether the weights moved during `INERT_STEPS` steps without any gradient; then the count begins again.

        A step that a trainer skips has no gradient either, but moves nothing. A few elements tell, and they are compared at
        the last of the steps alone, which waits for the device. (A tensor's version would not do: fused kernels leave it as it is.)
        """
        if not self._nothing_seen:
            self._probe = _some_elements(covered)
        self._nothing_seen += 1
        if self._nothing_seen < INERT_STEPS:
            return False
        self._nothing_seen = 0
        now = _some_elements(covered)
        return any(
            not torch.equal(before.to(now[name].device), now[name])
            for name, before in self._probe.items()
            if name in now
        )


def _some_elements(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    flat = {name: local(weight.detach()).flatten() for name, weight in weights.items()}
    return {name: w[:: max(1, w.numel() // _PROBED)][:_PROBED].clone() for name, w in flat.items()}
