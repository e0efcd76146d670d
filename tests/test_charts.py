"""Charts: their coordinates, their stacks, and what they refuse. The isometry itself is a property test."""

from __future__ import annotations

import pytest
import torch

from svdproj import Chart, DenseChart
from svdproj.charts import CHART_KINDS, stack_charts
from tests.chart_helpers import KINDS, make_chart


def chart_of(kind: str, out: int = 7, in_: int = 5, seed: int = 0) -> Chart:
    return make_chart(kind, out, in_, 3, 2, seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(7, 5), (5, 7)])
def test_coordinates_are_inner_products_with_the_decoded_unit_vectors(kind: str, shape: tuple[int, int]) -> None:
    """This fixes which coordinate is which, and with it the meaning of saved rows."""
    chart = chart_of(kind, *shape)
    gradient = torch.randn(shape)
    units = chart.decode(torch.eye(chart.size))
    torch.testing.assert_close(chart.encode(gradient), (units * gradient).sum((1, 2)), atol=1e-5, rtol=1e-5)


def test_coordinates_by_definition() -> None:
    dense, bilinear, diagonal = map(chart_of, ("dense", "bilinear", "diagonal"))
    g = torch.randn(7, 5)
    torch.testing.assert_close(dense.encode(g), g.flatten())
    core = bilinear.tensors["left"].mT @ g @ bilinear.tensors["right"]
    torch.testing.assert_close(bilinear.encode(g), core.flatten())
    torch.testing.assert_close(
        diagonal.encode(g), (diagonal.tensors["u"].mT @ g @ diagonal.tensors["v"]).diagonal(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_charts_work_on_all_parameters_at_once(kind: str) -> None:
    each = [chart_of(kind, seed=2 * i) for i in range(4)]
    stacked = stack_charts(each)
    gradients = torch.randn(4, 7, 5)
    expected = torch.stack([chart.encode(g) for chart, g in zip(each, gradients, strict=True)])
    torch.testing.assert_close(stacked.encode(gradients), expected, atol=1e-5, rtol=1e-5)
    decoded = torch.stack([chart.decode(c) for chart, c in zip(each, expected, strict=True)])
    torch.testing.assert_close(stacked.decode(expected), decoded, atol=1e-5, rtol=1e-5)
    assert stacked.shape == (7, 5)
    assert stacked.size == each[0].size


@pytest.mark.parametrize("kind", KINDS)
def test_a_chart_is_made_again_from_its_tensors(kind: str) -> None:
    chart = chart_of(kind)
    again = CHART_KINDS[chart.kind].with_tensors(chart, chart.tensors)  # type: ignore[arg-type]
    assert isinstance(chart, Chart)
    g = torch.randn(7, 5)
    assert torch.equal(again.encode(g), chart.encode(g))


def test_a_dense_chart_takes_no_bases_and_vectors() -> None:
    with pytest.raises(ValueError, match="no bases, got left"):
        DenseChart((2, 2)).with_tensors({"left": torch.eye(2)})
    assert DenseChart((3,)).encode(torch.randn(4, 3)).shape == (4, 3)
    assert DenseChart((2, 3, 4)).decode(torch.randn(5, 24)).shape == (5, 2, 3, 4)


def test_narrowing_twice_is_a_corner() -> None:
    chart = DenseChart((6, 4))
    corner = chart.narrow(0, 2, 3).narrow(1, 1, 2)
    coordinates = torch.randn(24)
    assert torch.equal(corner.decode(coordinates), coordinates.view(6, 4)[2:5, 1:3])
    piece = torch.randn(3, 2)
    whole = torch.zeros(6, 4)
    whole[2:5, 1:3] = piece
    assert torch.equal(corner.encode(piece), whole.flatten())
