"""Rigid offsets of positions and orientations, drawn for each episode."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Generator, Tensor

from robokit.state import put
from robokit.task.sense import Offset


class Rigid:
    """Moves the terms of N simulations that have an Offset, about the origin of each term's own frame.

    offsets, widths: of all terms side by side. `columns`: of each term that is moved, as index.
    """

    def __init__(
        self, offsets: Sequence[Offset | None], widths: Sequence[int], num_envs: int, device: torch.device
    ) -> None:
        parts = zip(offsets, widths, accumulate(widths), strict=True)
        own = [(o, torch.arange(end - width, end, device=device)) for o, width, end in parts if o is not None]
        self.columns = [columns for _, columns in own]
        self.sizes = torch.tensor([[o.position, o.rotation] for o, _ in own], device=device)  # (K, 2)
        self.by = torch.zeros(num_envs, len(own), 7, device=device)  # translation, quaternion wxyz
        self.by[..., 3] = 1.0

    def draw(self, which: Tensor, rng: Generator) -> None:
        """Draw for `which` (see state.put), all uniform: a translation in the ball, an axis and an angle."""
        ways = torch.empty(len(which), len(self.columns), 2, 3, device=self.by.device).normal_(generator=rng)
        shift, axis = torch.nn.functional.normalize(ways, dim=-1).unbind(-2)
        unit = torch.rand(ways.shape[:-1], generator=rng, device=self.by.device)
        radius = unit[..., :1] ** (1 / 3) * self.sizes[:, :1]
        half = unit[..., 1:] * self.sizes[:, 1:] / 2
        put(self.by, which, torch.cat((radius * shift, half.cos(), half.sin() * axis), -1))

    def moved(self, seen: Tensor) -> Tensor:
        """The readings (N, O), those with an offset moved."""
        for by, columns in zip(self.by.unbind(1), self.columns, strict=True):
            seen = seen.index_copy(1, columns, moved(seen.index_select(1, columns), by))
        return seen


def moved(pose: Tensor, by: Tensor) -> Tensor:
    """A position (N, 3), quaternion (N, 4) or both (N, 7) after a rigid motion by (N, 7); wxyz.

    p' = R(q) p + t, o' = q o, for by = [t, q].
    """
    shift, w, v = by.split((3, 1, 3), -1)
    parts = list[Tensor]()
    if pose.shape[-1] != 4:
        turned = 2 * torch.linalg.cross(v, pose[:, :3])
        parts.append(pose[:, :3] + w * turned + torch.linalg.cross(v, turned) + shift)
    if pose.shape[-1] != 3:
        scalar, vector = pose[:, -4:].split((1, 3), -1)
        parts.append(w * scalar - (v * vector).sum(-1, keepdim=True))
        parts.append(w * vector + scalar * v + torch.linalg.cross(v, vector))
    return torch.cat(parts, -1)
