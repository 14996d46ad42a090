"""Half cheetah, equal to gymnasium's HalfCheetah-v5; with a limit on its speed, to Safety-Gymnasium's."""

from robokit.task import Limit, Sense, Task, normal, packaged, uniform

RESET_NOISE = 0.1  # m and rad uniform; m/s and rad/s normal
FAST = 3.2096  # m/s forward; faster control steps cost 1


class HalfCheetah(Task):
    """Run forward on two legs, fast and with little effort."""

    model = packaged("gymnasium", "envs/mujoco/assets/half_cheetah.xml")
    control_dt = 0.05  # s
    time_limit = 50.0  # s
    lag = True  # the task reads only the state: derived fields may lag
    memory = {"x": 1}  # m, the torso's position one control step ago
    weights = {"forward": 1.0, "ctrl": -0.1}
    planner = {"horizon": 1.0, "sigma": 0.7, "colour": 1.0, "temperature": 0.1}
    recipes = {"svg": {"steps": 100_000}}

    def reset(self, sim, rng):
        qpos = sim.nominal("qpos0") + uniform(sim, rng, sim.model.nq, RESET_NOISE)
        return {"qpos": qpos, "qvel": normal(sim, rng, sim.model.nv, RESET_NOISE), "x": qpos[:, :1]}

    def observe(self, sim):
        return {"position": sim.qpos[:, 1:], "velocity": sim.qvel}

    def rewards(self, sim, action):
        return {"forward": self._speed(sim), "ctrl": sim.ctrl.square().sum(-1)}

    def remember(self, sim, action):
        return {"x": sim.qpos[:, :1]}

    def metrics(self, sim):
        return {"speed": self._speed(sim)}

    def _speed(self, sim):
        """(N,) m/s, mean over the control step."""
        return (sim.qpos[:, 0] - sim.memory["x"][:, 0]) / self.control_dt


class Positions(HalfCheetah):
    """Velocities are hidden from the policy."""

    sensing = {"velocity": Sense(hidden=True)}


class Velocities(HalfCheetah):
    """Positions are hidden from the policy."""

    sensing = {"position": Sense(hidden=True)}


class SpeedLimit(HalfCheetah):
    """Run forward, faster than FAST in at most 25 control steps of an episode on average.

    Safety-Gymnasium's SafetyHalfCheetahVelocity-v1, built on gymnasium's HalfCheetah-v4, which equals v5.
    """

    limits = {"speed": Limit(25.0, "episode")}
    recipes = {
        "ppo": {"num_envs": 64, "minibatch": 256, "lr_schedule": "adaptive", "steps": 1_000_000},
        "svg": {"steps": 100_000, "caution": 1.0},
    }

    def costs(self, sim, action):
        return {"speed": (self._speed(sim) > FAST).double()}
