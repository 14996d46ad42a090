"""The command `robokit`.

May import: everything.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.cli.command import main as main

__getattr__, __dir__ = face(
    __name__,
    {
        "robokit.cli.command": "main",
    },
)
