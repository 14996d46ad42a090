"""Ant, equal to gymnasium's Ant-v5 except for the time at which contact forces are read.

With a limit on its speed it equals Safety-Gymnasium's, which reads no contact forces.
"""

import mujoco
import torch

from robokit.sim import load
from robokit.task import Limit, Sense, Task, normal, packaged, uniform

RESET_NOISE = 0.1  # m and rad uniform; m/s and rad/s normal
HEIGHT = (0.2, 1.0)  # m, of the torso
MAX_FORCE = 1.0  # N m, N; contact torques and forces are clipped here
FAST = 2.6222  # m/s in any horizontal direction; faster control steps cost 1


class Ant(Task):
    """Run forward on four legs.

    gymnasium reads cfrc_ext after the last stage of the last RK4 substep, which batched simulation does not
    provide; here it is read at the beginning of the last substep.
    """

    control_dt = 0.05  # s
    time_limit = 50.0  # s
    lag = True  # gymnasium reads the torso's position as mj_step leaves it
    memory = {"x": 1}  # m, the torso's position one control step ago
    weights = {"forward": 1.0, "healthy": 1.0, "ctrl": -0.5, "contact": -5e-4}

    @property
    def model(self):
        spec = load(packaged("gymnasium", "envs/mujoco/assets/ant.xml"))
        spec.body("torso").add_site(name="imu")
        kind, site = mujoco.mjtSensor.mjSENS_ACCELEROMETER, mujoco.mjtObj.mjOBJ_SITE
        spec.add_sensor(name="accelerometer", type=kind, objtype=site, objname="imu")
        return spec  # without such a sensor MuJoCo leaves cfrc_ext at 0

    def reset(self, sim, rng):
        qpos = sim.nominal("qpos0") + uniform(sim, rng, sim.model.nq, RESET_NOISE)
        return {"qpos": qpos, "qvel": normal(sim, rng, sim.model.nv, RESET_NOISE), "x": qpos[:, :1]}

    def observe(self, sim):
        return {"position": sim.qpos[:, 2:], "velocity": sim.qvel, "contact": self._contact(sim)[:, 6:]}

    def rewards(self, sim, action):
        effort = {"ctrl": sim.ctrl.square().sum(-1), "contact": self._contact(sim).square().sum(-1)}
        return {"forward": self._speed(sim), "healthy": self._healthy(sim).double(), **effort}

    def terminated(self, sim):
        return ~self._healthy(sim)

    def remember(self, sim, action):
        return {"x": sim.body("torso").xpos[:, :1]}

    def metrics(self, sim):
        return {"speed": self._speed(sim)}

    def _speed(self, sim):
        """(N,) m/s, mean over the control step."""
        return (sim.body("torso").xpos[:, 0] - sim.memory["x"][:, 0]) / self.control_dt

    def _contact(self, sim):
        """(N, 6 * bodies) contact torque and force on every body, the world first."""
        return sim.field("cfrc_ext").flatten(1).clamp(-MAX_FORCE, MAX_FORCE)

    def _healthy(self, sim):
        height = sim.qpos[:, 2]
        finite = torch.isfinite(torch.cat((sim.qpos, sim.qvel), -1)).all(-1)
        return finite & (height >= HEIGHT[0]) & (height <= HEIGHT[1])


class Positions(Ant):
    """Velocities and contact forces are hidden from the policy."""

    sensing = {"velocity": Sense(hidden=True), "contact": Sense(hidden=True)}


class Velocities(Ant):
    """Positions and contact forces are hidden from the policy."""

    sensing = {"position": Sense(hidden=True), "contact": Sense(hidden=True)}


class SpeedLimit(Ant):
    """Run forward on four legs, faster than FAST in at most 25 control steps of an episode on average.

    Safety-Gymnasium's SafetyAntVelocity-v1, built on gymnasium's Ant-v4, which neither observes nor penalises
    contact forces, and rewards health also in the step of the fall.
    """

    model = packaged("gymnasium", "envs/mujoco/assets/ant.xml")
    memory = {"x": 1, "y": 1}  # m, the torso's position one control step ago
    weights = {"forward": 1.0, "healthy": 1.0, "ctrl": -0.5}
    limits = {"speed": Limit(25.0, "episode")}
    recipes = {"ppo": {"num_envs": 64, "minibatch": 256, "lr_schedule": "adaptive", "steps": 1_000_000}}

    def reset(self, sim, rng):
        values = super().reset(sim, rng)
        return {**values, "y": values["qpos"][:, 1:2]}

    def observe(self, sim):
        return {"position": sim.qpos[:, 2:], "velocity": sim.qvel}

    def rewards(self, sim, action):
        forward, ctrl = self._speed(sim), sim.ctrl.square().sum(-1)
        return {"forward": forward, "healthy": torch.ones_like(forward), "ctrl": ctrl}

    def costs(self, sim, action):
        before = torch.cat((sim.memory["x"], sim.memory["y"]), -1)
        velocity = (sim.body("torso").xpos[:, :2] - before) / self.control_dt
        return {"speed": (velocity.square().sum(-1).sqrt() > FAST).double()}

    def remember(self, sim, action):
        x, y, _ = sim.body("torso").xpos.split(1, -1)
        return {"x": x, "y": y}
