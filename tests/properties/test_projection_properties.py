"""What holds of every projection, over shapes, charts, ranks and scales."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from svdproj import HackDirection, ProjectedOptimizer, Subspace
from svdproj.projection import GATES, Gate, gated, guarded, project
from tests.chart_helpers import KINDS, make_chart, orthonormal
from tests.gate_helpers import MUST_GO, REMOVING

# Plain numbers only: hypothesis does not want checked code inside strategies.
problems = st.tuples(
    st.integers(0, 2**31),
    st.sampled_from(KINDS),
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
    chart = make_chart(kind, out, in_, rank, rank, seed)
    k = min(k, chart.size)
    rows = orthonormal(chart.size, k, seed + 2).mT.contiguous()
    x = torch.randn(out, in_, generator=torch.Generator().manual_seed(seed + 3))
    return Subspace(chart, rows, torch.ones(k)), x * 10.0**exponent


@given(problems, st.sampled_from(REMOVING))
def test_nothing_gated_is_left(problem: Problem, gate: Gate) -> None:
    subspace, x = build(problem)
    left = subspace.coefficients(project(x, subspace, gate))
    assert MUST_GO[gate](left).norm() <= 1e-5 * x.norm()
    assert guarded(left, gate).norm() <= 1e-5 * x.norm()


@given(problems, st.sampled_from(REMOVING))
def test_projecting_twice_is_projecting_once(problem: Problem, gate: Gate) -> None:
    subspace, x = build(problem)
    once = project(x, subspace, gate)
    assert (project(once, subspace, gate) - once).norm() <= 1e-5 * x.norm()


@given(problems, st.sampled_from(REMOVING))
def test_what_is_removed_is_orthogonal_to_what_stays_and_never_lengthens(problem: Problem, gate: Gate) -> None:
    subspace, x = build(problem)
    kept = project(x, subspace, gate)
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


@given(problems, st.sampled_from(GATES), st.booleans(), st.integers(0, 3))
def test_a_wrapped_step_is_the_closed_form(problem: Problem, gate: Gate, preserve_norm: bool, clones: int) -> None:
    """SGD from zero weights with step size 1: the displacement is the projected gradient, however many are stacked."""
    subspace, x = build(problem)
    module = nn.Module()
    names = [f"p{index}" for index in range(1 + clones)]
    for index, name in enumerate(names):
        module.register_parameter(name, nn.Parameter(torch.zeros_like(x)))
        module.get_parameter(name).grad = x * (-1) ** index
    direction = HackDirection(dict.fromkeys(names, subspace))
    inner = torch.optim.SGD(module.parameters(), lr=1.0)
    ProjectedOptimizer(inner, direction, module, gate=gate, preserve_norm=preserve_norm).step()
    for index, name in enumerate(names):
        expected = project(x * (-1) ** index, subspace, gate, preserve_norm=preserve_norm)
        assert (module.get_parameter(name).detach() + expected).norm() <= 2e-5 * x.norm()
