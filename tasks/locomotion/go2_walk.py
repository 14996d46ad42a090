"""The Unitree Go2 follows a joystick: flat ground, 50 Hz, observations of its own sensors only."""

import math
from pathlib import Path

import torch

from robokit.rewards import exp_error
from robokit.task import Around, Command, Limit, Mirror, Sense, Task, uniform

ROBOT = Path(__file__).parents[1] / "robots/go2"
FEET = ("FR", "FL", "RR", "RL")
TROT = (1.0, -1.0, -1.0, 1.0)  # FR swings with RL, FL with RR, half a period apart
STRIDE = 2.0  # Hz
FOOT = 0.022  # m, radius
CLEARANCE, CEILING = 0.06, 0.08  # m, range of a swinging foot's height
SOFT = 0.035  # m outside this range, scale of the gait term
SLIP = 0.2  # m/s of a standing foot, scale of the gait term
POSE = (1.0, 1.0, 0.1) * 4  # weights of hip, thigh and calf in the pose term
TALL = 0.3  # m, desired height of the base
LOW, TILTED = 0.15, 0.5  # m of the base and cosine of its tilt; below either it has fallen
FASTEST = (30.1, 30.1, 15.7) * 4  # rad/s of hip, thigh and calf: Unitree's go2_description
FAST = 0.7  # share of these speeds above which the speed term applies
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

CAREFUL = {
    "num_envs": 1024,
    "minibatch": 6144,
    "lr": (1e-3, 0.0),
}  # more data a step, smaller steps

LEGS = Mirror(sign=(-1, 1, 1) * 4, order=(3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8))


class Go2Walk(Task):
    """Follow a commanded planar velocity and yaw rate on a 12-joint quadruped; its feet touch the ground."""

    model = ROBOT / "scene.xml"
    control_dt = 0.02  # s
    time_limit = 20.0  # s
    action = Around("home", scale=(0.4, 0.6, 0.8) * 4)  # rad, of hip, thigh and calf
    clock = STRIDE
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
    memory = {"offset": 12, "before": 3, "since": 1, "recent": 3 * WINDOW}
    sensing = {
        "gyro": Sense(noise=0.1),  # rad/s
        "up": Sense(noise=0.03),
        "joint_pos": Sense(noise=0.01),  # rad
        "joint_vel": Sense(noise=0.5),  # rad/s
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

    def randomize(self, sim, rng):
        n, base = sim.num_envs, sim.model.body("base").id
        grip = 1 + uniform(sim, rng, 1, 0.5)[..., None]
        mass = 1 + uniform(sim, rng, sim.model.nbody, 0.15)
        center = sim.nominal("body_ipos").repeat(n, 1, 1)
        center[:, base] += uniform(sim, rng, 3, 0.02)  # m
        stiff = 1 + uniform(sim, rng, 12, 0.1)[..., None]
        offset = uniform(sim, rng, 12, 0.02)  # rad, error of a joint's zero: of its reading and of its target
        bias = sim.nominal("actuator_biasprm").repeat(n, 1, 1)
        bias[:, :, 0] += sim.nominal("actuator_gainprm")[:, 0] * offset
        return {
            "geom_friction": grip * sim.nominal("geom_friction"),
            "body_mass": mass * sim.nominal("body_mass"),
            "body_inertia": mass[..., None] * sim.nominal("body_inertia"),
            "body_ipos": center,
            "actuator_gainprm": stiff * sim.nominal("actuator_gainprm"),
            "actuator_biasprm": stiff * bias,
            "offset": offset,
        }

    def disturb(self, sim, rng):
        due = uniform(sim, rng, 1, PUSH_EVERY / 2) < self.control_dt - PUSH_EVERY / 2
        push = due * uniform(sim, rng, 2, PUSH)
        return {"qvel": torch.cat((sim.qvel[:, :2] + push, sim.qvel[:, 2:]), -1)}

    def observe(self, sim):
        return {
            "gyro": sim.sensor("gyro"),
            "up": sim.sensor("up"),
            "joint_pos": _joint_pos(sim) - sim.memory["offset"],
            "joint_vel": sim.qvel[:, 6:],
            "action": sim.memory["action"],
            "velocity": sim.memory["velocity"],
            "clock": sim.memory["clock"],
        }

    def privileged(self, sim):
        return {
            "speed": sim.sensor("velocity"),
            "height": _height(sim)[:, None],
            "feet": _feet_height(sim),
            "touch": _touch(sim),
        }

    def rewards(self, sim, action):
        command, turning = sim.memory["velocity"], sim.sensor("gyro")
        bend = (_joint_pos(sim) - sim.keyframe("home").qpos[7:]) * sim.constant(*POSE).sqrt()
        return {
            "track": exp_error(sim.sensor("velocity")[:, :2] - command[:, :2], 0.5),
            "turn": exp_error(turning[:, 2:] - command[:, 2:], 0.5),
            "gait": self._gait(sim),
            "pose": exp_error(bend, 1.0),
            "height": (_height(sim) - TALL).square(),
            "tilt": _squared(sim.sensor("up")[:, :2]),
            "bounce": _squared(sim.qvel[:, 2:3]),
            "wobble": _squared(turning[:, :2]),
            "rate": _squared(action - sim.memory["action"]),
            "torque": _squared(_torque(sim)),
            "speed": _squared((_speed_share(sim) - FAST).clamp(min=0)),
        }

    def _gait(self, sim):
        """How well the feet follow the clock, 0 to 1: swing clear of the ground, or stand without slip."""
        moving = (sim.memory["velocity"] != 0).any(-1, keepdim=True)
        lift = sim.memory["clock"][:, :1] * sim.constant(*TROT) * moving
        height, touch = _feet_height(sim), _touch(sim)
        shy, high = (CLEARANCE * lift - height).clamp(min=0), (height - CEILING).clamp(min=0)
        swing = torch.exp(-(shy.square() + high.square()) / SOFT**2 - touch / 10.0)
        stand = (touch > 0) * torch.exp(-(_feet_speed(sim) / SLIP).square())
        share = (0.5 + lift).clamp(0, 1) * moving
        return (share * swing + (1 - share) * stand).mean(-1)

    def terminated(self, sim):
        return (sim.sensor("up")[:, 2] < TILTED) | (_height(sim) < LOW)

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
            "torque_share": _torque_share(sim).amax(-1),
            "speed_share": _speed_share(sim).amax(-1),
            "overspeed": (_speed_share(sim) > 1).any(-1),
            "slip": _slip(sim).amax(-1),  # m/s
            "fell": self.terminated(sim),
        }


class Go2WalkFull(Go2Walk):
    """Go2Walk with collisions of all links with the ground and half the timestep: to judge a policy."""

    model = ROBOT / "scene_full.xml"


class Go2WalkSensed(Go2Walk):
    """Go2Walk with sensor noise, bias, delay and dropout, and delayed actions.

    The noise is legged_gym's (its noise_scales). Go2Walk itself already has an error of each joint's zero.
    """

    sensing = {
        "gyro": Sense(noise=0.2, distribution="uniform", bias=0.05, delay=(0.0, 0.02), dropout=0.01),
        "up": Sense(noise=0.05, distribution="uniform", bias=0.02, delay=(0.0, 0.02), dropout=0.01),
        "joint_pos": Sense(noise=0.01, distribution="uniform", delay=(0.0, 0.02), dropout=0.01),
        "joint_vel": Sense(noise=1.5, distribution="uniform", delay=(0.0, 0.02), dropout=0.01),
    }
    action_delay = (0.0, 0.02)  # s
    history = {"gyro": 5, "up": 5, "joint_pos": 5, "joint_vel": 5, "action": 5}
    recipes = {"ppo": {**Go2Walk.recipes["ppo"], **CAREFUL, "belief": "gru", "belief_size": 64, "chunk": 24}}


class Go2WalkLimited(Go2Walk):
    """Go2Walk with limits on motor speed, motor torque, trunk tilt and foot slip.

    Each cost is 1 if any motor, the trunk or any foot exceeds its bound at the end of a control step; torques
    and contacts are from the last timestep, 10 ms earlier.
    """

    limits = {  # share of control steps; go2_walk.onnx, trained without limits, has (300 episodes):
        "joint_speed": Limit(0.01),  # 0.00003
        "torque": Limit(0.03),  # 0.049
        "tilt": Limit(0.03, absorb=1.0),  # 0.006, nearly all from falls: a fall is charged to the end
        "slip": Limit(0.025),  # 0.035
    }
    # small gains: before the robot can stand it breaks all four limits, and would learn nothing else
    recipes = {"ppo": {**Go2Walk.recipes["ppo"], **CAREFUL, "gains": (0.3, 0.004, 0.0)}}

    def costs(self, sim, action):
        return {
            "joint_speed": (_speed_share(sim) > 1).any(-1).double(),
            "torque": (_torque_share(sim) > HEAVY).any(-1).double(),
            "tilt": (sim.sensor("up")[:, 2] < math.cos(LEAN)).double(),
            "slip": (_slip(sim) > SKID).any(-1).double(),
        }


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


def _speed_share(sim):
    """Speed of each motor as a share of FASTEST, (N, 12)."""
    return sim.qvel[:, 6:].abs() / sim.constant(*FASTEST)


def _height(sim):
    return sim.body("base").xpos[:, 2]


def _torque(sim):
    return sim.field("actuator_force")


def _torque_share(sim):
    """Torque of each motor as a share of its peak, (N, 12)."""
    return _torque(sim).abs() / sim.nominal("actuator_forcerange")[:, 1]


def _feet_height(sim):
    return torch.stack([sim.site(foot).xpos[:, 2] for foot in FEET], -1) - FOOT


def _feet_speed(sim):
    """Horizontal speed of each foot, (N, 4) m/s."""
    return torch.stack([sim.sensor(f"{foot}_velocity")[:, :2].norm(dim=-1) for foot in FEET], -1)


def _slip(sim):
    """Horizontal speed of the feet on the ground, 0 of the others, (N, 4) m/s."""
    return _feet_speed(sim) * (_touch(sim) > 0)


def _touch(sim):
    """Contact force of each foot, (N, 4) newton."""
    return torch.cat([sim.sensor(f"{foot}_touch") for foot in FEET], -1)
