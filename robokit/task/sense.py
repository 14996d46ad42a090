"""What a robot's sensor adds to an observation term: noise, bias, delay, dropout."""

import math
from dataclasses import dataclass
from typing import Literal

from robokit.errors import TaskError

LONGEST = 50  # control steps that a delay may reach back


EPSILON = 1e-6  # control steps: rounding


Range = float | tuple[float, float]  # one value, or a range that each episode draws from


@dataclass(frozen=True)
class Sense:
    """One observation term as its sensor gives it; raises TaskError for a figure that cannot be."""

    noise: float = 0.0  # unit of the term, fresh every control step: standard deviation, or half width
    distribution: Literal["gaussian", "uniform"] = "gaussian"  # of the noise
    bias: float = 0.0  # half width, unit of the term: each number's constant offset, drawn every episode
    delay: Range = 0.0  # s, between two control steps linear; all the term's numbers share it
    dropout: float = 0.0  # chance per control step that no reading comes: the last one stands
    loss: float = 0.0  # failures a second; after one the last reading stands till the episode ends
    hidden: bool = False  # the policy does not see it at all; a critic does
    unit: str | None = None  # for the exported contract; None: as the model says
    frame: str | None = None
    max_age: float | None = None  # s, for the contract: an older reading should not be acted on

    def __post_init__(self) -> None:
        for name, (rule, limit) in _RULES.items():
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < limit):
                raise TaskError(f"Sense.{name} must be {rule}, got {value!r}")
        if self.distribution not in ("gaussian", "uniform"):
            raise TaskError(f"Sense.distribution must be gaussian or uniform, got {self.distribution!r}")
        check_delay("Sense.delay", self.delay)
        if not isinstance(self.hidden, bool):
            raise TaskError(f"Sense.hidden must be True or False, got {self.hidden!r}")
        for name in ("unit", "frame"):
            if not isinstance(getattr(self, name), str | None):
                raise TaskError(f"Sense.{name} must be text, got {getattr(self, name)!r}")
        age = self.max_age
        if age is not None and not (_is_number(age) and 0 < age < math.inf):
            raise TaskError(f"Sense.max_age must be seconds > 0, got {age!r}")


_RULES = {
    "noise": ("a size >= 0", math.inf),
    "bias": ("a half width >= 0", math.inf),
    "dropout": ("a chance in [0, 1)", 1.0),
    "loss": ("failures a second >= 0", math.inf),
}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_delay(name: str, delay: Range, control_dt: float = math.inf) -> None:
    """Raise TaskError unless it is a time in s, or a range of times, from 0 to LONGEST control steps."""
    low, high = delay if isinstance(delay, tuple) and len(delay) == 2 else (delay, delay)
    if not (_is_number(low) and _is_number(high) and 0 <= low <= high < math.inf):
        raise TaskError(f"{name} must be seconds >= 0, or a range (from, to) of them, got {delay!r}")
    if high > (LONGEST + EPSILON) * control_dt:
        rule = f"at most {LONGEST} control steps ({LONGEST * control_dt:g} s), the length of its buffer"
        raise TaskError(f"{name} must be {rule}, got {delay} s")
