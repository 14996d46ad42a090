"""Return and length of the episodes that finished."""

import torch

from robokit.learning.episodes import EpisodeTotals


def test_episode_means_count_each_finished_episode_once():
    episodes = EpisodeTotals(2, torch.device("cpu"))
    assert episodes.summary() == {}
    for done in ([False, True], [True, False], [False, False]):
        episodes.add(torch.tensor([1.0, 10.0]), torch.tensor(done))
    assert episodes.summary() == {"episode/return": 6.0, "episode/length": 1.5, "episode/count": 2.0}
    assert episodes.summary() == {}
    episodes.add(torch.tensor([1.0, 10.0]), torch.tensor([False, True]))
    assert episodes.summary()["episode/return"] == 30.0
