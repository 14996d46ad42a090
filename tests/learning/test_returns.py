"""Returns and advantages against values computed by hand and plain loops."""

import pytest
import torch

from robokit.learning.returns import average, discounted_sums, gae, n_step, shares

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


# -- n-step sums: gamma = .5 and rewards 1, 2, 4, 8, 16, so that each sum tells its parts --------------

REWARD = 2.0 ** torch.arange(5)[:, None, None]  # (5, 1, 1)


def flags(*ends: int) -> torch.Tensor:
    """(5, 1) bool: true at these steps."""
    return torch.tensor([t in ends for t in range(5)])[:, None]


def test_one_step_is_the_reward_and_what_follows_unless_the_episode_terminated():
    over = flags(1, 4)[..., None]
    total, discount, last = n_step(REWARD, over, flags(1, 2, 4), 1, gamma=0.5)
    assert total.flatten().tolist() == [1, 2, 4, 8, 16]
    assert discount.flatten().tolist() == [0.5, 0, 0.5, 0.5, 0]
    assert last.flatten().tolist() == [0, 1, 2, 3, 4]


def test_n_steps_end_with_their_episode_where_a_truncation_bootstraps_and_a_termination_does_not():
    for over, discounts in (((), [0.25, 0.5, 0.125]), ((1,), [0.0, 0.0, 0.125])):
        total, discount, last = n_step(REWARD, flags(*over)[..., None], flags(1), 3, gamma=0.5)
        assert total.flatten().tolist() == [1 + 0.5 * 2, 2, 4 + 0.5 * 8 + 0.25 * 16]
        assert discount.flatten().tolist() == discounts
        assert last.flatten().tolist() == [1, 1, 4]


def test_more_steps_than_are_left_of_the_episode_change_nothing():
    over, done = flags(3)[..., None], flags(0, 3)
    total, discount, last = n_step(REWARD, over, done, 5, gamma=0.5)
    assert (total.item(), discount.item(), last.item()) == (1.0, 0.5, 0)
    total, discount, last = n_step(REWARD[1:], over[1:], done[1:], 4, gamma=0.5)
    assert (total.item(), discount.item(), last.item()) == (2 + 0.5 * 4 + 0.25 * 8, 0.0, 3 - 1)


def test_a_column_can_be_over_while_the_episode_and_the_others_go_on():
    reward = REWARD.expand(5, 1, 2)
    over = torch.stack((flags(), flags(1)), -1)
    total, discount, last = n_step(reward, over, flags(), 3, gamma=0.5)
    assert total[0, 0].tolist() == [1 + 0.5 * 2 + 0.25 * 4, 1 + 0.5 * 2]
    assert discount[0, 0].tolist() == [0.125, 0.0]
    assert total[2, 0].tolist() == [4 + 0.5 * 8 + 0.25 * 16] * 2  # it is over from there, not before
    assert last.flatten().tolist() == [2, 3, 4]


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_n_step_sums_are_those_of_a_plain_loop(n: int):
    rng, gamma, length = torch.Generator().manual_seed(n), 0.9, 20
    rows = length + n - 1, 6
    reward = torch.randn(*rows, 3, generator=rng)
    terminated, truncated = torch.rand(2, *rows, generator=rng) < 0.2
    over = terminated[..., None] | (torch.rand(*rows, 3, generator=rng) < 0.1)
    done = terminated | truncated
    total, discount, last = n_step(reward, over, done, n, gamma)
    for t in range(length):
        for m in range(6):
            for c in range(3):
                expected, left, step = 0.0, 1.0, t
                for step in range(t, t + n):
                    expected += left * reward[step, m, c].item()
                    left *= gamma * (not over[step, m, c])
                    if done[step, m]:
                        break
                assert total[t, m, c].item() == pytest.approx(expected, abs=1e-5)
                assert discount[t, m, c].item() == pytest.approx(left)
                assert last[t, m].item() == step


def test_an_average_leaves_out_what_is_not_valid_and_of_nothing_is_0():
    x = torch.tensor([1.0, torch.nan, 3.0])
    assert average(x, shares(torch.tensor([True, False, True]))).item() == 2.0
    assert average(x, shares(torch.zeros(3, dtype=torch.bool))).item() == 0.0
