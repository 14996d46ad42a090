"""The Unitree Go2 follows a joystick: flat ground, 50 Hz, observations of its own sensors only."""

import math
from pathlib import Path

from robokit.tasks._walk import HEAVY, LEAN, SKID, Walk

from robokit.task import Limit, Sense

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
