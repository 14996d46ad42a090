"""Commands: goals drawn during an episode."""

import math
from dataclasses import dataclass

from robokit.errors import TaskError
from robokit.limits.limit import Limit as Limit
from robokit.task.sense import Sense as Sense


@dataclass(frozen=True)
class Command:
    """A goal drawn uniformly from [low, high] at each restart, and again after times drawn from `every`.

    low and high have d numbers each. Raises TaskError for an impossible value.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    every: tuple[float, float] | None = None  # s, a range; None: one command per episode
    still: float = 0.0  # probability of an all-zero command instead
    unit: str | tuple[str, ...] | None = None  # for the contract: one for all numbers, or one each
    frame: str | tuple[str, ...] | None = None  # the same

    def __post_init__(self) -> None:
        pairs = list(zip(self.low, self.high, strict=False))
        if len(self.low) != len(self.high) or not all(-math.inf < a <= b < math.inf for a, b in pairs):
            raise TaskError(f"Command needs low <= high of one length, got {self.low} and {self.high}")
        if self.every is not None and not 0 < self.every[0] <= self.every[1] < math.inf:
            raise TaskError(f"Command.every must be a range of seconds 0 < from <= to, got {self.every}")
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
