"""Regions other than a box that a command is drawn from, uniformly: a ball, a ring, a list of points.

commands = {"target": Command(region=Ball((0.4, 0.0, 0.3), 0.2), unit="m", frame="world")}
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robokit.errors import TaskError

Numbers = tuple[float, ...]
Unit = Callable[[int], Tensor]  # k -> numbers (n, k) uniform in [0, 1)


@dataclass(frozen=True)
class Ring:
    """All points from `inner` to `outer` away from `center` (d numbers), within the plane of `axes`.

    The other numbers are the centre's. Raises TaskError unless 0 <= inner <= outer, and outer > 0.
    """

    center: Numbers
    inner: float
    outer: float
    axes: tuple[int, ...] = (0, 1)  # the numbers that vary: (0, 2) is a ring that stands in x and z

    def __post_init__(self) -> None:
        sized = 0 <= self.inner <= self.outer and self.outer > 0
        placed = self.axes and sorted({*self.axes} & {*range(len(self.center))}) == sorted(self.axes)
        if not (sized and placed and all(map(math.isfinite, (*self.center, self.outer)))):
            rule = "finite numbers, radii 0 <= inner <= outer > 0, and axes that are places in its center"
            raise TaskError(f"{type(self).__name__} needs {rule}, got {self}")

    def bounds(self) -> tuple[Numbers, Numbers]:
        """(lowest, highest), d numbers each."""
        reach = [self.outer * (i in self.axes) for i in range(len(self.center))]
        low, high = ([x + sign * r for x, r in zip(self.center, reach, strict=True)] for sign in (-1, 1))
        return tuple(low), tuple(high)

    def on(self, device: torch.device) -> Callable[[Unit], Tensor]:
        """A function: the source of uniform numbers -> points (n, d) float64, uniform in the region.

        A normally distributed direction in m axes; a distance whose m-th power is uniform.
        """
        m = len(self.axes)
        spread = torch.eye(len(self.center), dtype=torch.float64)[list(self.axes)].to(device)
        center = torch.tensor(self.center, dtype=torch.float64, device=device)

        def place(unit: Unit) -> Tensor:
            numbers = unit(m + 1).double() + 2**-25  # half a step of float32: never 0, nor 0.5 in each axis
            normal = torch.special.ndtri(numbers[:, :m])
            power = self.inner**m + (self.outer**m - self.inner**m) * numbers[:, m:]
            return center + power ** (1 / m) * normal / normal.norm(dim=-1, keepdim=True) @ spread

        return place


class Ball(Ring):
    """All points up to `radius` away from `center`, d numbers. Raises TaskError unless radius > 0."""

    def __init__(self, center: Numbers, radius: float) -> None:
        super().__init__(center, 0.0, radius, tuple(range(len(center))))

    def __repr__(self) -> str:
        return f"Ball({self.center}, {self.outer})"


@dataclass(frozen=True)
class Points:
    """Each of a list of points, d numbers each, equally often. Raises TaskError for an empty list."""

    points: tuple[Numbers, ...]

    def __post_init__(self) -> None:
        widths = {len(point) for point in self.points}
        if len(widths) != 1 or 0 in widths or not all(math.isfinite(x) for p in self.points for x in p):
            raise TaskError(f"Points needs one or more points of one width, finite, got {self.points}")

    def bounds(self) -> tuple[Numbers, Numbers]:
        columns = list(zip(*self.points, strict=True))
        return tuple(map(min, columns)), tuple(map(max, columns))

    def on(self, device: torch.device) -> Callable[[Unit], Tensor]:
        points = torch.tensor(self.points, dtype=torch.float64, device=device)
        return lambda unit: points[(unit(1)[:, 0].double() * len(points)).long()]


Region = Ring | Points
