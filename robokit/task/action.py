"""Action maps: from actions in [-1, 1] to ctrl."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robokit.errors import TaskError
from robokit.limits.limit import Limit as Limit
from robokit.sim.base import Sim
from robokit.task.sense import Sense as Sense


@dataclass(frozen=True)
class Ctrl:
    """Actions in [-1, 1] map affinely onto each actuator's ctrlrange."""

    def affine(self, sim: Sim) -> tuple[Tensor, Tensor]:
        """(center, half), (A,) each, in units of ctrl: ctrl = center + half * action.

        Raises TaskError if an actuator has no ctrlrange.
        """
        limited, low, high = _ctrlrange(sim)
        if not limited.all():
            names = [sim.model.actuator(int(i)).name for i in torch.nonzero(~limited)]
            raise TaskError(f"Ctrl() needs a ctrlrange on every actuator; {names} have none: use Around")
        return (low + high) / 2, (high - low) / 2


@dataclass(frozen=True)
class Around:
    """ctrl = a keyframe's ctrl + `scale` (units of ctrl) * action in [-1, 1]; Env clamps it to ctrlrange."""

    keyframe: str
    scale: float | tuple[float, ...]  # one for all actuators, or one each

    def affine(self, sim: Sim) -> tuple[Tensor, Tensor]:
        center = sim.keyframe(self.keyframe).ctrl
        scale = torch.as_tensor(self.scale, dtype=center.dtype, device=center.device)
        if scale.shape not in ((), center.shape) or not bool(((scale > 0) & scale.isfinite()).all()):
            raise TaskError(f"Around.scale must be > 0, one or {len(center)} numbers; got {self.scale}")
        scale = scale.expand_as(center)
        _check_reach(sim, center - scale, center + scale, f"does the keyframe {self.keyframe!r} have a ctrl?")
        return center, scale


def _check_reach(sim: Sim, lowest: Tensor, highest: Tensor, hint: str) -> None:
    """Raise TaskError if all targets of an actuator lie beyond one end of ctrlrange: no action moves it."""
    low, high = ctrl_limits(sim)
    outside = torch.nonzero((highest <= low) | (lowest >= high))
    if len(outside):
        i = int(outside[0])
        targets, span = (f"{float(a[i]):g} to {float(b[i]):g}" for a, b in ((lowest, highest), (low, high)))
        name = sim.model.actuator(i).name
        raise TaskError(
            f"Around's targets of {name!r}, {targets}, must overlap its ctrlrange, {span}: {hint}"
        )


def _ctrlrange(sim: Sim) -> tuple[Tensor, Tensor, Tensor]:
    """(limited (bool), low, high), (A,) each; -inf and inf for an actuator without a range."""
    limited = sim.nominal("actuator_ctrllimited").bool()
    low, high = sim.nominal("actuator_ctrlrange").unbind(-1)
    infinity = torch.full_like(low, torch.inf)
    return limited, torch.where(limited, low, -infinity), torch.where(limited, high, infinity)


def ctrl_limits(sim: Sim) -> tuple[Tensor, Tensor]:
    """Bounds (low, high) of ctrl, (A,) each; -inf and inf for an actuator without a range."""
    return _ctrlrange(sim)[1:]
