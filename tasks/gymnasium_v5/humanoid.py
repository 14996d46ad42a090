"""Humanoid, equal to gymnasium's Humanoid-v5 except for the time at which contact forces are read.

With a limit on its speed it equals Safety-Gymnasium's, with the same exception.
"""

import mujoco
import torch

from robokit.sim import load
from robokit.task import Limit, Task, packaged, uniform

RESET_NOISE = 1e-2  # m, rad, m/s, rad/s
HEIGHT = (1.0, 2.0)  # m, of the torso
MAX_CONTACT = 2e7  # the sum of squared contact torques and forces, in N m and N, is clipped here
FAST = 1.4149  # m/s in any horizontal direction; faster control steps cost 1


class Humanoid(Task):
    """Walk forward on two legs without falling.

    gymnasium reads cfrc_ext after the last stage of the last RK4 substep, which batched simulation does not
    provide; here it is read at the beginning of the last substep.
    """

    control_dt = 0.015  # s
    time_limit = 15.0  # s
    lag = True  # gymnasium reads derived fields as mj_step leaves them
    memory = {"center": 2}  # m, the center of mass one control step ago
    weights = {"forward": 1.25, "healthy": 5.0, "ctrl": -0.1, "contact": -5e-7}

    @property
    def model(self):
        spec = load(packaged("gymnasium", "envs/mujoco/assets/humanoid.xml"))
        spec.body("torso").add_site(name="imu")
        kind, site = mujoco.mjtSensor.mjSENS_ACCELEROMETER, mujoco.mjtObj.mjOBJ_SITE
        spec.add_sensor(name="accelerometer", type=kind, objtype=site, objname="imu")
        return spec  # without such a sensor MuJoCo leaves cfrc_ext at 0

    def reset(self, sim, rng):
        qpos = sim.nominal("qpos0") + uniform(sim, rng, sim.model.nq, RESET_NOISE)
        qvel = uniform(sim, rng, sim.model.nv, RESET_NOISE)
        return {"qpos": qpos, "qvel": qvel, "center": _center(sim, qpos)}

    def observe(self, sim):
        """Without the entries of the world and of the root joint, which are 0."""
        return {
            "position": sim.qpos[:, 2:],
            "velocity": sim.qvel,
            "inertia": sim.field("cinert")[:, 1:].flatten(1),
            "motion": sim.field("cvel")[:, 1:].flatten(1),
            "torque": sim.field("qfrc_actuator")[:, 6:],
            "contact": sim.field("cfrc_ext")[:, 1:].flatten(1),
        }

    def rewards(self, sim, action):
        contact = sim.field("cfrc_ext").square().sum((-1, -2)).clamp(max=MAX_CONTACT)
        return {
            "forward": self._velocity(sim)[:, 0],
            "healthy": self._healthy(sim).double(),
            "ctrl": sim.ctrl.square().sum(-1),
            "contact": contact,
        }

    def terminated(self, sim):
        return ~self._healthy(sim)

    def remember(self, sim, action):
        return {"center": sim.body("torso").subtree_com[:, :2]}

    def metrics(self, sim):
        return {"speed": self._velocity(sim)[:, 0]}

    def _velocity(self, sim):
        """(N, 2) m/s of the center of mass, mean over the control step."""
        return (sim.body("torso").subtree_com[:, :2] - sim.memory["center"]) / self.control_dt

    def _healthy(self, sim):
        height = sim.qpos[:, 2]
        return (height > HEIGHT[0]) & (height < HEIGHT[1])


class SpeedLimit(Humanoid):
    """Walk forward, faster than FAST in at most 25 control steps of an episode on average.

    Safety-Gymnasium's SafetyHumanoidVelocity-v1, built on gymnasium's Humanoid-v4, which observes these zeros
    too, does not penalise contact forces, and rewards health also in the step of the fall.
    """

    weights = {"forward": 1.25, "healthy": 5.0, "ctrl": -0.1}
    limits = {"speed": Limit(25.0, "episode")}
    recipes = {
        "ppo": {"num_envs": 64, "minibatch": 256, "lr_schedule": "adaptive", "steps": 1_000_000},
        "sac": {"normalize_obs": True},  # inertias and forces in the hundreds: float32 would round actions
        "td3": {"normalize_obs": True},
    }

    def observe(self, sim):
        return {
            "position": sim.qpos[:, 2:],
            "velocity": sim.qvel,
            "inertia": sim.field("cinert").flatten(1),
            "motion": sim.field("cvel").flatten(1),
            "torque": sim.field("qfrc_actuator"),
            "contact": sim.field("cfrc_ext").flatten(1),
        }

    def rewards(self, sim, action):
        forward, ctrl = self._velocity(sim)[:, 0], sim.ctrl.square().sum(-1)
        return {"forward": forward, "healthy": torch.ones_like(forward), "ctrl": ctrl}

    def costs(self, sim, action):
        return {"speed": (self._velocity(sim).square().sum(-1).sqrt() > FAST).double()}


def _center(sim, qpos):
    """Center of mass (N, 2) m of new poses qpos (N, nq), computed as in mj_kinematics."""
    model, pos, anchor = sim.model, sim.nominal("body_pos"), sim.nominal("jnt_pos")
    half, axis = qpos[:, 7:, None] / 2, sim.nominal("jnt_axis")[1:]
    fixed, hinge = _matrix(sim.nominal("body_quat")), _matrix(torch.cat((half.cos(), half.sin() * axis), -1))
    place, frame = [qpos[:, :3, None]], [_matrix(qpos[:, 3:7])]  # of the torso and then of each body after it
    for body in range(2, model.nbody):
        parent = int(model.body_parentid[body]) - 1
        x, turned = place[parent] + frame[parent] @ pos[body, :, None], frame[parent] @ fixed[body]
        first = int(model.body_jntadr[body])
        for joint in range(first, first + int(model.body_jntnum[body])):
            pivot = x + turned @ anchor[joint, :, None]
            turned = turned @ hinge[:, joint - 1]
            x = pivot - turned @ anchor[joint, :, None]
        place.append(x)
        frame.append(turned)
    mass, offset = sim.nominal("body_mass")[1:], sim.nominal("body_ipos")[1:, :, None]
    centers = (torch.stack(place, 1) + torch.stack(frame, 1) @ offset)[:, :, :2, 0]
    return (mass[:, None] * centers).sum(1) / mass.sum()


def _matrix(quat):
    """Rotation matrices (..., 3, 3) of quaternions (..., 4)."""
    w, x, y, z = (quat / quat.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, -1).unflatten(-1, (3, 3))
