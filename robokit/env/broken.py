"""How often the simulations of an Env broke, and why: an episode that ends so is not the task's doing."""

import torch
from torch import Tensor

from robokit.sim.base import Sim

WHAT = "such an episode ends with reward and cost 0 in its last step"

UNTOLD = {"on a GPU": "robokit check, on the CPU, tells the cause"}


class Broken:
    """Counts by cause, kept on the simulation's device; `note` puts them into words."""

    def __init__(self, sim: Sim) -> None:
        self._causes = sim.causes if sim.device.type == "cpu" else UNTOLD
        self._counts = torch.zeros(len(self._causes), dtype=torch.int64, device=sim.device)
        self._noted = 0

    def add(self, faults: Tensor) -> None:
        """Add the simulations that broke in a control step: `Sim.faults` (N, causes) before any restart."""
        first = faults & (faults.cumsum(-1) == 1)  # one cause each: others follow from it
        self._counts += first.sum(0)

    def note(self, last: bool = False) -> str:
        """A line for the first that broke, and with `last` for all; "" if there is nothing new to say."""
        total = int(self._counts.sum())
        if total == self._noted or (self._noted and not last):
            return ""
        self._noted = total
        return f"a simulation broke {'once' if total == 1 else f'{total:,} times'}: {self.why()}"

    def why(self) -> str:
        """The causes, the most frequent first, with their numbers, and what to do."""
        found = sorted(zip(self._counts.tolist(), self._causes.items(), strict=True), reverse=True)
        causes = ", ".join(f"{cause} ({count:,})" for count, (cause, _) in found if count)
        return f"{causes}; {WHAT}; {found[0][1][1]}"
