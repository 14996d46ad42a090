"""Action maps: from actions in [-1, 1] to ctrl."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robokit.errors import TaskError
from robokit.limits.limit import Limit as Limit
from robokit.sim.base import Sim
from robokit.sim.facts.controls import CtrlRange, bounds, controls, joint_of, range_keys
from robokit.sim.model import names
from robokit.task.sense import Sense as Sense

Numbers = float | Sequence[float] | None  # one for all controls, or one each


@dataclass(frozen=True)
class Ctrl:
    """Actions in [-1, 1] map affinely onto each control's range, low to high, in units of ctrl.

    It is ctrlrange; for a control without one it is what else in the model bounds it (sim/facts/controls.py).
    low, high: numbers of the task instead, one or one each; a ctrlrange narrows them.
    """

    low: Numbers = None
    high: Numbers = None

    def limits(self, sim: Sim) -> tuple[Tensor, Tensor]:
        """Bounds (low, high) of ctrl, (A,) each, all finite. Raises TaskError for a control without."""
        low, high = ctrl_limits(sim)
        if self.low is not None or self.high is not None:
            own = _own(sim, self)
            low, high = torch.maximum(low, own[0]), torch.minimum(high, own[1])
            rule = "Ctrl.low must be below Ctrl.high and within ctrlrange"
            for i in torch.nonzero(~(low < high)).flatten().tolist():
                span = f"{float(low[i]):g} to {float(high[i]):g}"
                raise TaskError(f"{rule}; of {_names(sim, [i])} {span} is left")
            return low, high
        for i, borrowed in self.borrowed(sim).items():
            low[i], high[i] = borrowed.low, borrowed.high
        if missing := torch.nonzero(~(low.isfinite() & high.isfinite())).flatten().tolist():
            raise TaskError(_no_range(sim, missing))
        return low, high

    def borrowed(self, sim: Sim) -> dict[int, CtrlRange]:
        """Control -> its range, of those that take it from elsewhere in the model than from ctrlrange."""
        if self.low is not None:
            return {}
        limited, off = sim.model.actuator_ctrllimited, _switched_off(sim)
        found = enumerate(bounds(sim.model))
        return {i: bound for i, bound in found if bound and not limited[i] and i not in off}

    def affine(self, sim: Sim) -> tuple[Tensor, Tensor]:
        """(center, half), (A,) each, in units of ctrl: ctrl = center + half * action. Raises as `limits`."""
        low, high = self.limits(sim)
        return (low + high) / 2, (high - low) / 2


def _own(sim: Sim, action: Ctrl) -> tuple[Tensor, Tensor]:
    """The task's own (low, high), (A,) each. Raises TaskError unless both are finite and fit the controls."""
    return _end(sim, "low", action.low), _end(sim, "high", action.high)


def _end(sim: Sim, key: str, value: Numbers) -> Tensor:
    n = int(sim.model.nu)
    try:
        end = torch.as_tensor(value, dtype=sim.dtype, device=sim.device)
    except (TypeError, ValueError, RuntimeError):
        end = torch.tensor(torch.nan)
    if end.shape not in ((), (n,)) or not bool(end.isfinite().all()):
        rule = f"must be a finite number, or one for each of {n} controls"
        raise TaskError(f"Ctrl.{key} {rule}; got {value!r}")
    return end.expand(n)


def _switched_off(sim: Sim) -> set[int]:
    """Controls with a ctrlrange that ctrllimited="false" switches off."""
    limited, (low, high) = sim.model.actuator_ctrllimited, sim.model.actuator_ctrlrange.T
    return set(np.flatnonzero((limited == 0) & (low < high)).tolist())


def _no_range(sim: Sim, missing: list[int]) -> str:
    """The message for controls without a range, with both ways out."""
    off = [i for i in missing if i in _switched_off(sim)]
    if off:
        text = f'{_names(sim, off)} have one that ctrllimited="false" switches off'
        mjcf = 'ctrllimited="true" in the MJCF'
    else:
        text = f"{_names(sim, missing)} have none, nor a limit of force or joint to take it from"
        mjcf = f"{range_keys(sim.model, missing)} in the MJCF"
    return f"Ctrl() needs a ctrlrange on every actuator; {text}: write {mjcf}, or Ctrl(low, high) in the task"


def _names(sim: Sim, columns: list[int]) -> list[str]:
    """Names of controls; with its joint's, if a name does not say it."""
    known, found = controls(sim.model), list[str]()
    joints = names(sim.model, "joint")
    for name, joint in ((known[i].name, joint_of(sim.model, known[i].actuator)) for i in columns):
        unsaid = joint is not None and joints[joint] and name.startswith("actuator ")
        found.append(f"{name} on {joints[joint or 0]}" if unsaid else name)
    return found


@dataclass(frozen=True)
class Around:
    """ctrl = a keyframe's ctrl + `scale` (units of ctrl) * action in [-1, 1]; Env clamps it to ctrlrange."""

    keyframe: str | int  # its name, or its index
    scale: float | tuple[float, ...]  # one for all controls, or one each

    def limits(self, sim: Sim) -> tuple[Tensor, Tensor]:
        """Bounds (low, high) of ctrl, (A,) each: ctrlrange."""
        return ctrl_limits(sim)

    def affine(self, sim: Sim) -> tuple[Tensor, Tensor]:
        """(center, half), (A,) each, in units of ctrl: ctrl = center + half * action.

        Raises TaskError for an impossible scale, and where all targets of a control lie beyond its ctrlrange.
        """
        center = sim.keyframe(self.keyframe).ctrl
        scale = torch.as_tensor(self.scale, dtype=center.dtype, device=center.device)
        if scale.shape not in ((), center.shape) or not bool(((scale > 0) & scale.isfinite()).all()):
            raise TaskError(f"Around.scale must be > 0, one or {len(center)} numbers; got {self.scale}")
        scale = scale.expand_as(center)
        _check_reach(sim, center - scale, center + scale, f"does the keyframe {self.keyframe!r} have a ctrl?")
        return center, scale


def _check_reach(sim: Sim, lowest: Tensor, highest: Tensor, hint: str) -> None:
    """Raise TaskError if all targets of a control lie beyond one end of ctrlrange: no action moves it."""
    low, high = ctrl_limits(sim)
    outside = torch.nonzero((highest <= low) | (lowest >= high))
    if len(outside):
        i = int(outside[0])
        targets, span = (f"{float(a[i]):g} to {float(b[i]):g}" for a, b in ((lowest, highest), (low, high)))
        name = _names(sim, [i])[0]
        raise TaskError(
            f"Around's targets of {name!r}, {targets}, must overlap its ctrlrange, {span}: {hint}"
        )


def ctrl_limits(sim: Sim) -> tuple[Tensor, Tensor]:
    """ctrlrange (low, high), (A,) each; -inf and inf for a control without one."""
    limited = sim.nominal("actuator_ctrllimited").bool()
    low, high = sim.nominal("actuator_ctrlrange").unbind(-1)
    infinity = torch.full_like(low, torch.inf)
    return torch.where(limited, low, -infinity), torch.where(limited, high, infinity)
