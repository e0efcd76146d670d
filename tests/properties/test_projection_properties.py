"""What holds of every projection, over shapes, charts, ranks and scales."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from svdproj import BilinearChart, DenseChart, DiagonalChart, HackDirection, ProjectedOptimizer, Subspace
from svdproj.projection import gated, guarded, project

# Plain numbers only: hypothesis does not want checked code inside strategies.
problems = st.tuples(
    st.integers(0, 2**31),
    st.sampled_from(["dense", "bilinear", "diagonal"]),
    st.integers(2, 20),
    st.integers(2, 20),
    st.integers(1, 20),
    st.integers(1, 5),
    st.integers(-12, 6),
)
Problem = tuple[int, str, int, int, int, int, int]


def build(problem: Problem) -> tuple[Subspace, Tensor]:
    """A random subspace of a random chart, and a tensor of the parameter's shape at some scale."""
    seed, kind, out, in_, rank, k, exponent = problem
    generator = torch.Generator().manual_seed(seed)
    chart: DenseChart | BilinearChart | DiagonalChart = DenseChart((out, in_))
    if kind != "dense":
        ranks = [min(rank, out), min(rank, in_)] if kind == "bilinear" else [min(rank, out, in_)] * 2
        bases = [_orthonormal(n, r, generator) for n, r in zip((out, in_), ranks, strict=True)]
        chart = BilinearChart(*bases) if kind == "bilinear" else DiagonalChart(*bases)
    k = min(k, chart.size)
    rows = _orthonormal(chart.size, k, generator).mT.contiguous()
    return Subspace(chart, rows, torch.ones(k)), torch.randn(out, in_, generator=generator) * 10.0**exponent


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64)).Q.float()


@given(problems, st.sampled_from(["one_sided", "two_sided"]))
def test_nothing_gated_is_left(problem: Problem, gate: str) -> None:
    subspace, x = build(problem)
    left = guarded(subspace.coefficients(project(x, subspace, gate)), gate)  # type: ignore[arg-type]
    assert left.norm() <= 1e-5 * x.norm()


@given(problems, st.sampled_from(["one_sided", "two_sided"]))
def test_projecting_twice_is_projecting_once(problem: Problem, gate: str) -> None:
    subspace, x = build(problem)
    once = project(x, subspace, gate)  # type: ignore[arg-type]
    assert (project(once, subspace, gate) - once).norm() <= 1e-5 * x.norm()  # type: ignore[arg-type]


@given(problems, st.sampled_from(["one_sided", "two_sided"]))
def test_what_is_removed_is_orthogonal_to_what_stays_and_never_lengthens(problem: Problem, gate: str) -> None:
    subspace, x = build(problem)
    kept = project(x, subspace, gate)  # type: ignore[arg-type]
    assert abs(float(((x - kept) * kept).sum())) <= 1e-5 * float(x.square().sum())
    assert kept.norm() <= (1 + 1e-6) * x.norm()


@given(problems)
def test_reversing_twice_gives_the_step_back(problem: Problem) -> None:
    subspace, x = build(problem)
    assert (project(project(x, subspace, "reverse"), subspace, "reverse") - x).norm() <= 1e-5 * x.norm()


@given(problems)
def test_one_sided_is_two_sided_on_the_hack_ward_half(problem: Problem) -> None:
    """`x` and `-x` share the removed coefficients out between them."""
    subspace, x = build(problem)
    both = gated(subspace.coefficients(x), "one_sided") - gated(subspace.coefficients(-x), "one_sided")
    assert torch.equal(both, gated(subspace.coefficients(x), "two_sided"))


@given(problems, st.sampled_from(["one_sided", "two_sided"]), st.booleans(), st.integers(0, 3))
def test_a_wrapped_step_is_the_closed_form(problem: Problem, gate: str, preserve_norm: bool, clones: int) -> None:
    """SGD from zero weights with step size 1: the displacement is the projected gradient, however many are stacked."""
    subspace, x = build(problem)
    module = nn.Module()
    names = [f"p{index}" for index in range(1 + clones)]
    for index, name in enumerate(names):
        module.register_parameter(name, nn.Parameter(torch.zeros_like(x)))
        module.get_parameter(name).grad = x * (-1) ** index
    direction = HackDirection(dict.fromkeys(names, subspace))
    inner = torch.optim.SGD(module.parameters(), lr=1.0)
    ProjectedOptimizer(inner, direction, module, gate=gate, preserve_norm=preserve_norm).step()  # type: ignore[arg-type]
    for index, name in enumerate(names):
        expected = project(x * (-1) ** index, subspace, gate, preserve_norm=preserve_norm)  # type: ignore[arg-type]
        assert (module.get_parameter(name).detach() + expected).norm() <= 2e-5 * x.norm()
