"""Where and how tensors are computed: processes, devices, compiled graphs, transfers.

May import: errors.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.compute.compile import compiled as compiled
    from robokit.compute.cuda_graph import Graphed as Graphed
    from robokit.compute.devices import find_device as find_device
    from robokit.compute.processes import joined as joined, rank as rank, world as world
    from robokit.compute.transfer import Transfer as Transfer

__getattr__, __dir__ = face(
    __name__,
    {
        "robokit.compute.processes": "joined rank world",
        "robokit.compute.devices": "find_device",
        "robokit.compute.compile": "compiled",
        "robokit.compute.cuda_graph": "Graphed",
        "robokit.compute.transfer": "Transfer",
    },
)
