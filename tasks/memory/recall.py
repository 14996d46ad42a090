"""Recall: a light shows a side, and long after it is out the slider has to go there. A task of our own."""

from pathlib import Path

import torch

from robokit.task import Task, uniform

SIDE = 0.5  # m from the middle, where a side begins


class Recall(Task):
    """Go to the side that a light showed `wait` control steps ago.

    Only the first observation shows the light; what is seen later says when to act and not where. The slider
    is not seen, and it reaches its target within a control step, so that it cannot store the side either: a
    policy without memory is right half of the time at best.
    """

    model = Path(__file__).with_suffix(".xml")
    control_dt = 0.05  # s
    wait = 20  # control steps from the observation that shows the light to the action that counts
    memory = {"light": 1}  # drawn once an episode: the side is its sign
    weights = {"arrived": 1.0}  # in an episode's last step, nothing before it
    recipes = {
        "ppo": {
            "steps": 300_000,
            "num_envs": 32,
            "horizon": 128,
            "minibatch": 1024,
            "gamma": 0.999,
            "lr": 1e-3,
            "belief": "gru",
            "chunk": 128,  # as long as what must be learned across it
        }
    }

    @property
    def time_limit(self):
        return (self.wait + 1) * self.control_dt

    def reset(self, sim, rng):
        return {"light": uniform(sim, rng, 1)}

    def observe(self, sim):
        age = sim.memory["age"]
        light = torch.where(age == 0, self._side(sim), 0.0)  # not times 0, whose sign would tell
        return {"light": light, "remaining": 1 - age / self.wait}

    def privileged(self, sim):
        return {"side": self._side(sim), "slider": sim.qpos}

    def rewards(self, sim, action):
        return {"arrived": (self._due(sim) & self._arrived(sim)).double()}

    def terminated(self, sim):
        return self._due(sim)

    def metrics(self, sim):
        return {"success": torch.where(self._due(sim), self._arrived(sim).double(), torch.nan)}

    def _side(self, sim):
        """(N, 1): -1 or 1."""
        return torch.where(sim.memory["light"] < 0, -1.0, 1.0)

    def _due(self, sim):
        """(N,) bool: the action that led here is the one that counts."""
        return sim.memory["age"][:, 0] >= self.wait

    def _arrived(self, sim):
        return (sim.qpos * self._side(sim))[:, 0] > SIDE


class Recall100(Recall):
    """The same after 100 control steps."""

    wait = 100
