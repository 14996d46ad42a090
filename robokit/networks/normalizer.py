"""Running mean and variance of observations."""

from typing import Any

import torch
from torch import Tensor, nn

from robokit.compute import processes


class Normalizer(nn.Module):
    """Running mean and variance of each column, (O,), changed only by `update`; not active: the identity.

    Batches are merged exactly (Chan, Golub & LeVeque 1979, the pairwise update of mean and M2). Each column
    has its own count of rows: those of a carried-over policy have seen more than its new ones.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, dim: int, clip: float = 10.0, active: bool = True) -> None:
        super().__init__()
        self.clip, self.active = clip, active
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("var", torch.ones(dim))
        self.register_buffer("count", torch.full((dim,), 1e-4))

    def forward(self, x: Tensor, columns: Tensor | None = None) -> Tensor:
        """(x - mean) / std, clipped to +-clip; columns (D,): index into O of each of x's D numbers."""
        if not self.active:
            return x
        mean, var = (self.mean, self.var) if columns is None else (self.mean[columns], self.var[columns])
        return ((x - mean) * torch.rsqrt(var + 1e-8)).clamp(-self.clip, self.clip)

    def update(self, x: Tensor, valid: Tensor) -> None:
        """Update mean and var, even if not active, with the valid (M,) rows of x (M, O) of all processes."""
        weight = valid.to(x.dtype)[:, None]
        x = torch.where(valid[:, None], x, 0.0)
        summed = processes.total(torch.cat((x.sum(0), weight.sum()[None])))
        count = summed[-1]
        mean = summed[:-1] / count.clamp(min=1)
        m2 = processes.total(((x - mean).square() * weight).sum(0))
        total, delta = self.count + count, mean - self.mean
        self.var.copy_((self.var * self.count + m2 + delta.square() * self.count * count / total) / total)
        self.mean.add_(torch.where(count > 0, delta * count / total, 0.0))
        self.count.copy_(total)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any, **more: Any) -> None:
        count = state_dict.get(f"{prefix}count")
        if count is not None and not count.dim():  # of earlier versions, where all columns shared one
            state_dict[f"{prefix}count"] = count.expand_as(self.count)
        super()._load_from_state_dict(state_dict, prefix, *rest, **more)
