"""What a policy remembers: a tensor (N, B) that is passed in and out, never an attribute.

A belief is a module with `size` (B, may be 0), `out_dim` and

    forward(obs, belief, first, normalizer) -> (features (N, out_dim), belief (N, B))

`obs` (N, O) is the raw current frame; `first` (N,) bool begins an episode and clears the belief through
`where`, so that a NaN in it does not survive.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robokit.errors import OptionError


class Normalizer(nn.Module):
    """Running mean and variance of each column, (O,); moves only when `update` is called.

    Batches are merged exactly (Chan, Golub & LeVeque 1979, the pairwise update of mean and M2).
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, dim: int, clip: float = 10.0, active: bool = True) -> None:
        super().__init__()
        self.clip, self.active = clip, active
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("var", torch.ones(dim))
        self.register_buffer("count", torch.tensor(1e-4))

    def forward(self, x: Tensor, columns: Tensor | None = None) -> Tensor:
        """(x - mean) / std, clipped; `columns` (D,) says which column each of x's last D numbers is."""
        if not self.active:
            return x
        mean, var = (self.mean, self.var) if columns is None else (self.mean[columns], self.var[columns])
        return ((x - mean) * torch.rsqrt(var + 1e-8)).clamp(-self.clip, self.clip)

    def update(self, x: Tensor, valid: Tensor) -> None:
        """Take in x (M, O) where valid (M,) bool."""
        weight = valid.to(x.dtype)[:, None]
        x = torch.where(valid[:, None], x, 0.0)
        count = weight.sum()
        mean = x.sum(0) / count.clamp(min=1)
        m2 = ((x - mean).square() * weight).sum(0)
        total, delta = self.count + count, mean - self.mean
        self.var.copy_((self.var * self.count + m2 + delta.square() * self.count * count / total) / total)
        self.mean.add_(torch.where(count > 0, delta * count / total, 0.0))
        self.count.copy_(total)


class Memoryless(nn.Module):
    """The current frame is all there is: B = 0."""

    def __init__(self, widths: Mapping[str, int], history: object = 1) -> None:
        super().__init__()
        self.size, self.out_dim = 0, sum(widths.values())

    def forward(
        self, obs: Tensor, belief: Tensor, first: Tensor, normalizer: Normalizer
    ) -> tuple[Tensor, Tensor]:
        return normalizer(obs), belief


class Stack(nn.Module):
    """The last H frames of each term, term by term, oldest first; raw, normalised on reading.

    At the start of an episode every slot holds its first frame. `history` is one H for all terms or
    {term: H}, 1 for those not named.
    """

    source: Tensor
    shift: Tensor

    def __init__(self, widths: Mapping[str, int], history: int | Mapping[str, int]) -> None:
        super().__init__()
        lengths = {k: history if isinstance(history, int) else history.get(k, 1) for k in widths}
        if min(lengths.values()) < 1:
            raise OptionError(f"history must be at least 1 frame, got {history}")
        source, shift, column = [], [], 0
        self.size = self.out_dim = sum(widths[k] * n for k, n in lengths.items())
        for name, width in widths.items():
            for frame in range(lengths[name]):
                newest = frame == lengths[name] - 1
                source += range(column, column + width)
                slot = len(shift)
                shift += (
                    range(self.size + column, self.size + column + width)
                    if newest
                    else range(slot + width, slot + 2 * width)
                )
            column += width
        self.register_buffer("source", torch.tensor(source), persistent=False)  # slot -> column of obs
        self.register_buffer(
            "shift", torch.tensor(shift), persistent=False
        )  # slot -> column of [belief | obs]

    def forward(
        self, obs: Tensor, belief: Tensor, first: Tensor, normalizer: Normalizer
    ) -> tuple[Tensor, Tensor]:
        shifted = torch.cat((belief, obs), -1).index_select(1, self.shift)
        belief = torch.where(first[:, None], obs.index_select(1, self.source), shifted)
        return normalizer(belief, self.source), belief


NOON = (0.0, 1.0)  # sine and cosine of a clock that begins


def rest(clock: Tensor, *commands: Tensor) -> Tensor:
    """A clock (N, 2): [0, 0], no phase at all, where its commands (N, d) are zero, and NOON after that."""
    if not commands:
        return clock
    standing, rested = (x.abs().amax(-1, keepdim=True) == 0 for x in (torch.cat(commands, -1), clock))
    return torch.where(standing, 0.0, torch.where(rested, clock.new_tensor(NOON), clock))


def tick(clock: Tensor, turn: float) -> Tensor:
    """A clock [sine, cosine] (N, 2) of its phase, `turn` revolutions later."""
    sine, cosine = clock[:, :1], clock[:, 1:]
    s, c = math.sin(2 * math.pi * turn), math.cos(2 * math.pi * turn)
    moved = torch.cat((sine * c + cosine * s, cosine * c - sine * s), -1)
    length = moved.square().sum(-1, keepdim=True).sqrt().clamp(min=0.5)  # 0 of a clock that rests
    return moved / length  # rounding must not add up over hours


KINDS = {"memoryless": Memoryless, "stack": Stack}


def make_belief(kind: str, widths: Mapping[str, int], history: int | Mapping[str, int]) -> nn.Module:
    """A belief by name over observation terms {name: width}."""
    if kind not in KINDS:
        raise OptionError(f"belief must be one of {sorted(KINDS)}, got {kind!r}")
    return KINDS[kind](widths, history)  # pyright: ignore[reportArgumentType]
