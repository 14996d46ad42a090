"""Carried terms of an observation (previous action, clock): in sim.memory, or `carry` of an exported file."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from robokit.task.clock import NOON, rest, tick
from robokit.task.task import Task


class Carried(ABC):
    """One carried term (N, size). In each control period:

    observed = now(start where an episode begins, else carried; commands)
    carried = next(observed, action)
    """

    name: str  # as in columns.CARRIED, and in a simulation's memory
    size: int
    follows_commands: bool = False  # whether `now` depends on the commands
    tolerance: float = 0.0  # largest difference from Env's value that an export accepts

    @property
    def start(self) -> tuple[float, ...]:
        """What an episode starts with instead of the carried value, before `now`: zeros by default."""
        return (0.0,) * self.size

    def now(self, kept: Tensor, commands: Sequence[Tensor]) -> Tensor:
        """The observed value (N, size) from the carried `kept` and the commands (N, d); default: `kept`."""
        return kept

    @abstractmethod
    def next(self, now: Tensor, action: Tensor) -> Tensor:
        """The value (N, size) to carry after an action (N, A)."""


@dataclass(frozen=True)
class PreviousAction(Carried):
    """The action (N, A) of the previous control period, clipped but not delayed; 0 in an episode's first."""

    size: int
    name = "action"

    def next(self, now: Tensor, action: Tensor) -> Tensor:
        return action


@dataclass(frozen=True)
class Clock(Carried):
    """[sine, cosine] (N, 2) of a gait's phase, [0, 0] while all commands are zero: see task/clock.py."""

    turn: float  # revolutions in a control period
    name, size, follows_commands = "clock", 2, True
    tolerance = 1e-3  # Env's clock has the simulation's precision

    @property
    def start(self) -> tuple[float, ...]:
        return NOON

    def now(self, kept: Tensor, commands: Sequence[Tensor]) -> Tensor:
        return rest(kept, *commands)

    def next(self, now: Tensor, action: Tensor) -> Tensor:
        return tick(now, self.turn)


def carried_terms(task: Task, act_dim: int) -> tuple[Carried, ...]:
    """The previous action, then the clock if the task's rate `clock` is not 0 Hz: their order in `carry`."""
    clock = [Clock(task.clock * task.control_dt)] if task.clock else []
    return PreviousAction(act_dim), *clock
