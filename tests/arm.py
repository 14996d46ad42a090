"""A task with every kind of carried term, and a policy with varied actions for it."""

from typing import Any

import mujoco
import torch
from torch import Tensor, nn

from robokit.env.env import Env
from robokit.networks.belief import GRU, Belief, make_belief
from robokit.networks.mirror import Reflection
from robokit.networks.policy import Gaussian, Policy
from robokit.task.action import Around
from robokit.task.command import Command
from robokit.task.task import Task

ARM = """
<mujoco model="arm">
  <option timestep="0.01"/>
  <worldbody>
    <body name="cart">
      <joint name="rail" type="slide" axis="1 0 0" damping="1"/>
      <geom size=".1" mass="1"/>
      <body name="upper" pos="0 0 .1">
        <joint name="shoulder" axis="0 1 0" damping=".05"/>
        <geom type="capsule" size=".02" fromto="0 0 0 0 0 .3" mass=".2"/>
        <site name="imu" pos="0 0 .3"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="rail" gear="3" ctrlrange="-1 1"/>
    <position name="servo" joint="shoulder" kp="0.1" kv="0.0004" ctrlrange="-1 1"/>
  </actuator>
  <sensor>
    <gyro name="gyro" site="imu"/>
    <jointpos name="angle" joint="shoulder"/>
  </sensor>
  <keyframe><key name="home" ctrl="0.125 0.875"/></keyframe>
</mujoco>
"""


class Arm(Task):
    """Everything a contract can hold: command, sensors, a clipped reading, previous action, two actuators."""

    model = mujoco.MjSpec.from_string(ARM)
    control_dt = 0.02
    time_limit = 0.6  # 30 steps
    action = Around("home", scale=0.3)
    commands = {"speed": Command(low=(-0.1,), high=(0.3,), every=(0.1, 0.2))}
    weights = {"alive": 1.0}

    def reset(self, sim: Any, rng: torch.Generator) -> dict[str, Tensor]:
        return {"qpos": 0.3 * (torch.rand(sim.num_envs, 2, generator=rng, dtype=sim.qpos.dtype) - 0.5)}

    def observe(self, sim: Any) -> dict[str, Tensor]:
        return {
            "speed": sim.memory["speed"],
            "action": sim.memory["action"],
            "gyro": sim.sensor("gyro"),
            "angle": sim.sensor("angle"),
            "rail": torch.cat((sim.qpos[:, :1], sim.qvel[:, :1].clamp(-0.5, 0.5)), -1),
            "product": sim.qpos[:, :1] * sim.qvel[:, 1:],
        }

    def rewards(self, sim: Any, action: Tensor) -> dict[str, Tensor]:
        return {"alive": torch.ones(sim.num_envs)}

    def terminated(self, sim: Any) -> Tensor:
        return sim.qpos[:, 1].abs() > 0.3


class Blind(Arm):
    """Without the previous action: the carry goes in and is not used."""

    def observe(self, sim: Any) -> dict[str, Tensor]:
        return {"angle": sim.sensor("angle"), "gyro": sim.sensor("gyro")}


class Fused(nn.Module):
    """A GRU of ours as torch's, which is exported as one GRU node."""

    def __init__(self, gru: Belief) -> None:
        super().__init__()
        assert isinstance(gru, GRU)
        self.size, self.out_dim = gru.size, gru.out_dim
        self.cell = nn.GRU(gru.inputs.in_features, gru.size)
        names = {"ih": gru.inputs, "hh": gru.recurrent}
        for name, linear in names.items():
            self.cell.get_parameter(f"weight_{name}_l0").data.copy_(linear.weight)
            self.cell.get_parameter(f"bias_{name}_l0").data.copy_(linear.bias)

    def forward(
        self, obs: Tensor, belief: Tensor, first: Tensor, normalizer: nn.Module
    ) -> tuple[Tensor, Tensor]:
        frame, belief = normalizer(obs), torch.where(first[:, None], 0.0, belief)
        belief = self.cell(frame[None], belief[None])[1][0]
        return torch.cat((frame, belief), -1), belief


def make_policy(env: Env, kind: str = "stack", mirrored: bool = False) -> Policy:
    """Untrained, but lively: actions over most of [-1, 1], and a normaliser that matters."""
    torch.manual_seed(1)
    belief = make_belief(kind, env.names.obs, 3, 8)
    mirror = (_flip(env.obs_dim), _flip(env.act_dim)) if mirrored else None
    policy = Gaussian(env.obs_dim, env.act_dim, belief, hidden=(16,), mirror=mirror)
    last = policy.head[-1]
    assert isinstance(last, nn.Linear)
    last.weight.data.mul_(40)
    policy.normalizer.mean.normal_(0.0, 0.1)
    policy.normalizer.var.uniform_(0.01, 0.1)
    return policy


def _flip(size: int) -> Reflection:
    """Back to front, every second number negated as well; its own inverse for any size."""
    sign = [-1.0 if min(i, size - 1 - i) % 2 else 1.0 for i in range(size)]
    return Reflection(range(size - 1, -1, -1), sign)
