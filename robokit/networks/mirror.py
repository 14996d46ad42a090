"""Mirror images of observations and actions."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor, nn

from robokit.errors import OptionError


class Reflection(nn.Module):
    """The mirror image of x (..., D): sign * x[..., order]; its own inverse."""

    order: Tensor
    sign: Tensor

    def __init__(self, order: Sequence[int], sign: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("sign", torch.tensor(sign), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(-1, self.order) * self.sign


Reflections = tuple[Reflection, Reflection]  # of obs, of actions


class Image(Protocol):
    """A task's declaration of one term's mirror image: x[i] becomes sign[i] * x[places[i]]."""

    @property
    def sign(self) -> tuple[float, ...]: ...

    @property
    def places(self) -> tuple[int, ...]: ...


def reflections(images: Mapping[str, Image], widths: Mapping[str, int]) -> Reflections:
    """(Reflection of obs, of the action); obs: the terms {name: width} side by side.

    images: one for each term and one for "action". Raises OptionError if `images` is empty.
    """
    if not images:
        raise OptionError("mirror: the task has no mirror to average the policy with")
    parts = [images[name] for name in widths]
    starts = [0, *accumulate(widths.values())]
    order = [start + i for start, part in zip(starts, parts, strict=False) for i in part.places]
    signs = [s for part in parts for s in part.sign]
    return Reflection(order, signs), Reflection(images["action"].places, images["action"].sign)
