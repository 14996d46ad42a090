"""The metrics of one episode in each of N simulations, added up to one number of each kind per episode."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from robokit.evaluation.statistics import Array


class Tally:
    """Adds up the metrics of one episode in each of N simulations, all started together, on their device.

    Of a number: "mean", "last" and "max". Of a boolean metric: "mean", "last", "held" (true in each of its
    last `hold` control steps; an episode with fewer has not held) and "ever". A step with NaN is left out of
    all but "held": there it is not true. An episode without any other step is NaN, and has not held.
    """

    def __init__(
        self, names: Sequence[str], hold: Mapping[str, int], num_envs: int, device: torch.device | str = "cpu"
    ) -> None:
        """hold: control steps by name of the boolean metrics; the others are numbers."""
        self._names, self._hold = [*names], hold
        self._sums = torch.zeros(num_envs, len(self._names), dtype=torch.float64, device=device)
        self._counts, self._streak = torch.zeros_like(self._sums), torch.zeros_like(self._sums)
        self._last = torch.full_like(self._sums, torch.nan)
        self._peak = self._last.clone()

    def add(self, metrics: Tensor, running: Tensor) -> None:
        """Add a control step. metrics: (N, M), NaN: no value; running (N,): had not ended before."""
        x, alive = metrics.double(), running[:, None]
        counted = alive & ~x.isnan()
        self._sums += torch.where(counted, x, 0.0)
        self._counts += counted
        self._last = torch.where(counted, x, self._last)
        self._peak = torch.where(counted, torch.fmax(self._peak, x), self._peak)  # fmax ignores NaN
        self._streak = torch.where(alive, (self._streak + 1) * (x == 1), self._streak)

    def settled(self, name: str, control_dt: float) -> Array:
        """(N,) s from an episode's start until the metric is true for good, NaN: it has not held."""
        i = self._names.index(name)
        steps = (self._counts[:, i] - self._streak[:, i] + 1).cpu().numpy()
        return np.where(self.kinds()[name]["held"] == 1, steps * control_dt, np.nan)

    def kinds(self) -> dict[str, dict[str, Array]]:
        """Name -> kind -> (N,)."""
        each = self._sums, self._counts, self._last, self._peak, self._streak
        sums, counts, last, peak, streak = (x.cpu().numpy() for x in each)
        mean, found = sums / np.where(counts, counts, np.nan), dict[str, dict[str, Array]]()
        for i, name in enumerate(self._names):
            found[name] = {"mean": mean[:, i], "last": last[:, i]}
            if name in self._hold:
                found[name]["held"] = (streak[:, i] >= self._hold[name]).astype(np.float64)
            found[name]["ever" if name in self._hold else "max"] = peak[:, i]
        return found
