"""N copies of one MuJoCo model as tensors; the only room that knows an engine.

May import: errors and compute.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.sim.base import Keyframe as Keyframe, Named as Named, Sim as Sim
    from robokit.sim.engines import make_sim as make_sim
    from robokit.sim.model import (
        Source as Source,
        index as index,
        load as load,
        names as names,
        nominal as nominal,
    )

__getattr__, __dir__ = face(__name__, __file__)
