"""Success at the end of episodes in training: what moves the levels, and what is logged by source.

An episode succeeds if its metric of success holds at the end, as in task/counts.py. A simulation's level and
streak depend on its own episodes alone: neither on other simulations nor on processes.
"""

import torch
from torch import Tensor

from robokit.errors import TaskError
from robokit.sim.base import Sim
from robokit.task.checks.rules import Names
from robokit.task.counts import steps_held, success_of
from robokit.task.goal import SUCCESS
from robokit.task.level import Level
from robokit.task.states import SOURCE, libraries
from robokit.task.task import Task, Terms

LEVEL, STREAK = "level", "level.streak"  # streak: successes in a row since the last move, failures negative
HELD = "success.held"  # control steps in a row in which the metric of success is true


def level_memory(task: Task) -> dict[str, int]:
    """Name -> width of the memory that a task with a level or with libraries of reset states has."""
    if not isinstance(task.level, Level | None):
        raise TaskError(f"{type(task).__name__}.level must be a Level, got {task.level!r}")
    found = {LEVEL: 1, STREAK: 1} if task.level else {}
    found |= {SOURCE: 1} if libraries(task) else {}
    return found | ({HELD: 1} if found else {})


class Levels:
    """The level of each simulation, and success by source: "success/reset", then each library's, as `labels`.

    Outside of training the level is the highest and stays, and nothing is counted.
    """

    def __init__(self, task: Task, sim: Sim, names: Names, training: bool) -> None:
        self.level = task.level
        self._memory = {name: sim.memory[name] for name in level_memory(task)}
        self._kept = {name: self._memory[name] for name in (LEVEL, STREAK) if task.level}
        success = success_of(task, names.booleans) if self._memory else None
        self._by_goal = success == SUCCESS and task.goal is not None
        self._needed = steps_held(task, names.booleans).get(success or "", 1)
        self._column = names.metrics.index(success) if success and training else None
        sources = ["reset", *libraries(task)] if SOURCE in self._memory else []
        self._sources = [f"success/{name}" for name in sources]
        labels = ["episode/level"] * (LEVEL in self._memory) + self._sources
        self.labels = [] if self._column is None else labels
        self._top = self.level is not None and not training

    def begin(self) -> None:
        """Before a restart draws anything: the level is the highest outside of training."""
        if self._top and self.level:
            self._memory[LEVEL].fill_(self.level.highest)

    def keep(self, which: Tensor) -> Terms:
        """Memory that a restart keeps, of the simulations `which`: row numbers, or a mask and all rows."""
        return {n: x if which.dtype == torch.bool else x[which] for n, x in self._kept.items()}

    @property
    def own(self) -> Tensor | None:
        """Whether each episode began from the task's own start, (N,) bool; None: they all did."""
        return self._memory[SOURCE][:, 0] == 0 if SOURCE in self._memory else None

    def after(self, metrics: Tensor, done: Tensor, reached: Tensor | None = None) -> list[Tensor]:
        """After a control step with metrics (N, M): the columns (N, 1) of `labels`; moves what is `done`.

        reached: (N, 1) bool, where a goal has held and is redrawn; one of them makes an episode a success.
        Success is NaN but where an episode from that source has ended.
        """
        if self._column is None:
            return []
        held, ended = self._memory[HELD], done[:, None]
        now = torch.where(metrics[:, self._column, None] == 1, held + 1, 0.0)
        if reached is not None and self._by_goal:
            now = torch.where(reached | held.isinf(), torch.inf, now)  # until the restart
        held.copy_(now)
        success = held >= self._needed
        columns = []
        if self.level:
            self._move(self.level, success, ended)
            columns.append(self._memory[LEVEL])
        if SOURCE in self._memory:
            source, shares = self._memory[SOURCE], torch.where(ended, success.float(), torch.nan)
            columns += [torch.where(source == k, shares, torch.nan) for k in range(len(self._sources))]
        return [column.float() for column in columns]

    def _move(self, rule: Level, success: Tensor, ended: Tensor) -> None:
        level, streak = self._memory[LEVEL], self._memory[STREAK]
        now = torch.where(success, streak.clamp(min=0) + 1, streak.clamp(max=0) - 1)
        step = (now >= rule.rise).to(level.dtype) - (now <= -rule.fall).to(level.dtype)
        moved = (level + step).clamp(0, rule.highest)
        streak.copy_(torch.where(ended, torch.where(step == 0, now, 0.0), streak))
        level.copy_(torch.where(ended, moved, level))
