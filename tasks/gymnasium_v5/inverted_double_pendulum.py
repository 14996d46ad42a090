"""Inverted double pendulum, equal to gymnasium's InvertedDoublePendulum-v5."""

from robokit.task import Sense, Task, normal, packaged, uniform

RESET_NOISE = 0.1  # m and rad uniform; m/s and rad/s normal
MAX_SEEN = 10.0  # m/s, rad/s, N; observed velocities and the rail's force are clipped here
HEIGHT = 2.0  # m, target of the tip, 0.8 m above its highest point
MIN_HEIGHT = 1.0  # m, of the tip; upright it is at 1.2


class InvertedDoublePendulum(Task):
    """Keep two poles, one on top of the other, upright by moving the cart below them."""

    model = packaged("gymnasium", "envs/mujoco/assets/inverted_double_pendulum.xml")
    control_dt = 0.05  # s
    time_limit = 50.0  # s
    lag = True  # gymnasium reads the tip's position and the rail's force as mj_step leaves them
    weights = {"upright": 10.0, "distance": -1.0, "velocity": -1.0}
    planner = {
        "rule": "elites",
        "horizon": 2.0,
        "sigma": 0.01,
        "colour": 0.0,
        "elites": 10,
        "kept": 0,
        "temperature": 2.0,
        "least": 0.01,
        "feedback": 2.0,
    }

    def reset(self, sim, rng):
        qpos = sim.nominal("qpos0") + uniform(sim, rng, sim.model.nq, RESET_NOISE)
        return {"qpos": qpos, "qvel": normal(sim, rng, sim.model.nv, RESET_NOISE)}

    def observe(self, sim):
        angles, rail = sim.qpos[:, 1:], sim.field("qfrc_constraint")[:, :1]
        turn = {"sin": angles.sin(), "cos": angles.cos()}
        velocity = sim.qvel.clamp(-MAX_SEEN, MAX_SEEN)
        return {
            "cart": sim.qpos[:, :1],
            **turn,
            "velocity": velocity,
            "rail": rail.clamp(-MAX_SEEN, MAX_SEEN),
        }

    def rewards(self, sim, action):
        x, height = self._tip(sim)
        lower, upper = sim.qvel[:, 1], sim.qvel[:, 2]
        return {
            "upright": (height > MIN_HEIGHT).double(),
            "distance": 0.01 * x.square() + (height - HEIGHT).square(),
            "velocity": 1e-3 * lower.square() + 5e-3 * upper.square(),
        }

    def terminated(self, sim):
        return self._tip(sim)[1] <= MIN_HEIGHT

    def metrics(self, sim):
        """An episode succeeds if its last step is upright: then the time limit ended it."""
        x, height = self._tip(sim)
        return {"success": height > MIN_HEIGHT, "height": height, "offset": x.abs()}

    def _tip(self, sim):
        """Horizontal position and height of the upper pole's end, (N,) m each."""
        position = sim.site("tip").xpos
        return position[:, 0], position[:, 2]


class Positions(InvertedDoublePendulum):
    """Velocities and the force at the rail's ends are hidden from the policy."""

    sensing = {"velocity": Sense(hidden=True), "rail": Sense(hidden=True)}


class Velocities(InvertedDoublePendulum):
    """Positions are hidden, and the force at the rail's ends, which reveals the cart's position."""

    sensing = dict.fromkeys(("cart", "sin", "cos", "rail"), Sense(hidden=True))
