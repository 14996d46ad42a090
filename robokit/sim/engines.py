"""Physics engines by name."""

from collections.abc import Mapping
from typing import Any

from robokit.errors import ModelError
from robokit.sim.base import Sim


def make_sim(kind: str, spec: Any, num_envs: int, memory: Mapping[str, int], **options: Any) -> Sim:
    """A Sim on engine "mujoco" (mujoco.batch) or "warp" (mujoco_warp); ModelError for another name.

    spec: an MjSpec. memory: name -> width. options: threads, lag, device.
    """
    if kind == "mujoco":
        from robokit.sim.cpu import MujocoSim

        return MujocoSim(spec, num_envs, memory, **options)
    if kind == "warp":
        from robokit.sim.warp.engine import WarpSim

        return WarpSim(spec, num_envs, memory, **options)
    raise ModelError(f"sim must be 'mujoco' or 'warp', got {kind!r}")
