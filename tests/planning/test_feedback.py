"""Plans whose samples react: what falls without them stands; a new episode begins without gains."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import robokit
from robokit.errors import OptionError
from robokit.planning.feedback import LEAST, Feedback
from robokit.planning.planner import Config, Planner
from robokit.planning.rollout import TrueModel


class Falling:
    """x' = 1.5 x + u / 2, of which an early error grows 3,000-fold within 20 control steps; ends at 1."""

    def __init__(self, x: Tensor) -> None:
        self.x = self.obs = x

    def start(self, rows: Tensor) -> None:
        self.obs = self.x[rows]

    def next(self, x: Tensor, action: Tensor) -> Tensor:
        return 1.5 * x + action / 2

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.obs = self.next(self.obs, action)
        x = self.obs[:, 0]
        return 1 - x.square(), x.new_zeros(len(x), 0), x.abs() < 1


def played(config: Config) -> tuple[Tensor, Planner]:
    """(largest |x| after each of 30 control steps from two starts, the planner)."""
    model = Falling(torch.tensor([[0.3], [-0.2]]))
    task = SimpleNamespace(control_dt=0.1, limits={})
    env: Any = SimpleNamespace(task=task, num_envs=2, act_dim=1, obs_dim=1, max_age=100)
    planner, largest = Planner(model, config, env), []
    for _ in range(30):
        model.x = model.next(model.x, planner.plan())
        largest.append(model.x.abs().max())
        step: Any = SimpleNamespace(cost=torch.zeros(2, 0), done=torch.zeros(2, dtype=torch.bool))
        planner.follow(model.obs, step)
    return torch.stack(largest), planner


REACTS = Config(
    rule="elites", horizon=2.0, iterations=3, sigma=0.01, least=0.01, kept=0, temperature=2.0, feedback=2.0
)


def test_samples_that_react_hold_what_falls_within_a_plan():
    largest, planner = played(REACTS)
    assert largest[-10:].max() < 0.05
    assert planner.feedback is not None
    assert ((1.5 + planner.feedback.mean / 2).abs() < 1).all()


def test_the_gains_are_those_of_the_samples_by_weight_and_a_new_episode_has_none():
    gains = Feedback((2, 1, 3), 2.0, torch.Generator().manual_seed(0))
    gains.begin(torch.arange(2).repeat(4))
    obs = torch.eye(3)[torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])]
    acted = gains.act(obs, torch.zeros(8, 1))
    assert acted[-2:].abs().max() == 0  # the last sample has the mean, at first none
    assert acted[:-2].abs().min() > 0
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    gains.improve(weight)
    best = torch.stack((acted[0, 0], acted[3, 0]))
    assert torch.allclose(torch.stack((gains.mean[0, 0, 0], gains.mean[1, 0, 1])).clamp(-1, 1), best)
    assert torch.allclose(gains.std, torch.tensor(2 * LEAST))
    gains.follow(obs[:2], torch.tensor([True, False]))
    assert gains.mean[0].abs().max() == 0 < gains.mean[1].abs().max()
    assert (gains.std[0] == 2.0).all()
    assert torch.allclose(gains.std[1], torch.tensor(2 * LEAST))


def test_it_asks_for_a_model_that_looks():
    env = robokit.make("inverted_pendulum", 1, threads=1)
    config = replace(REACTS, samples=16, horizon=0.2)
    with pytest.raises(OptionError, match="need a TrueModel"):
        Planner(TrueModel(env, 16, threads=1), config, env)
    action = Planner(TrueModel(env, 16, threads=1, look=True), config, env).plan()
    assert action.shape == (1, 1)
