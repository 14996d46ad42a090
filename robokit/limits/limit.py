"""A limit: an upper bound on one named cost of a task."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from robokit.errors import OptionError, TaskError, did_you_mean
from robokit.limits.measures import MEASURES, Name


@dataclass(frozen=True)
class Limit:
    """An upper bound on one cost; raises TaskError for one that cannot be.

    rate         mean cost per control step
    episode      undiscounted sum over an episode
    discounted   sum of gamma^t c_t from the start of an episode
    probability  of an episode in which the cost is ever above 0
    peak         mean over episodes of the largest cost in each
    cvar         mean sum of the worst 10 % of the episodes: judged, never trained
    """

    value: float  # in the units of the measure
    measure: Name = "rate"
    largest: float = 1.0  # cost that one control step can have; of an indicator 1
    # charged for every control step that a termination cuts off, so that dying early buys nothing
    absorb: float = 0.0

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
        """Raise TaskError for a value that episodes of `steps` control steps cannot come above."""
        if self.value > (most := self.most(steps, gamma)):
            rule = f"a {MEASURES[self.measure].noun.format(steps=steps)} cannot come above {most:g}"
            raise TaskError(f"{name} is {self.value:g}, which has no use: {rule}")

    def most(self, steps: float, gamma: float = 1.0) -> float:
        """What the largest cost in every control step of a whole episode of `steps` comes to."""
        return MEASURES[self.measure].most(self.largest, steps, gamma)


def with_values(limits: Mapping[str, Limit], values: Mapping[str, float]) -> dict[str, Limit]:
    """The limits with other values. Raises OptionError for a name that has no limit."""
    for name in values:
        if name not in limits:
            known = f"{did_you_mean(name, limits)}; there are {[*limits]}" if limits else ": it has none"
            raise OptionError(f"the task has no limit {name!r}{known}")
    changed = {}
    for name, limit in limits.items():
        try:
            changed[name] = replace(limit, value=values.get(name, limit.value))
        except TaskError as error:
            raise OptionError(f"limits[{name!r}]: {error}") from error
    return changed
