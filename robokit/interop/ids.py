"""The ids of tasks in gymnasium's registry."""

import re

import gymnasium

from robokit.task.lookup.source import known_tasks

HOME = "robokit.interop.gymnasium"


def register() -> None:
    """Register each known task as `robokit/<task>-v0`, and `robokit/Task-v0` for one given by `task=`.

    Tasks are read, not imported. Raises TaskError as `known_tasks`.
    """
    named = {name: {"task": name} for name in known_tasks() if re.fullmatch(r"[\w.-]+", name)}
    for name, options in {"Task": {}, **named}.items():
        if (place := f"robokit/{name}-v0") not in gymnasium.registry:
            batch = f"{HOME}:TaskVectorEnv"
            gymnasium.register(place, f"{HOME}:TaskEnv", kwargs=options, vector_entry_point=batch)
