"""Commands: goals drawn during an episode."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from robokit.errors import TaskError
from robokit.limits.limit import Limit as Limit
from robokit.task.region import Region
from robokit.task.sense import Sense as Sense


@dataclass(frozen=True)
class Command:
    """A goal drawn uniformly from [low, high] at each restart, and again after times drawn from `every`.

    low and high have d numbers each. region: a Ball, Ring or Points to draw from instead, without low and
    high; or a function of the task, (self, sim, rng) -> (sim.num_envs, d), whose values are clamped to low
    and high. Raises TaskError for an impossible value.
    """

    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    # s, a range; "success": in training, where the task's goal has held; None: one command per episode
    every: tuple[float, float] | Literal["success"] | None = None
    still: float = 0.0  # probability of an all-zero command instead
    unit: str | tuple[str, ...] | None = None  # for the contract: one for all numbers, or one each
    frame: str | tuple[str, ...] | None = None  # the same
    region: Region | Callable[..., Tensor] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.region, Region):
            if (self.low, self.high) not in (((), ()), self.region.bounds()):
                raise TaskError(f"Command takes low and high or a region, got both: {self.region}")
            vars(self).update(zip(("low", "high"), self.region.bounds(), strict=True))
        elif not (self.region is None or hasattr(self.region, "__get__")):
            raise TaskError(f"Command.region must be Ball, Ring, Points or a function, got {self.region!r}")
        pairs = list(zip(self.low, self.high, strict=False))
        ordered = all(-math.inf < a <= b < math.inf for a, b in pairs)
        if not (len(self.low) == len(self.high) > 0 and ordered):
            function = " beside a region that is a function" if self.region else ""
            got = f"got {self.low} and {self.high}"
            raise TaskError(f"Command needs low <= high of one length{function}, {got}")
        span = self.every if isinstance(self.every, tuple) and len(self.every) == 2 else (0.0, 0.0)
        timed = 0 < span[0] <= span[1] < math.inf
        if not (timed or self.every in (None, "success")):
            rule = 'must be a range of seconds 0 < from <= to, or "success"'
            raise TaskError(f"Command.every {rule}, got {self.every}")
        if not 0 <= self.still <= 1:
            raise TaskError(f"Command.still must be a chance in [0, 1], got {self.still}")
        if self.still and not all(a <= 0 <= b for a, b in pairs):
            raise TaskError(f"Command.still needs 0 between low and high, got {self.low} and {self.high}")
        for name in ("unit", "frame"):
            _check_text(name, getattr(self, name), len(self.low))


def _check_text(name: str, value: object, count: int) -> None:
    each = value if isinstance(value, tuple) else (value,) * count
    if len(each) != count or not (value is None or all(isinstance(one, str) for one in each)):
        raise TaskError(f"Command.{name} must be text, or {count} texts, got {value!r}")
