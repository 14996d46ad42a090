"""A two-joint arm for benchmarks/reach.py."""

import mujoco
import torch
from torch import Generator, Tensor

from robokit.rewards import tolerance
from robokit.sim.base import Sim
from robokit.task import Command, Ctrl, Goal, Ring, Task, uniform
from robokit.task.task import Terms

XML = """
<mujoco model="two_joints">
  <option timestep="0.01" integrator="implicitfast"/>
  <default>
    <joint axis="0 0 1" damping="0.2" armature="0.01"/>
    <geom type="capsule" size=".02" mass=".3" contype="0" conaffinity="0"/>
    <position kp="20" kv="1" forcerange="-5 5"/>
  </default>
  <worldbody>
    <light pos="0 0 2"/>
    <camera name="track" pos="0 -.4 1.2" xyaxes="1 0 0 0 .95 .3"/>
    <body name="upper" pos="0 0 .1">
      <joint name="shoulder" range="-200 200"/>
      <geom fromto="0 0 0 .3 0 0"/>
      <body name="lower" pos=".3 0 0">
        <joint name="elbow" range="0 150"/>
        <geom fromto="0 0 0 .3 0 0"/>
        <site name="tip" pos=".3 0 0"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position name="shoulder" joint="shoulder" ctrlrange="-3.49 3.49"/>
    <position name="elbow" joint="elbow" ctrlrange="0 2.618"/>
  </actuator>
</mujoco>
"""


class TwoJoints(Task):
    """Bring the tip to a point of a ring around the base, and keep it there; actions are joint positions."""

    model = mujoco.MjSpec.from_string(XML)
    control_dt = 0.04  # s
    time_limit = 3.0  # s
    action = Ctrl()
    commands = {"target": Command(region=Ring((0.0, 0.0, 0.1), 0.25, 0.55), unit="m", frame="world")}
    goal = Goal(command="target", achieved="tip", within=0.02, hold=0.5, marker="sphere")  # m, s
    weights = {"far": -1.0, "at": 0.5, "rate": -0.01}
    recipes = {
        "ppo": {
            "num_envs": 256,
            "horizon": 16,
            "minibatch": 512,
            "epochs": 10,
            "gamma": 0.97,
            "init_std": 0.5,
        }
    }

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        return {"qpos": sim.constant(0.0, 1.3) + uniform(sim, rng, 2, 0.5)}  # rad

    def observe(self, sim: Sim) -> Terms:
        return {
            "joint_pos": sim.qpos,
            "direction": torch.cat((sim.qpos.sin(), sim.qpos.cos()), -1),
            "joint_vel": sim.qvel,
            "tip": sim.site("tip").xpos,
            "target": sim.memory["target"],
            "action": sim.memory["action"],
        }

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"rate": (action - sim.memory["action"]).square().sum(-1)}

    def reached(self, achieved: Tensor, goal: Tensor) -> Terms:
        distance = (achieved - goal).norm(dim=-1)  # m
        return {"far": distance, "at": tolerance(distance, 0.0, 0.01, margin=0.05)}
