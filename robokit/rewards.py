"""Shaping functions for reward terms."""

import math

import torch
from torch import Tensor

AT_MARGIN = 0.1  # value of `tolerance` at a distance of `margin`


def tolerance(x: Tensor, low: float, high: float, margin: float = 0.0) -> Tensor:
    """1 inside [low, high], falling as a Gaussian to AT_MARGIN at `margin` beyond it; same shape as x.

        exp(-d^2 / (2 sigma^2)),   sigma = margin / sqrt(-2 ln AT_MARGIN),   d = distance from [low, high]

    margin 0 is the indicator of [low, high]. The shape follows dm_control's `tolerance`
    (Tassa et al. 2018, arXiv:1801.00690, section 3). Raises ValueError for low > high or margin < 0.
    """
    if low > high or margin < 0:
        raise ValueError(f"tolerance needs low <= high and margin >= 0, got [{low}, {high}], {margin}")
    distance = torch.clamp(torch.maximum(low - x, x - high), min=0.0)
    if margin == 0:
        return (distance == 0).to(x.dtype)
    return torch.exp(math.log(AT_MARGIN) * (distance / margin).square())


def yaw_error(angle: Tensor, fold: int = 1) -> Tensor:
    """An angle in rad modulo 2 pi / fold, in (-pi / fold, pi / fold]; same shape, slope 1.

    fold: how often a full turn brings the body onto itself: 4 for a cube's yaw, 2 for a brick's.
    """
    turn = 2 * math.pi / fold
    return angle - turn * torch.ceil(angle / turn - 0.5)


def exp_error(error: Tensor, scale: float) -> Tensor:
    """exp(-|error|^2 / scale^2), |error| the Euclidean norm over the last dimension: (N, d) -> (N,)."""
    return torch.exp(-error.square().sum(-1) / scale**2)
