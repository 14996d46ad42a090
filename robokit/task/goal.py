"""A task's goal: a command that an achieved term must come near and stay near.

goal = Goal(command="target", achieved="tip", within=0.02, hold=0.5, marker="sphere")
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from robokit.errors import TaskError
from robokit.sim.base import Sim
from robokit.task.command import Command

HOLD_SECONDS = 0.5  # s at the end of an episode in which a boolean metric must be true to have held
SUCCESS = "success"  # the boolean metric of a goal, and "every" of a command that is redrawn by it
Marker = Literal["sphere", "box", "arrow"]


@dataclass(frozen=True)
class Goal:
    """Success: `achieved` is at most `within` from the command, in each control step of the last `hold` s.

    The distance is Euclidean, over all numbers of both. Raises TaskError for an impossible value.
    """

    command: str  # its name in `commands`
    achieved: str  # a term of `observe` or `privileged`, as wide as the command; its exact value counts
    within: float  # > 0, in the command's unit
    hold: float = HOLD_SECONDS  # s, 0: one control step
    # drawn in films and the window: "sphere" (of radius within), "box" (half its side), or "arrow" from the
    # origin of the command's frame
    marker: Marker | None = None

    def __post_init__(self) -> None:
        for name, low, number in (("within", 1e-12, self.within), ("hold", 0.0, self.hold)):
            if not low <= number < math.inf:
                rule = "at least 0 s" if name == "hold" else "above 0, in the command's unit"
                raise TaskError(f"Goal.{name} must be {rule}, got {number}")
        if self.marker not in (None, *(known := get_args(Marker))):
            raise TaskError(f"Goal.marker must be one of {known}, or None, got {self.marker!r}")

    def holds(self, achieved: Tensor, goal: Tensor) -> Tensor:
        """(N,) bool: whether achieved (N, d) is near the goal (N, d) now."""
        return (achieved - goal).norm(dim=-1) <= self.within


def origin(command: Command, sim: Sim) -> tuple[Tensor, Tensor]:
    """Origin (3,), m, and axes (3, 3) of a command's frame in the world, in simulation 0: for the marker.

    frame: "world" or None, or kind and name of a body, geom or site, as "site imu". Raises TaskError for
    another, ModelError for one that the model lacks.
    """
    frame = command.frame if isinstance(command.frame, str) else (command.frame or ("world",))[0]
    kind, _, name = frame.partition(" ")
    if kind == "world":
        return sim.qpos.new_zeros(3), sim.qpos.new_ones(3).diag()
    if kind not in ("body", "geom", "site"):
        rule = 'needs a command in a frame of "world", or like "body hand" or "site imu"'
        raise TaskError(f"Goal.marker {rule}, got {frame!r}")
    part = getattr(sim, kind)(name)
    return part.xpos[0], part.xmat[0].reshape(3, 3)
