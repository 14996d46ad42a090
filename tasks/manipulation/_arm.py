"""An arm with a gripper at a table: 20 Hz, steps of joint targets, objects as a tracker sees them.

A task is a subclass with its objects, its goal and its rewards; a robot is one of _robots.py. World and base
of the robot are one frame; the table is at height 0.
"""

import math

import mujoco
import numpy as np
import torch
from robokit.tasks._hand import downward, gap, hand_yaw, place_of, share, touch, yaw
from robokit.tasks._robots import EDGE, PANDA

from robokit.errors import TaskError
from robokit.sim.kinematics import reach
from robokit.task import Ctrl, Limit, Scale, Sense, Task, uniform

SENSOR, SITE, SHAPE = mujoco.mjtSensor, mujoco.mjtObj.mjOBJ_SITE, mujoco.mjtGeom

TURN = math.pi / 4  # rad, largest yaw of a cube: after a quarter turn it looks the same
HEAVY = 20.0  # N on the table, above which it costs
LEAN = math.radians(20)  # tilt of what is carried, above which it costs
FULL = 0.99  # share of a joint's largest torque, above which it costs
TRIES = 50  # draws for each reset state
SINK, SHRINK = 0.005, 0.1  # m that the table may be lower, share that a cube may be smaller
TRACKER = {"rate": (10.0, 30.0), "delay": (0.0, 0.1), "dropout": 0.05, "source": "camera"}  # Hz, s


class Arm(Task):
    """Move what lies on a table with an arm and its gripper: a real set-up's errors, delays and limits."""

    robot = PANDA
    cubes: tuple[str, ...] = ("cube",)  # bodies; the first one is moved
    upright = slice(6, 9)  # of its axes' heights, in xmat: those that may point up

    control_dt = 0.05  # s
    time_limit = 4.0  # s
    action = {"gripper": Ctrl(), "[!g]*": PANDA.steps}
    action_delay = (0.0, 0.02)  # s
    sensing = {
        "joint_pos": Sense(noise=0.0005),  # rad
        "joint_vel": Sense(noise=0.02),  # rad/s
        "cube": Sense(noise=0.002, offset=0.003, **TRACKER),  # m
        "cube_yaw": Sense(noise=0.05, **TRACKER),
    }
    limits = {  # share of the control steps
        "joint_speed": Limit(0.01),
        "torque": Limit(0.01),
        "table_force": Limit(0.01),
        "tilt": Limit(0.01),
    }
    planner = {"horizon": 0.6, "knots": 4, "colour": 1.0}
    recipes = {
        "ppo": {
            "steps": 4_000_000,
            "num_envs": 128,
            "horizon": 16,
            "minibatch": 512,
            "epochs": 5,
            "gamma": 0.98,
            "lr": (1e-3, 0.0),
            "hidden": (256, 128),
            "activation": "elu",
            "init_std": 0.6,
            "entropy_coef": 0.002,
            "max_grad_norm": 1.0,
            "gains": (0.1, 0.0005, 0.0),  # small: whoever cannot grasp yet breaks all limits
        }
    }

    # -- the scene ---------------------------------------------------------------------------------

    @property
    def model(self):
        spec = mujoco.MjSpec.from_file(str(self.robot.file))
        spec.visual.headlight.ambient, spec.visual.headlight.specular = [0.35] * 3, [0.0] * 3
        spec.worldbody.add_light(pos=[0.8, -0.8, 2.5], dir=[-0.1, 0.3, -1], diffuse=[0.6, 0.6, 0.6])
        sky = {
            "builtin": mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
            "rgb1": [0.8, 0.87, 0.93],
            "rgb2": [0.95, 0.97, 1.0],
        }
        spec.add_texture(name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, width=64, height=384, **sky)
        table = spec.worldbody.add_body(name="table")
        colour = [0.72, 0.7, 0.66, 1]
        table.add_geom(name="table", type=SHAPE.mjGEOM_PLANE, size=[1, 1, 0.1], conaffinity=3, rgba=colour)
        table.add_site(name="table", type=SHAPE.mjGEOM_BOX, size=[2, 2, 0.02], group=4)
        spec.add_sensor(name="table_force", type=SENSOR.mjSENS_TOUCH, objtype=SITE, objname="table")
        home = spec.key("home")
        for number, name in enumerate(self.cubes):
            x, y = self.robot.place
            place = [x, y + 3 * self.robot.edge * number, self.rests_at(number)]
            body = spec.worldbody.add_body(name=name, pos=place)
            body.add_freejoint(name=name)
            body.add_site(name=name, group=4)
            self.shape(body, number)
            for what in ("pos", "quat", "linvel"):
                kind = getattr(SENSOR, f"mjSENS_FRAME{what.upper()}")
                spec.add_sensor(name=f"{name}_{what}", type=kind, objtype=SITE, objname=name)
            home.qpos = [*home.qpos, *place, 1, 0, 0, 0]
        return spec

    def rests_at(self, number):
        """Height of a body on the table, m."""
        return self.robot.edge / 2

    def shape(self, body, number):
        """Give a body its geoms, a cube's."""
        colour = ([0.1, 0.6, 0.3, 1], [0.2, 0.35, 0.85, 1])[number % 2]
        edge = self.robot.edge
        solid = {**SOLID, "mass": SOLID["mass"] * (edge / EDGE) ** 3}
        body.add_geom(name=body.name, type=SHAPE.mjGEOM_BOX, size=[edge / 2] * 3, rgba=colour, **solid)

    def lower_table(self, sim, rng):
        """The table up to SINK lower."""
        pos = sim.nominal("body_pos").repeat(sim.num_envs, 1, 1)
        pos[:, sim.model.body("table").id, 2] -= SINK * share(sim, rng)
        return {"body_pos": pos}

    def smaller_cubes(self, sim, rng):
        """The cubes up to SHRINK smaller."""
        size = sim.nominal("geom_size").repeat(sim.num_envs, 1, 1)
        size[:, [sim.model.geom(name).id for name in self.cubes]] *= (
            1 - SHRINK * share(sim, rng)[:, None, None]
        )
        return {"geom_size": size}

    randomize = {
        "friction": Scale(0.7, 1.3),
        "mass": Scale(0.5, 2.0, at="cube"),
        "table": lower_table,
        "size": smaller_cubes,
        **PANDA.errors,
    }

    # -- starts ------------------------------------------------------------------------------------

    def reset(self, sim, rng):
        return self.drawn(sim, rng, {"qpos": self.begin(sim, rng)})

    def drawn(self, sim, rng, start):
        """The start of the task, or states of its files."""
        for name in self.starts:
            start = getattr(self, name).draw(sim, rng, start)
        return start

    starts: tuple[str, ...] = ()  # names of attributes that are States, in the order in which they are drawn

    def begin(self, sim, rng):
        """(n, nq): the arm near home with its hand open, the cubes on the table."""
        here = self.robot.joints
        qpos = sim.keyframe("home").qpos.repeat(sim.num_envs, 1)
        qpos[:, :here] += uniform(sim, rng, here, 0.05)  # rad
        for name in self.cubes:
            at = place_of(sim, name)
            qpos[:, at : at + 2] += uniform(sim, rng, 2, self.robot.spread)
            half = uniform(sim, rng, 1, TURN / 2)
            qpos[:, at + 3 : at + 7] = torch.cat((half.cos(), 0 * half, 0 * half, half.sin()), -1)
        return qpos

    def states_above(self, sim, rng):
        """The open hand above the cube, as high as it goes, and up to 6 cm beside it."""
        return self.settled(sim, rng, (0.06, self.robot.top), 0.06)

    def states_around(self, sim, rng):
        """The open fingers around the cube."""
        return self.settled(sim, rng, (self.rests_at(0),) * 2, 0.004)

    def states_held(self, sim, rng):
        """The cube in the hand, on the table."""
        return self.settled(sim, rng, (self.rests_at(0),) * 2, 0.004, closed=True)

    def states_lifted(self, sim, rng):
        """The cube in the hand, as high above the table as it goes."""
        return self.settled(sim, rng, (self.rests_at(0) + 0.03, self.robot.top), 0.004, closed=True)

    def settled(self, sim, rng, heights, beside, closed=False, begin=None):
        """{"qpos": (n, nq)} with the hand over the first cube and turned as it is, at rest.

        heights: m of the tip, from and to; beside: m, its largest offset along x and y. closed: the cube is
        in the hand. begin: in place of `self.begin`. What does not stay where it was put is drawn anew.
        """
        model, rows, at = sim.model, list[np.ndarray](), place_of(sim, self.cubes[0])
        data, (low, high) = mujoco.MjData(model), heights
        for _ in range(TRIES):
            starts = (begin or self.begin)(sim, rng)
            tips = starts[:, at : at + 3].clone()
            tips[:, :2] += self.beside(sim, rng, beside)
            tips[:, 2] = low + (high - low) * share(sim, rng)
            if closed:
                starts[:, at + 2] = tips[:, 2]
            yaws = 2 * torch.atan2(starts[:, at + 6], starts[:, at + 3]) + uniform(sim, rng, 1, 0.1)[:, 0]
            axes = downward(yaws + self.robot.turn)
            found, skew = reach(model, "gripper", tips, starts, within=1e-3, axes=axes)
            found, left = reach(model, "gripper", tips, found, within=1e-3)  # of a hand that cannot turn so
            for qpos in found[(skew < self.robot.skew) & (left < 2e-3)]:
                if self.stays(data, qpos, at, closed):
                    rows.append(data.qpos.copy())
            if len(rows) >= sim.num_envs:
                return {"qpos": torch.from_numpy(np.stack(rows[: sim.num_envs])).to(sim.qpos)}
        rule = f"of {TRIES * sim.num_envs} places of hand and {self.cubes[0]} only {len(rows)} can be reached"
        raise TaskError(f"{rule} and stay, at tip heights {low:g} to {high:g} m")

    def beside(self, sim, rng, largest):
        """(n, 2) m from the cube to the tip, up to `largest` along x and y."""
        return uniform(sim, rng, 2, largest)

    def stays(self, data, qpos, at, closed):
        """Run .2 s of physics in data from qpos; whether the cube stayed where it was put, and is at rest.

        closed: the cube is first held, and tilted as the hand is, until the fingers are around it.
        """
        model, here = data.model, self.robot.joints
        mujoco.mj_resetData(model, data)
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        weight = data.qfrc_bias[:here] - data.qfrc_gravcomp[:here]
        data.ctrl[:here] = qpos[:here] + weight / model.actuator_gainprm[:here, 0]
        data.ctrl[here] = self.robot.closed if closed else model.key("home").ctrl[here]
        if closed:  # and tilted as the hand is
            x, y, z = data.site("gripper").xmat[2::3]
            mujoco.mju_mulQuat(tilted := np.empty(4), np.array([1 - z, y, -x, 0]), qpos[at + 3 : at + 7])
            qpos[at + 3 : at + 7] = tilted / np.linalg.norm(tilted)
        for step in range(self.robot.closing + 40):
            if closed and step < self.robot.closing:
                data.qpos[at:], data.qvel[at:] = qpos[at:], 0
            mujoco.mj_step(model, data)
        moved = np.abs(data.qpos[at:] - qpos[at:]).reshape(-1, 7)
        return (moved < [0.01] * 3 + [0.05] * 4).all() and np.abs(data.qvel).max() < 0.05

    # -- what the robot sees, what a critic sees, what costs -----------------------------------------

    def observe(self, sim):
        here = self.robot.joints
        joints = sim.qpos[:, : here + 1]  # the gripper's too
        if "joint_offset" in sim.memory:
            joints = joints - sim.memory["joint_offset"][:, : here + 1]
        return {
            "joint_pos": joints,
            **({"joint_vel": sim.qvel[:, :here]} if self.robot.speeds else {}),
            "target": sim.memory["target"],
            "action": sim.memory["action"],
            **{name: sim.sensor(f"{name}_pos") for name in self.cubes},
            **{f"{name}_yaw": yaw(sim.sensor(f"{name}_quat")) for name in self.cubes},
            **{name: sim.memory[name] for name in self.commands},
        }

    def privileged(self, sim):
        tip, here = sim.sensor("tip"), self.robot.joints + 1
        return {
            **({} if self.robot.speeds else {"joint_vel": sim.qvel[:, : here - 1]}),
            "tip": tip,
            "lag": sim.memory["target"] - sim.qpos[:, :here],
            "touch": touch(sim).clamp(max=HEAVY) / HEAVY,
            "hand_yaw": hand_yaw(sim),
            **{f"{name}_near": sim.sensor(f"{name}_pos") - tip for name in self.cubes},
            **{f"{name}_velocity": sim.sensor(f"{name}_linvel") for name in self.cubes},
        }

    def rewards(self, sim, action):
        low = (self.robot.elbow - sim.site("elbow").xpos[:, 2]).clamp(min=0)
        return {
            "rate": (action - sim.memory["action"]).square().sum(-1),
            "table": (sim.sensor("tip")[:, 2] < self.robot.edge / 4).to(low.dtype),
            "posture": low / self.robot.elbow,
        }

    def costs(self, sim, action):
        over = {
            "joint_speed": (self.speed_share(sim) > 1).any(-1),
            "torque": (self.torque_share(sim) > FULL).any(-1),
            "table_force": sim.sensor("table_force")[:, 0] > HEAVY,
            "tilt": self.tilt(sim) > LEAN,
        }
        return {name: over[name].double() for name in self.limits}

    def metrics(self, sim):
        return {
            "speed_share": self.speed_share(sim).amax(-1),
            "torque_share": self.torque_share(sim).amax(-1),
            "table_force": sim.sensor("table_force")[:, 0],  # N
            "tilt": self.tilt(sim),  # rad
        }

    def speed_share(self, sim):
        """Speed of each joint as a share of its limit, (N, joints)."""
        return sim.qvel[:, : self.robot.joints].abs() / sim.constant(*self.robot.fastest)

    def torque_share(self, sim):
        """Torque of each joint as a share of its limit, (N, joints)."""
        here = self.robot.joints
        return sim.field("qfrc_actuator")[:, :here].abs() / sim.nominal("jnt_actfrcrange")[:here, 1]

    def tilt(self, sim):
        """Angle of what is carried from upright, for a cube on any side, 0 while nothing is, (N,) rad."""
        if not self.cubes:
            return torch.zeros_like(sim.qpos[:, 0])
        sides = sim.body(self.cubes[0]).xmat[:, self.upright]
        angle = torch.acos(sides.abs().amax(-1).clamp(max=1))
        high = sim.sensor(f"{self.cubes[0]}_pos")[:, 2] > self.rests_at(0) + self.robot.edge / 4
        return angle * ((gap(sim, self.cubes[0]) < self.robot.edge) & high)


class Exact:
    """Beside a task: no errors, no limits, and the policy sees what else only the critic does."""

    sensing, action_delay, limits = {}, 0.0, {}
    randomize, costs = Task.randomize, Task.costs

    def observe(self, sim):
        return {**super().observe(sim), **self.privileged(sim)}


SOLID = {"mass": 0.1, "conaffinity": 3, "condim": 4, "friction": [1, 0.03, 0.003], "solref": [0.01, 1]}
