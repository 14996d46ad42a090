"""What control steps are charged under limits: to critics, in the meter of a training and in evaluation."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from robokit.limits.limit import Limit
from robokit.limits.measures import MEASURES


def cut_off(terminated: Tensor, steps_left: Tensor, gamma: float = 1.0) -> Tensor:
    """Control steps that a termination cut off, discounted: sum of gamma^t for t = 1 ... left, else 0."""
    steps = steps_left if gamma == 1 else gamma * (1 - gamma**steps_left) / (1 - gamma)
    return torch.where(terminated, steps, 0.0)


class Charge(NamedTuple):
    """What control steps (..., K) cost, with `absorb` for each control step that a termination cut off."""

    total: Tensor  # undiscounted
    span: Tensor  # control steps that a rate divides by
    discounted: Tensor  # from the control step itself on


class Charges:
    """How the costs (..., K) of control steps are charged under K limits."""

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
        """Of costs (..., K); terminated (...) bool, left (...) control steps to the time limit."""
        cut = cut_off(terminated, steps_left)[..., None]
        later = cut_off(terminated, steps_left, gamma)[..., None]
        return Charge(cost + cut * self.absorb, 1 + cut * (self.absorb > 0), cost + later * self.absorb)

    def learned(
        self, cost: Tensor, terminated: Tensor, steps_left: Tensor, gamma: float
    ) -> tuple[Tensor, Tensor]:
        """What critics learn of costs (..., K), and where nothing comes after (..., K) bool."""
        if not self.measures:
            return cost[..., :0], terminated[..., None][..., :0]
        pairs = [m.charge(x) for m, x in zip(self.measures, cost.unbind(-1), strict=True)]
        cost = torch.stack([x for x, _ in pairs], -1)
        ends = [terminated if last is None else terminated | last for _, last in pairs]
        return self.of(cost, terminated, steps_left, gamma).discounted, torch.stack(ends, -1)


class Maxima:
    """The largest cost so far in the running episode of each of N simulations, for each `peak` limit.

        state = maxima.append(env.state)                     # what critics see before a control step
        cost, final_state = maxima.step(step.cost, step.done, step.final_state)

    `largest` (N, P) are columns of the critics' state only, in units of Limit.largest. Without such a limit
    both calls return the given tensors themselves.
    """

    def __init__(
        self, limits: Mapping[str, Limit], num_envs: int, device: torch.device | str = "cpu"
    ) -> None:
        kept = [(k, x) for k, x in enumerate(limits.values()) if MEASURES[x.measure].running]
        self.names = [f"peak of {name}" for name, x in limits.items() if MEASURES[x.measure].running]
        self.columns = [k for k, _ in kept]
        self.unit = torch.tensor([float(x.largest) for _, x in kept], device=device)
        self.largest = torch.zeros(num_envs, len(kept), device=device)

    @property
    def widths(self) -> dict[str, int]:
        """The columns that `append` adds, by name."""
        return dict.fromkeys(self.names, 1)

    def append(self, state: Tensor) -> Tensor:
        """state (N, S) with the columns: (N, S + P)."""
        return torch.cat((state, self.largest / self.unit), -1) if self.columns else state

    def step(self, cost: Tensor, done: Tensor, final_state: Tensor) -> tuple[Tensor, Tensor]:
        """Costs (N, K) of a control step with the rise max(c - m, 0) in place of c for `peak` limits, and
        its final state (N, S + P). Where `done` (N,) the maxima begin again at 0."""
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

    def state_dict(self) -> dict[str, Tensor]:
        return {"largest": self.largest.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.largest.copy_(state["largest"])
