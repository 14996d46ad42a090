"""Files and checkpoints that survive kills, full disks and flipped bits.

May import: errors.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.disk.checkpoint import Checkpoint as Checkpoint, newest as newest, save as save
    from robokit.disk.write import (
        sync_folder as sync_folder,
        write_atomically as write_atomically,
        write_synced as write_synced,
    )

__getattr__, __dir__ = face(
    __name__,
    {
        "robokit.disk.write": "sync_folder write_atomically write_synced",
        "robokit.disk.checkpoint": "Checkpoint newest save",
    },
)
