"""Carried terms of an observation: Env keeps them in its memory, the exported file in `carry`."""

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
        """Values at the first step of an episode."""
        return (0.0,) * self.size

    def now(self, kept: Tensor, commands: Sequence[Tensor]) -> Tensor:
        """The observed value (N, size) from the carried one and the commands (N, d)."""
        return kept

    @abstractmethod
    def next(self, now: Tensor, action: Tensor) -> Tensor:
        """The value (N, size) to carry after an action (N, A)."""


@dataclass(frozen=True)
class PreviousAction(Carried):
    """The action of the previous control period."""

    size: int
    name = "action"

    def next(self, now: Tensor, action: Tensor) -> Tensor:
        return action


@dataclass(frozen=True)
class Clock(Carried):
    """Sine and cosine of a gait's phase: see task/clock.py."""

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
    """The carried terms of a task, in their order in `carry`."""
    clock = [Clock(task.clock * task.control_dt)] if task.clock else []
    return PreviousAction(act_dim), *clock
