"""A gait clock: sine and cosine of a phase that advances while the robot is commanded to move."""

import math

import torch
from torch import Tensor

NOON = (0.0, 1.0)  # sine and cosine at the start: phase 0


def rest(clock: Tensor, *commands: Tensor) -> Tensor:
    """The clock (N, 2), but [0, 0] where all commands (N, d) are zero, and NOON where it was [0, 0] before.

    Without commands the clock is returned unchanged.
    """
    if not commands:
        return clock
    standing, rested = (x.abs().amax(-1, keepdim=True) == 0 for x in (torch.cat(commands, -1), clock))
    noon = torch.stack([torch.full_like(clock[:, 0], number) for number in NOON], -1)
    return torch.where(standing, 0.0, torch.where(rested, noon, clock))


def tick(clock: Tensor, turn: float) -> Tensor:
    """A clock [sine, cosine] (N, 2) advanced by `turn` revolutions (not radians); [0, 0] stays [0, 0]."""
    sine, cosine = clock[:, :1], clock[:, 1:]
    s, c = math.sin(2 * math.pi * turn), math.cos(2 * math.pi * turn)
    moved = torch.cat((sine * c + cosine * s, cosine * c - sine * s), -1)
    length = moved.square().sum(-1, keepdim=True).sqrt().clamp(min=0.5)  # a stopped clock has length 0
    return moved / length  # without this, rounding errors add up over hours
