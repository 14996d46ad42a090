"""A task's `randomize` as a table of physical quantities, resolved into the function that draws it."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Generator

from robokit.errors import TaskError
from robokit.sim.base import Sim
from robokit.sim.quantities.draw import Draw
from robokit.sim.quantities.table import Table
from robokit.task.task import Task, Terms


class Randomized:
    """The function `randomize(sim, rng)` of a table; functions in it, of (task, sim, rng), draw beside it.

    memory: widths of what it fills, "joint_offset". Raises ModelError as `Table`.
    """

    def __init__(self, task: Task, given: Mapping[str, Any], model: Any) -> None:
        own = {name: value for name, value in given.items() if callable(value)}
        draws: dict[str, Draw] = {name: value for name, value in given.items() if name not in own}
        self.table, self._name = Table(draws, model), type(task).__name__
        self.memory = self.table.memory
        self._functions: dict[str, Callable[..., Terms]] = {n: f.__get__(task) for n, f in own.items()}

    def __call__(self, sim: Sim, rng: Generator) -> Terms:
        values = self.table.draw(sim, rng)
        for name, function in self._functions.items():
            more = function(sim, rng)
            if both := sorted(values.keys() & more.keys()):
                who = f"{self._name}.randomize[{name!r}]"
                raise TaskError(f"{who} writes {both[0]!r}, which a quantity of the table writes too")
            values |= more
        return values


def resolve(task: Task, model: Any) -> None:
    """Replace a table in the place of `task.randomize` by its function. Raises ModelError as `Table`."""
    if isinstance(given := task.randomize, Mapping):
        vars(task)["randomize"] = Randomized(task, given, model)
