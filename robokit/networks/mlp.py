"""Multilayer perceptrons: one network, or an ensemble of E computed together."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from robokit.errors import OptionError

ACTIVATIONS = {"tanh": nn.Tanh, "elu": nn.ELU, "relu": nn.ReLU, "silu": nn.SiLU}


def mlp(sizes: Sequence[int], activation: str, last_gain: float = 1.0) -> nn.Sequential:
    """Linear layers of `sizes` (inputs, hidden layers, outputs), an activation between them, none at the end.

    Initial weights are orthogonal (gain sqrt(2), `last_gain` in the last layer), biases zero (Engstrom et al.
    2020, "Implementation Matters in Deep RL", section 3).
    """
    layers: list[nn.Module] = []
    for gain, (fan_in, fan_out) in zip(_gains(sizes, last_gain), pairwise(sizes), strict=True):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.orthogonal_(linear.weight, gain)
        nn.init.zeros_(linear.bias)
        layers += [linear, _activation(activation)]
    return nn.Sequential(*layers[:-1])


class Ensemble(nn.Module):
    """E networks of one shape, computed as one: (M, I) or (E, M, I) -> (E, M, O).

    Each is initialised independently, like an `mlp`. layer_norm: normalise each hidden layer to mean 0 and
    deviation 1 before its activation, without gain or bias (Ba et al. 2016, arXiv:1607.06450). bf16: products
    of a hidden layer with the weights to the next hidden layer in bfloat16, all else in float32.
    """

    def __init__(
        self,
        members: int,
        sizes: Sequence[int],
        activation: str,
        layer_norm: bool = False,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.members, self.layer_norm, self.bf16 = members, layer_norm, bf16
        self.activation = _activation(activation)
        weights, biases = nn.ParameterList(), nn.ParameterList()
        for gain, (fan_in, fan_out) in zip(_gains(sizes), pairwise(sizes), strict=True):
            weight = torch.empty(members, fan_in, fan_out)
            for member in weight:
                nn.init.orthogonal_(member, gain)
            weights.append(weight)
            biases.append(torch.zeros(members, 1, fan_out))
        self.weights, self.biases = weights, biases

    def forward(self, x: Tensor, members: int | None = None) -> Tensor:
        """Outputs (E, M, O); members: only of the first so many networks, E = members."""
        count, last = members or self.members, len(self.weights) - 1
        x = x.expand(count, *x.shape[-2:])
        for layer, (weights, biases) in enumerate(zip(self.weights, self.biases, strict=True)):
            weight, bias = weights[:count], biases[:count]
            if self.bf16 and 0 < layer < last:
                x = torch.bmm(x.bfloat16(), weight.bfloat16()).float() + bias
            elif weight.shape[-1] == 1:  # a matrix product of one column is ten times slower
                x = (x * weight.mT).sum(-1, keepdim=True) + bias
            else:
                x = torch.bmm(x, weight) + bias  # a baddbmm would copy the bias out first
            if layer < last:
                x = nn.functional.layer_norm(x, x.shape[-1:]) if self.layer_norm else x
                x = self.activation(x)
        return x


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise OptionError(f"activation must be one of {sorted(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]()


def _gains(sizes: Sequence[int], last: float = 1.0) -> list[float]:
    """Gain of each layer's initial weights: sqrt(2), and `last` for the last; one fewer than sizes."""
    return [math.sqrt(2)] * (len(sizes) - 2) + [last]
