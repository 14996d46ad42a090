"""Measures of the costs c_t of episodes, in training and in evaluation. A new measure is one class.

    measure = MEASURES["rate"]
    x, weight = measure.per_episode(costs)       # of E episodes; the measured value: sum(x) / sum(weight)
    measure.most(largest, steps, gamma)          # a limit above this has no use

A measure is the mean of `per_episode` over all episodes, or over the worst ones (`worst` < 1), or the
probability that it is above 0 (`share`). Add the class to MEASURES and its name to Name. A measure that is
for evaluation only gives the reason in `untrained`.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

Name = Literal["rate", "episode", "discounted", "probability", "peak", "cvar"]
RECENT = 64  # episodes in training's means over episodes, e.g. of lengths and violations
Array = TypeVar("Array")  # a Tensor in training, a numpy array in evaluation


class EpisodeCosts(NamedTuple, Generic[Array]):
    """One cost in each of E episodes, (E,); the first three include the charges of `absorb`."""

    total: Array  # sum of c_t
    span: Array  # control steps, the divisor of a rate; with `absorb` also those lost to a termination
    discounted: Array  # sum of gamma^t c_t
    violated: Array  # 1 if c_t was ever above 0, else 0
    peak: Array  # largest c_t


class Rest(NamedTuple):
    """What a limit leaves for the next control steps of M running episodes."""

    value: float  # of the limit
    rest: Tensor  # (M,) value minus `Measure.spent` of the control steps until now, summed
    age: Tensor  # (M,) control steps until now
    ahead: Tensor  # (M,) control steps of the plan, at most `left`
    left: Tensor  # (M,) control steps of the episode
    gamma: float


class Measure(ABC):
    """How the costs of episodes become the one number that a limit bounds: a rate, a probability, ...

    It holds no state. Arguments: `largest`, the highest cost possible in a control step; `steps`, control
    steps of the longest episode; gamma, the discount per control step.
    """

    words: ClassVar[str]  # label in tables and plots
    shown: ClassVar[str] = ""  # label of a histogram of episodes, if not `words`
    noun: ClassVar[str]  # name in errors; {steps:g}: the control steps of an episode
    each: ClassVar[str] = ""  # name of one episode's value, if that can be compared with the limit
    share: ClassVar[bool] = False  # it is the probability that `per_episode` is above 0
    worst: ClassVar[float] = 1.0  # share of the episodes in the mean, counted from the worst
    wait: ClassVar[int] = 1  # whole episodes before the measure is known in training
    running: ClassVar[bool] = False  # critics learn the rise of the episode's largest cost: charges.Maxima
    not_absorbed: ClassVar[str] = ""  # reason why `absorb` has no meaning here
    untrained: ClassVar[str] = ""  # reason why no multiplier can follow it

    @abstractmethod
    def most(self, largest: float, steps: float, gamma: float) -> float:
        """The measure of episodes of `steps` control steps with the cost `largest` in every one."""

    @abstractmethod
    def per_episode(self, costs: EpisodeCosts[Array]) -> tuple[Array, Array | None]:
        """x (E,) and its weight (E,) in the mean of x over episodes; weight None: all count alike."""

    def bounds(self, largest: float, steps: float, gamma: float) -> tuple[float, float]:
        """Upper bounds of x in one episode, and of sum(x) / sum(weight); inf: no tighter bound."""
        return self.most(largest, steps, gamma), math.inf

    def charge(self, cost: Tensor) -> tuple[Tensor, Tensor | None]:
        """The critics' cost for `cost` (...), and where their return ends with it: (...) bool, or None."""
        return cost, None

    def spent(self, cost: Tensor, age: Tensor, gamma: float) -> Tensor:
        """What a cost (...) in control step `age` of an episode adds to what its limit bounds."""
        return cost

    def planned(self, cost: Tensor, age: Tensor, gamma: float) -> Tensor:
        """What the costs (H, ..., M) of the next H control steps come to, (..., M); age (M,) of the first."""
        return torch.stack([self.spent(c, age + t, gamma) for t, c in enumerate(cost)]).sum(0)

    def allowed(self, now: Rest) -> Tensor:
        """What `planned` may be (M,); by default what is left of a sum over the episode, evenly spread."""
        return now.rest * now.ahead / now.left

    def measured(self, rate: Tensor, length: Tensor, mean: Tensor) -> Tensor:
        """J in training, a scalar like its arguments; `mean` by default.

        rate: mean cost of the present control steps; length, mean: mean number of control steps, and mean x,
        of recent whole episodes.
        """
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

    def allowed(self, now: Rest) -> Tensor:
        return now.rest + now.value * (now.age + now.ahead - 1)

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
        return rate * length  # of the present policy: a mean over past episodes lags


class Discounted(Measure):
    """Sum of gamma^t c_t from the start of an episode."""

    words, noun = "discounted sum", "discounted sum"

    def most(self, largest: float, steps: float, gamma: float) -> float:
        return largest * (steps if gamma == 1 else (1 - gamma**steps) / (1 - gamma))

    def per_episode(self, costs: EpisodeCosts[Array]) -> tuple[Array, Array | None]:
        return costs.discounted, None

    def spent(self, cost: Tensor, age: Tensor, gamma: float) -> Tensor:
        return gamma**age * cost

    def allowed(self, now: Rest) -> Tensor:
        if now.gamma == 1:
            return super().allowed(now)
        return now.rest * (1 - now.gamma**now.ahead) / (1 - now.gamma**now.left)


class Probability(Measure):
    """Probability that the cost is ever above 0 in an episode. Critics learn a 1 that ends their return."""

    words, noun, share, wait = "P(any in an episode)", "probability", True, RECENT
    shown = Episode.words
    not_absorbed = "a violation counts once, however long the episode"

    def most(self, largest: float, steps: float, gamma: float) -> float:
        return 1.0

    def per_episode(self, costs: EpisodeCosts[Array]) -> tuple[Array, Array | None]:
        return costs.violated, None

    def charge(self, cost: Tensor) -> tuple[Tensor, Tensor | None]:
        hit = cost > 0
        return hit.to(cost.dtype), hit

    def allowed(self, now: Rest) -> Tensor:
        return 0 * now.rest


class Peak(Measure):
    """Largest cost of an episode. Critics learn the rise of the running maximum m, max(c_t - m, 0)."""

    words, noun, each, running = "largest in an episode", "peak", "peak", True
    not_absorbed = "it is no sum over control steps; add the charge to the cost of the last control step"

    def most(self, largest: float, steps: float, gamma: float) -> float:
        return largest

    def per_episode(self, costs: EpisodeCosts[Array]) -> tuple[Array, Array | None]:
        return costs.peak, None

    def planned(self, cost: Tensor, age: Tensor, gamma: float) -> Tensor:
        return cost.amax(0)

    def allowed(self, now: Rest) -> Tensor:
        return now.value + 0 * now.rest


class Cvar(Episode):
    """Conditional value at risk: mean sum of the worst tenth of the episodes (Rockafellar & Uryasev 2000)."""

    worst, words, shown = 0.1, "worst 10 % of sums", Episode.words
    untrained = "whether an episode is among the worst tenth is not known while it runs"


MEASURES: dict[Name, Measure] = {
    "rate": Rate(),
    "episode": Episode(),
    "discounted": Discounted(),
    "probability": Probability(),
    "peak": Peak(),
    "cvar": Cvar(),
}
