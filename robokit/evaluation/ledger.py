"""What each cost came to in each of E episodes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robokit.errors import TaskError
from robokit.evaluation.statistics import Array
from robokit.limits.charges import cut_off
from robokit.limits.limit import Limit, Measure


@dataclass(frozen=True)
class Charged:
    """What one cost came to in each of E episodes."""

    total: Array  # (E,) its sum, `absorb` included for the control steps that a termination cut off
    span: Array  # (E,) control steps that a rate divides by: those cut off too where `absorb` is charged
    discounted: Array  # (E,) sum of gamma^t c_t, `absorb` included
    violated: npt.NDArray[np.bool_]  # (E,) whether the cost itself was ever above 0


class Ledger:
    """Costs of N simulations that all began an episode at the same time, on their device."""

    def __init__(
        self, limits: Mapping[str, Limit], num_envs: int, gamma: float, device: torch.device | str = "cpu"
    ) -> None:
        absorb = [float(limit.absorb) for limit in limits.values()]
        self._absorb = torch.tensor(absorb, dtype=torch.float64, device=device)  # (K,)
        self._names, self._gamma, self._age = [*limits], gamma, 0
        self._sums = torch.zeros(4, num_envs, len(absorb), dtype=torch.float64, device=device)
        self._largest = torch.tensor([float(x.largest) for x in limits.values()], device=device)
        self._least, self._most = torch.zeros_like(self._absorb), torch.zeros_like(self._absorb)

    def add(self, cost: Tensor, running: Tensor, terminated: Tensor, left: Tensor) -> None:
        """One control step: cost (N, K), the others (N,); `running` are those whose episode goes on."""
        alive = running[:, None].double()
        cut = cut_off(running & terminated, left.double())[:, None]
        later = cut_off(running & terminated, left.double(), self._gamma)[:, None]
        now = self._gamma**self._age
        cost = torch.where(running[:, None], cost.double(), 0.0)
        total, span, discounted, violations = self._sums
        total += cost + cut * self._absorb
        span += alive + cut * (self._absorb > 0)
        discounted += now * (cost + later * self._absorb)
        violations += cost > 0
        self._least = torch.minimum(self._least, cost.amin(0))  # NaN stays
        self._most = torch.maximum(self._most, cost.amax(0))
        self._age += 1

    def charged(self) -> dict[str, Charged]:
        """By name. Raises TaskError for a cost that was negative, no number, or above its Limit.largest."""
        bounds = zip(
            self._names, self._least.tolist(), self._most.tolist(), self._largest.tolist(), strict=True
        )
        for name, least, most, largest in bounds:
            if not (least >= 0 and most <= largest * (1 + 1e-6)):
                rule = f"must lie from 0 to {largest:g}, its Limit.largest, in every control step"
                raise TaskError(f"cost {name!r} {rule}; got {most if least >= 0 else least:g}")
        total, span, discounted, violations = self._sums.cpu().numpy()
        return {
            name: Charged(total[:, k], span[:, k], discounted[:, k], violations[:, k] > 0)
            for k, name in enumerate(self._names)
        }


def weighted(charged: Charged, measure: Measure) -> tuple[Array, Array]:
    """(E,) and (E,): what a measure is the ratio of."""
    ones = np.ones_like(charged.total)
    return {
        "rate": (charged.total, charged.span),
        "episode": (charged.total, ones),
        "discounted": (charged.discounted, ones),
        "probability": (charged.violated.astype(np.float64), ones),
    }[measure]
