"""Measures: what the costs c_t of an episode come to, in training and in evaluation. A new one is one class.

    measure = MEASURES["rate"]
    x, weight = measure.per_episode(costs)       # of E episodes: measured is sum(x) / sum(weight)
    measure.most(largest, steps, gamma)          # a limit above this has no use

A measure is the mean over episodes of `per_episode`, of the worst of them where `worst` is below 1, or the
probability that it is above 0. Add the class to MEASURES and its name to Name; what training cannot hold a
policy to says why in `untrained`.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar

from torch import Tensor

Name = Literal["rate", "episode", "discounted", "probability", "peak", "cvar"]
RECENT = 64  # episodes that training takes lengths, probabilities and other means over episodes from
Array = TypeVar("Array")  # a Tensor in training, a numpy array in evaluation


class EpisodeCosts(NamedTuple, Generic[Array]):
    """What one cost came to in episodes (E,); `absorb` is part of the first three."""

    total: Array  # sum of c_t
    span: Array  # control steps that a rate divides by, those that a termination cut off too under `absorb`
    discounted: Array  # sum of gamma^t c_t
    violated: Array  # 1 where c_t was ever above 0, else 0
    peak: Array  # largest c_t


class Measure(ABC):
    """One way to sum up a cost. Costs are at most `largest` a control step, episodes `steps` long at most."""

    words: ClassVar[str]  # in tables and plots
    shown: ClassVar[str] = ""  # in a histogram of episodes, where that is not `words`
    noun: ClassVar[str]  # in errors; {steps:g} stands for the control steps of an episode
    each: ClassVar[str] = ""  # what one episode has of it, where a limit can be compared with that
    share: ClassVar[bool] = False  # the probability that `per_episode` is above 0
    worst: ClassVar[float] = 1.0  # share of the episodes, the worst of them, that the mean is over
    wait: ClassVar[int] = 1  # whole episodes that training must have seen before it knows the measure
    running: ClassVar[bool] = False  # critics learn how the largest cost of the episode rises: charges.Maxima
    not_absorbed: ClassVar[str] = ""  # why `absorb` has no meaning here
    untrained: ClassVar[str] = ""  # why no multiplier can follow it

    @abstractmethod
    def most(self, largest: float, steps: float, gamma: float) -> float:
        """Of episodes with the largest cost in every control step."""

    @abstractmethod
    def per_episode(self, costs: EpisodeCosts[Array]) -> tuple[Array, Array | None]:
        """x (E,) and its weight (E,), None where every episode counts alike."""

    def bounds(self, largest: float, steps: float, gamma: float) -> tuple[float, float]:
        """The largest x of an episode, and the largest sum(x) / sum(weight) where that is another."""
        return self.most(largest, steps, gamma), math.inf

    def charge(self, cost: Tensor) -> tuple[Tensor, Tensor | None]:
        """What critics learn of a cost, and where it is the last of an episode (bool; None: nowhere)."""
        return cost, None

    def measured(self, rate: Tensor, length: Tensor, mean: Tensor) -> Tensor:
        """J in training. rate: mean cost of the present control steps; of recent whole episodes the mean
        `length` in control steps and the `mean` of x."""
        return mean


class Rate(Measure):
    """Mean cost per control step."""

    words, noun, wait = "per control step", "rate", 0

    def most(self, largest: float, steps: float, gamma: float) -> float:
        return largest

    def bounds(self, largest: float, steps: float, gamma: float) -> tuple[float, float]:
        return largest * steps, largest

    def per_episode(self, costs: EpisodeCosts[Array]) -> tuple[Array, Array | None]:
        return costs.total, costs.span

    def measured(self, rate: Tensor, length: Tensor, mean: Tensor) -> Tensor:
        return rate


class Episode(Measure):
    """Undiscounted sum over an episode."""

    words, noun, each, wait = "sum of an episode", "sum of {steps:g} control steps", "sum", 0

    def most(self, largest: float, steps: float, gamma: float) -> float:
        return largest * steps

    def per_episode(self, costs: EpisodeCosts[Array]) -> tuple[Array, Array | None]:
        return costs.total, None

    def measured(self, rate: Tensor, length: Tensor, mean: Tensor) -> Tensor:
        return rate * length  # follows the present policy: a mean over past episodes lags


class Discounted(Measure):
    """Sum of gamma^t c_t from the start of an episode."""

    words, noun = "discounted sum", "discounted sum"

    def most(self, largest: float, steps: float, gamma: float) -> float:
        return largest * (steps if gamma == 1 else (1 - gamma**steps) / (1 - gamma))

    def per_episode(self, costs: EpisodeCosts[Array]) -> tuple[Array, Array | None]:
        return costs.discounted, None


class Probability(Measure):
    """Of an episode in which the cost is ever above 0. Critics learn the chance of a next violation."""

    words, noun, share, wait = "P(any in an episode)", "probability", True, RECENT
    shown = Episode.words
    not_absorbed = "an episode has violated, or not"

    def most(self, largest: float, steps: float, gamma: float) -> float:
        return 1.0

    def per_episode(self, costs: EpisodeCosts[Array]) -> tuple[Array, Array | None]:
        return costs.violated, None

    def charge(self, cost: Tensor) -> tuple[Tensor, Tensor | None]:
        hit = cost > 0
        return hit.to(cost.dtype), hit


class Peak(Measure):
    """Largest cost of an episode. Critics learn the rise of the running maximum m, max(c_t - m, 0)."""

    words, noun, each, running = "largest in an episode", "peak", "peak", True
    not_absorbed = "it is no sum over control steps; let the last control step itself cost as much"

    def most(self, largest: float, steps: float, gamma: float) -> float:
        return largest

    def per_episode(self, costs: EpisodeCosts[Array]) -> tuple[Array, Array | None]:
        return costs.peak, None


class Cvar(Episode):
    """Conditional value at risk: mean sum of the worst tenth of the episodes (Rockafellar & Uryasev 2000)."""

    worst, words, shown = 0.1, "worst 10 % of sums", Episode.words
    untrained = (
        "it is about the worst tenth of the episodes, and a control step does not know its episode's rank"
    )


MEASURES: dict[Name, Measure] = {
    "rate": Rate(),
    "episode": Episode(),
    "discounted": Discounted(),
    "probability": Probability(),
    "peak": Peak(),
    "cvar": Cvar(),
}
