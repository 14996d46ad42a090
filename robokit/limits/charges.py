"""Charges of control steps under limits: costs, and `absorb` for each step that a termination cut off.

The same for critics, for a training's meter and for evaluation.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from robokit.limits.limit import Limit
from robokit.limits.measures import MEASURES
from robokit.state import Saved


def cut_off(terminated: Tensor, steps_left: Tensor, gamma: float = 1.0) -> Tensor:
    """Discounted number of control steps lost where terminated: sum of gamma^t, t = 1..steps_left; else 0."""
    steps = steps_left if gamma == 1 else gamma * (1 - gamma**steps_left) / (1 - gamma)
    return torch.where(terminated, steps, 0.0)


class Charge(NamedTuple):
    """Charges (..., K): the costs, and `absorb` for each control step that a termination cut off."""

    total: Tensor  # undiscounted
    span: Tensor  # control steps, the divisor of a rate; lost ones count too if they are charged
    discounted: Tensor  # to the control step itself


class Charges:
    """Computes the charges for the costs (..., K) of control steps under K limits, in the limits' order."""

    def __init__(
        self,
        limits: Mapping[str, Limit],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        absorb = [float(limit.absorb) for limit in limits.values()]
        self.absorb = torch.tensor(absorb, dtype=dtype, device=device)  # (K,)
        self.measures = [MEASURES[limit.measure] for limit in limits.values()]

    def of(self, cost: Tensor, terminated: Tensor, steps_left: Tensor, gamma: float) -> Charge:
        """Charges for costs (..., K). terminated (...) bool; steps_left (...) to the time limit."""
        cut = cut_off(terminated, steps_left)[..., None]
        later = cut_off(terminated, steps_left, gamma)[..., None]
        return Charge(cost + cut * self.absorb, 1 + cut * (self.absorb > 0), cost + later * self.absorb)

    def learned(
        self, cost: Tensor, terminated: Tensor, steps_left: Tensor, gamma: float
    ) -> tuple[Tensor, Tensor]:
        """Critics' costs (..., K), by Measure.charge plus discounted `absorb`, and (..., K) bool: the end.

        A cost's return ends at a termination; under a `probability` limit at a violation too.
        """
        if not self.measures:
            return cost[..., :0], terminated[..., None][..., :0]
        pairs = [m.charge(x) for m, x in zip(self.measures, cost.unbind(-1), strict=True)]
        cost = torch.stack([x for x, _ in pairs], -1)
        ends = [terminated if last is None else terminated | last for _, last in pairs]
        return self.of(cost, terminated, steps_left, gamma).discounted, torch.stack(ends, -1)


class Maxima(Saved):
    """The largest cost so far in the running episode of each of N simulations, for each `peak` limit.

        state = maxima.append(env.state)                     # the critics' state before a control step
        cost, final_state = maxima.step(step.cost, step.done, step.final_state)

    The P maxima are columns of the critics' state only, in units of Limit.largest. Without a `peak` limit
    both calls return the given tensors themselves.
    """

    def __init__(
        self, limits: Mapping[str, Limit], num_envs: int, device: torch.device | str = "cpu"
    ) -> None:
        peaks = {name: x for name, x in limits.items() if MEASURES[x.measure].running}
        self.widths = {f"peak of {name}": 1 for name in peaks}  # columns of `append`
        self.columns = [k for k, name in enumerate(limits) if name in peaks]
        self.unit = torch.tensor([float(x.largest) for x in peaks.values()], device=device)
        self.largest = torch.zeros(num_envs, len(peaks), device=device)

    def append(self, state: Tensor) -> Tensor:
        """The state (N, S), then the maxima so far / Limit.largest: (N, S + P)."""
        return torch.cat((state, self.largest / self.unit), -1) if self.columns else state

    def step(self, cost: Tensor, done: Tensor, final_state: Tensor) -> tuple[Tensor, Tensor]:
        """The costs (N, K), c of `peak` limits replaced by max(c - m, 0), and the final state (N, S + P).

        m: the largest cost in the episode before c. max(m, c) is the new m, appended to the final state;
        after that m is 0 where done (N,).
        """
        if not self.columns:
            return cost, final_state
        now = cost[:, self.columns]
        rise = (now - self.largest).clamp(min=0.0)
        self.largest = torch.maximum(self.largest, now)
        final_state = self.append(final_state)
        self.largest = torch.where(done[:, None], 0.0, self.largest)
        charged = cost.clone()
        charged[:, self.columns] = rise
        return charged, final_state

    def _parts(self) -> dict[str, Tensor]:
        return {"largest": self.largest}
