"""A limit: an upper bound on one named cost of a task."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from robokit.errors import OptionError, TaskError, did_you_mean
from robokit.limits.measures import MEASURES, Name


@dataclass(frozen=True)
class Limit:
    """An upper bound on one cost in one of these measures. Raises TaskError for impossible numbers.

    rate         mean cost per control step
    episode      undiscounted sum over an episode
    discounted   sum of gamma^t c_t from the start of an episode
    probability  that the cost is ever above 0 in an episode
    peak         mean over episodes of the largest cost in each
    cvar         mean sum of the worst 10 % of the episodes: in evaluation only
    """

    value: float  # in the units of the measure
    measure: Name = "rate"
    largest: float = 1.0  # cost possible in one control step; 1 for an indicator
    absorb: float = 0.0  # charge per control step lost to a termination: ending early must save no cost

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            hint = did_you_mean(str(self.measure), MEASURES)
            raise TaskError(f"Limit.measure must be one of {[*MEASURES]}, got {self.measure!r}{hint}")
        for name in ("value", "largest", "absorb"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
                raise TaskError(f"Limit.{name} must be a finite number >= 0, got {number!r}")
        if not self.largest > 0:
            raise TaskError(f"Limit.largest must be a cost > 0, got {self.largest!r}")
        if self.absorb > self.largest:
            raise TaskError(f"Limit.absorb must be at most largest ({self.largest}), got {self.absorb}")
        if self.absorb and (why := MEASURES[self.measure].not_absorbed):
            raise TaskError(f"Limit.absorb has no meaning for a {self.measure}: {why}")
        self.check(steps=math.inf)

    def check(self, steps: float, gamma: float = 1.0, name: str = "Limit") -> None:
        """Raise TaskError, with `name`, if no episode of `steps` control steps can exceed the value."""
        if self.value > (most := self.most(steps, gamma)):
            rule = f"a {MEASURES[self.measure].noun.format(steps=steps)} cannot come above {most:g}"
            raise TaskError(f"{name} is {self.value:g}, which has no use: {rule}")

    def most(self, steps: float, gamma: float = 1.0) -> float:
        """The highest measure: of an episode of `steps` control steps with the cost `largest` in each."""
        return MEASURES[self.measure].most(self.largest, steps, gamma)


def with_values(limits: Mapping[str, Limit], values: Mapping[str, float]) -> dict[str, Limit]:
    """The limits with some values replaced. Raises OptionError for an unknown name or an impossible value."""
    for name in values:
        if name not in limits:
            known = did_you_mean(name, limits, f"there are {[*limits]}") if limits else ": it has none"
            raise OptionError(f"the task has no limit {name!r}{known}")
    changed = {}
    for name, limit in limits.items():
        try:
            changed[name] = replace(limit, value=values.get(name, limit.value))
        except TaskError as error:
            raise OptionError(f"limits[{name!r}]: {error}") from error
    return changed
