"""Normaliser, beliefs, heads, optimiser and episode statistics, beside exact references."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from robokit.belief import Memoryless, Normalizer, Stack, make_belief
from robokit.episodes import Episodes
from robokit.errors import OptionError
from robokit.optim import Adam, make_update
from robokit.policy import Policy, entropy, kl, log_prob, mlp


def test_normalizer_merges_batches_to_the_mean_and_variance_of_all_valid_rows():
    torch.manual_seed(0)
    rows, valid = torch.randn(100, 3) * 5 + 2, torch.rand(100) > 0.2
    rows[~valid] = float("nan")
    normalizer = Normalizer(3)
    for part in ((rows[:30], valid[:30]), (rows[30:31], valid[30:31]), (rows[31:], valid[31:])):
        normalizer.update(*part)
    torch.testing.assert_close(normalizer.mean, rows[valid].mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(normalizer.var, rows[valid].var(0, correction=0), rtol=1e-3, atol=1e-3)


def test_a_batch_without_a_valid_row_moves_nothing():
    normalizer = Normalizer(2)
    normalizer.update(torch.full((4, 2), float("nan")), torch.zeros(4, dtype=torch.bool))
    assert normalizer.mean.tolist() == [0.0, 0.0] and normalizer.var.tolist() == [1.0, 1.0]


def test_stack_is_term_major_oldest_first_and_starts_full_of_the_first_frame():
    stack = Stack({"a": 1, "b": 2}, {"b": 3})
    identity = Normalizer(3, active=False)
    belief, first = torch.full((1, stack.size), float("nan")), torch.tensor([True])
    features = torch.empty(0)
    for t in range(4):
        obs = torch.tensor([[10.0 + t, 20.0 + t, 30.0 + t]])
        features, belief = stack(obs, belief, first, identity)
        first = torch.tensor([False])
        if t == 0:
            assert features.tolist() == [[10, 20, 30, 20, 30, 20, 30]]
    assert features.tolist() == [[13, 21, 31, 22, 32, 23, 33]]


def test_stack_keeps_raw_frames_and_normalises_on_reading():
    stack, normalizer = Stack({"a": 1}, 2), Normalizer(1)
    normalizer.mean.fill_(1.0)
    normalizer.var.fill_(4.0)
    features, belief = stack(
        torch.tensor([[5.0]]), torch.tensor([[0.0, 3.0]]), torch.tensor([False]), normalizer
    )
    assert belief.tolist() == [[3.0, 5.0]]
    torch.testing.assert_close(features, torch.tensor([[1.0, 2.0]]))


def test_beliefs_are_refused_by_name_and_length():
    with pytest.raises(OptionError, match="memoryless"):
        make_belief("transformer", {"a": 1}, 1)
    with pytest.raises(OptionError, match="at least 1"):
        make_belief("stack", {"a": 1}, {"a": 0})


def test_gaussian_quantities_are_those_of_torch_distributions():
    torch.manual_seed(0)
    mean0, mean1, action = torch.randn(3, 7, 4).unbind(0)
    std0, std1 = torch.rand(2, 4).add(0.5).unbind(0)
    first, second = (Independent(Normal(m, s.expand_as(m)), 1) for m, s in ((mean0, std0), (mean1, std1)))
    torch.testing.assert_close(log_prob(action, mean0, std0.log()), first.log_prob(action))
    torch.testing.assert_close(kl(mean0, std0.log(), mean1, std1.log()), kl_divergence(first, second))
    torch.testing.assert_close(entropy(std0.log()), first.entropy()[0])


def test_the_exported_action_is_the_clipped_mean():
    policy = Policy(3, 2, Memoryless({"a": 3}))
    with torch.no_grad():
        policy.head[-1].bias.copy_(torch.tensor([5.0, 0.25]))  # pyright: ignore
        policy.head[-1].weight.zero_()  # pyright: ignore
    action, _ = policy(torch.zeros(1, 3), torch.zeros(1, 0), torch.tensor([True]))
    assert action.tolist() == [[1.0, 0.25]]
    assert policy.mean(torch.zeros(1, 3), torch.zeros(1, 0), torch.tensor([True]))[0].tolist() == [
        [5.0, 0.25]
    ]


def test_layers_start_orthogonal():
    first, _, last = mlp((8, 8, 2), "tanh", 0.01)
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    torch.testing.assert_close(first.weight @ first.weight.T, 2 * torch.eye(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(2), atol=1e-7, rtol=0)
    assert not first.bias.any()


def square_loss(net: nn.Module, x: torch.Tensor, y: torch.Tensor):
    loss = (net(x) - y).square().mean()
    return loss, {"loss": loss.detach()}


@pytest.mark.parametrize("limit", [0.3, 100.0])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_adam_with_clipping_is_torchs(compiled, limit):
    torch.manual_seed(0)
    ours, theirs = mlp((3, 5, 1), "tanh", 1.0), mlp((3, 5, 1), "tanh", 1.0)
    theirs.load_state_dict(ours.state_dict())
    update = make_update(ours, square_loss, Adam(ours, eps=1e-5, max_grad_norm=limit), compiled)
    peer = torch.optim.Adam(theirs.parameters(), lr=0.01, eps=1e-5)
    for _ in range(20):
        x, y = torch.randn(8, 3), torch.randn(8, 1) * 3
        norm = update(torch.tensor(0.01), x, y)["grad_norm"]
        peer.zero_grad()
        square_loss(theirs, x, y)[0].backward()
        assert norm.item() == pytest.approx(
            nn.utils.clip_grad_norm_(theirs.parameters(), limit).item(), rel=1e-4
        )
        peer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_episode_means_count_each_finished_episode_once():
    episodes = Episodes(2, torch.device("cpu"))
    assert episodes.summary() == {}
    for done in ([False, True], [True, False], [False, False]):
        episodes.add(torch.tensor([1.0, 10.0]), torch.tensor(done))
    assert episodes.summary() == {"episode/return": 6.0, "episode/length": 1.5, "episode/count": 2.0}
    assert episodes.summary() == {}
    episodes.add(torch.tensor([1.0, 10.0]), torch.tensor([False, True]))
    assert episodes.summary()["episode/return"] == 30.0


def test_entropy_of_a_unit_gaussian():
    assert entropy(torch.zeros(1)).item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e))
