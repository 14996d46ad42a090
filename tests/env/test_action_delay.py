"""The delay of actuator targets, compared with loops over substeps."""

from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from cart import PERIODS, Order, actions, new
from torch import Tensor

from robokit.env.env import Env
from robokit.sim.base import Sim
from robokit.task.task import Task, Terms

MODEL = """
<mujoco>
  <option timestep="{timestep}" integrator="{integrator}" gravity="0 0 0"/>
  <worldbody>
    <body>
      <joint name="slide" type="slide" axis="1 0 0"/><geom size=".1" mass="2"/>
      <body pos="0 0 .1"><joint name="hinge" axis="0 1 0"/><geom size=".1" pos="0 0 .2" mass="1"/></body>
    </body>
    <body pos="5 0 0"><joint name="free" type="slide" axis="1 0 0"/><geom size=".1" mass="1"/></body>
  </worldbody>
  <actuator>
    <motor joint="slide" ctrlrange="-2 6"/>
    <position joint="hinge" kp="20" kv="1" ctrlrange="-1 1"/>
    <motor joint="free" ctrlrange="-1 1" {of_the_model}/>
  </actuator>
</mujoco>
"""
CONTROL_DT = 0.02  # s


class Push(Task):
    """The last body, of 1 kg, is pushed with up to 1 N and touches nothing."""

    control_dt = CONTROL_DT
    time_limit = 40 * CONTROL_DT
    weights = {"still": 1.0}

    def observe(self, sim: Sim) -> Terms:
        return {"joints": torch.cat((sim.qpos, sim.qvel), -1)}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"still": -sim.qvel[:, 0].abs()}


def spec(timestep: float = 0.005, integrator: str = "Euler", of_the_model: str = "") -> mujoco.MjSpec:
    text = MODEL.format(timestep=timestep, integrator=integrator, of_the_model=of_the_model)
    return mujoco.MjSpec.from_string(text)


def push(delay: Any, num_envs: int = 1, model: mujoco.MjSpec | None = None, **options: Any) -> Env:
    task = type("Late", (Push,), {"model": model or spec(), "action_delay": delay})
    return Env(task(), num_envs, **options)


def substeps_without(env: Env) -> Tensor:
    """(N,) timesteps for which the last body was not pushed with 1 N, of those since the reset."""
    steps = env.sim.time / env.sim.timestep - env.sim.qvel[:, 2] / env.sim.timestep
    assert (steps - steps.round()).abs().max() < 1e-6
    return steps.round()


@pytest.mark.parametrize(
    ("timestep", "substeps"), [(0.005, [2, 2, 4, 0, 1, 5]), (0.002, [4, 4, 10, 0, 1, 11])]
)
def test_a_delay_by_hand(timestep: float, substeps: list[int]):
    """The old target acts in each substep that begins before the delay has passed; 0 N at first."""
    delays = (0.007, 0.0061 if timestep == 0.002 else 0.0051, 0.02, 0.0, 1e-5, 0.0201)
    for delay, expected in zip(delays, substeps, strict=True):
        env = push(delay, model=spec(timestep))
        env.step(torch.ones(1, 3))
        env.step(torch.ones(1, 3))
        assert substeps_without(env).tolist() == [expected]


@pytest.mark.parametrize("integrator", ["Euler", "implicitfast", "RK4"])
@pytest.mark.parametrize("timestep", [0.005, 0.002])
@pytest.mark.parametrize("delay", [0.007, 0.02, 0.033, 0.2])
def test_a_late_target_is_that_of_a_loop_over_substeps(delay: float, timestep: float, integrator: str):
    """Exactly, also with a delay of more than one period, and with an integrator of several stages."""
    env = push(delay, model=spec(timestep, integrator))
    model = env.sim.model
    data, decided = mujoco.MjData(model), [(-1.0, np.array([2.0, 0.0, 0.0]))]  # (s, ctrl); of action 0
    for period, action in enumerate(torch.rand(30, 1, 3) * 2 - 1):
        decided.append((period * CONTROL_DT, env.targets(action)[0].numpy()))
        for substep in range(round(CONTROL_DT / timestep)):
            now = period * CONTROL_DT + substep * timestep
            data.ctrl[:] = [ctrl for when, ctrl in decided if when <= now - delay + 1e-9][-1]
            mujoco.mj_step(model, data)
        env.step(action)
        assert env.sim.qpos[0].tolist() == data.qpos.tolist()
        assert env.sim.qvel[0].tolist() == data.qvel.tolist()


def test_a_delay_is_drawn_for_each_episode_of_each_simulation_and_kept():
    """0 to 50 ms: 1 to 10 substeps of 5 ms, each as often as the others."""
    env, drawn = push((0.0, 0.05), 200), []
    for _ in range(3):
        for period in range(1, 40):
            env.step(torch.ones(200, 3))
            if period == 3:
                drawn.append(substeps_without(env))
        assert torch.equal(substeps_without(env), drawn[-1])
        assert env.step(torch.ones(200, 3)).done.all()
    counts = torch.stack(drawn).flatten().long().bincount()
    assert counts[0] == 0 and len(counts) == 11 and counts[1:].min() > 30 and counts.max() < 90
    assert not torch.equal(drawn[0], drawn[1])


def test_one_simulation_that_restarts_leaves_the_delays_of_the_others():
    class Short(Push):
        model = spec()
        action_delay = (0.0, 0.05)

        def terminated(self, sim: Sim) -> Tensor:
            return sim.qpos[:, 0] > 0.9

    env = new(Short, 3)
    for _ in range(3):
        env.step(torch.ones(3, 3))
    before, drawn = substeps_without(env), list[float]()
    for _ in range(7):
        env.sim.qpos[1, 0] = 1.0
        assert env.step(torch.ones(3, 3)).done.tolist() == [False, True, False]
        for _ in range(3):
            env.step(torch.ones(3, 3))
        assert torch.equal(substeps_without(env)[[0, 2]], before[[0, 2]])
        drawn.append(substeps_without(env)[1].item())
    assert min(drawn) >= 1 and len(set(drawn)) > 3  # nothing of the episode before acts


def test_a_delay_of_the_model_is_added():
    """8 ms of the model are two substeps of 5 ms, the task's 7 ms two more."""
    env = push(0.007, model=spec(of_the_model='delay=".008" nsample="4"'))
    for _ in range(3):
        env.step(torch.ones(1, 3))
    assert substeps_without(env).tolist() == [4.0]


def test_nominal_is_without_a_delay_and_without_a_state_of_one():
    env = push(0.02, nominal=True)
    env.step(torch.ones(1, 3))
    assert substeps_without(env).tolist() == [0.0]
    assert not [key for key in env.state_dict() if "action_delay" in key]


@pytest.mark.parametrize("cut", [1, 30, 40, 57])
def test_a_resumed_environment_goes_on_bit_for_bit(cut: int):
    one, sent = push((0.0, 0.09), 4, seed=3), torch.rand(100, 4, 3) * 2 - 1
    for action in sent[:cut]:
        one.step(action)
    other = push((0.0, 0.09), 4, seed=7)
    other.step(sent[0])
    other.load_state_dict(one.state_dict())
    for action in sent[cut:]:
        assert torch.equal(one.step(action).obs, other.step(action).obs)


def test_rewards_and_the_previous_action_know_the_action_before_it_is_late():
    class Slow(Order):
        action_delay = 0.03

    slow, prompt = new(Slow, 2), new(Order, 2)
    for action in actions(3 * PERIODS, 2):
        step, expected = slow.step(action), prompt.step(action)
        assert torch.equal(step.terms, expected.terms)
        assert torch.equal(step.obs, expected.obs)


@pytest.mark.medium  # Warp compiles or loads its kernels
def test_warp_delays_as_mujoco_does():
    """The same draws, recorded steps and restarts of single simulations; positions to float32."""
    pytest.importorskip("mujoco_warp")
    cpu, warp = (push((0.0, 0.05), 3, seed=1, sim=sim) for sim in ("mujoco", "warp"))
    for t in range(60):
        action = torch.rand(3, 3) * 2 - 1
        for env in (cpu, warp):
            env.step(action)
            if t == 20:
                env._restart(torch.tensor([False, True, False]))
        assert torch.allclose(cpu.sim.qpos.float(), warp.sim.qpos, atol=1e-4)
    kept, again = warp.state_dict(), push((0.0, 0.05), 3, seed=2, sim="warp")
    again.load_state_dict(kept)
    for action in torch.rand(20, 3, 3):
        assert torch.equal(warp.step(action).obs, again.step(action).obs)
