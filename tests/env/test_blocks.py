"""Copies of simulations, the first half of a step, and blocks with common random numbers."""

from typing import Any

import pytest
import torch
from cart import Order, new
from torch import Generator, Tensor

import robokit
from robokit.env.env import Env
from robokit.env.step import Step
from robokit.errors import OptionError
from robokit.sim.base import Sim
from robokit.task.lookup.find import load_task
from robokit.task.task import Terms

STEPS = 120


def actions(count: int, env: Env, seed: int = 0) -> Tensor:
    return torch.rand(count, env.num_envs, env.act_dim, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def equal(one: Step, other: Step, rows: Tensor) -> bool:
    """Whether every field of a step is equal to the last bit to those rows of another."""
    pairs = [(x, getattr(other, name)[rows]) for name, x in vars(one).items()]
    return all(torch.equal(x.nan_to_num(7), y.nan_to_num(7)) for x, y in pairs)


@pytest.mark.parametrize(
    ("task", "scale"),
    [("inverted_double_pendulum", 0.02), ("hopper", 1.0), ("go2_walk:Go2WalkSensed", 0.7), ("arm_push", 1.0)],
)
def test_a_copy_goes_on_as_the_original_to_the_last_bit(task: str, scale: float):
    """With noise, delays, dropout, pushes, randomised models, redrawn commands and restarts."""
    env = robokit.make(task, 2, seed=3, threads=1)
    for action in scale * actions(30, env):
        env.step(action)
    other = robokit.make(task, 6, seed=8, threads=1, blocks=3)
    other.step(torch.ones(6, other.act_dim))
    rows = torch.tensor([0, 1, 0, 1, 0, 1])
    other.copy(env, rows)
    other.rng.set_state(env.rng.get_state())
    assert torch.equal(other.obs, env.obs[rows])
    assert torch.equal(other.period.look()[1], env.period.look()[1][rows])
    ends = 0
    for action in scale * actions(STEPS, env, seed=1):
        step = env.step(action)
        assert equal(other.step(action[rows]), step, rows)
        ends += int(step.done.sum())
    assert ends or task in ("inverted_double_pendulum", "arm_push")


def test_a_copy_may_take_any_rows_and_leaves_the_original_alone():
    env, alone = (robokit.make("hopper", 3, seed=1, threads=1) for _ in range(2))
    other = robokit.make("hopper", 4, seed=2, threads=1)
    other.copy(env, torch.tensor([2, 2, 0, 1]))
    assert torch.equal(other.sim.qpos, env.sim.qpos[[2, 2, 0, 1]])
    for action, theirs in zip(actions(20, env), actions(20, other), strict=True):
        other.step(theirs)
        assert equal(env.step(action), alone.step(action), torch.arange(3))


def test_advance_is_the_first_half_of_a_step():
    for task in ("hopper", "go2_walk", "arm_reach"):
        env, half = (robokit.make(task, 2, seed=5, threads=1, nominal=True) for _ in range(2))
        for action in 0.3 * actions(25, env):
            step, outcome = env.step(action), half.advance(action)
            assert not step.done.any()
            for name, value in vars(outcome).items():
                assert torch.equal(value.nan_to_num(7), getattr(step, name).nan_to_num(7)), (task, name)
            assert torch.equal(half.sim.qpos, env.sim.qpos)


def test_advance_restarts_nothing_and_looks_when_asked():
    env = robokit.make("inverted_pendulum", 2, threads=1)
    first = env.obs
    for _ in range(59):
        env.advance(torch.ones(2, 1))
    assert env.advance(torch.ones(2, 1)).terminated.all()
    assert (env.sim.memory["age"] == 60).all()
    assert torch.equal(env.obs, first)
    env.advance(torch.ones(2, 1), look=True)
    assert torch.equal(env.obs, env.period.look()[0])


@pytest.mark.parametrize("task", ["go2_walk:Go2WalkSensed", "arm_push", "hopper"])
def test_blocks_stay_equal_and_equal_a_smaller_env(task: str):
    env = robokit.make(task, 6, seed=4, threads=1, blocks=3)
    alone = robokit.make(task, 2, seed=4, threads=1)
    rows = torch.tensor([0, 1, 0, 1, 0, 1])
    env.reset(stagger=True)
    alone.reset(stagger=True)
    assert torch.equal(env.obs, alone.obs[rows])
    for action in actions(STEPS, alone):
        assert equal(env.step(action[rows]), alone.step(action), rows)


def test_pushes_are_drawn_in_common_and_act_on_each_block_s_own_state():
    class Pushed(Order):
        def disturb(self, sim: Sim, rng: Generator) -> Terms:
            draw = torch.rand(sim.num_envs, 1, generator=rng, dtype=sim.dtype)
            return {"qvel": sim.qvel + 0.1 * draw}  # of a simulation's own state

    env = Env(Pushed(), 4, threads=1, blocks=2)
    before = env.sim.qvel.clone()
    before[2:] += 1.0
    env.sim.qvel[2:] += 1.0
    pushed = env.blocks.disturb(env.task)["qvel"] - before
    assert torch.allclose(pushed[:2], pushed[2:], atol=1e-12)
    assert not torch.allclose(pushed[0], pushed[1])


@pytest.mark.parametrize("blocks", [0, 4, 7, 1.5])
def test_blocks_divide_the_simulations(blocks: Any):
    with pytest.raises(OptionError, match=r"blocks must be a whole number that divides the 6 simulations"):
        Env(load_task("inverted_pendulum"), 6, blocks=blocks)


def test_a_copy_of_another_task_or_mode_or_row_is_refused():
    env = robokit.make("inverted_pendulum", 2, threads=1)
    one, two = (robokit.make(n, 2, threads=1, nominal=True) for n in ("inverted_pendulum", "hopper"))
    for other in (one, two):
        with pytest.raises(OptionError, match="copy takes an Env of the same task, engine and `nominal`"):
            env.copy(other, torch.arange(2))
    for rows in (torch.tensor([0, 2]), torch.tensor([-1, 0]), torch.arange(1)):
        with pytest.raises(OptionError, match="rows must be 2 numbers from 0 to 1, got"):
            env.copy(env, rows)


def test_a_field_that_only_the_copy_has_written_is_nominal_again():
    env = new(Order, 2)
    heavy = new(Order, 2)
    heavy.sim.reset(None, {"body_mass": 2 * heavy.sim.nominal("body_mass").expand(2, -1)})
    heavy.copy(env, torch.arange(2))
    for action in actions(10, env):
        assert equal(heavy.step(action), env.step(action), torch.arange(2))
