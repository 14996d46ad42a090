"""Vectors as they were some time ago."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from robokit.state import gather, scatter
from robokit.task.sense import EPSILON, Range


class Delay:
    """Vectors (N, D) as they were some time ago, linear between the control steps that are kept.

    ranges: for each group of columns its delay in s; widths: how many columns each group has. Every group of
    every simulation has a delay of its own.
    """

    def __init__(
        self,
        ranges: Sequence[Range],
        widths: Sequence[int],
        control_dt: float,
        num_envs: int,
        device: torch.device,
    ) -> None:
        steps = [[t / control_dt for t in (r if isinstance(r, tuple) else (r, r))] for r in ranges]
        self.low, self.high = torch.tensor(steps, device=device).reshape(-1, 2).unbind(-1)
        self.depth = math.ceil(max((high for _, high in steps), default=0.0) - EPSILON)
        self.group = groups(widths, device)
        self.line = torch.zeros(self.depth + 1, num_envs, len(self.group), device=device)  # newest first
        self.steps = torch.zeros(num_envs, len(widths), device=device)
        self.cell = torch.arange(self.line[0].numel(), device=device).reshape(self.line[0].shape)  # of a row
        self._aim()

    def draw(self, mask: Tensor, rng: Generator) -> None:
        """New delays for the simulations in mask (N,) bool."""
        drawn = self.low + (self.high - self.low) * uniform_like(self.steps, rng)
        self.steps = torch.where(mask[:, None], drawn, self.steps)
        self._aim()

    def _aim(self) -> None:
        """Where in `line` the newer of the two neighbours is, and how far on its way to the older one."""
        near = self.steps.long().clamp_(max=self.depth - 1)
        self.place = (near * self.cell.numel()).index_select(1, self.group).add_(self.cell).flatten()
        self.weight = (self.steps - near).index_select(1, self.group).flatten()

    def advance(self) -> None:
        """A control step has passed."""
        self.line = self.line.roll(1, 0)

    def fill(self, mask: Tensor, past: Tensor | float) -> None:
        """The simulations in mask (N,) bool have only ever seen `past` (N, D)."""
        self.line = torch.where(mask[:, None], past, self.line)

    def read(self, newest: Tensor) -> Tensor:
        """(N, D) as known now, where `newest` (N, D) is the truth now."""
        self.line[0] = newest
        line = self.line.flatten()
        near, far = (x.index_select(0, self.place) for x in (line, line[newest.numel() :]))
        return torch.lerp(near, far, self.weight).view_as(newest)

    def state_dict(self) -> dict[str, Tensor]:
        return gather({"line": self.line, "steps": self.steps})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        scatter({"line": self.line, "steps": self.steps}, state)
        self._aim()


def groups(widths: Sequence[int], device: torch.device) -> Tensor:
    """(sum of widths,): which of the groups of columns each column is in."""
    return torch.arange(len(widths)).repeat_interleave(torch.tensor(widths, dtype=torch.long)).to(device)


def uniform_like(like: Tensor, rng: Generator) -> Tensor:
    """[0, 1), of `like`'s shape."""
    return torch.rand(like.shape, generator=rng, device=like.device)
