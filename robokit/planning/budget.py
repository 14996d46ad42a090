"""What a task's limits leave for the next second of an episode: plans within it are feasible."""

from collections.abc import Mapping

import torch
from torch import Tensor

from robokit.errors import OptionError
from robokit.limits.limit import Limit
from robokit.limits.measures import MEASURES, Rest


class Budget:
    """Costs of M running episodes under K limits, and how far plans exceed what is left of these.

    steps: control steps of the longest episode. gamma: of discounted limits. margin: plans aim at
    (1 - margin) of each limit. Raises OptionError for a limit whose measure no single control step tells.
    """

    def __init__(
        self, limits: Mapping[str, Limit], played: int, steps: int, gamma: float = 1.0, margin: float = 0.1
    ) -> None:
        for name, limit in limits.items():
            if why := MEASURES[limit.measure].untrained:
                rule = f"limits[{name!r}]: no plan is held to a {limit.measure}: {why}"
                raise OptionError(f"{rule}; take another measure, or plan for a task without this limit")
        self.kinds = [MEASURES[limit.measure] for limit in limits.values()]
        self.aim = [(1 - margin) * limit.value for limit in limits.values()]
        self.largest = [limit.largest for limit in limits.values()]
        self.steps, self.gamma = steps, gamma
        self.spent, self.age = torch.zeros(played, len(self.kinds)), torch.zeros(played)

    def add(self, cost: Tensor, done: Tensor) -> None:
        """Add the costs (M, K) of a played control step; where done (M,) a new episode begins."""
        for k, kind in enumerate(self.kinds):
            spent = self.spent[:, k] + kind.spent(cost[:, k], self.age, self.gamma)
            self.spent[:, k] = torch.where(done, 0.0, spent)
        self.age = torch.where(done, 0.0, self.age + 1)

    def excess(self, costs: Tensor) -> Tensor:
        """How far plans with costs (H, samples, M, K) exceed the budget, (samples, M); 0: feasible.

        Summed over the limits, each in units of its largest cost; what comes after the time limit is free.
        """
        total, left = costs.new_zeros(costs.shape[1:3]), self.steps - self.age
        costs = costs * (torch.arange(len(costs))[:, None, None, None] < left[:, None])
        for k, kind in enumerate(self.kinds):
            rest = self.aim[k] - self.spent[:, k]
            now = Rest(self.aim[k], rest, self.age, left.clamp(max=len(costs)), left, self.gamma)
            used, allowed = kind.planned(costs[..., k], self.age, self.gamma), kind.allowed(now)
            total += ((used - allowed.clamp(min=0.0)) / self.largest[k] - 1e-6).clamp(min=0.0)
        return total
