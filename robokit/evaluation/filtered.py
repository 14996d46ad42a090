"""A filter in simulation: the code of the robot's filter, on a batch of N simulations."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from robokit.env.env import Env
from robokit.filter import Filter, Guard


class FilteredActor:
    """An exported file's actor whose targets Env sends after a filter, which restarts with each episode.

    A target that no stage changes stays bit-equal; rewards see the network's action. Counts are of the first
    episode of each simulation.
    """

    def __init__(self, act: Callable[[Env, Tensor], Tensor], filter: Filter, num_envs: int) -> None:
        self.guard, self._act = Guard(filter, num_envs), act
        unmet = {f"{stage} unmet": count for stage, count in self.guard.unmet.items()}
        self._counts = {**self.guard.acted, **unmet}
        self._kept = {name: count.copy() for name, count in self._counts.items()}
        self._begun, self._over = np.zeros(num_envs, np.bool_), np.zeros(num_envs, np.bool_)
        self.steps, self._latched = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.bool_)

    def __call__(self, env: Env, is_first: Tensor) -> Tensor:
        rows = is_first.cpu().numpy()
        self._over |= rows & self._begun
        self._begun |= rows
        self.guard.begin(rows)
        action = self._act(env, is_first).clamp(-1.0, 1.0)
        target = env.targets(action)
        ctrl = target.float()
        terms = {name: term.cpu().numpy() for name, term in env.terms().items()}
        sent = torch.from_numpy(self.guard.step(ctrl.cpu().numpy(), *self.guard.measure(terms))).to(ctrl)
        env.send(torch.where(sent == ctrl, target, sent.to(target)))
        self._count()
        return action.nan_to_num(0.0)

    def shares(self) -> dict[str, float]:
        """Share of the control steps: STAGES, WATCHED, "velocity unmet", "torque unmet" -> 0 to 1."""
        steps = max(int(self.steps.sum()), 1)
        return {name: float(count.sum()) / steps for name, count in self._kept.items()}

    @property
    def latched(self) -> int:
        """Number of episodes that ended in the fallback."""
        return int(self._latched.sum())

    def _count(self) -> None:
        for name, kept in self._kept.items():
            np.copyto(kept, self._counts[name], where=~self._over)
        np.copyto(self._latched, self.guard.why > 0, where=~self._over)
        self.steps += ~self._over
