"""The Unitree Go2 follows a joystick: 50 Hz, observations of its own sensors only, flat and rough ground."""

import math
from pathlib import Path

import mujoco
import torch
from robokit.tasks._walk import HEAVY, LEAN, SKID, Walk

from robokit.task import Command, Level, Limit, Mirror, Sense, Terrain, uniform

ROBOT = Path(__file__).parents[1] / "robots/go2"

CAREFUL = {
    "num_envs": 1024,
    "minibatch": 6144,
    "lr": (1e-3, 0.0),
}  # more data a step, smaller steps


class Go2Walk(Walk):
    """Follow a commanded planar velocity and yaw rate on a 12-joint quadruped; its feet touch the ground."""

    model = ROBOT / "scene.xml"
    foot = 0.022  # m, radius
    tall = 0.3  # m, desired height of the base
    low = 0.15  # m of the base, below which it has fallen
    fastest = (30.1, 30.1, 15.7) * 4  # rad/s of hip, thigh and calf: Unitree's go2_description


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
            "joint_speed": (self._speed_share(sim) > 1).any(-1).double(),
            "torque": (self._torque_share(sim) > HEAVY).any(-1).double(),
            "tilt": (sim.sensor("up")[:, 2] < math.cos(LEAN)).double(),
            "slip": (self._slip(sim) > SKID).any(-1).double(),
        }


# -- rough ground --------------------------------------------------------------------------------------------

LEVELS = 6
WITHIN = 3.0  # m from the middle of a tile, along each axis, where an episode begins
FEET = tuple((x, y) for x in (-25, -20, -15, 15, 20, 25) for y in (-20, -15, -10, 10, 15, 20))  # cm
DROP = 0.02  # m, of the feet at a start
UNDER = tuple(x / 100 for point in FEET for x in point)  # m, x and y of points below the feet at a start
AHEAD, ASIDE = range(-6, 9, 2), range(-4, 5, 2)  # dm, points of a height scan
AROUND = tuple(x / 10 for ahead in AHEAD for left in ASIDE for x in (ahead, left))  # m, x and y of each
# of each point the number of its mirror image
ACROSS = tuple(i + len(ASIDE) - 1 - 2 * (i % len(ASIDE)) for i in range(len(AHEAD) * len(ASIDE)))
FOLLOWS = 0.25  # m/s, mean error of the planar velocity below which the robot follows the command
LATELY = 4.0  # s, time constant of this mean


class Rough(Go2Walk):
    """Go2Walk on slopes, steps and random heights, harder as it follows its commands; blind, with a memory.

    The highest level has slopes of 15 degrees, steps of 8 cm and heights within +-4 cm. An episode begins
    within 3 m of the middle of a tile, facing anywhere. The critic sees the ground around the robot, the
    policy does not.
    """

    ground = Terrain(
        ("slope", "steps", "rough"),
        levels=LEVELS,
        tile=10.0,
        cell=0.05,
        middle=1.0,
        border=16.0,
        hardest={"slope": math.tan(math.radians(15)), "steps": 0.08, "rough": 0.04},
    )
    scene = Go2Walk.model
    level = Level(highest=LEVELS - 1, rise=1, fall=1)
    headline = "success"
    swing = (0.1, 0.14)  # m above the ground below the foot: higher than a step
    commands = {
        "velocity": Command(
            (-0.5, -0.4, -1.0),
            (0.8, 0.4, 1.0),
            every=(3.0, 8.0),
            still=0.1,
            unit=("m/s", "m/s", "rad/s"),
            frame="site imu",
        )
    }
    memory = {**Go2Walk.memory, "error": 1}  # m/s, mean error of late
    weights = {**Go2Walk.weights, "tilt": -2.0}
    recipes = {
        "ppo": {
            **Go2Walk.recipes["ppo"],
            **CAREFUL,
            "steps": 15_000_000,
            "belief": "gru",
            "belief_size": 64,
            "chunk": 24,
        }
    }

    @property
    def model(self):
        return self.ground.added(mujoco.MjSpec.from_file(str(self.scene)), floor="floor")

    def reset(self, sim, rng):
        start = super().reset(sim, rng)
        xy, yaw = self._place(sim, rng), uniform(sim, rng, 1, math.pi)
        below = self.ground.scan(sim, xy, yaw[:, 0], sim.constant(*UNDER).view(-1, 2))
        high = below.amax(-1, keepdim=True) + DROP + start["qpos"][:, 2:3]
        turn = torch.cat(((yaw / 2).cos(), 0 * yaw, 0 * yaw, (yaw / 2).sin()), -1)
        qpos = torch.cat((xy, high, turn, start["qpos"][:, 7:]), -1)
        return {**start, "qpos": qpos, "error": torch.ones_like(yaw)}

    def privileged(self, sim):
        return {**super().privileged(sim), "scan": self._scan(sim)}

    def remember(self, sim, action):
        return {**super().remember(sim, action), "error": self._error(sim)}

    def metrics(self, sim):
        follows = self._error(sim)[:, 0] < FOLLOWS
        return {**super().metrics(sim), "success": follows & ~self.terminated(sim)}

    def _place(self, sim, rng):
        """Where episodes begin, (N, 2) m: on a tile of the simulation's level, of a kind drawn at random."""
        kind = torch.randint(len(self.ground.kinds), (sim.num_envs,), generator=rng, device=sim.device)
        middle = self.ground.start(sim, sim.memory["level"][:, 0], kind)
        return middle[:, :2] + uniform(sim, rng, 2, WITHIN)

    def _error(self, sim):
        """Error of the planar velocity, averaged over about the last LATELY seconds, (N, 1) m/s."""
        off = (sim.sensor("velocity")[:, :2] - sim.memory["velocity"][:, :2]).norm(dim=-1, keepdim=True)
        return torch.lerp(sim.memory["error"], off, self.control_dt / LATELY)

    def _scan(self, sim):
        """Height of the ground above the base, at points that turn with it, (N, points) m."""
        turned = sim.body(self.base).xmat
        yaw = torch.atan2(turned[:, 3], turned[:, 0])
        place = sim.body(self.base).xpos
        grid = sim.constant(*AROUND).view(-1, 2)
        return self.ground.scan(sim, place[:, :2], yaw, grid) - place[:, 2:]


class RoughScan(Rough):
    """Rough with a height scan for the policy too, as of a map: late, noisy and off by some centimetres."""

    sensing = {
        **Go2Walk.sensing,
        "scan": Sense(
            noise=0.02,  # m
            bias=0.02,
            rate=(10.0, 20.0),
            delay=(0.02, 0.1),
            unit="m",
            source="height map",
        ),
    }
    mirror = {**Go2Walk.mirror, "scan": Mirror(sign=(1,) * len(ACROSS), order=ACROSS)}

    def observe(self, sim):
        return {**super().observe(sim), "scan": self._scan(sim)}

    def privileged(self, sim):
        return super(Rough, self).privileged(sim)
