"""Limits on named costs, and the Lagrange multipliers that hold a policy to them: constrained MDPs.

    limits = {"joint_speed": Limit(0.01), "fall": Limit(0.05, "probability")}     # in a task
    multipliers = Multipliers(limits, Rule(), steps=1000, gamma=0.99)
    multipliers.update(*meter.measure(cost, terminated, done, left, starts))      # once an iteration
    advantage = combine(scaled, multipliers.weights(spread))                      # (T, N, 1 + K) -> (T, N)

Maximise J(pi) subject to J_k(pi) <= d_k (Altman 1999): the policy ascends J - sum_k lambda_k J_k, and each
lambda_k moves with its own violation. Costs are never scaled by anything that the policy can move.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from robokit.errors import OptionError, TaskError
from robokit.state import gather, scatter

Measure = Literal["rate", "episode", "discounted", "probability"]
SMOOTHING = 0.8  # of the violations that a multiplier follows: the weight of the past
LEAST, MOST = -1.0, 2.0  # relative violation in one iteration
HIGHEST = 50.0  # multiplier, in the units of normalised advantages
FLOOR = 0.01  # of the largest cost: a smaller limit counts as this where violations are relative
RECENT = 64  # episodes that lengths and probabilities are taken from


@dataclass(frozen=True)
class Limit:
    """An upper bound on one cost; raises TaskError for one that cannot be.

    rate         mean cost per control step
    episode      undiscounted sum over an episode
    discounted   sum of gamma^t c_t from the start of an episode
    probability  of an episode in which the cost is ever above 0
    """

    value: float  # in the units of the measure
    measure: Measure = "rate"
    largest: float = 1.0  # cost that one control step can have; of an indicator 1
    absorb: float = (
        0.0  # charged for every control step that a termination cuts off: dying early buys nothing
    )

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure):
            raise TaskError(f"Limit.measure must be one of {[*get_args(Measure)]}, got {self.measure!r}")
        for name in ("value", "largest", "absorb"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
                raise TaskError(f"Limit.{name} must be a finite number >= 0, got {number!r}")
        if not self.largest > 0:
            raise TaskError(f"Limit.largest must be a cost > 0, got {self.largest!r}")
        if self.absorb > self.largest:
            raise TaskError(f"Limit.absorb must be at most largest ({self.largest}), got {self.absorb}")
        if self.absorb and self.measure == "probability":
            raise TaskError("Limit.absorb has no meaning for a probability: an episode has violated, or not")
        bound = {"rate": self.largest, "probability": 1.0}.get(self.measure, math.inf)
        if self.value > bound:
            raise TaskError(
                f"a {self.measure} cannot come above {bound:g}, so a limit of {self.value} has no use"
            )

    def unit(self, steps: int, gamma: float = 1.0) -> float:
        """What a cost of 1 in every control step of a whole episode of `steps` comes to."""
        discounted = steps if gamma == 1 else (1 - gamma**steps) / (1 - gamma)
        return {"rate": 1.0, "episode": float(steps), "discounted": discounted, "probability": 1.0}[
            self.measure
        ]
