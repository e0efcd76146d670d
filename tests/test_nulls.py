"""Nulls: the analytic and the sampled ones agree with each other, with scipy, and with rows that are really drawn."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from svdproj.nulls import (
    expected_energy,
    generator_for,
    null_cosine,
    random_frames,
    sample_coefficients,
    sample_energy,
)


@pytest.mark.parametrize(("k", "n"), [(1, 2), (3, 20), (24, 4096), (3, 9000)])
def test_sampled_energy_has_the_beta_distribution(k: int, n: int) -> None:
    draws = sample_energy(k, n, 800, torch.Generator().manual_seed(k))
    assert scipy.stats.kstest(draws.numpy(), scipy.stats.beta(k / 2, (n - k) / 2).cdf).pvalue > 0.01


def test_expected_energy_is_the_beta_s_mean_and_half_of_it_one_sided() -> None:
    assert expected_energy(3, 20) == pytest.approx(scipy.stats.beta(1.5, 8.5).mean())
    assert expected_energy(3, 20, one_sided=True) == expected_energy(3, 20) / 2
    assert null_cosine(3, 20) == pytest.approx(math.sqrt(3 / 40))
    assert null_cosine(3, 20, one_sided=False) == pytest.approx(math.sqrt(3 / 20))


@pytest.mark.parametrize("arguments", [(5, 4), (-1, 4), (0, 0)])
def test_a_subspace_that_does_not_fit_is_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        expected_energy(*arguments)
    with pytest.raises(ValueError, match="0 < k < n"):
        sample_energy(*arguments, 1, torch.Generator())


@given(st.integers(1, 8), st.integers(0, 8), st.integers(0, 1000))
def test_frames_are_orthonormal(k: int, more: int, seed: int) -> None:
    frame = random_frames((2, k + more, k), torch.Generator().manual_seed(seed))
    torch.testing.assert_close(frame.mT @ frame, torch.eye(k, dtype=torch.float64).expand(2, k, k))


def test_frames_are_uniform_also_in_their_signs() -> None:
    frames = random_frames((4000, 5, 3), torch.Generator().manual_seed(0))
    mean, square = frames.mean(0), frames.square().mean(0)
    # Householder's QR alone never gives a positive entry at [j, j].
    assert float(mean.abs().max()) < 5 / math.sqrt(5 * 4000)
    torch.testing.assert_close(square, torch.full_like(square, 1 / 5), atol=0.02, rtol=0)


@pytest.mark.parametrize("m", [40, 600])  # below and above the size at which rows are really drawn
@pytest.mark.parametrize("samples", [1, 3])
def test_sampled_coefficients_are_those_of_random_rows(m: int, samples: int) -> None:
    k, draws = 4, 3000
    x = torch.randn(samples, m, dtype=torch.float64)
    drawn = sample_coefficients(x, k, draws, torch.Generator().manual_seed(1))
    assert drawn.shape == (draws, samples, k)
    shares = drawn.square().sum(-1) / x.square().sum(-1)
    for column in shares.T:
        assert scipy.stats.kstest(column.numpy(), scipy.stats.beta(k / 2, (m - k) / 2).cdf).pvalue > 0.01
    hackward = drawn.relu().square().sum(-1) / x.square().sum(-1)
    torch.testing.assert_close(hackward.mean(0), torch.full_like(hackward[0], k / m / 2), rtol=0.05, atol=0)
    # Samples are read off the same rows: their coefficients keep the samples' own inner products.
    gram = (drawn @ drawn.mT).mean(0) * m / k
    torch.testing.assert_close(gram, x @ x.mT, atol=0.1 * m, rtol=0.1)


def test_a_parameter_s_draws_depend_on_its_name_and_seed_alone() -> None:
    def draw(seed: int, name: str) -> list[float]:
        return torch.rand(2, generator=generator_for(seed, name)).tolist()

    assert draw(1, "a") == draw(1, "a")
    assert draw(1, "a") != draw(2, "a")
    assert draw(1, "a") != draw(1, "b")
