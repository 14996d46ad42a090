"""Reacher, equal to gymnasium's Reacher-v5."""

import math

import torch

from robokit.task import Sense, Task, packaged, uniform

ARM_NOISE = 0.1  # rad, at a reset
SPEED_NOISE = 5e-3  # rad/s, at a reset
TARGET_RADIUS = 0.2  # m, targets are drawn from this disc
TOUCH = 0.019  # m, the radii of the fingertip and of the target's ball


class Reacher(Task):
    """Bring the tip of a planar arm with two links to a fixed target, drawn in each episode."""

    model = packaged("gymnasium", "envs/mujoco/assets/reacher.xml")
    control_dt = 0.02  # s
    time_limit = 1.0  # s
    lag = True  # gymnasium reads the bodies' positions as mj_step leaves them
    weights = {"distance": -1.0, "ctrl": -1.0}

    def reset(self, sim, rng):
        unit = (uniform(sim, rng, 2) + 1) / 2
        radius, angle = TARGET_RADIUS * unit[:, 0].sqrt(), 2 * math.pi * unit[:, 1]
        arm = sim.nominal("qpos0")[:2] + uniform(sim, rng, 2, ARM_NOISE)
        target = torch.stack((radius * angle.cos(), radius * angle.sin()), -1)
        speed = uniform(sim, rng, 2, SPEED_NOISE)
        return {"qpos": torch.cat((arm, target), -1), "qvel": torch.cat((speed, torch.zeros_like(speed)), -1)}

    def observe(self, sim):
        angle, target = sim.qpos[:, :2], sim.qpos[:, 2:]
        error = self._error(sim)[:, :2]
        turn = {"cos": angle.cos(), "sin": angle.sin()}
        return {**turn, "target": target, "velocity": sim.qvel[:, :2], "error": error}

    def rewards(self, sim, action):
        return {"distance": self._error(sim).norm(dim=-1), "ctrl": sim.ctrl.square().sum(-1)}

    def metrics(self, sim):
        distance = self._error(sim).norm(dim=-1)
        return {"success": distance < TOUCH, "distance": distance}

    def _error(self, sim):
        """(N, 3) m, from the target to the fingertip."""
        return sim.body("fingertip").xpos - sim.body("target").xpos


class Positions(Reacher):
    """Velocities are hidden from the policy."""

    sensing = {"velocity": Sense(hidden=True)}


class Velocities(Reacher):
    """The arm's position is hidden from the policy; the target is not, because it is the goal."""

    sensing = dict.fromkeys(("cos", "sin", "error"), Sense(hidden=True))
