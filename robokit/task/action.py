"""Action maps: from actions in [-1, 1] to ctrl.

action = {"arm*": Delta(0.05, leash=0.2), "gripper": Ctrl(), "wheel": Hold("home")}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robokit.errors import TaskError, did_you_mean
from robokit.limits.limit import Limit as Limit
from robokit.sim.base import Sim
from robokit.sim.facts.controls import CtrlRange, bounds, controls, joint_of, range_keys, sets_position
from robokit.sim.model import names
from robokit.task.sense import Sense as Sense

Numbers = float | Sequence[float]  # one for all controls, or one each
Columns = list[int]  # of ctrl: the controls of a map
Each = tuple[Tensor, Tensor, Tensor, Tensor]  # center, half, low, high


@dataclass(frozen=True)
class Ctrl:
    """Actions in [-1, 1] map affinely onto each control's range, low to high, in units of ctrl.

    It is ctrlrange; for a control without one it is what else in the model bounds it (sim/facts/controls.py).
    low, high: numbers of the task instead, one or one each; a ctrlrange narrows them.
    """

    low: Numbers | None = None
    high: Numbers | None = None

    def limits(self, sim: Sim, of: Columns) -> tuple[Tensor, Tensor]:
        """Bounds (low, high) of ctrl, (n,) each, all finite. Raises TaskError for a control without."""
        low, high = ctrl_limits(sim, of)
        if self.low is not None or self.high is not None:
            own = [_numbers(sim, of, f"Ctrl.{key}", getattr(self, key)) for key in ("low", "high")]
            low, high = torch.maximum(low, own[0]), torch.minimum(high, own[1])
            rule = "Ctrl.low must be below Ctrl.high and within ctrlrange"
            for i in torch.nonzero(~(low < high)).flatten().tolist():
                span = f"{float(low[i]):g} to {float(high[i]):g}"
                raise TaskError(f"{rule}; of {_names(sim, [of[i]])} {span} is left")
            return low, high
        borrowed = self.borrowed(sim)
        for k, i in enumerate(of):
            if i in borrowed:
                low[k], high[k] = borrowed[i].low, borrowed[i].high
        if missing := torch.nonzero(~(low.isfinite() & high.isfinite())).flatten().tolist():
            raise TaskError(_no_range(sim, [of[i] for i in missing]))
        return low, high

    def borrowed(self, sim: Sim) -> dict[int, CtrlRange]:
        """Control -> its range, of those that take it from elsewhere in the model than from ctrlrange."""
        if self.low is not None:
            return {}
        limited, off = sim.model.actuator_ctrllimited, _switched_off(sim)
        found = enumerate(bounds(sim.model))
        return {i: bound for i, bound in found if bound and not limited[i] and i not in off}

    def numbers(self, sim: Sim, of: Columns) -> Each:
        """(center, half, low, high), (n,) each: ctrl = center + half * action. Raises as `limits`."""
        low, high = self.limits(sim, of)
        return (low + high) / 2, (high - low) / 2, low, high


def _numbers(sim: Sim, of: Columns, what: str, value: Any, positive: bool = False) -> Tensor:
    """A task's numbers for the controls `of`, (n,). Raises TaskError unless they are finite and fit."""
    n = len(of)
    try:
        x = torch.as_tensor(value, dtype=sim.dtype, device=sim.device)
    except (TypeError, ValueError, RuntimeError):
        x = torch.tensor(torch.nan)
    if x.shape not in ((), (n,)) or not bool((x.isfinite() & ((x > 0) | (not positive))).all()):
        each = f"must be a finite number, or one for each of {n} controls"
        rule = f"must be > 0, one or {n} numbers" if positive else each
        raise TaskError(f"{what} {rule}; got {value!r}")
    return x.expand(n)


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
    scale: Numbers  # one for all controls, or one each

    def numbers(self, sim: Sim, of: Columns) -> Each:
        """(center, half, low, high), (n,) each, in units of ctrl: ctrl = center + half * action.

        Raises TaskError for an impossible scale, and where all targets of a control lie beyond its ctrlrange.
        """
        scale = _numbers(sim, of, "Around.scale", self.scale, positive=True)
        return _at_keyframe(sim, of, self, scale), scale, *ctrl_limits(sim, of)


@dataclass(frozen=True)
class Hold:
    """No action: the control is held at a keyframe's ctrl."""

    keyframe: str | int

    def numbers(self, sim: Sim, of: Columns) -> Each:
        """(center, 0, low, high), (n,) each. Raises TaskError for a ctrl beyond ctrlrange."""
        zero = torch.zeros(len(of), dtype=sim.dtype, device=sim.device)
        return _at_keyframe(sim, of, self, zero), zero, *ctrl_limits(sim, of)


@dataclass(frozen=True)
class Delta:
    """The target moves by `scale` (units of ctrl) * action in each control period: for servos of position.

        target = clip(clip(target + scale * action, q - leash, q + leash), range);  q: the sensed joint

    An episode starts at q; where no term of the observation is the joint's position (in rad or m) at the
    keyframe's ctrl. leash: required where one is. Without it the target winds up against a table, a soft
    start or a hold, and jumps on release. The range is ctrlrange, or what else bounds it, as of Ctrl().
    """

    scale: Numbers
    leash: Numbers | None = None  # rad or m
    keyframe: str | int | None = None

    def numbers(self, sim: Sim, of: Columns) -> Each:
        """(keyframe's ctrl or NaN, scale, low, high), (n,) each. TaskError unless ctrl is a position."""
        known, span = controls(sim.model), Ctrl().limits(sim, of)
        if other := [i for i in of if not sets_position(sim.model, known[i])]:
            rule = "moves a target of position, so it needs a position actuator"
            raise TaskError(f"Delta {rule}; {_names(sim, other)} have another: Ctrl() or Around(...) there")
        scale = _numbers(sim, of, "Delta.scale", self.scale, positive=True)
        start = torch.nan * scale if self.keyframe is None else _at_keyframe(sim, of, self, 0 * scale)
        return start, scale, *span

    def leashes(self, sim: Sim, of: Columns, joints: Sequence[int | None]) -> Tensor | float:
        """leash (n,); inf where the joint has no column in `joints`. Raises TaskError as the class says."""
        unseen = [i for i in of if joints[i] is None]
        seen = [i for i in of if joints[i] is not None]
        what = "an observation that is its joint's position, sim.qpos as it is in rad or m, not hidden"
        if unseen and self.keyframe is None:
            what = f"must know where it starts: {what}, or Delta(..., keyframe=)"
            raise TaskError(f"Delta of {_names(sim, unseen)} {what}")
        if unseen and self.leash is not None:
            raise TaskError(f"Delta.leash of {_names(sim, unseen)} needs {what}: or a map without leash")
        if seen and self.leash is None:
            why = "without one its target winds up against what stops the joint, and jumps on release"
            raise TaskError(f"Delta of {_names(sim, seen)} needs a leash, as the joint is observed: {why}")
        return torch.inf if unseen else _numbers(sim, of, "Delta.leash", self.leash, positive=True)


Map = Ctrl | Around | Delta | Hold
Action = Map | Mapping[str, Map]  # of all controls, or {pattern: map}, fnmatch on names of controls


def _at_keyframe(sim: Sim, of: Columns, one: Any, reach: Tensor) -> Tensor:
    """A keyframe's ctrl, (n,). TaskError if all targets within `reach` of it lie beyond ctrlrange."""
    center, (low, high) = sim.keyframe(one.keyframe).ctrl[of], ctrl_limits(sim, of)
    lowest, highest = center - reach, center + reach
    still, outside = (highest < low) | (lowest > high), (highest <= low) | (lowest >= high)
    for i in torch.nonzero(torch.where(reach > 0, outside, still)).flatten().tolist():
        targets, span = (f"{float(a[i]):g} to {float(b[i]):g}" for a, b in ((lowest, highest), (low, high)))
        what = f"{type(one).__name__}'s targets of {_names(sim, [of[i]])[0]!r}, {targets}"
        hint = f"does the keyframe {one.keyframe!r} have a ctrl?"
        raise TaskError(f"{what}, must overlap its ctrlrange, {span}: {hint}")
    return center


def ctrl_limits(sim: Sim, of: Columns) -> tuple[Tensor, Tensor]:
    """ctrlrange (low, high), (n,) each; -inf and inf for a control without one."""
    limited = sim.nominal("actuator_ctrllimited").bool()[of]
    low, high = sim.nominal("actuator_ctrlrange")[of].unbind(-1)
    infinity = torch.full_like(low, torch.inf)
    return torch.where(limited, low, -infinity), torch.where(limited, high, infinity)


def by_pattern(action: Action) -> Mapping[str, Map]:
    return action if isinstance(action, Mapping) else {"*": action}


def check_action(owner: str, action: Any) -> None:
    """Raise TaskError unless it is an action map, or {pattern: action map}."""
    maps = by_pattern(action)
    if not maps or not all(isinstance(k, str) and isinstance(one, Map) for k, one in maps.items()):
        rule = "must be Ctrl(), Around(...), Delta(...) or Hold(...), or {pattern: one of these}"
        raise TaskError(f"{owner}.action {rule}, got {action!r}")


def moves(action: Action) -> bool:
    """Whether a control's target is carried: whether there is a Delta."""
    return any(isinstance(one, Delta) for one in by_pattern(action).values())


def groups(action: Action, model: Any) -> list[tuple[Map, list[int]]]:
    """Each map with its controls, in ctrl's order. TaskError unless each control matches one pattern."""
    called, maps = [control.name for control in controls(model)], by_pattern(action)
    found = {p: [i for i, name in enumerate(called) if name == p or fnmatchcase(name, p)] for p in maps}
    for pattern in (p for p, of in found.items() if not of and called):
        hint = did_you_mean(pattern, called, f"there are {called}")
        raise TaskError(f"action: no control {pattern!r}{hint}")
    for i, name in enumerate(called):
        if len(by := [pattern for pattern, of in found.items() if i in of]) != 1:
            rule = f"must match one pattern of {[*maps]}, got {by or 'none'}"
            raise TaskError(f"action: control {name!r} {rule}")
    return [(one, found[pattern]) for pattern, one in maps.items()]


def action_size(action: Action, model: Any) -> int:
    """A, the numbers of an action: a control that is held has none."""
    return sum(len(of) for one, of in groups(action, model) if not isinstance(one, Hold))
