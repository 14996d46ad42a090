"""An ensemble computes the same as its members one by one."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from robokit.errors import OptionError
from robokit.networks.mlp import ACTIVATIONS, Ensemble, mlp

SIZES = (5, 16, 16, 3)


def ensemble(seed: int = 0, sizes: tuple[int, ...] = SIZES, members: int = 3, **options: bool) -> Ensemble:
    torch.manual_seed(seed)
    return Ensemble(members, sizes, "silu", **options)


def apart(net: Ensemble, member: int, layer_norm: bool = False) -> nn.Sequential:
    """One member as torch's own layers."""
    layers = list[nn.Module]()
    for weights, biases in zip(net.weights, net.biases, strict=True):
        weight, bias = weights[member].mT, biases[member, 0]
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data.copy_(weight)
        linear.bias.data.copy_(bias)
        norm = [nn.LayerNorm(len(weight), elementwise_affine=False)] if layer_norm else []
        layers += [linear, *norm, nn.SiLU()]
    return nn.Sequential(*layers[: -2 - layer_norm], layers[-2 - layer_norm])


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("sizes", [(5, 3), (5, 1), SIZES, (5, 16, 1)])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_an_ensemble_is_its_members_apart_in_values_and_gradients(sizes: tuple[int, ...], layer_norm: bool):
    net, x = ensemble(sizes=sizes, layer_norm=layer_norm), numbers(7, 5)
    peers = [apart(net, e, layer_norm) for e in range(3)]
    values = net(x)
    torch.testing.assert_close(values, torch.stack([peer(x) for peer in peers]))
    weigh = numbers(3, 7, sizes[-1])
    (values * weigh).sum().backward()
    sum((peer(x) * w).sum() for peer, w in zip(peers, weigh, strict=True)).backward()  # pyright: ignore
    for layer, (weights, biases) in enumerate(zip(net.weights, net.biases, strict=True)):
        theirs = [[m for m in peer if isinstance(m, nn.Linear)][layer] for peer in peers]
        weight = torch.stack([linear.weight.grad.mT for linear in theirs])  # pyright: ignore
        bias = torch.stack([linear.bias.grad[None] for linear in theirs])  # pyright: ignore
        torch.testing.assert_close(weights.grad, weight, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(biases.grad, bias, atol=1e-5, rtol=1e-5)


def test_inputs_can_be_one_for_all_or_one_for_each():
    net, x = ensemble(), numbers(3, 7, 5)
    each = net(x)
    for e in range(3):
        torch.testing.assert_close(each[e], net(x[e])[e])


def test_the_first_members_alone_are_the_first_of_all():
    net, x = ensemble(layer_norm=True), numbers(7, 5)
    torch.testing.assert_close(net(x, 2), net(x)[:2])


def test_members_begin_apart_each_orthogonal():
    net = Ensemble(2, (8, 4, 4, 1), "relu")
    for weights, biases, square in zip(net.weights, net.biases, (2.0, 2.0, 1.0), strict=True):
        assert not biases.any() and not torch.equal(weights[0], weights[1])
        columns = weights.mT @ weights
        torch.testing.assert_close(columns, square * torch.eye(weights.shape[-1]).expand_as(columns))


@pytest.mark.parametrize("sizes", [(5, 3), (5, 16, 3)])
def test_bfloat16_does_not_touch_the_first_and_the_last_product(sizes: tuple[int, ...]):
    x = numbers(7, 5)
    assert torch.equal(ensemble(sizes=sizes, bf16=True)(x), ensemble(sizes=sizes)(x))


def test_hidden_products_in_bfloat16_are_near_those_in_float32_and_so_are_gradients():
    nets, x = [ensemble(bf16=bf16, sizes=(5, 64, 64, 64, 1)) for bf16 in (False, True)], numbers(32, 5)
    plain, half = (net(x) for net in nets)
    assert half.dtype == torch.float32
    assert 0 < (half - plain).abs().max() < 0.02 * plain.abs().max()
    exact, near = (
        torch.cat([g.flatten() for g in torch.autograd.grad(y.sum(), [*net.parameters()])])
        for y, net in zip((plain, half), nets, strict=True)
    )
    assert exact.dtype == near.dtype == torch.float32
    assert (near - exact).norm() < 0.02 * exact.norm()


def test_parameters_stand_in_the_order_of_layers_with_an_axis_of_members():
    shapes = [tuple(p.shape) for p in ensemble().weights]
    assert shapes == [(3, i, o) for i, o in pairwise(SIZES)]


def test_an_activation_that_is_not_there_is_refused():
    for build in (lambda: mlp((3, 4, 1), "gelu"), lambda: Ensemble(2, (3, 1), "gelu")):
        with pytest.raises(OptionError, match=r"activation must be one of .*, got 'gelu'"):
            build()
    assert "gelu" not in ACTIVATIONS


def test_layers_start_orthogonal():
    first, _, last = mlp((8, 8, 2), "tanh", 0.01)
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    torch.testing.assert_close(first.weight @ first.weight.T, 2 * torch.eye(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(2), atol=1e-7, rtol=0)
    assert not first.bias.any()
