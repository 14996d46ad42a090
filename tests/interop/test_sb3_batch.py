"""Stable-Baselines3 on a batch of ours."""

import warnings
from typing import Any

import numpy as np
import point
import pytest
import torch
from cart import Cart, Still, but
from sb3_models import small
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy

import robokit
from robokit.errors import OptionError
from robokit.interop.gymnasium import TaskEnv
from robokit.interop.sb3 import TaskVecEnv


def test_sb3_s_check_env_passes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(TaskEnv("hopper"), skip_render_check=True)
        check_env(TaskEnv("hopper", observations="dict"), skip_render_check=True)
        check_env(TaskEnv(point.Point(), observations="goal"), skip_render_check=True)


def test_an_option_that_a_batch_has_fixed_is_refused():
    with pytest.raises(OptionError, match="TaskVecEnv takes no 'autoreset'"):
        TaskVecEnv(Still(), 2, autoreset=False)


def test_a_batch_is_env_s_bit_for_bit_with_what_sb3_reads_of_an_episode():
    falls = but(terminated=lambda task, sim: sim.qpos[:, 0].abs() > 0.15)
    env, batch = robokit.Env(falls, 3, seed=2, threads=1), TaskVecEnv(falls, 3, seed=2, threads=1)
    assert np.array_equal(batch.reset(), env.reset().numpy())
    totals, ends = np.zeros(3), [0, 0]  # terminated, truncated
    for action in np.random.default_rng(0).uniform(-1, 1, (50, 3, 2)).astype(np.float32):
        step = env.step(torch.from_numpy(action))
        found: Any = batch.step(action)
        obs, reward, done, infos = found
        assert np.array_equal(obs, step.obs.numpy()) and np.array_equal(done, step.done.numpy())
        totals += reward
        for i, info in enumerate(infos):
            assert info["reward/near"] == step.terms[i, 0].item() and info["cost"] == step.cost[i].item()
            assert ("episode" in info) == bool(done[i])
            if done[i]:
                ends[int(step.truncated[i])] += 1
                assert np.array_equal(info["terminal_observation"], step.final_obs[i].numpy())
                assert info["TimeLimit.truncated"] == step.truncated[i].item()
                assert info["episode"]["r"] == totals[i] and 0 < info["episode"]["l"] <= 20
                totals[i] = 0
    assert min(ends) >= 1


@pytest.mark.medium
@pytest.mark.parametrize("kind", [PPO, SAC])
def test_two_trainings_of_one_seed_are_bit_equal(kind: Any):
    def weights() -> list[torch.Tensor]:
        n = {"n_steps": 16} if kind is PPO else {"learning_starts": 64}
        model = kind("MlpPolicy", TaskVecEnv("hopper", 16, threads=1), seed=3, **n, **small())
        model.learn(512)
        return [*model.policy.state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(weights(), weights(), strict=True))


@pytest.mark.medium
def test_sb3_s_own_evaluation_takes_the_batch_for_monitored():
    batch = TaskVecEnv(Still(), 4, threads=1)
    model = PPO("MlpPolicy", batch, n_steps=64, **small())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found: Any = evaluate_policy(model, batch, 8, return_episode_rewards=True)
    assert len(found[0]) == 8 and all(1 < length <= 20 for length in found[1])


def test_methods_and_attributes_of_the_batch():
    batch = TaskVecEnv(Cart(), 3, threads=1)
    assert batch.get_attr("nstep", [0, 2]) == [2, 2]
    batch.env_method("hold", {"goal": [0.25]})
    batch.reset()
    assert batch.inner.sim.memory["goal"][:, 0].tolist() == [0.25] * 3
    assert not batch.has_attr("nothing")
    with pytest.raises(OptionError, match="no simulation of its own"):
        batch.set_attr("nstep", 3)


def test_hindsight_relabels_with_the_rewards_of_the_goal_form():
    from stable_baselines3 import HerReplayBuffer

    batch = TaskVecEnv(point.Point(), 4, observations="goal", threads=1)
    options = {"n_sampled_goal": 4, "goal_selection_strategy": "future", "copy_info_dict": True}
    model = SAC(
        "MultiInputPolicy",
        batch,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs=options,
        learning_starts=400,
        seed=0,
        **small(),
    )
    model.learn(401)
    replay: Any = model.replay_buffer
    drawn = replay.sample(200)
    off = drawn.next_observations["achieved_goal"] - drawn.observations["desired_goal"]
    speed = drawn.next_observations["observation"][:, :3]  # with the reward's other term
    expected = -2.0 * off.norm(dim=-1) - 0.5 * speed.square().sum(-1)
    torch.testing.assert_close(drawn.rewards[:, 0], expected, rtol=1e-5, atol=1e-5)
