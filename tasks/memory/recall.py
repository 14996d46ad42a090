"""Recall: a light shows a side, and a slider must go there many steps later. A task of our own."""

from pathlib import Path

import torch

from robokit.task import Task, uniform

SIDE = 0.5  # m from the middle, where a side begins


class Recall(Task):
    """Go to the side that a light showed `wait` control steps ago.

    Only the first observation shows the light; later ones give the time left, but not the side. The slider is
    not observed and reaches its target within a control step, so its position cannot store the side either: a
    policy without memory succeeds in at most half of the episodes.
    """

    model = Path(__file__).with_suffix(".xml")
    control_dt = 0.05  # s
    wait = 20  # control steps from the observation that shows the light to the action that counts
    memory = {"light": 1}  # drawn once per episode; its sign is the side
    weights = {"arrived": 1.0}  # paid in the episode's last step only
    failure = ("missed",)  # every episode ends in a terminal state
    recipes = {
        "ppo": {
            "steps": 300_000,
            "num_envs": 32,
            "horizon": 128,
            "minibatch": 1024,
            "gamma": 0.999,
            "lr": 1e-3,
            "belief": "gru",
            "chunk": 128,  # longer than the wait that gradients must cross
        }
    }

    @property
    def time_limit(self):
        return (self.wait + 1) * self.control_dt

    def reset(self, sim, rng):
        return {"light": uniform(sim, rng, 1)}

    def observe(self, sim):
        age = sim.memory["age"]
        light = torch.where(age == 0, self._side(sim), 0.0)  # not side * 0: the sign of zero would reveal it
        return {"light": light, "remaining": 1 - age / self.wait}

    def privileged(self, sim):
        return {"side": self._side(sim), "slider": sim.qpos}

    def rewards(self, sim, action):
        return {"arrived": (self._due(sim) & self._arrived(sim)).double()}

    def terminated(self, sim):
        return self._due(sim)

    def metrics(self, sim):
        due, arrived = self._due(sim), self._arrived(sim)
        return {"success": torch.where(due, arrived.double(), torch.nan), "missed": due & ~arrived}

    def _side(self, sim):
        """The side (N, 1), -1 or 1."""
        return torch.where(sim.memory["light"] < 0, -1.0, 1.0)

    def _due(self, sim):
        """(N,) bool: this step's action is the one that counts."""
        return sim.memory["age"][:, 0] >= self.wait

    def _arrived(self, sim):
        return (sim.qpos * self._side(sim))[:, 0] > SIDE


class Recall100(Recall):
    """Recall with a wait of 100 control steps."""

    wait = 100
