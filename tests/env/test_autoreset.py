"""Restarts that a caller asks for: `Env.restart`, and an Env that leaves ended episodes to it."""

from typing import Any

import pytest
import torch
from cart import FIELDS, PERIODS, Cart, Still, actions, but, constant

from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.sim.base import Sim
from robokit.task.sense import Sense
from robokit.task.task import Terms


def test_restarts_of_a_caller_are_those_of_a_step_draw_for_draw():
    tip = Sense(noise=0.1, bias=0.1, delay=(0.0, 0.04))
    task: dict[str, Any] = {"sensing": {"tip": tip}, "action_delay": 0.02}
    own, asked = (Env(but(**task), 4, seed=3, threads=1, autoreset=auto) for auto in (True, False))
    ended = 0
    for action in actions(3 * PERIODS, 4):
        ours, theirs = own.step(action), asked.step(action)
        for field in FIELDS:
            if field not in ("obs", "state"):
                assert torch.equal(getattr(ours, field), getattr(theirs, field)), field
        assert torch.equal(ours.obs, asked.restart(theirs.done) if theirs.done.any() else theirs.obs)
        assert torch.equal(own.state, asked.state)
        ended += int(ours.done.sum())
    assert ended > 8


def test_without_autoreset_an_ended_episode_stays_where_it_ended():
    env = Env(Still(), 2, threads=1, autoreset=False)
    step = [env.step(constant(0.1, 0.2)) for _ in range(PERIODS)][-1]
    assert step.truncated.all()
    assert torch.equal(step.obs, step.final_obs)
    assert torch.equal(env.sim.memory["age"], torch.full((2, 1), float(PERIODS), dtype=torch.float64))


def test_a_restart_leaves_the_others_alone_and_of_none_it_changes_nothing():
    class Some(Cart):
        def reset(self, sim: Sim, rng: torch.Generator) -> Terms:
            assert sim.num_envs > 0
            return super().reset(sim, rng)

    env = Env(Some(), 3, threads=1)
    env.step(constant(0.5, 0.5, 0.5))
    before, draws = env.obs.clone(), env.rng.get_state()
    assert torch.equal(env.restart(torch.zeros(3, dtype=torch.bool)), before)
    assert torch.equal(env.rng.get_state(), draws)
    after = env.restart(torch.tensor([False, True, False]))
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert not torch.equal(after[1], before[1])
    assert env.sim.memory["age"][:, 0].tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(2, dtype=torch.bool)])
def test_a_mask_of_another_kind_is_refused_by_shape_and_type(mask: torch.Tensor):
    with pytest.raises(OptionError, match=r"bool and of shape \(3,\), got torch"):
        Env(Cart(), 3, threads=1).restart(mask)
