"""Hopper, equal to gymnasium's Hopper-v5."""

import torch

from robokit.task import Task, packaged

RESET_NOISE = 5e-3  # m, rad, m/s, rad/s
MAX_SPEED = 10.0  # observed velocities are clipped here


class Hopper(Task):
    """Hop forward on one leg without falling."""

    model = packaged("gymnasium", "envs/mujoco/assets/hopper.xml")
    control_dt = 0.008  # s
    time_limit = 8.0  # s
    memory = {"x": 1}  # m, the torso's position one control step ago
    weights = {"forward": 1.0, "healthy": 1.0, "ctrl": -1e-3}

    def reset(self, sim, rng):
        noise = lambda width: torch.rand(sim.num_envs, width, generator=rng, dtype=sim.qpos.dtype) * 2 - 1
        qpos = sim.nominal("qpos0") + RESET_NOISE * noise(sim.model.nq)
        return {"qpos": qpos, "qvel": RESET_NOISE * noise(sim.model.nv), "x": qpos[:, :1]}

    def observe(self, sim):
        return {"position": sim.qpos[:, 1:], "velocity": sim.qvel.clamp(-MAX_SPEED, MAX_SPEED)}

    def rewards(self, sim, action):
        forward = (sim.qpos[:, 0] - sim.memory["x"][:, 0]) / self.control_dt
        return {"forward": forward, "healthy": self._healthy(sim).double(), "ctrl": sim.ctrl.square().sum(-1)}

    def terminated(self, sim):
        return ~self._healthy(sim)

    def remember(self, sim, action):
        return {"x": sim.qpos[:, :1]}

    def metrics(self, sim):
        return {"speed": (sim.qpos[:, 0] - sim.memory["x"][:, 0]) / self.control_dt}

    def _healthy(self, sim):
        height, angle = sim.qpos[:, 1], sim.qpos[:, 2]
        bounded = torch.cat((sim.qpos[:, 2:], sim.qvel), -1).abs().amax(-1) < 100.0
        return bounded & (height > 0.7) & (angle.abs() < 0.2)
