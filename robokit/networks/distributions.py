"""Densities, entropies and divergences of diagonal Gaussians."""

import math

import torch
from torch import Tensor, nn


def log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(action; mean, exp(log_std)^2), summed over the last dimension: (..., A) -> (...), nats."""
    z = (action - mean) * torch.exp(-log_std)
    return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def squashed_log_prob(u: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of tanh(u), u = mean + exp(log_std) noise (arXiv:1812.05905, eq. 26); u (..., A) -> (...).

        log N(noise) - sum_i log_std_i - sum_i log(1 - tanh(u_i)^2)
        log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u))

    This is exact and finite for any u. Recovering the noise as (u - mean) / std would lose it for small std.
    """
    stretch = 2 * (math.log(2) - u - nn.functional.softplus(-2 * u))
    return log_prob(noise, torch.zeros_like(u), torch.zeros_like(u)) - (log_std + stretch).sum(-1)


def entropy(log_std: Tensor) -> Tensor:
    """Entropy of a diagonal Gaussian, summed over the last dimension, (..., A) -> (...), in nats."""
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def kl(mean0: Tensor, log_std0: Tensor, mean1: Tensor, log_std1: Tensor) -> Tensor:
    """KL[N0 || N1] of diagonal Gaussians, summed over the last dimension, (..., A) -> (...), in nats."""
    ratio = torch.exp(2 * (log_std0 - log_std1))
    distance = (mean0 - mean1).square() * torch.exp(-2 * log_std1)
    return (log_std1 - log_std0 + 0.5 * (ratio + distance - 1)).sum(-1)
