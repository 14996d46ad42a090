"""An arm of two joints that sees itself, a finger that is not seen, a wheel, and tasks for them."""

from typing import Any

import mujoco
import torch
from torch import Generator, Tensor

from robokit.env.env import Env
from robokit.sim.base import Sim
from robokit.task.action import Delta, Hold
from robokit.task.sense import Sense
from robokit.task.task import Task, Terms, uniform

MODEL = """
<mujoco model="reach">
  <option timestep="0.01"/>
  <worldbody>
    <body><joint name="left" axis="0 1 0" damping="1"/><geom size=".1" contype="0"/>
      <body pos="0 0 .3"><joint name="right" axis="0 1 0" damping="1"/><geom size=".1" contype="0"/></body>
    </body>
    <body pos="1 0 0"><joint name="finger" type="slide" damping="1"/><geom size=".1" contype="0"/></body>
    <body pos="2 0 0"><joint name="wheel" damping="1"/><geom size=".1" contype="0"/></body>
  </worldbody>
  <actuator>
    <position name="finger" joint="finger" kp="50" ctrlrange="0 .4"/>
    <position name="arm right" joint="right" kp="50" ctrlrange="-1 1"/>
    <motor name="wheel" joint="wheel" ctrlrange="-2 2"/>
    <position name="arm left" joint="left" kp="50" ctrlrange="-1 1.5"/>
  </actuator>
  <keyframe><key name="home" ctrl=".3 .1 1.5 -.2"/></keyframe>
</mujoco>
"""
DT = 0.02  # s


def spec(change: tuple[str, str] = ("", "")) -> mujoco.MjSpec:
    return mujoco.MjSpec.from_string(MODEL.replace(*change))


class Reach(Task):
    """Sees its arm; the finger is not seen."""

    model = spec()
    control_dt = DT
    time_limit = 10 * DT
    action = {
        "wheel": Hold("home"),
        "arm*": Delta((0.1, 0.2), leash=0.15),
        "finger": Delta(0.01, keyframe="home"),
    }
    weights = {"still": -1.0}

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        return {"qpos": uniform(sim, rng, sim.model.nq, 0.5)}

    def observe(self, sim: Sim) -> Terms:
        return {"speed": sim.qvel, "arm": sim.qpos[:, :2]}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"still": action.square().sum(-1)}


class Seen(Reach):
    """Sees its targets too, and reads its joints badly."""

    sensing = {"arm": Sense(noise=0.02, bias=0.1, delay=(0.0, 0.05), dropout=0.3)}

    def observe(self, sim: Sim) -> Terms:
        return {"target": sim.memory["target"], **super().observe(sim)}


def but(task: type[Task] = Reach, **attributes: Any) -> Task:
    return type("But", (task,), attributes)()


def actions(steps: int, env: Env, seed: int = 0) -> Tensor:
    """(steps, N, A) from [-1.2, 1.2]."""
    rng = Generator().manual_seed(seed)
    return torch.rand(steps, env.num_envs, env.act_dim, generator=rng) * 2.4 - 1.2
