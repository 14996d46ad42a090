"""Adam on one vector of a module's parameters: state, schedule, vanishing moments, compiled updates."""

import copy

import pytest
import torch
from torch import nn

from robokit.compute.compile import compiled, torch_threads
from robokit.learning.adam import BETA1, BETA2, Adam, make_update
from robokit.networks.policy import mlp


def square_loss(net: nn.Module, x: torch.Tensor, y: torch.Tensor):
    loss = (net(x) - y).square().mean()
    return loss, {"loss": loss.detach()}


def test_a_module_sees_every_update_and_keeps_its_state_dict():
    net = mlp((3, 5, 1), "tanh", 1.0)
    before = copy.deepcopy(net.state_dict())
    adam = Adam(net)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    adam.flat.add_(1.0)
    assert all(torch.equal(before[k] + 1, v) for k, v in net.state_dict().items())
    net.load_state_dict(before)
    assert torch.equal(adam.flat, torch.cat([p.flatten() for p in before.values()]))


def test_moments_are_saved_by_name_and_continue_the_same():
    x, y, lr = torch.randn(8, 3), torch.randn(8, 1), torch.tensor(0.01)
    one, other = mlp((3, 5, 1), "tanh", 1.0), mlp((3, 5, 1), "tanh", 1.0)
    mine, theirs = Adam(one), Adam(other)
    update, again = make_update(square_loss, mine), make_update(square_loss, theirs)
    update(lr, x, y)
    assert mine.state_dict()["first.0.weight"].shape == (5, 3)
    other.load_state_dict(one.state_dict())
    theirs.load_state_dict(mine.state_dict())
    for step in (update, again):
        step(lr, x, y)
    assert torch.equal(mine.flat, theirs.flat) and torch.equal(mine.second, theirs.second)


def test_a_schedule_moves_the_learning_rate_after_the_step():
    net, lr = mlp((3, 1), "tanh", 1.0), torch.tensor(0.5)
    update = make_update(square_loss, Adam(net), schedule=lambda lr, parts: lr / 2)
    bias = dict(net.named_parameters())["0.bias"]
    before = bias.clone()
    update(lr, torch.zeros(8, 3), torch.full((8, 1), 9.0))
    assert lr.item() == 0.25
    assert (bias - before).item() == pytest.approx(0.5, rel=1e-3)  # Adam's first step is lr


@pytest.mark.parametrize("threads", [1, 2])
def test_moments_of_a_gradient_that_stays_zero_end_at_zero_on_every_thread(threads: int):
    net = nn.Linear(400, 200)  # more than one thread's share
    adam = Adam(net, max_grad_norm=torch.inf)
    adam.first.fill_(2e-30)
    adam.second.fill_(1.0005e-30)
    adam.first[0] = adam.second[0] = 1e-3
    before = net.weight.clone()
    with torch_threads(threads), torch.no_grad():
        for _ in range(10):
            adam.apply([torch.zeros_like(p) for p in net.parameters()], torch.tensor(1e-3))
    assert not adam.first[1:].any() and not adam.second[1:].any()
    assert adam.first[0].item() == pytest.approx(1e-3 * BETA1**10)
    assert adam.second[0].item() == pytest.approx(1e-3 * BETA2**10)
    assert torch.equal(net.weight.flatten()[1:], before.flatten()[1:])


@pytest.mark.slow
def test_two_compiled_updates_of_one_code_share_nothing():
    nets = mlp((3, 5, 1), "tanh", 1.0), mlp((3, 9, 1), "tanh", 1.0)
    x, y, lr = torch.randn(8, 3), torch.randn(8, 1), torch.tensor(0.01)
    for net in nets:  # other shapes, and nothing is checked after the first call
        eager = copy.deepcopy(net)
        make_update(square_loss, Adam(net), compile=True)(lr, x, y)
        make_update(square_loss, Adam(eager))(lr, x, y)
        for a, b in zip(net.parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_function_keeps_its_defaults_and_closure():
    shift = torch.ones(3)

    def add(x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return x * scale + shift

    assert compiled(add, torch.device("cpu"))(torch.ones(3)).tolist() == [3.0] * 3
