"""The engine on MuJoCo Warp.

May import: robokit.sim.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.sim.warp.engine import WarpSim as WarpSim

__getattr__, __dir__ = face(
    __name__,
    {
        "robokit.sim.warp.engine": "WarpSim",
    },
)
