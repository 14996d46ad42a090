"""What an Env keeps for each simulation beside the state of the physics."""

from collections.abc import Sequence

from robokit.env.carried import Carried
from robokit.env.commands import left
from robokit.env.levels import level_memory
from robokit.errors import TaskError
from robokit.sim.base import is_field
from robokit.task.task import Task, Terms

OWN_MEMORY = ("action", "clock", "age")  # of Env itself, beside the task's and the commands'


def memory_of(task: Task, carried: Sequence[Carried]) -> dict[str, int]:
    """Name -> width of all memory: carried terms, age, commands and their countdowns, and the task's own."""
    widths = {**{term.name: term.size for term in carried}, "age": 1}
    own = *OWN_MEMORY, *widths, *level_memory(task)
    for name, command in task.commands.items():
        widths[name] = len(command.low)
        if command.every is not None:
            widths[left(name)] = 1
    widths |= getattr(task.randomize, "memory", {}) | level_memory(task)
    taken = [name for name in task.memory if name in widths] + [n for n in task.commands if n in own]
    if taken := taken + [name for name in (*task.memory, *task.commands) if is_field(name)]:
        more = ", 'target' for those of a Delta" if "target" in taken else ""
        rule = f"memory and commands may not be called {taken}: these names are taken{more}"
        raise TaskError(f"{rule}; use others")
    return {**widths, **task.memory}


def copied(values: Terms) -> Terms:
    """Copies of a task's values, which may be live views of sim: later writes would change them."""
    return {name: value.clone() for name, value in values.items()}
