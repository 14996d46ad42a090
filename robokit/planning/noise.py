"""Noise for plans: coloured along time, and smooth between knots."""

import torch
from torch import Tensor


def coloured(length: int, exponent: float) -> Tensor:
    """C (length, length): C @ white noise has power f^-exponent and variance 1 (Pinneri et al. 2020, 3.1).

    0: white, 1: pink, 2: red. f = 0 has the power of the lowest frequency (Timmer & Koenig 1995).
    """
    f = torch.fft.rfftfreq(length).clamp(min=1 / length)
    spectrum = f[:, None] ** (-exponent / 2) * torch.fft.rfft(torch.eye(length), dim=0)
    rows = torch.fft.irfft(spectrum, n=length, dim=0)
    return rows / rows.norm(dim=1, keepdim=True)


def between(steps: int, knots: int) -> Tensor:
    """W (steps, knots): W @ numbers at the knots, the first step to the last, is linear in between."""
    place = torch.linspace(0, knots - 1, steps) if knots > 1 else torch.zeros(steps)
    return (1 - (place[:, None] - torch.arange(knots)).abs()).clamp(min=0.0)
