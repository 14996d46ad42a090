"""Totals of each cost in each of E episodes."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from robokit.errors import TaskError
from robokit.evaluation.statistics import Array, ratio
from robokit.limits.charges import Charges
from robokit.limits.limit import Limit
from robokit.limits.measures import MEASURES, EpisodeCosts, Name


class Ledger:
    """Adds up the costs of one episode in each of N simulations, all started together, on their device."""

    def __init__(
        self, limits: Mapping[str, Limit], num_envs: int, gamma: float, device: torch.device | str = "cpu"
    ) -> None:
        self._charges = Charges(limits, device, torch.float64)
        self._names, self._gamma, self._age = [*limits], gamma, 0
        shape = len(EpisodeCosts._fields), num_envs, len(limits)
        self._costs = torch.zeros(shape, dtype=torch.float64, device=device)
        self._largest = [float(limit.largest) for limit in limits.values()]
        self._least = self._costs.new_zeros(len(limits))

    def add(self, cost: Tensor, running: Tensor, terminated: Tensor, steps_left: Tensor) -> None:
        """Add a control step. cost: (N, K), the others: (N,); running: the episode had not ended before."""
        alive = running[:, None]
        cost = torch.where(alive, cost.double(), 0.0)
        step = self._charges.of(cost, running & terminated, steps_left.double(), self._gamma)
        discounted = self._gamma**self._age * step.discounted
        self._costs[:3] += torch.stack((step.total, alive * step.span, discounted))
        largest = torch.stack(((cost > 0).double(), cost))
        self._costs[3:] = torch.maximum(self._costs[3:], largest)
        self._least = torch.minimum(self._least, cost.amin(0))  # NaN stays
        self._age += 1

    def costs(self) -> dict[str, EpisodeCosts[Array]]:
        """Totals (N,) by name. Raises TaskError for a cost that was negative, NaN or above Limit.largest."""
        most = EpisodeCosts(*self._costs).peak.amax(0)
        bounds = zip(self._names, self._least.tolist(), most.tolist(), self._largest, strict=True)
        for name, least, most, largest in bounds:
            if not (least >= 0 and most <= largest * (1 + 1e-6)):
                rule = f"must lie from 0 to {largest:g}, its Limit.largest, in every control step"
                raise TaskError(f"cost {name!r} {rule}; got {most if least >= 0 else least:g}")
        columns = self._costs.cpu().numpy()
        return {name: EpisodeCosts(*columns[..., k]) for k, name in enumerate(self._names)}


def weighted(measure: Name, costs: EpisodeCosts[Array]) -> tuple[Array, Array]:
    """x and weight (E,) of a measure, as Measure.per_episode, but ones where its weight is None."""
    x, weight = MEASURES[measure].per_episode(costs)
    return x, np.ones_like(x) if weight is None else weight


def measured(measure: Name, costs: EpisodeCosts[Array]) -> float:
    """The value of a measure for the costs of E episodes: sum(x) / sum(weight), or the mean of the worst."""
    return ratio(*weighted(measure, costs), MEASURES[measure].worst)
