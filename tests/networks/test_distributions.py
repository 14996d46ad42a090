"""Densities, entropies and divergences, compared with torch.distributions and the change of variables."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution, kl_divergence

from robokit.networks.distributions import entropy, kl, log_prob, squashed_log_prob


def test_gaussian_quantities_are_those_of_torch_distributions():
    torch.manual_seed(0)
    mean0, mean1, action = torch.randn(3, 7, 4).unbind(0)
    std0, std1 = torch.rand(2, 4).add(0.5).unbind(0)
    first, second = (Independent(Normal(m, s.expand_as(m)), 1) for m, s in ((mean0, std0), (mean1, std1)))
    torch.testing.assert_close(log_prob(action, mean0, std0.log()), first.log_prob(action))
    torch.testing.assert_close(kl(mean0, std0.log(), mean1, std1.log()), kl_divergence(first, second))
    torch.testing.assert_close(entropy(std0.log()), first.entropy()[0])


def test_entropy_of_a_unit_gaussian():
    assert entropy(torch.zeros(1)).item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e))


def squashed(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """u, mean, log_std and noise, (500, 3) each in float64."""
    rng = torch.Generator().manual_seed(seed)
    mean, log_std, noise = torch.randn(3, 500, 3, generator=rng, dtype=torch.float64).unbind()
    return mean + log_std.exp() * noise, mean, log_std, noise


def test_a_squashed_log_prob_is_that_of_torchs_distribution():
    u, mean, log_std, noise = squashed()
    tanh = TanhTransform(cache_size=1)  # it remembers u, and need not invert tanh
    theirs, action = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [tanh]), tanh(u)
    assert action is not None
    torch.testing.assert_close(squashed_log_prob(u, noise, log_std), theirs.log_prob(action))


def test_a_squashed_log_prob_is_the_change_of_variables_by_autograd():
    u, mean, log_std, noise = squashed(1)
    slope = torch.func.vmap(torch.func.jacrev(torch.tanh))(u)  # (500, 3, 3), diagonal
    expected = log_prob(u, mean, log_std) - torch.linalg.slogdet(slope).logabsdet
    inside = u.abs().amax(-1) < 8  # beyond it tanh' is all rounding
    assert inside.sum() > 450
    torch.testing.assert_close(squashed_log_prob(u, noise, log_std)[inside], expected[inside])


def test_the_densities_of_a_squashed_gaussian_sum_to_one():
    u = torch.linspace(-30, 30, 600_001, dtype=torch.float64)[:, None]
    mean, log_std = torch.tensor([0.4]).double(), torch.tensor([0.3]).double()
    density, action = squashed_log_prob(u, (u - mean) / log_std.exp(), log_std).exp(), torch.tanh(u[:, 0])
    assert torch.trapezoid(density, action).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("u", [50.0, -50.0])
def test_a_squashed_log_prob_and_its_gradients_are_exact_far_out(u: float):
    mean = torch.tensor([u], requires_grad=True)  # there float32 has 1 - tanh(u)^2 = 0
    log_std = torch.zeros(1, requires_grad=True)
    value = squashed_log_prob(mean + log_std.exp() * 0.5, torch.full((1,), 0.5), log_std)
    of_mean, of_std = torch.autograd.grad(value, (mean, log_std))
    far = abs(u + 0.5)
    expected = -0.125 - 0.5 * math.log(2 * math.pi) - 2 * math.log(2) + 2 * far
    assert value.item() == pytest.approx(expected, rel=1e-6)
    sign = math.copysign(1.0, u)
    assert of_mean.item() == pytest.approx(2 * sign)  # the density falls as exp(-2 |u|)
    assert of_std.item() == pytest.approx(-1 + 2 * sign * 0.5)
