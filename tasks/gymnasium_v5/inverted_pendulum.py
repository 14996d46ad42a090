"""Inverted pendulum, equal to gymnasium's InvertedPendulum-v5."""

import torch

from robokit.task import Sense, Task, packaged, uniform

RESET_NOISE = 0.01  # m, rad, m/s, rad/s
MAX_ANGLE = 0.2  # rad, of the pole


class InvertedPendulum(Task):
    """Keep a pole upright by moving the cart below it."""

    model = packaged("gymnasium", "envs/mujoco/assets/inverted_pendulum.xml")
    control_dt = 0.04  # s
    time_limit = 40.0  # s
    lag = True  # the task reads only the state: derived fields may lag
    weights = {"upright": 1.0}
    recipes = {
        "svg": {
            "steps": 3000, "learning_starts": 1000, "lr": 1e-3, "hidden": (64, 64),
            "model_hidden": (128, 128), "model_every": 1.0,
            "tau": 0.02,  # with .005 a value of 100 steps takes more updates than there are
        }
    }  # fmt: skip

    def reset(self, sim, rng):
        qpos = sim.nominal("qpos0") + uniform(sim, rng, sim.model.nq, RESET_NOISE)
        return {"qpos": qpos, "qvel": uniform(sim, rng, sim.model.nv, RESET_NOISE)}

    def observe(self, sim):
        return {"position": sim.qpos, "velocity": sim.qvel}

    def rewards(self, sim, action):
        return {"upright": self._upright(sim).double()}

    def terminated(self, sim):
        return ~self._upright(sim)

    def ended(self, terms):
        return ~(terms["position"][:, 1].abs() <= MAX_ANGLE) if "position" in terms else None

    def metrics(self, sim):
        """An episode succeeds if its last step is upright: then the time limit ended it."""
        return {"success": self._upright(sim), "angle": sim.qpos[:, 1].abs()}

    def _upright(self, sim):
        finite = torch.isfinite(torch.cat((sim.qpos, sim.qvel), -1)).all(-1)
        return finite & (sim.qpos[:, 1].abs() <= MAX_ANGLE)


class Positions(InvertedPendulum):
    """Velocities are hidden from the policy."""

    sensing = {"velocity": Sense(hidden=True)}


class Velocities(InvertedPendulum):
    """Positions are hidden from the policy."""

    sensing = {"position": Sense(hidden=True)}
