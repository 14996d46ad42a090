"""What a critic learns of costs."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from robokit.limits.limit import Limit


def cut_off(terminated: Tensor, left: Tensor, gamma: float = 1.0) -> Tensor:
    """Control steps that a termination cut off, discounted: sum of gamma^t for t = 1 ... left, else 0."""
    steps = left if gamma == 1 else gamma * (1 - gamma**left) / (1 - gamma)
    return torch.where(terminated, steps, 0.0)


class Charges(NamedTuple):
    """What of limits decides how their costs (..., K) are charged, on the learner's device."""

    absorb: Tensor  # (K,)
    once: Tensor  # (K,) bool: a probability is asked for

    @classmethod
    def of(cls, limits: Mapping[str, Limit], device: torch.device | str = "cpu") -> "Charges":
        absorb = torch.tensor([limit.absorb for limit in limits.values()], device=device)
        once = [limit.measure == "probability" for limit in limits.values()]
        return cls(absorb, torch.tensor(once, dtype=torch.bool, device=device))


def charged(
    charges: Charges, cost: Tensor, terminated: Tensor, left: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """What a critic learns of costs (..., K): as they are charged, and where that is the last of them, bool.

    What a limit on a probability asks for has happened at the first cost above 0: nothing comes after it.
    """
    absorb, once = charges
    cut = cut_off(terminated, left, gamma)[..., None] * absorb
    over = terminated[..., None] | (once & (cost > 0))
    return torch.where(once, (cost > 0).to(cost.dtype), cost) + cut, over
