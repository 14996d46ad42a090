"""A mass on a rail, small enough to be trained a thousand times in an hour; with and without a limit."""

from pathlib import Path

import torch
from torch import Generator, Tensor

from robokit.limits.limit import Limit
from robokit.sim.base import Sim
from robokit.task.task import Task, Terms, uniform


class Slide(Task):
    """Stay in the middle, from a place drawn anew in each episode."""

    model = Path(__file__).with_suffix(".xml")
    control_dt = 0.02  # s
    time_limit = 0.2  # s
    weights = {"middle": 1.0}

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        return {"qpos": uniform(sim, rng, 1, 0.5)}

    def observe(self, sim: Sim) -> Terms:
        return {"slide": sim.sensor("slide"), "speed": sim.sensor("speed")}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"middle": 1 - sim.qpos[:, 0].abs()}


class Gentle(Slide):
    """The same, rarely with a hard push."""

    limits = {"hard": Limit(0.25)}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        return {"hard": (action[:, 0] > 0.5).to(torch.float32)}
