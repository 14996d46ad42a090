"""A quadruped of twelve joints follows a joystick: 50 Hz, observations of its own sensors only.

A robot is a subclass with its facts and its model, which has a keyframe `home`, the sensors gyro, up and
velocity, and for each foot F a site F and the sensors F_touch and F_velocity.
"""

import math

import torch

from robokit.rewards import exp_error
from robokit.task import Add, Around, Command, Mirror, Scale, Sense, Task, Terrain, uniform

SOFT = 0.035  # m outside the range of a swinging foot's height, scale of the gait term
SLIP = 0.2  # m/s of a standing foot, scale of the gait term
POSE = (1.0, 1.0, 0.1) * 4  # weights of hip, thigh and calf in the pose term
TILTED = 0.5  # cosine of the base's tilt, below which it has fallen
FAST = 0.7  # share of the joints' highest speeds above which the speed term applies
HEAVY = 0.5  # share of peak torque above which it costs: a motor's continuous rating is not published
LEAN = math.radians(10)  # tilt of the trunk above which it costs
SKID = 0.5  # m/s of a foot on the ground above which it costs
PUSH_EVERY, PUSH = 4.0, 0.5  # s on average, m/s at most along each axis
SETTLED, WINDOW = 50, 25  # control steps: time to settle after a new command, length of the running mean

# For a GPU, after FastSAC and FastTD3 (Seo et al. 2025, arXiv:2512.01996 and arXiv:2505.22642, and their
# code's settings for the G1 and the Go1). The other options are defaults, which for this num_envs equal
# theirs: batches of 8192, 8 gradient steps per control step, 10 control steps of random actions.
LARGE = {
    "steps": 50_000_000,
    "num_envs": 4096,
    "replay": 1024 * 4096,
    "gamma": 0.97,
    "hidden": (512, 256, 128),
    "normalize_obs": True,
    "mirror": True,
}

LEGS = Mirror(sign=(-1, 1, 1) * 4, order=(3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8))


class Walk(Task):
    """Follow a commanded planar velocity and yaw rate on the robot of a subclass."""

    foot: float  # m, radius
    tall: float  # m, desired height of the base
    low: float  # m of the base, below which it has fallen
    fastest: tuple[float, ...]  # rad/s of each joint
    base = "base"  # the body
    feet = ("FR", "FL", "RR", "RL")  # sites, in the order of the legs' joints and actuators
    trot = (1.0, -1.0, -1.0, 1.0)  # FR swings with RL, FL with RR, half a period apart
    swing = (0.06, 0.08)  # m, range of a swinging foot's height
    ground: Terrain | None = None  # of the model; None: a plane at height 0

    control_dt = 0.02  # s
    time_limit = 20.0  # s
    action = Around("home", scale=(0.4, 0.6, 0.8) * 4)  # rad, of hip, thigh and calf
    clock = 2.0  # Hz, of strides
    commands = {
        "velocity": Command(
            (-1.0, -0.5, -1.0),
            (1.0, 0.5, 1.0),
            every=(3.0, 8.0),
            still=0.15,
            unit=("m/s", "m/s", "rad/s"),
            frame="site imu",
        )
    }
    memory = {"before": 3, "since": 1, "recent": 3 * WINDOW}
    sensing = {
        "gyro": Sense(noise=0.1),  # rad/s
        "up": Sense(noise=0.03),
        "joint_pos": Sense(noise=0.01),  # rad
        "joint_vel": Sense(noise=0.5),  # rad/s
    }
    randomize = {
        "friction": Scale(0.5, 1.5),
        "mass": Scale(0.85, 1.15),
        "center_of_mass": Add(-0.02, 0.02, at="base"),  # m
        "gain": Scale(0.9, 1.1),
        "damping": Scale(0.9, 1.1),
        "joint_offset": Add(-0.02, 0.02),  # rad, error of a joint's zero: of its reading and of its target
    }
    mirror = {
        "gyro": Mirror(sign=(-1, 1, -1)),
        "up": Mirror(sign=(1, -1, 1)),
        "velocity": Mirror(sign=(1, -1, -1)),
        "clock": Mirror(sign=(-1, -1)),  # half a period later
        **dict.fromkeys(("joint_pos", "joint_vel", "action"), LEGS),
    }
    weights = {
        "track": 1.5,
        "turn": 0.5,
        "gait": 2.0,
        "pose": 0.5,
        "height": -30.0,
        "tilt": -5.0,
        "bounce": -1.0,
        "wobble": -0.05,
        "rate": -0.03,
        "torque": -2e-4,
        "speed": -5.0,
    }
    planner = {"horizon": 0.32, "sigma": 0.4, "knots": 4}
    recipes = {
        "ppo": {
            "steps": 6_000_000,
            "num_envs": 256,
            "horizon": 24,
            "minibatch": 1536,
            "epochs": 5,
            "lr": (2e-3, 0.0),
            "hidden": (128, 128),
            "activation": "elu",
            "init_std": 0.5,
            "entropy_coef": 0.005,
            "max_grad_norm": 1.0,
            "mirror": True,
        },
        "sac": LARGE
        | {
            "activation": "silu",
            "layer_norm": True,
            "reduce": "mean",
            "target_entropy": 0.0,  # nats
            "init_temperature": 0.001,
            "tau": 0.125,
        },
        "td3": LARGE
        | {
            "tau": 0.1,
            "exploration": 0.4,  # geometric middle of 0.2 to 0.8, where FastTD3 draws one per simulation
        },
    }

    def reset(self, sim, rng):
        home = sim.keyframe("home")
        free, joints = home.qpos[:7].expand(sim.num_envs, 7), home.qpos[7:]
        qvel = uniform(sim, rng, 18, 0.2)  # m/s, rad/s
        return {"qpos": torch.cat((free, joints + uniform(sim, rng, 12, 0.1)), -1), "qvel": qvel}

    def disturb(self, sim, rng):
        due = uniform(sim, rng, 1, PUSH_EVERY / 2) < self.control_dt - PUSH_EVERY / 2
        push = due * uniform(sim, rng, 2, PUSH)
        return {"qvel": torch.cat((sim.qvel[:, :2] + push, sim.qvel[:, 2:]), -1)}

    def observe(self, sim):
        return {
            "gyro": sim.sensor("gyro"),
            "up": sim.sensor("up"),
            "joint_pos": _joint_pos(sim) - sim.memory["joint_offset"],
            "joint_vel": sim.qvel[:, 6:],
            "action": sim.memory["action"],
            "velocity": sim.memory["velocity"],
            "clock": sim.memory["clock"],
        }

    def privileged(self, sim):
        return {
            "speed": sim.sensor("velocity"),
            "height": self._height(sim)[:, None],
            "feet": self._feet_height(sim),
            "touch": self._touch(sim),
        }

    def rewards(self, sim, action):
        command, turning = sim.memory["velocity"], sim.sensor("gyro")
        bend = (_joint_pos(sim) - sim.keyframe("home").qpos[7:]) * sim.constant(*POSE).sqrt()
        return {
            "track": exp_error(sim.sensor("velocity")[:, :2] - command[:, :2], 0.5),
            "turn": exp_error(turning[:, 2:] - command[:, 2:], 0.5),
            "gait": self._gait(sim),
            "pose": exp_error(bend, 1.0),
            "height": (self._height(sim) - self.tall).square(),
            "tilt": _squared(sim.sensor("up")[:, :2]),
            "bounce": _squared(sim.qvel[:, 2:3]),
            "wobble": _squared(turning[:, :2]),
            "rate": _squared(action - sim.memory["action"]),
            "torque": _squared(sim.field("actuator_force")),
            "speed": _squared((self._speed_share(sim) - FAST).clamp(min=0)),
        }

    def _gait(self, sim):
        """How well the feet follow the clock, 0 to 1: swing clear of the ground, or stand without slip."""
        moving = (sim.memory["velocity"] != 0).any(-1, keepdim=True)
        lift = sim.memory["clock"][:, :1] * sim.constant(*self.trot) * moving
        height, touch = self._feet_height(sim), self._touch(sim)
        clearance, ceiling = self.swing
        shy, high = (clearance * lift - height).clamp(min=0), (height - ceiling).clamp(min=0)
        swing = torch.exp(-(shy.square() + high.square()) / SOFT**2 - touch / 10.0)
        stand = (touch > 0) * torch.exp(-(self._feet_speed(sim) / SLIP).square())
        share = (0.5 + lift).clamp(0, 1) * moving
        return (share * swing + (1 - share) * stand).mean(-1)

    def terminated(self, sim):
        return (sim.sensor("up")[:, 2] < TILTED) | (self._height(sim) < self.low)

    def remember(self, sim, action):
        return {"before": sim.memory["velocity"], "since": _since(sim), "recent": _recent(sim)}

    def metrics(self, sim):
        command, speed = sim.memory["velocity"], sim.sensor("velocity")
        off = _recent(sim).reshape(-1, WINDOW, 3).mean(1) - command
        settled = _since(sim)[:, 0] >= SETTLED
        return {
            "velocity_error": (speed[:, :2] - command[:, :2]).norm(dim=-1),  # m/s
            "mean_velocity_error": torch.where(settled, off[:, :2].norm(dim=-1), torch.nan),
            "mean_turn_error": torch.where(settled, off[:, 2].abs(), torch.nan),  # rad/s
            "torque_share": self._torque_share(sim).amax(-1),
            "speed_share": self._speed_share(sim).amax(-1),
            "overspeed": (self._speed_share(sim) > 1).any(-1),
            "slip": self._slip(sim).amax(-1),  # m/s
            "fell": self.terminated(sim),
        }

    def _torque_share(self, sim):
        """Torque of each motor as a share of its peak, (N, 12)."""
        return sim.field("actuator_force").abs() / sim.nominal("actuator_forcerange")[:, 1]

    def _speed_share(self, sim):
        """Speed of each motor as a share of `fastest`, (N, 12)."""
        return sim.qvel[:, 6:].abs() / sim.constant(*self.fastest)

    def _height(self, sim):
        """Height of the base above the mean ground below the feet, (N,) m."""
        height = sim.body(self.base).xpos[:, 2]
        return height if self.ground is None else height - self._below(sim).mean(-1)

    def _feet_height(self, sim):
        """Height of each foot above the ground below it, (N, 4) m."""
        height = torch.stack([sim.site(foot).xpos[:, 2] for foot in self.feet], -1) - self.foot
        return height if self.ground is None else height - self._below(sim)

    def _below(self, sim):
        """Height of the ground below each foot, (N, 4) m."""
        return self.ground.height(sim, torch.stack([sim.site(foot).xpos for foot in self.feet], 1))

    def _feet_speed(self, sim):
        """Horizontal speed of each foot, (N, 4) m/s."""
        return torch.stack([sim.sensor(f"{foot}_velocity")[:, :2].norm(dim=-1) for foot in self.feet], -1)

    def _slip(self, sim):
        """Horizontal speed of the feet on the ground, 0 of the others, (N, 4) m/s."""
        return self._feet_speed(sim) * (self._touch(sim) > 0)

    def _touch(self, sim):
        """Contact force of each foot, (N, 4) newton."""
        return torch.cat([sim.sensor(f"{foot}_touch") for foot in self.feet], -1)


def _squared(x):
    return x.square().sum(-1)


def _joint_pos(sim):
    return sim.qpos[:, 7:]


def _since(sim):
    """Control steps since the last change of the command, (N, 1)."""
    same = (sim.memory["velocity"] == sim.memory["before"]).all(-1, keepdim=True)
    return torch.where(same, sim.memory["since"] + 1, 0)


def _recent(sim):
    """Velocities and yaw rates of the last WINDOW control steps, (N, 3 WINDOW)."""
    now = torch.cat((sim.sensor("velocity")[:, :2], sim.sensor("gyro")[:, 2:]), -1)
    return torch.cat((sim.memory["recent"][:, 3:], now), -1)
