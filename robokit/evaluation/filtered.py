"""A filter in simulation: the code of the robot's filter, on a batch of N simulations."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robokit.env.env import Env
from robokit.filter import Filter, Guard

REACH = 1.0 + 1e-5  # largest |action|, with room for float32 rounding on the way to ctrl and back


class FilteredActor:
    """The actions of an exported file's actor after a filter, which restarts with each episode.

    An action that no stage changes stays bit-equal. Counts are of the first episode of each simulation.
    """

    def __init__(self, act: Callable[[Env, Tensor], Tensor], filter: Filter, num_envs: int) -> None:
        self.guard, self._act = Guard(filter, num_envs), act
        self._counts = {**self.guard.acted, "beyond": np.zeros(num_envs, np.int64)}
        self._counts |= {f"{stage} unmet": count for stage, count in self.guard.unmet.items()}
        self._kept = {name: count.copy() for name, count in self._counts.items()}
        self._begun, self._over = np.zeros(num_envs, np.bool_), np.zeros(num_envs, np.bool_)
        self.steps, self._latched = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.bool_)

    def __call__(self, env: Env, is_first: Tensor) -> Tensor:
        rows = is_first.cpu().numpy()
        self._over |= rows & self._begun
        self._begun |= rows
        self.guard.begin(rows)
        action = self._act(env, is_first).clamp(-1.0, 1.0)
        center, half, ctrl = env.action_center, env.action_half, env.targets(action).float()
        terms = {name: term.cpu().numpy() for name, term in env.terms().items()}
        sent = torch.from_numpy(self.guard.step(ctrl.cpu().numpy(), *self.guard.measure(terms))).to(ctrl)
        action = torch.where(sent == ctrl, action, (sent.to(center) - center) / half)
        self._count((action.abs() > REACH).any(-1).cpu().numpy())
        return action

    def shares(self) -> dict[str, float]:
        """Share of the control steps: STAGES, WATCHED, "velocity unmet", "torque unmet", "beyond" -> 0 to 1.

        "beyond": the filter's target was outside the range of the task's actions, so Env clipped it.
        """
        steps = max(int(self.steps.sum()), 1)
        return {name: float(count.sum()) / steps for name, count in self._kept.items()}

    @property
    def latched(self) -> int:
        """Number of episodes that ended in the fallback."""
        return int(self._latched.sum())

    def _count(self, beyond: Any) -> None:
        self._counts["beyond"] += beyond
        for name, kept in self._kept.items():
            np.copyto(kept, self._counts[name], where=~self._over)
        np.copyto(self._latched, self.guard.why > 0, where=~self._over)
        self.steps += ~self._over
