"""A small robot for tests: a pole on a cart beside a ball that lies on the floor, and a task for it."""

from typing import Any

import mujoco
import pytest
import torch
from torch import Generator, Tensor

from robokit.env.env import Env
from robokit.env.step import Step
from robokit.errors import Error, TaskError
from robokit.limits.limit import Limit
from robokit.sim.base import Sim
from robokit.task.command import Command
from robokit.task.task import Task, Terms, uniform

XML = """
<mujoco model="cart">
  <option timestep="0.01" integrator="implicitfast"/>
  <worldbody>
    <geom name="floor" type="plane" size="2 2 .1"/>
    <body name="cart" pos="0 0 .5">
      <joint name="slide" type="slide" axis="1 0 0" range="-1 1" limited="true"/>
      <geom name="box" type="box" size=".1 .1 .05" mass="1" contype="0"/>
      <site name="imu"/>
      <body name="pole" pos="0 0 .05">
        <joint name="hinge" type="hinge" axis="0 1 0" damping=".05"/>
        <geom name="rod" type="capsule" fromto="0 0 0 0 0 .3" size=".02" mass=".2" contype="0"/>
        <site name="tip" pos="0 0 .3"/>
      </body>
    </body>
    <body name="ball" pos=".5 0 .049">
      <freejoint name="free"/>
      <geom name="ball" size=".05" mass=".1" conaffinity="0"/>
      <site name="skin" size=".06"/>
    </body>
  </worldbody>
  <actuator>
    <motor name="push" joint="slide" ctrlrange="-2 6"/>
    <position name="turn" joint="hinge" kp="2" ctrlrange="-.5 .5"/>
  </actuator>
  <sensor>
    <jointpos name="slide" joint="slide"/>
    <jointvel name="hinge_speed" joint="hinge"/>
    <framepos name="tip" objtype="site" objname="tip"/>
    <velocimeter name="speed" site="imu"/>
    <accelerometer name="acceleration" site="imu"/>
    <touch name="touch" site="skin"/>
  </sensor>
  <keyframe>
    <key name="home" qpos=".1 .2 .5 0 .049 1 0 0 0" ctrl="1 .4"/>
  </keyframe>
</mujoco>
"""
CART_MASS, BALL_MASS = 1.0, 0.1  # kg
PERIODS = 20  # control periods an episode lasts


def spec() -> mujoco.MjSpec:
    return mujoco.MjSpec.from_string(XML)


class Cart(Task):
    """Uses everything a task may use."""

    model = spec()
    control_dt = 0.02  # s, two timesteps
    time_limit = PERIODS * control_dt
    commands = {
        "goal": Command((-0.5,), (0.5,)),
        "turn": Command((-1.0, 2.0), (1.0, 3.0), every=(0.04, 0.08)),
    }
    memory = {"x": 1, "sum": 2}
    weights = {"near": 1.0, "rate": -0.1}
    limits = {"away": Limit(0.5, largest=2.0)}

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        qpos = sim.nominal("qpos0") + uniform(sim, rng, sim.model.nq, 0.01)
        return {"qpos": qpos, "qvel": uniform(sim, rng, sim.model.nv, 0.1), "x": qpos[:, :1]}

    def randomize(self, sim: Sim, rng: Generator) -> Terms:
        factor = 1 + uniform(sim, rng, 1, 0.5)
        return {"body_mass": sim.nominal("body_mass") * factor}

    def disturb(self, sim: Sim, rng: Generator) -> Terms:
        return {"qvel": sim.qvel + uniform(sim, rng, sim.model.nv, 0.01)}

    def observe(self, sim: Sim) -> Terms:
        sensed = {name: sim.sensor(name) for name in ("slide", "hinge_speed", "tip")}
        return {
            **sensed,
            "goal": sim.memory["goal"],
            "turn": sim.memory["turn"],
            "action": sim.memory["action"],
        }

    def privileged(self, sim: Sim) -> Terms:
        return {"touch": sim.sensor("touch"), "ball": sim.body("ball").xpos}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        near = 1 - (sim.qpos[:, 0] - sim.memory["goal"][:, 0]).abs()
        return {"near": near, "rate": (action - sim.memory["action"]).square().sum(-1)}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        return {"away": (sim.qpos[:, 0] - sim.memory["x"][:, 0]).abs()}

    def terminated(self, sim: Sim) -> Tensor:
        return sim.qpos[:, 0].abs() > 0.9

    def remember(self, sim: Sim, action: Tensor) -> Terms:
        return {"x": sim.qpos[:, :1], "sum": sim.memory["sum"] + action}

    def metrics(self, sim: Sim) -> Terms:
        return {"success": sim.qpos[:, 0] > 0, "age": sim.memory["age"][:, 0]}


FIELDS = tuple(Step.__dataclass_fields__)


def actions(steps: int, num_envs: int, seed: int = 0) -> Tensor:
    """(steps, N, 2) from [-1, 1]."""
    return torch.rand(steps, num_envs, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Still(Cart):
    """Cart without a random draw: an episode depends on its actions alone."""

    commands = {}
    memory = {"x": 1, "sum": 2, "goal": 1, "turn": 2}

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        return {}

    def randomize(self, sim: Sim, rng: Generator) -> Terms:
        return {}

    def disturb(self, sim: Sim, rng: Generator) -> Terms:
        return {}


class Order(Still):
    """Says what each function found in memory."""

    weights = {"before": 1.0, "action": 2.0, "sum": 4.0, "age": 8.0}

    def observe(self, sim: Sim) -> Terms:
        return {f"{name}[0]": sim.memory[name][:, :1] for name in ("action", "sum", "age")}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        found = {name: sim.memory[name][:, 0] for name in ("sum", "age")}
        return {"before": sim.memory["action"][:, 0], "action": action[:, 0], **found}


def new(task: type[Task], num_envs: int, seed: int = 0, threads: int = 1, nominal: bool = False) -> Env:
    return Env(task(), num_envs, seed=seed, threads=threads, nominal=nominal)


def but(**attributes: Any) -> Task:
    """Cart with some attributes or functions exchanged."""
    return type("But", (Cart,), attributes)()


def refusal(task: Task, kind: type[Error] = TaskError) -> str:
    with pytest.raises(kind) as error:
        Env(task, 3)
    return str(error.value)


def same(one: Step, other: Step, rows: object = slice(None)) -> bool:
    return all(torch.equal(getattr(one, f)[rows], getattr(other, f)[rows]) for f in FIELDS)


def constant(*values: float) -> Tensor:
    """One action (N, 2) that pushes simulation i by values[i]."""
    return torch.tensor([[value, 0.0] for value in values])
