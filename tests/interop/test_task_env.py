"""Tasks in gymnasium's hands: ids, one simulation, batches in each autoreset mode, goals."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import point
import pytest
import torch
from cart import PERIODS, Cart, Still, but
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers.vector import NormalizeObservation, NormalizeReward, RecordEpisodeStatistics
from stable_baselines3.common.env_checker import check_env as sb3_checks
from test_film import draws
from test_tasks import SHIPPED, VARIANTS

import robokit
from robokit.errors import ModelError, OptionError, TaskError
from robokit.interop.gymnasium import TaskEnv, TaskVectorEnv
from robokit.task.command import Command
from robokit.task.lookup.find import load_task

QUICK = ("hopper", "recall", "arm_reach:Clean")
HOPPER = "robokit.interop:robokit/hopper-v0"
INFINITE = ".*A Box observation space (minimum|maximum) value is -?infinity.*"


def ours(made: Any) -> Any:
    """What gymnasium.make has wrapped."""
    return made.unwrapped


def checked(env: gymnasium.Env[Any, Any]) -> None:
    """gymnasium's check_env and SB3's with warnings as errors, but for the infinite boxes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", INFINITE)
        check_env(env, skip_render_check=True)
        sb3_checks(env, skip_render_check=True)


def every_class() -> list[Any]:
    names = [*SHIPPED, *VARIANTS]
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", every_class())
def test_gymnasium_s_and_sb3_s_check_env_pass_flat_and_by_term(name: str):
    try:
        _ = load_task(name).model
    except ModelError as error:
        pytest.skip(str(error))
    checked(TaskEnv(name, threads=1))
    checked(TaskEnv(name, observations="dict"))


def test_the_check_sees_an_info_that_is_not_a_number():
    class Uncounted(TaskEnv):
        def step(self, action: np.ndarray) -> Any:
            *rest, info = super().step(action)
            return *rest, {**info, "metric/none": float("nan")}

    with pytest.raises(AssertionError):
        checked(Uncounted(Still()))


# -- ids -----------------------------------------------------------------------------------------------


def test_an_id_makes_a_shipped_task_and_a_batch_of_it():
    made = gymnasium.make(HOPPER)
    assert type(ours(made)) is TaskEnv and type(ours(made).inner.task).__name__ == "Hopper"
    assert made.observation_space.shape == (11,) and ours(made).metadata["render_fps"] == 125
    envs = gymnasium.make_vec(HOPPER, num_envs=3, threads=1)
    assert type(envs.unwrapped) is TaskVectorEnv and envs.observation_space.shape == (3, 11)


def test_an_id_makes_a_task_of_a_file_of_one_s_own(tmp_path: Path):
    file = tmp_path / "slow.py"
    source = "from robokit.tasks.hopper import Hopper\n\nclass Slow(Hopper):\n    control_dt = 0.016\n"
    file.write_text(source)
    made = gymnasium.make("robokit.interop:robokit/Task-v0", task=f"{file}:Slow")
    assert ours(made).inner.task.control_dt == 0.016
    variant = gymnasium.make("robokit.interop:robokit/Task-v0", task="hopper:SpeedLimit")
    variant.reset(seed=0)
    assert {"cost", "cost/speed"} <= variant.step(np.zeros(3, np.float32))[4].keys()


def test_an_unknown_id_or_task_is_told_the_nearest():
    with pytest.raises(gymnasium.error.NameNotFound, match="Did you mean: `hopper`"):
        gymnasium.make("robokit.interop:robokit/hoper-v0")
    with pytest.raises(TaskError, match="did you mean 'hopper'"):
        gymnasium.make("robokit.interop:robokit/Task-v0", task="hoper")


# -- one simulation --------------------------------------------------------------------------------------


def test_one_simulation_is_env_s_bit_for_bit_over_episodes():
    env, one = robokit.Env(Cart(), 1, seed=7, threads=1), TaskEnv(Cart())
    seen, _ = one.reset(seed=7)
    assert np.array_equal(seen, env.obs[0].numpy())
    actions, ends = np.random.default_rng(0).uniform(-1, 1, (70, 2)).astype(np.float32), 0
    for action in actions:
        step = env.step(torch.from_numpy(action)[None])
        seen, reward, terminated, truncated, info = one.step(action)
        final = step.final_obs if step.done else step.obs
        assert np.array_equal(seen, final[0].numpy())
        assert (reward, terminated, truncated) == (
            step.reward.item(),
            bool(step.terminated),
            bool(step.truncated),
        )
        assert info["reward/near"] == step.terms[0, 0].item() and info["cost"] == step.cost.item()
        if terminated or truncated:
            ends += 1
            assert np.array_equal(one.reset()[0], step.obs[0].numpy())
    assert ends >= 3


def test_without_a_seed_two_environments_differ_and_with_one_they_are_equal():
    drawn = [TaskEnv(Cart()).reset()[0] for _ in range(2)]
    assert not np.array_equal(*drawn)
    assert np.array_equal(*(TaskEnv(Cart(), seed=4).reset()[0] for _ in range(2)))
    assert not np.array_equal(*(TaskVectorEnv(Cart(), 2).reset()[0] for _ in range(2)))


def test_what_is_not_counted_is_not_in_the_info():
    def metrics(self: Any, sim: Any) -> Any:
        age = sim.memory["age"][:, 0]
        return {"late": torch.where(age > 0, age, torch.nan)}

    one = TaskEnv(but(metrics=metrics))
    one.reset(seed=0)
    infos = [one.step(np.zeros(2, np.float32))[4] for _ in range(2)]
    assert "metric/late" not in infos[0] and infos[1]["metric/late"] == 1.0


@draws
@pytest.mark.medium
def test_a_frame_is_rendered_in_the_size_asked_for():
    one = TaskEnv("hopper", render_mode="rgb_array", width=64, height=48)
    one.reset(seed=0)
    first = one.render()
    for _ in range(20):
        one.step(np.ones(3, np.float32))
    assert first.shape == (48, 64, 3) and first.std() > 0
    assert not np.array_equal(first, one.render())
    one.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"render_mode": "rgb"}, "render_mode is None or one of"),
        ({"observations": "dcit"}, "did you mean 'dict'"),
        ({"observations": "goal"}, "has no Goal with reward terms"),
        ({"nominl": True}, "TaskEnv takes no 'nominl'; did you mean 'nominal'"),
        ({"widht": 3}, "did you mean 'width'"),
        ({"num_envs": 3}, "TaskEnv takes no 'num_envs'"),
        ({"autoreset": True}, "TaskEnv takes no 'autoreset'"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], says: str):
    with pytest.raises(OptionError, match=says):
        TaskEnv("hopper", **options)


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_an_id_without_a_task_or_with_a_wrong_keyword_is_refused_in_words(make: Any):
    for options, says in (
        ({}, "needs a task: .* known are"),
        ({"tsk": "hopper"}, "no 'tsk'; did you mean 'task'"),
    ):
        with pytest.raises((OptionError, TaskError), match=says):
            make("robokit.interop:robokit/Task-v0", **options)


# -- batches -----------------------------------------------------------------------------------------------


def same(one: Any, other: Any) -> bool:
    """Equality of what gymnasium returns, and of its types."""
    if isinstance(one, tuple):
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, np.ndarray) and one.dtype == object:
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one is other


class Leaves(Still):
    """Without a draw: episodes end at the time limit or by the cart's place, each at a time of its own."""

    def terminated(self, sim: Any) -> Any:
        return sim.qpos[:, 0].abs() > 0.05

    def metrics(self, sim: Any) -> Any:
        return {"far": torch.where(sim.qpos[:, 0] > 0, sim.qpos[:, 0], torch.nan)}


@pytest.mark.parametrize("observations", ["flat", "dict"])
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_batch_is_gymnasium_s_loop_over_single_ones(mode: str, observations: Any):
    batch = TaskVectorEnv(Leaves(), 3, autoreset=mode, observations=observations, threads=1)
    loop = SyncVectorEnv([lambda: TaskEnv(Leaves(), observations=observations)] * 3, autoreset_mode=mode)
    assert batch.metadata["autoreset_mode"] == loop.metadata["autoreset_mode"]
    assert batch.observation_space == loop.observation_space
    assert same(batch.reset(seed=0), loop.reset(seed=0))
    actions, ends = np.random.default_rng(1).uniform(-1, 1, (3 * PERIODS, 3, 2)).astype(np.float32), 0
    actions[:, 0] = -0.5  # no force
    for action in actions:
        one, other = batch.step(action), loop.step(action)
        assert same(one, other)
        ends += int(one[2].sum()) + 100 * int(one[3].sum())
    assert ends > 102  # of both kinds


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_one_row_of_a_task_with_draws_is_gymnasium_s_loop_too(mode: str):
    batch = TaskVectorEnv("hopper", 1, autoreset=mode, threads=1)
    loop = SyncVectorEnv([lambda: TaskEnv("hopper")], autoreset_mode=mode)
    assert same(batch.reset(seed=5), loop.reset(seed=5))
    ends = 0
    for action in np.random.default_rng(2).uniform(-1, 1, (100, 1, 3)).astype(np.float32):
        one = batch.step(action)
        assert same(one, loop.step(action))
        ends += int(one[2].sum())
    assert ends >= 2


def test_gymnasium_s_wrappers_of_batches_run_on_it():
    envs: Any = gymnasium.make_vec(HOPPER, num_envs=4, threads=1)
    envs = NormalizeReward(NormalizeObservation(RecordEpisodeStatistics(envs)))
    obs, _ = envs.reset(seed=0)
    returns = 0
    for action in np.random.default_rng(0).uniform(-1, 1, (60, 4, 3)).astype(np.float32):
        obs, _, _, _, infos = envs.step(action)
        returns += int(infos["_episode"].sum()) if "episode" in infos else 0
    assert returns >= 4 and np.abs(obs).mean() < 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"autoreset": "Nextstep"}, "did you mean 'NextStep'"),
        ({"autoreset": "Disabled"}, "autoreset is one of"),
        ({"render_mode": "human"}, "a batch is not rendered"),
    ],
)
def test_a_wrong_option_of_a_batch_is_refused(options: dict[str, Any], says: str):
    with pytest.raises(OptionError, match=says):
        TaskVectorEnv("hopper", 2, **options)


def test_a_list_of_seeds_is_refused():
    with pytest.raises(OptionError, match="a seed is one number"):
        TaskVectorEnv("hopper", 2).reset(seed=[1, 2])


# -- goals -------------------------------------------------------------------------------------------------


class Restless(point.Point):
    """A new place every second control step."""

    commands = {"place": Command((-0.6,) * 3, (0.6,) * 3, unit="m", every=(0.04, 0.04))}


def test_the_goal_form_s_rewards_are_the_task_s_and_those_of_other_goals_by_hand():
    one = TaskEnv(Restless(), observations="goal")
    obs, _ = one.reset(seed=0)
    moved = 0
    for action in np.random.default_rng(0).uniform(-1, 1, (30, 3)).astype(np.float32):
        asked = obs["desired_goal"]
        obs, reward, *_, info = one.step(action)
        again = one.compute_reward(obs["achieved_goal"], asked, info)
        assert reward == pytest.approx(again, rel=1e-6)
        assert np.array_equal(obs["desired_goal"], obs["observation"][-3:])  # of the next action
        moved += not np.array_equal(asked, obs["desired_goal"])
    assert moved >= 14
    tips, goals = np.zeros((2, 3)), np.array([[0.3, 0.0, 0.4], [0.0, 0.0, 0.0]])
    assert one.compute_reward(tips, goals).tolist() == pytest.approx([-1.0, 0.0])  # 2 * -|goal|
    both = one.compute_reward(tips, goals, [{"reward/calm": -0.25}, {}])
    assert both.tolist() == pytest.approx([-1.25, 0.0])


def test_the_end_of_an_episode_keeps_the_goal_that_was_asked_for():
    batch = TaskVectorEnv(point.Point(), 2, autoreset="SameStep", observations="goal", threads=1)
    asked = batch.reset(seed=0)[0]["desired_goal"]
    obs, *_, infos = [batch.step(np.zeros((2, 3), np.float32)) for _ in range(40)][-1]
    for i, final in enumerate(infos["final_obs"]):
        assert np.array_equal(final["desired_goal"], asked[i])
        assert not np.array_equal(final["desired_goal"], obs["desired_goal"][i])
        assert np.array_equal(final["achieved_goal"], final["observation"][3:6])


def test_without_a_restart_in_the_step_an_ended_row_shows_the_goal_that_was_asked_for():
    """In step 40 the time is up, and the place is redrawn."""
    batch = TaskVectorEnv(Restless(), 2, observations="goal", threads=1)
    batch.reset(seed=0)
    steps = [batch.step(np.zeros((2, 3), np.float32)) for _ in range(41)]
    places = [obs["desired_goal"] for obs, *_ in steps[-5:]]
    assert steps[39][3].all() and not np.array_equal(places[0], places[1])  # redrawn in step 38
    assert np.array_equal(places[2], places[3]) and not np.array_equal(places[3], places[4])
