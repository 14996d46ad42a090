"""Terms that are carried from step to step, by Env in its memory and by the exported file in `carry`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from robokit.task.clock import NOON, rest, tick
from robokit.task.task import Task


class Carried(ABC):
    """One carried term (N, size).

    now = start where an episode begins, else what was carried;  then `now(kept, commands)`
    observe now, act, then carry `next(now, action)`
    """

    name: str  # as in columns.CARRIED, and in a simulation's memory
    size: int
    follows_commands: bool = False  # whether `now` depends on the commands
    tolerance: float = 0.0  # difference to Env's own value that an export accepts

    @property
    def start(self) -> tuple[float, ...]:
        """Values at the first step of an episode."""
        return (0.0,) * self.size

    def now(self, kept: Tensor, commands: Sequence[Tensor]) -> Tensor:
        """The observed value under these commands (N, d) each."""
        return kept

    @abstractmethod
    def next(self, now: Tensor, action: Tensor) -> Tensor:
        """The value after a control period with this action (N, A)."""


@dataclass(frozen=True)
class PreviousAction(Carried):
    """The action of the control period before."""

    size: int
    name = "action"

    def next(self, now: Tensor, action: Tensor) -> Tensor:
        return action


@dataclass(frozen=True)
class Clock(Carried):
    """Sine and cosine of a gait's phase: see task/clock.py."""

    turn: float  # revolutions in a control period
    name, size, follows_commands = "clock", 2, True
    tolerance = 1e-3  # a simulation keeps its clock in its own precision

    @property
    def start(self) -> tuple[float, ...]:
        return NOON

    def now(self, kept: Tensor, commands: Sequence[Tensor]) -> Tensor:
        return rest(kept, *commands)

    def next(self, now: Tensor, action: Tensor) -> Tensor:
        return tick(now, self.turn)


def carried_terms(task: Task, act_dim: int) -> tuple[Carried, ...]:
    """The carried terms of a task, in their order in `carry`."""
    clock = [Clock(task.clock * task.control_dt)] if task.clock else []
    return PreviousAction(act_dim), *clock
