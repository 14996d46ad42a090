"""Delays of readings, and of actuator targets."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from robokit.state import Saved, put
from robokit.task.sense import EPSILON, Range, ends


class Delay(Saved):
    """A delay line for vectors (N, D), interpolated linearly between control steps.

    ranges: delay in s of each group of columns, a number or (low, high); widths: columns in each group. A
    delay is 0 until `draw`, for each group of each simulation. `depth`: the longest possible delay in control
    steps, rounded up; a line of depth 0 must not be read. Call `advance` before the first `read` of a step.
    """

    def __init__(
        self,
        ranges: Sequence[Range],
        widths: Sequence[int],
        control_dt: float,
        num_envs: int,
        device: torch.device,
    ) -> None:
        steps = [[t / control_dt for t in ends(r)] for r in ranges]
        self.low, self.high = torch.tensor(steps, device=device).reshape(-1, 2).unbind(-1)
        self.depth = math.ceil(max((high for _, high in steps), default=0.0) - EPSILON)
        self.group = groups(widths, device)
        self.line = torch.zeros(self.depth + 1, num_envs, len(self.group), device=device)  # newest first
        self.steps = torch.zeros(num_envs, len(widths), device=device)
        self.cell = torch.arange(self.line[0].numel(), device=device).reshape(self.line[0].shape)  # (N, D)
        self._aim()

    def draw(self, which: Tensor, rng: Generator) -> None:
        """Draw new delays, uniform in `ranges`, for `which` (see state.put); others keep theirs."""
        unit = torch.rand(len(which), self.steps.shape[1], generator=rng, device=self.steps.device)
        put(self.steps, which, self.low + (self.high - self.low) * unit)
        self._aim()

    def _aim(self) -> None:
        """Set `place`, index in the flat `line` of each value's newer neighbour; `weight`, of the older."""
        near = self.steps.long().clamp_(max=self.depth - 1)
        self.place = (near * self.cell.numel()).index_select(1, self.group).add_(self.cell).flatten()
        self.weight = (self.steps - near).index_select(1, self.group).flatten()

    def advance(self) -> None:
        """Shift the line by one control step; its newest place is stale until the next `read`."""
        self.line.copy_(self.line.roll(1, 0))

    def fill(self, mask: Tensor, past: Tensor | float) -> None:
        """Set the whole line of the simulations in mask (N,) bool to `past`, (N, D) or one number."""
        self.line.copy_(torch.where(mask[:, None], past, self.line))

    def read(self, newest: Tensor) -> Tensor:
        """The delayed vectors (N, D); `newest` (N, D), the present ones, are written into the line first."""
        self.line[0] = newest
        line = self.line.flatten()
        near, far = (x.index_select(0, self.place) for x in (line, line[newest.numel() :]))
        return torch.lerp(near, far, self.weight).view_as(newest)

    def copy(self, other: "Delay", rows: Tensor) -> None:
        """Take on the lines and delays of `rows` (N,) of another Delay with the same ranges."""
        self.line.copy_(other.line[:, rows])
        self.steps.copy_(other.steps[rows])
        self._aim()

    def _parts(self) -> dict[str, Tensor]:
        return {"line": self.line, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._aim()


class TargetDelay:
    """Holds targets ctrl (N, nu) back by a delay in s, drawn for each simulation: the old ones act meanwhile.

    Resolved to the timestep: an old target acts in every substep, of `nstep` in a period, that begins
    before the delay has passed. like: ctrl. `depth`: the longest delay in control periods, rounded up; a line
    of depth 0 must not be read.
    """

    def __init__(self, delay: Range, timestep: float, nstep: int, like: Tensor) -> None:
        low, high = (t / timestep - EPSILON for t in ends(delay))
        self.low, self.width, self.nstep = low, high - low, nstep
        self.depth = -(-math.ceil(high) // nstep)
        self.line = like.repeat(self.depth + 1, 1, 1)  # (depth + 1, N, nu) newest first
        self.substeps = torch.zeros(len(like), dtype=torch.long, device=like.device)
        self.substep, self.row = (torch.arange(n, device=like.device) for n in (nstep, len(like)))
        state = {"action_delay.line": self.line, "action_delay.substeps": self.substeps}
        self.parts = state if self.depth else {}  # for a checkpoint

    def draw(self, which: Tensor, first: Tensor, rng: Generator) -> None:
        """Begin episodes of `which` (see state.put): a new delay; till it has passed `first` (1, nu) acts."""
        unit = torch.rand(len(which), generator=rng, device=self.line.device)
        put(self.substeps, which, (self.low + self.width * unit.double()).ceil().long())
        put(self.line.transpose(0, 1), which, first[:, None])

    def fill(self, done: Tensor | None, first: Tensor) -> None:
        """Let `first` (N, nu) act till the delay has passed, where done (N,) bool, None for all."""
        self.line.copy_(first if done is None else torch.where(done[:, None], first, self.line))

    def copy(self, other: "TargetDelay", rows: Tensor) -> None:
        """Take on the lines and delays of `rows` (N,) of another TargetDelay with the same range."""
        self.line.copy_(other.line[:, rows])
        self.substeps.copy_(other.substeps[rows])

    def read(self, newest: Tensor) -> Tensor:
        """What acts in each substep of the period (nstep, N, nu) for which `newest` (N, nu) is decided.

        A NaN acts at once: the previous action, which the next observation may have, is NaN too.
        """
        self.line.copy_(torch.cat((newest[None], self.line[:-1])))
        ago = (self.substeps + self.nstep - 1 - self.substep[:, None]) // self.nstep  # (nstep, N) periods
        return torch.where(newest.isnan(), newest, self.line[ago, self.row])


def groups(widths: Sequence[int], device: torch.device) -> Tensor:
    """Index of each column's group, (sum of widths,): [0, 0, 1] for widths [2, 1]."""
    return torch.arange(len(widths)).repeat_interleave(torch.tensor(widths, dtype=torch.long)).to(device)


def uniform_like(like: Tensor, rng: Generator) -> Tensor:
    """Uniform float32 draws from [0, 1) with the shape and device of `like`."""
    return torch.rand(like.shape, generator=rng, device=like.device)
