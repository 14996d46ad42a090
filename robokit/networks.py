"""Layers between features and numbers: one network, or E of one shape computed together."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from robokit.errors import OptionError

ACTIVATIONS = {"tanh": nn.Tanh, "elu": nn.ELU, "relu": nn.ReLU, "silu": nn.SiLU}


def mlp(sizes: Sequence[int], activation: str, last_gain: float | None = None) -> nn.Sequential:
    """Linear layers of `sizes`, an activation between them.

    With a `last_gain`: orthogonal weights (gain sqrt(2), `last_gain` at the end), zero biases (Engstrom et
    al. 2020, "Implementation Matters in Deep RL", section 3). Without: as torch begins a Linear, weights and
    biases uniform within 1 / sqrt(inputs), which SAC's and TD3's own code does.
    """
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        linear, last = nn.Linear(fan_in, fan_out), i == len(sizes) - 2
        if last_gain is not None:
            nn.init.orthogonal_(linear.weight, last_gain if last else math.sqrt(2))
            nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, _activation(activation)]
    return nn.Sequential(*layers)


class Ensemble(nn.Module):
    """E networks of one shape, computed as one: (M, I) or (E, M, I) -> (E, M, O).

    Each begins on its own, as `mlp` without a gain. layer_norm: each hidden layer to mean 0 and deviation 1
    before its activation (Ba et al. 2016, arXiv:1607.06450). bf16: products between hidden layers in
    bfloat16, all else in float32.
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
        pairs = [*pairwise(sizes)]
        self.weights = nn.ParameterList(_uniform(i, members, i, o) for i, o in pairs)
        self.biases = nn.ParameterList(_uniform(i, members, 1, o) for i, o in pairs)

    def forward(self, x: Tensor, members: int | None = None) -> Tensor:
        """`members`: only the first so many."""
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


def _uniform(fan_in: int, *shape: int) -> nn.Parameter:
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
