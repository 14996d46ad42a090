"""Return and length of the episodes that finished."""

import pytest
import torch

from robokit.learning.episodes import EpisodeTotals


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
