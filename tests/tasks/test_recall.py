"""Recall needs memory: any policy without it succeeds in at most half of the episodes."""

from collections.abc import Iterable
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from robokit.env.env import Env
from robokit.env.step import Step
from robokit.task.lookup.find import load_task

ACTIONS = torch.linspace(-1, 1, 40)[:, None]
SIDE = torch.tensor([-1.0, 1.0]).repeat_interleave(len(ACTIONS))[:, None]  # each action with each side
N = len(SIDE)
MANY = 2000  # episodes
OFF = 0.005  # m: how far from its target a slider may be, wherever it was before
WAIT = {"recall": 20, "recall:Recall100": 100}
EACH = pytest.mark.parametrize("name", WAIT)


def begin(name: str) -> Env:
    """N episodes at their first observation, one of each action and side."""
    task = load_task(name)
    task.reset = lambda sim, rng: {"light": SIDE.double()}
    return Env(task, N, threads=1)


def run(env: Env, actions: Iterable[Tensor]) -> list[Step]:
    """A step for each of actions (N, 1), and back to where it began."""
    start = env.state_dict()
    steps = [deepcopy(env.step(action)) for action in actions]
    env.load_state_dict(start)  # into the very tensors that the last step holds
    return steps


def pastimes(name: str) -> list[Tensor]:
    """What may be done before it counts, (T, N, 1) each; also what would have the body keep the side."""
    still, once = torch.ones(WAIT[name], N, 1), torch.zeros(WAIT[name], N, 1)
    once[0] = 1.0
    noise = 2 * torch.rand(still.shape, generator=torch.Generator().manual_seed(1)) - 1
    return [-still, noise, SIDE * still, -SIDE * still, SIDE * once]


@EACH
def test_the_first_observation_alone_shows_the_side_bit_for_bit_whatever_is_done(name: str):
    env = begin(name)
    assert torch.equal(env.obs, torch.cat((SIDE, torch.ones(N, 1)), -1))
    runs = [run(env, actions) for actions in pastimes(name)]
    seen = torch.cat([torch.stack([step.obs for step in steps]) for steps in runs], 1).view(torch.int32)
    assert seen.shape == (WAIT[name], len(runs) * N, 2)
    assert torch.equal(seen, seen[:, :1].expand_as(seen))
    assert len(seen[:, 0, 1].unique()) == WAIT[name]  # when it counts, everybody may know


@EACH
def test_no_action_is_right_for_both_sides_whatever_was_done_before(name: str):
    """So one that cannot depend on the side, as what is seen does not, is right for one of two at most."""
    env, right = begin(name), torch.zeros(2, len(ACTIONS), dtype=torch.bool)
    due = ACTIONS.repeat(2, 1)
    for before in pastimes(name):
        last = run(env, (*before, due))[-1]
        slider = last.final_state[:, -1:]
        assert (slider - due).abs().max() < OFF  # it has forgotten where it was
        right |= (last.reward > 0).reshape(2, -1)
    assert not right.all(0).any()
    assert torch.equal(right[1], ACTIONS[:, 0] > 0.5)
    assert torch.equal(right[0], ACTIONS[:, 0] < -0.5)


@EACH
def test_who_remembers_the_side_is_right_in_the_last_step_and_paid_nothing_before(name: str):
    env = begin(name)
    for before in pastimes(name):
        *steps, last = run(env, (*before, SIDE))
        assert last.terminated.all() and (last.reward == 1).all()
        assert (last.metrics == torch.tensor([1.0, 0.0])).all()  # success, missed
        assert not any(step.done.any() or step.reward.any() for step in steps)
        assert all(step.metrics[:, 0].isnan().all() for step in steps)
        assert not any(step.metrics[:, 1].any() for step in steps)


@EACH
@pytest.mark.parametrize("action", [-1.0, 0.0, 1.0])
def test_one_action_for_all_is_right_for_its_own_side_alone(name: str, action: float):
    last = run(begin(name), torch.full((WAIT[name] + 1, N, 1), action))[-1]
    assert torch.equal(last.reward, (SIDE[:, 0] == action).float())
    assert torch.equal(last.reward, 1 - last.metrics[:, 1])  # who missed has failed


@EACH
def test_the_critic_goes_on_knowing_the_side(name: str):
    env = begin(name)
    assert list(env.names.state) == ["light", "remaining", "privileged side", "privileged slider"]
    for step in run(env, torch.zeros(3, N, 1)):
        assert torch.equal(step.state[:, 2:3], SIDE)


def test_the_longer_one_differs_in_the_wait_alone():
    own = vars(type(load_task("recall:Recall100")))
    assert [attribute for attribute in own if not attribute.startswith("_")] == ["wait"]


@EACH
def test_each_episode_draws_one_of_two_sides_anew(name: str):
    env = Env(load_task(name), MANY, seed=5, threads=1)
    one, two = env.obs[:, 0], env.reset()[:, 0]
    bound = 5 * MANY**-0.5  # 5 sigma
    assert set(one.tolist()) == {-1.0, 1.0}
    assert all(abs(x.mean().item()) < bound for x in (one, two, one * two))
