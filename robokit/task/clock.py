"""A gait's clock: the sine and cosine of a phase that turns while a robot is commanded to move."""

import math

import torch
from torch import Tensor

NOON = (0.0, 1.0)  # sine and cosine of a clock that begins


def rest(clock: Tensor, *commands: Tensor) -> Tensor:
    """A clock (N, 2): [0, 0], no phase at all, where its commands (N, d) are zero, and NOON after that."""
    if not commands:
        return clock
    standing, rested = (x.abs().amax(-1, keepdim=True) == 0 for x in (torch.cat(commands, -1), clock))
    noon = torch.stack([torch.full_like(clock[:, 0], number) for number in NOON], -1)
    return torch.where(standing, 0.0, torch.where(rested, noon, clock))


def tick(clock: Tensor, turn: float) -> Tensor:
    """A clock [sine, cosine] (N, 2) of its phase, `turn` revolutions later."""
    sine, cosine = clock[:, :1], clock[:, 1:]
    s, c = math.sin(2 * math.pi * turn), math.cos(2 * math.pi * turn)
    moved = torch.cat((sine * c + cosine * s, cosine * c - sine * s), -1)
    length = moved.square().sum(-1, keepdim=True).sqrt().clamp(min=0.5)  # 0 of a clock that rests
    return moved / length  # rounding must not add up over hours
