"""N copies of one MuJoCo model as tensors; the only place that knows MuJoCo or Warp."""

from robokit.sim.base import Keyframe, Named, Sim, make_sim
from robokit.sim.model import Source, index, load, names, nominal

__all__ = ["Keyframe", "Named", "Sim", "Source", "index", "load", "make_sim", "names", "nominal"]
