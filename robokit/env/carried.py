"""Carried terms (previous action, clock, targets): in sim.memory, or in `carry` of an exported file."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robokit.task.action import action_size, moves
from robokit.task.clock import NOON, rest, tick
from robokit.task.task import Task


class Carried(ABC):
    """One carried term (N, size). In each control period:

    observed = now(start where an episode begins, else carried; commands)
    carried = next(observed, action, targets sent)
    """

    name: str  # as in columns.CARRIED, and in a simulation's memory
    size: int
    follows_commands: bool = False  # whether `now` depends on the commands
    tolerance: float = 0.0  # largest difference from Env's value that an export accepts

    @property
    def constant(self) -> tuple[float, ...]:
        """What an episode starts with instead of the carried value, before `now`: zeros by default."""
        return (0.0,) * self.size

    def start(self, here: Tensor) -> Tensor:
        """The same as a tensor; here (N, nu): the targets that an episode starts with, ActionMap.start."""
        return here.new_tensor(self.constant)

    def now(self, kept: Tensor, commands: Sequence[Tensor]) -> Tensor:
        """The observed value (N, size) from the carried `kept` and the commands (N, d); default: `kept`."""
        return kept

    @abstractmethod
    def next(self, now: Tensor, action: Tensor, ctrl: Tensor) -> Tensor:
        """The value (N, size) to carry after an action (N, A) and the targets (N, nu) that were sent."""


@dataclass(frozen=True)
class PreviousAction(Carried):
    """The action (N, A) of the previous control period, clipped but not delayed; 0 in an episode's first."""

    size: int
    name = "action"

    def next(self, now: Tensor, action: Tensor, ctrl: Tensor) -> Tensor:
        return action


@dataclass(frozen=True)
class Clock(Carried):
    """[sine, cosine] (N, 2) of a gait's phase, [0, 0] while all commands are zero: see task/clock.py."""

    turn: float  # revolutions in a control period
    name, size, follows_commands = "clock", 2, True
    tolerance = 1e-3  # Env's clock has the simulation's precision

    @property
    def constant(self) -> tuple[float, ...]:
        return NOON

    def now(self, kept: Tensor, commands: Sequence[Tensor]) -> Tensor:
        return rest(kept, *commands)

    def next(self, now: Tensor, action: Tensor, ctrl: Tensor) -> Tensor:
        return tick(now, self.turn)


@dataclass(frozen=True)
class Target(Carried):
    """The targets (N, nu) sent last, from which a Delta moves on."""

    size: int
    name = "target"
    tolerance = 1e-3  # Env's has the simulation's precision

    def start(self, here: Tensor) -> Tensor:
        return here

    def next(self, now: Tensor, action: Tensor, ctrl: Tensor) -> Tensor:
        return ctrl


def carried_terms(task: Task, model: Any) -> tuple[Carried, ...]:
    """The previous action, the clock if its rate is not 0 Hz, the targets of a Delta: their order in `carry`.

    Raises TaskError for an action map that does not fit the model's controls.
    """
    clock = [Clock(task.clock * task.control_dt)] if task.clock else []
    target = [Target(int(model.nu))] if moves(task.action) else []
    return PreviousAction(action_size(task.action, model)), *clock, *target
