"""Sensor errors of an observation term: noise, bias, delay, frames, a rigid offset, dropout."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from robokit.errors import TaskError

LONGEST = 50  # control steps, the longest delay
EPSILON = 1e-6  # control steps, tolerance for rounding

Range = float | tuple[float, float]  # one value, or a range to draw from in each episode


@dataclass(frozen=True)
class Sense:
    """The sensor of one observation term. Raises TaskError for a value outside its range."""

    noise: float = 0.0  # unit of the term, drawn for every reading: standard deviation, or half width
    distribution: Literal["gaussian", "uniform"] = "gaussian"  # of the noise
    bias: float = 0.0  # half width, unit of the term: constant offset of each number, drawn every episode
    delay: Range = 0.0  # s, interpolated linearly between control steps; one for all numbers of the term
    rate: Range | None = None  # Hz, frames of the sensor: a reading is held until the next; None: every step
    offset: float = 0.0  # m, of where the sensor is: radius of a ball, drawn every episode; of poses only
    rotation: float = 0.0  # rad, largest angle, about an axis drawn every episode; of poses only
    dropout: float = 0.0  # probability of a missing reading or frame: the last one is repeated
    loss: float = 0.0  # failures per s; after one the last reading is repeated until the episode ends
    hidden: bool = False  # the policy does not observe the term; a critic does
    unit: str | None = None  # for the contract; None: the model's
    frame: str | None = None  # the same
    max_age: float | None = None  # s, for the contract: the controller refuses older readings
    # for the contract: what measures it, where no sensor of the model does; one source has one rigid motion
    source: str | None = None

    def __post_init__(self) -> None:
        for name, (rule, limit) in _RULES.items():
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < limit):
                raise TaskError(f"Sense.{name} must be {rule}, got {value!r}")
        if self.distribution not in ("gaussian", "uniform"):
            raise TaskError(f"Sense.distribution must be gaussian or uniform, got {self.distribution!r}")
        check_delay("Sense.delay", self.delay)
        if self.rate is not None and not (_is_range(self.rate) and ends(self.rate)[0] > 0):
            raise TaskError(f"Sense.rate must be Hz > 0, or a range (from, to) of them, got {self.rate!r}")
        if not isinstance(self.hidden, bool):
            raise TaskError(f"Sense.hidden must be True or False, got {self.hidden!r}")
        for name in ("unit", "frame", "source"):
            if not isinstance(getattr(self, name), str | None):
                raise TaskError(f"Sense.{name} must be text, got {getattr(self, name)!r}")
        age = self.max_age
        if age is not None and not (_is_number(age) and 0 < age < math.inf):
            raise TaskError(f"Sense.max_age must be seconds > 0, got {age!r}")

    def check(self, name: str, width: int, control_dt: float) -> None:
        """Raise TaskError if a term of this width and control period cannot have this sensor."""
        check_delay(f"{name}.delay", self.delay, control_dt)
        if (self.offset or self.rotation) and width not in (3, 4, 7):
            rule = "takes an offset or rotation, and is no position (3 numbers), quaternion (4), or both (7)"
            raise TaskError(f"{name} {rule}: it has {width}")

    def oldest(self, control_dt: float) -> float | None:
        """`max_age`; else with frames one control period more than the oldest reading in training, s."""
        if self.max_age is not None or self.rate is None:
            return self.max_age
        return 1 / ends(self.rate)[0] + ends(self.delay)[1] + control_dt


_RULES = {
    "noise": ("a size >= 0", math.inf),
    "bias": ("a half width >= 0", math.inf),
    "offset": ("m >= 0", math.inf),
    "rotation": ("rad in [0, pi)", math.pi),
    "dropout": ("a chance in [0, 1)", 1.0),
    "loss": ("failures a second >= 0", math.inf),
}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_range(value: Any) -> bool:
    """Whether it is a finite number >= 0, or a range (low, high) of them."""
    both: list[Any] = [*value] if isinstance(value, tuple) else [value, value]
    return len(both) == 2 and all(map(_is_number, both)) and 0 <= both[0] <= both[1] < math.inf


def ends(value: Range) -> tuple[float, float]:
    """(low, high) of one value or a range."""
    return value if isinstance(value, tuple) else (value, value)


def check_delay(name: str, delay: Range, control_dt: float = math.inf) -> None:
    """Raise TaskError unless a delay (s), or a range (low, high), lies from 0 to LONGEST control steps.

    Without `control_dt` any finite delay >= 0 passes.
    """
    if not _is_range(delay):
        raise TaskError(f"{name} must be seconds >= 0, or a range (from, to) of them, got {delay!r}")
    if ends(delay)[1] > (LONGEST + EPSILON) * control_dt:
        rule = f"at most {LONGEST} control steps ({LONGEST * control_dt:g} s), the length of its buffer"
        raise TaskError(f"{name} must be {rule}, got {delay} s")
