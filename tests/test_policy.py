"""Heads, optimiser and episode statistics, beside exact references."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from robokit.belief import Memoryless
from robokit.episodes import Episodes
from robokit.networks import mlp
from robokit.optim import Adam, make_update
from robokit.policy import Gaussian, entropy, kl, log_prob


def test_gaussian_quantities_are_those_of_torch_distributions():
    torch.manual_seed(0)
    mean0, mean1, action = torch.randn(3, 7, 4).unbind(0)
    std0, std1 = torch.rand(2, 4).add(0.5).unbind(0)
    first, second = (Independent(Normal(m, s.expand_as(m)), 1) for m, s in ((mean0, std0), (mean1, std1)))
    torch.testing.assert_close(log_prob(action, mean0, std0.log()), first.log_prob(action))
    torch.testing.assert_close(kl(mean0, std0.log(), mean1, std1.log()), kl_divergence(first, second))
    torch.testing.assert_close(entropy(std0.log()), first.entropy()[0])


def test_the_exported_action_is_the_clipped_mean():
    policy = Gaussian(3, 2, Memoryless({"a": 3}))
    with torch.no_grad():
        policy.head[-1].bias.copy_(torch.tensor([5.0, 0.25]))  # pyright: ignore
        policy.head[-1].weight.zero_()  # pyright: ignore
    action, _ = policy(torch.zeros(1, 3), torch.zeros(1, 0), torch.tensor([True]))
    assert action.tolist() == [[1.0, 0.25]]
    unclipped, _ = policy.sample(
        torch.zeros(1, 3), torch.zeros(1, 0), torch.tensor([True]), torch.zeros(1, 2)
    )
    assert unclipped.tolist() == [[5.0, 0.25]]


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
    update = make_update(square_loss, Adam(ours, eps=1e-5, max_grad_norm=limit), compiled)
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
