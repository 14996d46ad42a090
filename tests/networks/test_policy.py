"""Heads, optimiser and episode statistics, compared with exact references."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution, kl_divergence

from robokit.learning.adam import Adam, make_update
from robokit.learning.episodes import EpisodeTotals
from robokit.networks.belief import Memoryless
from robokit.networks.distributions import entropy, kl, log_prob, squashed_log_prob
from robokit.networks.mirror import Reflection
from robokit.networks.mlp import mlp
from robokit.networks.policy import Deterministic, Gaussian, SquashedGaussian


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
    episodes = EpisodeTotals(2, torch.device("cpu"))
    assert episodes.summary() == {}
    for done in ([False, True], [True, False], [False, False]):
        episodes.add(torch.tensor([1.0, 10.0]), torch.tensor(done))
    assert episodes.summary() == {"episode/return": 6.0, "episode/length": 1.5, "episode/count": 2.0}
    assert episodes.summary() == {}
    episodes.add(torch.tensor([1.0, 10.0]), torch.tensor([False, True]))
    assert episodes.summary()["episode/return"] == 30.0


def test_entropy_of_a_unit_gaussian():
    assert entropy(torch.zeros(1)).item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e))


# -- squashed by tanh ----------------------------------------------------------------------------------


def squashed(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """u, mean, log_std and noise, (500, 3) each in float64."""
    rng = torch.Generator().manual_seed(seed)
    mean, log_std, noise = torch.randn(3, 500, 3, generator=rng, dtype=torch.float64).unbind()
    return mean + log_std.exp() * noise, mean, log_std, noise


def test_a_squashed_log_prob_is_that_of_torchs_distribution():
    u, mean, log_std, noise = squashed()
    tanh = TanhTransform(cache_size=1)  # it remembers u, and need not invert tanh
    theirs, action = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [tanh]), tanh(u)
    assert action is not None
    torch.testing.assert_close(squashed_log_prob(u, noise, log_std), theirs.log_prob(action))


def test_a_squashed_log_prob_is_the_change_of_variables_by_autograd():
    u, mean, log_std, noise = squashed(1)
    slope = torch.func.vmap(torch.func.jacrev(torch.tanh))(u)  # (500, 3, 3), diagonal
    expected = log_prob(u, mean, log_std) - torch.linalg.slogdet(slope).logabsdet
    inside = u.abs().amax(-1) < 8  # beyond it tanh' is all rounding
    assert inside.sum() > 450
    torch.testing.assert_close(squashed_log_prob(u, noise, log_std)[inside], expected[inside])


def test_the_densities_of_a_squashed_gaussian_sum_to_one():
    u = torch.linspace(-30, 30, 600_001, dtype=torch.float64)[:, None]
    mean, log_std = torch.tensor([0.4]).double(), torch.tensor([0.3]).double()
    density, action = squashed_log_prob(u, (u - mean) / log_std.exp(), log_std).exp(), torch.tanh(u[:, 0])
    assert torch.trapezoid(density, action).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("u", [50.0, -50.0])
def test_a_squashed_log_prob_and_its_gradients_are_exact_far_out(u: float):
    mean = torch.tensor([u], requires_grad=True)  # there float32 has 1 - tanh(u)^2 = 0
    log_std = torch.zeros(1, requires_grad=True)
    value = squashed_log_prob(mean + log_std.exp() * 0.5, torch.full((1,), 0.5), log_std)
    of_mean, of_std = torch.autograd.grad(value, (mean, log_std))
    far = abs(u + 0.5)
    expected = -0.125 - 0.5 * math.log(2 * math.pi) - 2 * math.log(2) + 2 * far
    assert value.item() == pytest.approx(expected, rel=1e-6)
    sign = math.copysign(1.0, u)
    assert of_mean.item() == pytest.approx(2 * sign)  # the density falls as exp(-2 |u|)
    assert of_std.item() == pytest.approx(-1 + 2 * sign * 0.5)


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
