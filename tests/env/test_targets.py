"""Targets that Env carries for a Delta, and actions where there are more controls."""

from typing import Any

import pytest
import torch
from agents import learner_of
from reach import DT, Reach, Seen, actions, but
from torch import Tensor

from robokit.algos import ppo
from robokit.env.checks.laws import check_task
from robokit.env.checks.notes import find_notes
from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.learning.layouts import policy_layout
from robokit.networks.mirror import reflections
from robokit.sim.base import Sim
from robokit.task.action import Ctrl, Delta, Hold
from robokit.task.mirror import Mirror
from robokit.task.task import Task, Terms

FIELDS = ("obs", "state", "reward", "done", "final_obs")


def test_targets_that_are_sent_are_for_one_step_and_a_reset_forgets_them():
    env = Env(Reach(), 2, threads=1)
    with pytest.raises(OptionError, match=r"targets must have the shape \(2, 4\), got \(2, 3\)"):
        env.send(torch.zeros(2, 3))
    env.send(torch.full((2, 4), 0.1))
    env.reset()
    env.step(torch.zeros(2, 3))
    assert not env.sim.ctrl.isclose(torch.tensor(0.1).double()).all(-1).any()


@pytest.mark.parametrize("task", [Reach, Seen])
def test_a_task_that_carries_targets_keeps_the_contract_and_check_tells_its_maps(task: type[Task]):
    findings = check_task(task())
    assert [finding for finding in findings if not finding.ok] == []
    assert "3 actions, 1 reward terms; delta: finger, arm right, arm left; hold: wheel" in findings[0].detail
    assert find_notes(task()) == []


def test_a_training_goes_on_bit_for_bit_in_the_middle_of_episodes():
    one, other = (Env(Seen(), 3, seed=seed, threads=1) for seed in (1, 2))
    one.reset(stagger=True)
    given = actions(30, one)
    for action in given[:7]:
        one.step(action)
    other.load_state_dict(one.state_dict())
    for action in given[7:]:
        a, b = one.step(action), other.step(action)
        assert all(torch.equal(getattr(a, f), getattr(b, f)) for f in FIELDS)
        assert torch.equal(one.sim.memory["target"], other.sim.memory["target"])


def test_rewards_see_the_target_before_as_they_see_the_action_before():
    def rewards(self: Task, sim: Sim, action: Tensor) -> Terms:
        return {"still": sim.memory["target"][:, 0] - sim.ctrl[:, 0]}

    env = Env(but(rewards=rewards, weights={"still": 1.0}), 2, threads=1)
    step = env.step(torch.tensor([[1.0, 0.0, 0.0], [-0.5, 0.0, 0.0]]))
    assert step.reward.tolist() == pytest.approx([-0.01, 0.005])


def test_a_target_is_carried_without_the_delay_of_the_action():
    late, prompt = (Env(but(action_delay=delay), 2, seed=1, threads=1) for delay in (0.03, 0.0))
    one = torch.zeros(2, 3)
    one[:, 0] = 1.0
    for k in range(1, 5):
        late.step(one)
        prompt.step(one)
        for env in (late, prompt):
            assert env.sim.memory["target"][:, 0].tolist() == pytest.approx([0.3 + 0.01 * k] * 2)
    assert late.sim.ctrl[0, 0] <= prompt.sim.ctrl[0, 0]


def test_what_a_filter_sends_is_sent_as_it_is_once_and_the_target_goes_on_from_it():
    env = Env(Reach(), 2, threads=1)
    sent = torch.tensor([[0.123, 0.4, -0.3, 0.2], [0.2, -0.4, 0.3, -0.2]])
    env.send(sent)
    step = env.step(torch.ones(2, 3))
    assert torch.equal(env.sim.ctrl.float(), sent)
    assert torch.equal(env.sim.memory["target"].float(), sent)
    assert step.terms.tolist() == [[-3.0], [-3.0]]  # of the action itself
    env.step(torch.ones(2, 3))
    assert env.sim.ctrl[:, 0].tolist() == pytest.approx([0.133, 0.21])
    assert env.sim.ctrl[:, 2].tolist() == [1.5, 1.5]


@pytest.mark.medium
def test_both_engines_and_the_compiled_step_give_the_same_targets():
    pytest.importorskip("mujoco_warp")
    kinds: list[dict[str, Any]] = [{}, {"compile": True}, {"sim": "warp"}]
    envs = [Env(but(Seen, sensing={}), 3, seed=1, threads=1, **kind) for kind in kinds]
    for env in envs:
        env.reset(stagger=False)
    for action in actions(25, envs[0]):
        targets = [env.targets(action).double() for env in envs]
        assert torch.allclose(targets[0], targets[1], rtol=0, atol=1e-6)
        assert torch.allclose(targets[0], targets[2], rtol=0, atol=2e-3)
        for env in envs:
            env.step(action)


# -- A actions, nu controls ----------------------------------------------------------------------


class Sides(Reach):
    """Left and right arm act; finger and wheel have no action."""

    action = {"arm*": Delta(0.1, leash=0.15), "[fw]*": Hold("home")}
    mirror = {
        "speed": Mirror((1, 1, 1, 1), (1, 0, 2, 3)),
        "arm": Mirror((1, 1), (1, 0)),
        "action": Mirror((1, 1), (1, 0)),
    }


def test_a_held_control_has_no_action_in_any_algorithm_nor_in_the_mirror():
    env = Env(Sides(), 4, threads=1)
    assert (env.act_dim, env.sim.model.nu, env.sim.memory["action"].shape[1]) == (2, 4, 2)
    config = ppo.Config(num_envs=4, horizon=16, minibatch=64, epochs=1, hidden=(8,), mirror=True)
    learner = ppo.Learner(env, config, 0)
    learner.iterate()
    of_obs, of_action = reflections(env.task.mirror, env.names.obs)
    obs, belief, first = env.obs, torch.zeros(4, 0), torch.ones(4, dtype=torch.bool)
    with torch.no_grad():
        action, _ = learner.policy(obs, belief, first)
        image, _ = learner.policy(of_obs(obs), belief, first)
    assert action.shape == (4, 2)
    assert torch.allclose(image, of_action(action), atol=1e-6)
    assert policy_layout(learner.policy, env).actuators == {
        "arm right (delta)": (0.0, pytest.approx(0.1)),
        "arm left (delta)": (0.0, pytest.approx(0.1)),
    }


@pytest.mark.parametrize("algo", ["sac", "td3"])
def test_a_memory_of_transitions_holds_actions_and_no_controls(algo: str):
    learner = learner_of(algo, Sides)
    for _ in range(3):
        learner.iterate()
    assert learner.policy.act_dim == 2


def test_delay_of_a_group_with_a_hold_is_of_the_actions():
    env = Env(but(action={"f*": Ctrl(), "arm*": Ctrl(), "wheel": Hold("home")}, action_delay=2 * DT), 1)
    seen = []
    for action in ([1.0, 1.0, 1.0], [0.0] * 3, [0.0] * 3):
        env.step(torch.tensor([action]))
        seen.append(env.sim.ctrl[0].tolist())
    assert [row[2] for row in seen] == [1.5] * 3
    assert seen[2] == pytest.approx([0.4, 1.0, 1.5, 1.5])  # of two control periods ago
