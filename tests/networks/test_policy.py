"""Actions of each kind of policy from the output of its head; and the optimiser, compared with torch's."""

import math

import pytest
import torch
from torch import nn

from robokit.learning.adam import Adam, make_update
from robokit.networks.belief import Memoryless
from robokit.networks.distributions import squashed_log_prob
from robokit.networks.mirror import Reflection
from robokit.networks.mlp import mlp
from robokit.networks.policy import Deterministic, Gaussian, SquashedGaussian


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


# -- squashed by tanh ----------------------------------------------------------------------------------


def squashed_policy(mean: list[float], log_std: list[float]) -> SquashedGaussian:
    """One that always says this."""
    policy = SquashedGaussian(3, 2, Memoryless({"a": 3}), normalize=False)
    with torch.no_grad():
        policy.head[-1].weight.zero_()  # pyright: ignore
        policy.head[-1].bias.copy_(torch.tensor(mean + log_std))  # pyright: ignore
    return policy


ONE = torch.zeros(1, 3), torch.zeros(1, 0), torch.tensor([True])


@torch.no_grad()
def test_a_squashed_policy_acts_by_tanh_of_the_mean_and_explores_within_bounds_of_its_deviation():
    policy = squashed_policy([0.5, -2.0], [100.0, math.log(0.1)])
    torch.testing.assert_close(policy(*ONE)[0], torch.tensor([[math.tanh(0.5), math.tanh(-2.0)]]))
    drawn, _ = policy.sample(*ONE, torch.tensor([[0.01, 3.0]]))
    expected = [[math.tanh(0.5 + 0.01 * math.e**2), math.tanh(-1.7)]]
    torch.testing.assert_close(drawn, torch.tensor(expected))
    action, density = policy.draw(policy.decode(ONE[0]), torch.tensor([[0.01, 3.0]]))
    u = torch.tensor([[0.5 + 0.01 * math.e**2, -1.7]])
    torch.testing.assert_close(action, drawn)
    scale = torch.tensor([[2.0, math.log(0.1)]])
    torch.testing.assert_close(density, squashed_log_prob(u, torch.tensor([[0.01, 3.0]]), scale))


@torch.no_grad()
def test_a_deterministic_policy_explores_with_its_noise_and_stays_in_range():
    policy = Deterministic(3, 2, Memoryless({"a": 3}), normalize=False, noise=0.1)
    policy.head[-1].weight.zero_()  # pyright: ignore
    policy.head[-1].bias.copy_(torch.tensor([0.5, 3.0]))  # pyright: ignore
    calm = torch.tensor([[math.tanh(0.5), math.tanh(3.0)]])
    torch.testing.assert_close(policy(*ONE)[0], calm)
    drawn, _ = policy.sample(*ONE, torch.tensor([[-2.0, 2.0]]))
    torch.testing.assert_close(drawn, torch.tensor([[math.tanh(0.5) - 0.2, 1.0]]))


@torch.no_grad()
def test_a_mirrored_squashed_policy_mirrors_its_mean_and_only_moves_its_deviations():
    torch.manual_seed(0)
    obs_mirror, action_mirror = Reflection([1, 0, 2], [1.0, 1.0, -1.0]), Reflection([1, 0], [-1.0, -1.0])
    policy = SquashedGaussian(3, 2, Memoryless({"a": 3}), normalize=False, mirror=(obs_mirror, action_mirror))
    obs = torch.randn(5, 3)
    first, belief = torch.zeros(5, dtype=torch.bool), torch.zeros(5, 0)
    (mean, log_std), (mirrored, theirs) = (
        policy.decode(policy.encode(x, belief, first)[0]).chunk(2, -1) for x in (obs, obs_mirror(obs))
    )
    torch.testing.assert_close(mirrored, action_mirror(mean))
    torch.testing.assert_close(theirs, log_std[:, [1, 0]])
    assert (log_std[:, 0] - log_std[:, 1]).abs().min() > 1e-3
