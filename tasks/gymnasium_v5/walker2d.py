"""Walker, equal to gymnasium's Walker2d-v5; with a limit on its speed, to Safety-Gymnasium's."""

import torch

from robokit.task import Limit, Sense, Task, packaged, uniform

RESET_NOISE = 5e-3  # m, rad, m/s, rad/s
MAX_SPEED = 10.0  # m/s, rad/s; observed velocities are clipped here
HEIGHT = (0.8, 2.0)  # m, of the torso
MAX_ANGLE = 1.0  # rad, of the torso
FAST = 2.3415  # m/s forward; faster control steps cost 1


class Walker2d(Task):
    """Walk forward on two legs without falling."""

    model = packaged("gymnasium", "envs/mujoco/assets/walker2d_v5.xml")
    control_dt = 0.008  # s
    time_limit = 8.0  # s
    lag = True  # the task reads only the state: derived fields may lag
    memory = {"x": 1}  # m, the torso's position one control step ago
    weights = {"forward": 1.0, "healthy": 1.0, "ctrl": -1e-3}
    recipes = {"svg": {"steps": 100_000}}

    def reset(self, sim, rng):
        qpos = sim.nominal("qpos0") + uniform(sim, rng, sim.model.nq, RESET_NOISE)
        return {"qpos": qpos, "qvel": uniform(sim, rng, sim.model.nv, RESET_NOISE), "x": qpos[:, :1]}

    def observe(self, sim):
        return {"position": sim.qpos[:, 1:], "velocity": sim.qvel.clamp(-MAX_SPEED, MAX_SPEED)}

    def rewards(self, sim, action):
        ctrl = sim.ctrl.square().sum(-1)
        return {"forward": self._speed(sim), "healthy": self._healthy(sim).double(), "ctrl": ctrl}

    def terminated(self, sim):
        return ~self._healthy(sim)

    def ended(self, terms):
        if "position" not in terms:
            return None
        height, angle = terms["position"][:, 0], terms["position"][:, 1]
        return ~((height > HEIGHT[0]) & (height < HEIGHT[1]) & (angle.abs() < MAX_ANGLE))

    def remember(self, sim, action):
        return {"x": sim.qpos[:, :1]}

    def metrics(self, sim):
        return {"speed": self._speed(sim)}

    def _speed(self, sim):
        """(N,) m/s, mean over the control step."""
        return (sim.qpos[:, 0] - sim.memory["x"][:, 0]) / self.control_dt

    def _healthy(self, sim):
        height, angle = sim.qpos[:, 1], sim.qpos[:, 2]
        return (height > HEIGHT[0]) & (height < HEIGHT[1]) & (angle.abs() < MAX_ANGLE)


class Positions(Walker2d):
    """Velocities are hidden from the policy."""

    sensing = {"velocity": Sense(hidden=True)}


class Velocities(Walker2d):
    """Positions are hidden from the policy."""

    sensing = {"position": Sense(hidden=True)}


class SpeedLimit(Walker2d):
    """Walk forward, faster than FAST in at most 25 control steps of an episode on average.

    Safety-Gymnasium's SafetyWalker2dVelocity-v1, built on gymnasium's Walker2d-v4, whose right foot has half
    the friction, and which rewards health also in the step of the fall.
    """

    model = packaged("gymnasium", "envs/mujoco/assets/walker2d.xml")
    limits = {"speed": Limit(25.0, "episode")}
    recipes = {"ppo": {"num_envs": 64, "minibatch": 256, "lr_schedule": "adaptive", "steps": 1_000_000}}

    def rewards(self, sim, action):
        terms = super().rewards(sim, action)
        return {**terms, "healthy": torch.ones_like(terms["healthy"])}

    def costs(self, sim, action):
        return {"speed": (self._speed(sim) > FAST).double()}
