"""Mirror images of observations and actions, for robots with a left and a right side."""

from dataclasses import dataclass

from robokit.errors import TaskError
from robokit.limits.limit import Limit as Limit
from robokit.task.sense import Sense as Sense


@dataclass(frozen=True)
class Mirror:
    """The mirror image of an observation term or action: x[i] becomes sign[i] * x[order[i]].

    Raises TaskError unless the map is its own inverse.
    """

    sign: tuple[float, ...]  # +1 or -1 each
    order: tuple[int, ...] | None = None  # None: no permutation

    def __post_init__(self) -> None:
        order, n = self.places, len(self.sign)
        if sorted(order) != list(range(n)) or any(abs(s) != 1 for s in self.sign):
            raise TaskError(f"a Mirror of {n} numbers needs signs of +-1 and each place once, got {self}")
        for i, j in enumerate(order):
            if order[j] != i or self.sign[i] != self.sign[j]:
                raise TaskError(f"a Mirror must be its own inverse; number {i} does not come back in {self}")

    @property
    def places(self) -> tuple[int, ...]:
        """`order`, or (0, 1, ...) if that is None."""
        return tuple(range(len(self.sign))) if self.order is None else self.order
