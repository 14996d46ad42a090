"""Returns and advantages, by hand and against plain loops."""

import pytest
import torch

from robokit.returns import discounted_sums, gae

TRUE, FALSE = torch.tensor([[True]]), torch.tensor([[False]])


def test_truncation_keeps_the_value_that_follows_and_termination_drops_it():
    one = {"reward": torch.ones(1, 1), "value": torch.zeros(1, 1), "next_value": torch.full((1, 1), 10.0)}
    assert gae(**one, terminated=FALSE, done=TRUE, gamma=0.9, lam=0.95).item() == 10.0
    assert gae(**one, terminated=TRUE, done=TRUE, gamma=0.9, lam=0.95).item() == 1.0


def test_an_advantage_never_looks_past_the_end_of_its_episode():
    reward = torch.tensor([[1.0], [2.0], [100.0]])
    done = torch.tensor([[False], [True], [False]])
    zero, never = torch.zeros(3, 1), torch.zeros(3, 1, dtype=torch.bool)
    for terminated in (done, never):
        advantage = gae(reward, zero, zero, terminated, done, gamma=0.5, lam=1.0)
        assert advantage[:, 0].tolist() == [2.0, 2.0, 100.0]


def test_gae_is_the_exponentially_weighted_sum_of_n_step_advantages():
    torch.manual_seed(0)
    reward, value, following = torch.rand(3, 5, 2, dtype=torch.float64).unbind(0)
    never, gamma, lam = torch.zeros(5, 2, dtype=torch.bool), 0.9, 0.8
    delta = reward + gamma * following - value
    expected = torch.stack([sum((gamma * lam) ** k * delta[t + k] for k in range(5 - t)) for t in range(5)])  # pyright: ignore
    torch.testing.assert_close(gae(reward, value, following, never, never, gamma, lam), expected)


def test_discounted_sums_carry_over_rollouts_and_restart_with_the_episode():
    reward = torch.ones(3, 1)
    done = torch.tensor([[False], [True], [False]])
    sums, carry = discounted_sums(reward, done, torch.tensor([4.0]), gamma=0.5)
    assert sums[:, 0].tolist() == [3.0, 2.5, 1.0]
    assert carry.item() == 1.0
    _, ended = discounted_sums(reward[:1], TRUE, torch.tensor([4.0]), gamma=0.5)
    assert ended.item() == 0.0


def test_gae_of_costs_takes_a_trailing_dimension():
    cost = torch.ones(2, 3, 4)
    off = torch.zeros(2, 3, 1, dtype=torch.bool)
    advantage = gae(cost, torch.zeros_like(cost), torch.zeros_like(cost), off, off, 0.5, 1.0)
    assert advantage.shape == cost.shape
    assert advantage[0].unique().item() == pytest.approx(1.5)
