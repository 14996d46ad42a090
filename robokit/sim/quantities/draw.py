"""What an author writes in a table of quantities: by how much, and of which elements."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Draw:
    """A uniform draw from [low, high] of a quantity, for the elements whose names match `at`.

    at: fnmatch patterns of names of the quantity's elements: actuators, joints, bodies or geoms. each: one
    draw for each element, or one for all; None: as QUANTITIES says.
    """

    low: float
    high: float
    at: str | tuple[str, ...] = "*"
    each: bool | None = None


@dataclass(frozen=True)
class Scale(Draw):
    """Nominal value times a draw."""


@dataclass(frozen=True)
class Add(Draw):
    """Nominal value plus a draw, in the quantity's unit.

    place: of a payload, in m in the body's frame; None: the body's centre of mass.
    """

    place: tuple[float, float, float] | None = None
