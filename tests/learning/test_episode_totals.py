"""Return and length of the episodes that finished; terms of a task that no training can use."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from cart import Still, but
from torch import Tensor

from robokit.algos import ppo, sac
from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.learning.episodes import EpisodeTotals, Reach, beyond
from robokit.sim.base import Sim
from robokit.task.task import Task, Terms


def test_episode_means_count_each_finished_episode_once():
    episodes = EpisodeTotals(2, torch.device("cpu"))
    assert episodes.summary() == {}
    for done in ([False, True], [True, False], [False, False]):
        episodes.add(torch.tensor([[1.0, 10.0]]), torch.tensor([done]))
    assert episodes.summary() == {"episode/return": 6.0, "episode/length": 1.5, "episode/count": 2.0}
    assert episodes.summary() == {}
    episodes.add(torch.tensor([[1.0, 10.0]]), torch.tensor([[False, True]]))
    assert episodes.summary()["episode/return"] == 30.0


def test_many_steps_at_once_are_the_steps_one_by_one():
    torch.manual_seed(0)
    at_once, one_by_one = (EpisodeTotals(5, torch.device("cpu")) for _ in range(2))
    for steps in (1, 7, 30):
        reward, done = torch.randn(steps, 5), torch.rand(steps, 5) < 0.1
        done[:, 0] = False  # never ends
        at_once.add(reward, done)
        for t in range(steps):
            one_by_one.add(reward[t : t + 1], done[t : t + 1])
        assert at_once.summary() == pytest.approx(one_by_one.summary())
        running = (x.state_dict()["running"] for x in (at_once, one_by_one))
        torch.testing.assert_close(*running)


# -- terms that no training can use --------------------------------------------------------------

PPO = ppo.Config(num_envs=2, horizon=8, minibatch=16, epochs=1, hidden=(8,), compile=False)
SAC = sac.Config(num_envs=2, learning_starts=2, batch=2, replay=64, utd=0.5, hidden=(8,), compile=False)


def spoiled(function: str, name: str, value: float) -> Task:
    """Cart whose term is `value` in the third control step of an episode."""

    def change(self: Any, sim: Sim, *action: Tensor) -> Terms:
        terms = getattr(Still, function)(self, sim, *action)
        at = sim.memory["age"][:, 0] == 2
        wide = at[:, None] if terms[name].ndim == 2 else at
        return terms | {name: torch.where(wide, value, terms[name].to(sim.dtype))}

    return but(**{function: change, "sensing": {}})


def train(task: Task, config: Any) -> None:
    module: Any = ppo if isinstance(config, ppo.Config) else sac
    learner = module.Learner(Env(task, 2, threads=1), replace(config, normalize_obs=True))
    learner.horizon = 8
    learner.iterate()


@pytest.mark.parametrize("config", [PPO, SAC], ids=["ppo", "sac"])
@pytest.mark.parametrize(
    ("function", "name", "value", "said"),
    [
        ("observe", "tip", torch.inf, "^observe 'tip' (inf) must be finite and within 1e+15"),
        ("observe", "tip", torch.nan, "^observe 'tip' (nan) must"),
        ("observe", "tip", 1e30, "^observe 'tip' (1e+30) must"),
        ("privileged", "ball", torch.inf, "^privileged 'ball' (inf) must"),
        ("rewards", "near", 1e38, "^rewards 'near' (1e+38) must"),
        ("rewards", "near", torch.nan, "^rewards 'near' (nan) must"),
        ("costs", "away", torch.inf, "^costs 'away' (inf) must"),
        ("metrics", "age", torch.inf, "^metrics 'age' (inf) must"),
    ],
)
def test_a_training_names_the_term_that_ruins_it(
    config: Any, function: str, name: str, value: float, said: str
):
    with pytest.raises(TaskError, match=said.replace("(", r"\(").replace(")", r"\)").replace("+", r"\+")):
        train(spoiled(function, name, value), config)


def test_a_metric_that_is_not_counted_is_no_fault_and_a_large_term_is_none():
    train(spoiled("metrics", "age", torch.nan), PPO)
    train(spoiled("observe", "tip", 1e6), PPO)


def test_a_carried_term_is_not_named_beside_the_term_it_follows_from():
    x = torch.tensor([[1.0, torch.nan, 2.0], [torch.inf, 0.0, 1.0]])
    names = ["observe 'ratio'", "observe 'action'", "observe 'q'"]
    assert beyond(names, x).startswith("observe 'ratio' (inf) must")
    assert beyond(names[1:2], x[:, 1:2]).startswith("observe 'action' (nan) must")
    assert beyond(names, torch.ones(2, 3)) == ""


def test_the_names_follow_the_columns():
    env = Env(Still(), 2, threads=1)
    reach = Reach(env, env.names.state)
    logged = torch.zeros(1, 2, len(env.labels))
    for column in range(env.state_dim):
        state = torch.zeros(1, 2, env.state_dim)
        state[..., column] = torch.inf
        reach.look(torch.zeros(1, 2, env.obs_dim), state, logged)
        name = [n for n, width in env.names.state.items() for _ in range(width)][column].split()[-1]
        assert float(reach.beyond) == 1 and f"{name!r} (inf)" in str(reach.error())
