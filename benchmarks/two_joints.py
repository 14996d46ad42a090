"""A two-joint arm for benchmarks/reach.py."""

import mujoco
import torch
from torch import Generator, Tensor

from robokit.rewards import tolerance
from robokit.sim.base import Sim
from robokit.task import Command, Ctrl, Delta, Goal, Ring, Task, uniform
from robokit.task.task import Terms

XML = """
<mujoco model="two_joints">
  <option timestep="0.01" integrator="implicitfast"/>
  <default>
    <joint axis="0 0 1" damping="0.2" armature="0.01"/>
    <geom type="capsule" size=".02" mass=".3" contype="0" conaffinity="0"/>
    <position kp="40" kv="4" forcerange="-5 5"/>
  </default>
  <worldbody>
    <light pos="0 0 2"/>
    <camera name="track" pos="0 -.4 1.2" xyaxes="1 0 0 0 .95 .3"/>
    <body name="upper" pos="0 0 .1">
      <joint name="shoulder" range="-270 270"/>
      <geom fromto="0 0 0 .3 0 0"/>
      <body name="lower" pos=".3 0 0">
        <joint name="elbow" range="0 150"/>
        <geom fromto="0 0 0 .3 0 0"/>
        <site name="tip" pos=".3 0 0"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position name="shoulder" joint="shoulder" ctrlrange="-4.71 4.71"/>
    <position name="elbow" joint="elbow" ctrlrange="0 2.618"/>
  </actuator>
</mujoco>
"""


class TwoJoints(Task):
    """Bring the tip to a point of a ring around the base, and keep it there; actions are joint steps."""

    model = mujoco.MjSpec.from_string(XML)
    control_dt = 0.04  # s
    time_limit = 3.0  # s
    action = Delta(0.1, leash=0.3)  # rad in a control step (2.5 rad/s); rad from the sensed joint
    commands = {"goal": Command(region=Ring((0.0, 0.0, 0.1), 0.25, 0.55), unit="m", frame="world")}
    goal = Goal(command="goal", achieved="tip", within=0.02, hold=0.5, marker="sphere")  # m, s
    weights = {"near": 1.0, "at": 1.0, "rate": -0.02}
    recipes = {
        "ppo": {
            "num_envs": 256,
            "horizon": 24,
            "minibatch": 1536,
            "epochs": 5,
            "gamma": 0.96,
            "lr": (1e-3, 0.0),
            "init_std": 0.5,
            "activation": "elu",
        }
    }

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        return {"qpos": sim.constant(0.0, 1.3) + uniform(sim, rng, 2, 0.5)}  # rad

    def observe(self, sim: Sim) -> Terms:
        goal, tip, shoulder = sim.memory["goal"], sim.site("tip").xpos, sim.qpos[:, :1]
        x, y = (goal - tip)[:, :2].split(1, -1)
        sine, cosine = shoulder.sin(), shoulder.cos()
        return {
            "joint_pos": sim.qpos,
            "joint_vel": sim.qvel,
            "tip": tip,
            "goal": goal,
            # m, from the tip to the goal, along and across the upper arm: the joint speeds that close it
            # depend on this and the elbow alone
            "way": torch.cat((cosine * x + sine * y, cosine * y - sine * x), -1),
            "action": sim.memory["action"],
        }

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"rate": (action - sim.memory["action"]).square().sum(-1)}

    def reached(self, achieved: Tensor, goal: Tensor) -> Terms:
        distance = (achieved - goal).norm(dim=-1)  # m
        return {"near": 1 - torch.tanh(4 * distance), "at": tolerance(distance, 0.0, 0.005, margin=0.04)}

    def metrics(self, sim: Sim) -> Terms:
        return {"distance": (sim.site("tip").xpos - sim.memory["goal"]).norm(dim=-1)}  # m


class Absolute(TwoJoints):
    """The same; actions are joint positions."""

    action = Ctrl()
