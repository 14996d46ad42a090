"""From a name to a task file.

May import: robokit.task.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.task.lookup.find import (
        find_task as find_task,
        known_tasks as known_tasks,
        load_task as load_task,
    )

__getattr__, __dir__ = face(
    __name__,
    {
        "robokit.task.lookup.find": "find_task known_tasks load_task",
    },
)
