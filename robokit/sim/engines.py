"""The engines by name."""

from collections.abc import Mapping
from typing import Any

from robokit.errors import ModelError
from robokit.sim.base import Sim


def make_sim(kind: str, spec: Any, num_envs: int, memory: Mapping[str, int], **options: Any) -> Sim:
    """A Sim on engine `kind`: "cpu" (mujoco.batch) or "gpu" (mujoco_warp; on CUDA, or Warp's CPU device)."""
    if kind == "cpu":
        from robokit.sim.cpu import CpuSim

        return CpuSim(spec, num_envs, memory, **options)
    if kind == "gpu":
        from robokit.sim.warp.engine import GpuSim

        return GpuSim(spec, num_envs, memory, **options)
    raise ModelError(f"sim must be 'cpu' or 'gpu', got {kind!r}")
