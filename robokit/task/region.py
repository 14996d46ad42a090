"""Regions that a command is drawn from, uniformly: a box, a ball, a ring, a list of points.

commands = {"target": Command(region=Ball((0.4, 0.0, 0.3), 0.2), unit="m", frame="world")}
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robokit.errors import TaskError

Numbers = tuple[float, ...]
Place = Callable[[Tensor], Tensor]


class Region(ABC):
    """A set of points of d numbers each."""

    units: int  # how many uniform numbers a draw takes

    @abstractmethod
    def bounds(self) -> tuple[Numbers, Numbers]:
        """(lowest, highest), d numbers each."""

    @abstractmethod
    def on(self, device: torch.device) -> Place:
        """A function: numbers (n, units), uniform in [0, 1) -> points (n, d) float64, uniform in it."""


@dataclass(frozen=True)
class Box(Region):
    """All points from low to high, d numbers each. Raises TaskError unless low <= high."""

    low: Numbers
    high: Numbers

    def __post_init__(self) -> None:
        pairs = list(zip(self.low, self.high, strict=False))
        fits = len(self.low) == len(self.high) and all(-math.inf < a <= b < math.inf for a, b in pairs)
        if not (pairs and fits):
            raise TaskError(f"Command needs low <= high of one length, got {self.low} and {self.high}")

    @property
    def units(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.low)

    def bounds(self) -> tuple[Numbers, Numbers]:
        return self.low, self.high

    def on(self, device: torch.device) -> Place:
        low, high = (torch.tensor(x, dtype=torch.float64, device=device) for x in (self.low, self.high))
        return lambda unit: torch.addcmul(low, high - low, unit)


@dataclass(frozen=True)
class Ring(Region):
    """All points from `inner` to `outer` away from `center` (d numbers), within the plane of `axes`.

    The other numbers are the centre's. Raises TaskError unless 0 <= inner <= outer, and outer > 0.
    """

    center: Numbers
    inner: float
    outer: float
    axes: tuple[int, ...] = (0, 1)  # the numbers that vary: (0, 2) is a ring that stands in x and z

    def __post_init__(self) -> None:
        kind, center = type(self).__name__, self.center
        if not all(map(math.isfinite, (*center, self.inner, self.outer))):
            raise TaskError(f"{kind} needs finite numbers, got {self}")
        if not (0 <= self.inner <= self.outer and self.outer > 0):
            rule = "a radius > 0" if kind == "Ball" else "radii 0 <= inner <= outer, and outer > 0"
            raise TaskError(f"{kind} needs {rule}, got {self}")
        if not self.axes or sorted({*self.axes} & {*range(len(center))}) != sorted(self.axes):
            raise TaskError(f"{kind} needs axes that are places in its center, each once, got {self}")

    @property
    def units(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.axes) + 1

    def bounds(self) -> tuple[Numbers, Numbers]:
        reach = [self.outer * (i in self.axes) for i in range(len(self.center))]
        low, high = ([x + sign * r for x, r in zip(self.center, reach, strict=True)] for sign in (-1, 1))
        return tuple(low), tuple(high)

    def on(self, device: torch.device) -> Place:
        """A normally distributed direction in m axes; distances whose m-th power is uniform."""
        m = len(self.axes)
        spread = torch.eye(len(self.center), dtype=torch.float64)[list(self.axes)].to(device)
        center = torch.tensor(self.center, dtype=torch.float64, device=device)

        def place(unit: Tensor) -> Tensor:
            unit = unit.double() + 2**-25  # half a step of float32: never 0, nor 0.5 in each axis
            normal = torch.special.ndtri(unit[:, :m])
            power = self.inner**m + (self.outer**m - self.inner**m) * unit[:, m:]
            return center + power ** (1 / m) * normal / normal.norm(dim=-1, keepdim=True) @ spread

        return place


class Ball(Ring):
    """All points up to `radius` away from `center`, d numbers. Raises TaskError unless radius > 0."""

    def __init__(self, center: Numbers, radius: float) -> None:
        super().__init__(center, 0.0, radius, tuple(range(len(center))))


@dataclass(frozen=True)
class Points(Region):
    """Each of a list of points, d numbers each, equally often. Raises TaskError for an empty list."""

    points: tuple[Numbers, ...]
    units = 1

    def __post_init__(self) -> None:
        widths = {len(point) for point in self.points}
        if len(widths) != 1 or 0 in widths or not all(math.isfinite(x) for p in self.points for x in p):
            raise TaskError(f"Points needs one or more points of one width, finite, got {self.points}")

    def bounds(self) -> tuple[Numbers, Numbers]:
        columns = list(zip(*self.points, strict=True))
        return tuple(map(min, columns)), tuple(map(max, columns))

    def on(self, device: torch.device) -> Place:
        points = torch.tensor(self.points, dtype=torch.float64, device=device)
        return lambda unit: points[(unit[:, 0].double() * len(points)).long()]
