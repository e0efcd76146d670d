"""What a direction reads off the gradients of samples: coefficients, norms and nulls, over all parameters together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from svdproj.batches import Sample
from svdproj.capture import Places, visit_gradients
from svdproj.charts import Chart
from svdproj.differences import Differences
from svdproj.nulls import sample_coefficients
from svdproj.subspace import Subspace
from svdproj.targets import named_targets


@dataclass(frozen=True, eq=False)
class Reading:
    """One parameter's share of some samples' gradients.

    Args:
        subspace: the parameter's subspace.
        encoded: the gradients in its chart.
        squares: squared norms of the whole gradients.
    """

    subspace: Subspace
    encoded: Float[Tensor, "samples m"]
    squares: Float[Tensor, "samples"]

    @cached_property
    def coefficients(self) -> Float[Tensor, "samples k"]:
        """Inner products with the rows; nearly every figure asks for them."""
        return self.subspace.coefficients_of(self.encoded)


@dataclass(frozen=True, eq=False)
class Readings:
    """All parameters' readings of the same samples; norms are those of the concatenation.

    Args:
        by_parameter: canonical name to reading.
    """

    by_parameter: Mapping[str, Reading]

    @property
    def norms(self) -> Float[Tensor, "samples"]:
        """Norms of the gradients of all covered parameters."""
        return self._total(lambda r: r.squares).sqrt()

    @property
    def signed(self) -> Float[Tensor, "samples"]:
        """Sum of all coefficients over the norm: positive is hack-ward."""
        return _share(self._total(lambda r: r.coefficients.sum(-1)), self.norms)

    @property
    def cosines(self) -> Float[Tensor, "samples"]:
        """Norm of the hack-ward coefficients over the gradient's: the `cos_in` of a step along it."""
        return _share(self._total(lambda r: r.coefficients.relu().square().sum(-1)).sqrt(), self.norms)

    @property
    def energies(self) -> Float[Tensor, "samples"]:
        """Share of the gradient's squared norm inside the rows, on both sides: it does not change with the rows' signs."""
        return _share(self._total(lambda r: r.coefficients.square().sum(-1)), self.norms.square())

    @property
    def null_cosines(self) -> Float[Tensor, "samples"]:
        """What random rows in the whole space would have for `cosines`."""
        expected = self._total(lambda r: r.squares * r.subspace.k / (2 * prod(r.subspace.chart.shape)))
        return _share(expected.sqrt(), self.norms)

    @property
    def chart_null_cosines(self) -> Float[Tensor, "samples"]:
        """What random rows in the charts would have for `cosines`."""
        expected = self._total(lambda r: r.encoded.square().sum(-1) * r.subspace.k / (2 * r.subspace.chart.size))
        return _share(expected.sqrt(), self.norms)

    def random(
        self, draws: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "draws samples"], Float[Tensor, "draws samples"]]:
        """`energies` and `signed` of random rows in the charts, drawn anew for each of `draws` random directions."""
        energy = torch.zeros(draws, len(self.norms), dtype=torch.float64)
        signed = torch.zeros_like(energy)
        for reading in self.by_parameter.values():
            drawn = sample_coefficients(reading.encoded, reading.subspace.k, draws, generator)
            energy += drawn.square().sum(-1)
            signed += drawn.sum(-1)
        return _share(energy.float(), self.norms.square()), _share(signed.float(), self.norms)

    def _total(self, part: Callable[[Reading], Float[Tensor, "samples"]]) -> Float[Tensor, "samples"]:
        return torch.stack([part(reading) for reading in self.by_parameter.values()]).sum(0)


def read_samples(
    subspaces: Mapping[str, Subspace],
    model: nn.Module,
    samples: Sequence[Sample],
    batch_size: int,
    on_batch: Callable[[int], None] = lambda count: None,
) -> Readings:
    """Gradients of the samples, as the subspaces see them.

    Args:
        subspaces: canonical name to subspace.
        model: holds the parameters; left exactly as it was.
        samples: pairs or single completions.
        batch_size: samples to a batch.
        on_batch: called with the number of samples after each batch.

    Raises:
        ValueError: a gradient is not finite.
    """
    targets = named_targets(model, subspaces)
    charts: dict[str, Chart] = {}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    places = Places()
    for target in targets:
        device = target.parameter.device
        charts[target.name] = subspaces[target.name].to(device, torch.float32).chart
        found[target.name] = (
            torch.zeros(len(samples), charts[target.name].size, device=device),
            torch.zeros(len(samples), device=device),
        )

    def visit(name: str, indices: Sequence[int], gradients: Differences) -> None:
        encoded, squares = found[name]
        where = places(indices, squares.device)
        squares[where] = gradients.squared_norms()
        encoded[where] = gradients.encode(charts[name])

    visit_gradients(model, targets, samples, visit, batch_size=batch_size, on_batch=on_batch)
    for name, (_, squares) in found.items():
        if not squares.isfinite().all():
            raise ValueError(
                f"the gradients of {name} are not finite for {int((~squares.isfinite()).sum())} of {len(samples)} samples; "
                "look for weights that are not finite, or for overflow in half precision"
            )
    return Readings(
        {
            name: Reading(subspaces[name].to("cpu", torch.float32), encoded.cpu(), squares.cpu())
            for name, (encoded, squares) in found.items()
        }
    )


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """The ratio; zero where there is nothing to take a share of."""
    return torch.where(whole > 0, part / whole.clamp_min(torch.finfo(whole.dtype).tiny), 0.0)
