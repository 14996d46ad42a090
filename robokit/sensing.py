"""How what a robot measures differs from what the simulator knows."""

import math
from dataclasses import dataclass

from robokit.errors import TaskError


@dataclass(frozen=True)
class Sense:
    """One observation term as its sensor gives it."""

    noise: float = 0.0  # standard deviation of Gaussian noise, fresh every control step; unit of the term

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise TaskError(f"Sense.noise must be a standard deviation >= 0, got {self.noise}")
