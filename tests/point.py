"""A point mass on three servos, whose actions are places, m: an action equal to its goal reaches it."""

from typing import Any

import mujoco
from torch import Generator, Tensor

from robokit.sim.base import Sim
from robokit.task.action import Ctrl
from robokit.task.command import Command
from robokit.task.goal import Goal
from robokit.task.task import Task, Terms, uniform

AXES = {"x": "1 0 0", "y": "0 1 0", "z": "0 0 1"}
JOINTS = "".join(f'<joint name="{n}" type="slide" axis="{a}" range="-1 1"/>' for n, a in AXES.items())
SERVOS = "".join(f'<position joint="{n}" kp="400" kv="40" ctrlrange="-1 1"/>' for n in AXES)
XML = f"""
<mujoco model="point">
  <compiler angle="radian"/>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <camera name="side" pos="0 -3 0" xyaxes="1 0 0 0 0 1"/>
    <site name="mast" pos=".5 0 0" euler="0 0 1.5707963"/>
    <body name="point">{JOINTS}<geom size=".05" mass="1" rgba="1 0 0 1"/><site name="tip"/></body>
  </worldbody>
  <actuator>{SERVOS}</actuator>
</mujoco>
"""


class Point(Task):
    """Go to a place, and stay there."""

    model = mujoco.MjSpec.from_string(XML)
    control_dt = 0.02
    time_limit = 0.8  # 40 control steps
    action = Ctrl()
    commands = {"place": Command((-0.6,) * 3, (0.6,) * 3, unit="m")}
    goal = Goal("place", "tip", within=0.1, hold=0.1)  # 5 control steps
    weights = {"near": 2.0, "calm": -0.5}

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        return {"qpos": uniform(sim, rng, 3, 0.3)}

    def observe(self, sim: Sim) -> Terms:
        return {"speed": sim.qvel, "tip": sim.site("tip").xpos, "place": sim.memory["place"]}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"calm": sim.qvel.square().sum(-1)}

    def reached(self, achieved: Tensor, goal: Tensor) -> Terms:
        return {"near": -(achieved - goal).norm(dim=-1)}


def but(**attributes: Any) -> Task:
    """A Point with some attributes exchanged."""
    return type("But", (Point,), attributes)()
