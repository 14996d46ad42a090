"""A task's action maps, resolved for a simulation: what Env and the exported graph compute targets with."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from robokit.sim.base import Sim
from robokit.task.action import Action, Delta, groups


@dataclass(frozen=True)
class ActionMap:
    """A task's action maps together: actions (N, A) -> targets ctrl (N, nu), (nu,) numbers each."""

    kinds: tuple[str, ...]  # "ctrl", "around", "delta" or "hold" of each control
    center: Tensor  # ctrl at action 0; of a Delta that starts at its joint NaN
    half: Tensor  # ctrl that an action of 1 adds
    low: Tensor
    high: Tensor
    lowest: Tensor  # of the targets
    highest: Tensor
    leash: Tensor
    joints: Tensor  # column of the observation that is a Delta's joint
    seen: Tensor  # bool: there is one
    moving: Tensor | None  # bool: a Delta; None: none is
    place: Tensor | None  # column of the action; None: each control has its own

    @property
    def size(self) -> int:
        """A."""
        return sum(kind != "hold" for kind in self.kinds)

    @property
    def unit(self) -> Tensor:
        """(nu,) `half`, to measure differences in; 1 for one that is held."""
        return torch.where(self.half > 0, self.half, 1.0)

    @property
    def span(self) -> Tensor:
        """(nu,) the highest minus the lowest target, within the range; 1 for one that is held."""
        span = torch.minimum(2 * self.half, self.high - self.low)
        span = span if self.moving is None else torch.where(self.moving, self.high - self.low, span)
        return torch.where(span > 0, span, 1.0)

    def start(self, sensed: Tensor) -> Tensor:
        """Targets (N, nu) that an episode starts with, from its first observation (N, O)."""
        joints = sensed.index_select(-1, self.joints)
        return torch.where(self.seen, joints, self.center).clamp(self.lowest, self.highest)

    def target(self, action: Tensor, before: Tensor | None = None, sensed: Tensor | None = None) -> Tensor:
        """Targets (N, nu) of actions (N, A), clipped to [-1, 1].

        before: the last targets (N, nu), sensed: the observation (N, O) of the action; only for a Delta.
        """
        if self.place is not None:
            action = action.index_select(-1, self.place)
        if self.moving is None or before is None or sensed is None:
            return torch.addcmul(self.center, self.half, action).clamp(self.lowest, self.highest)
        moved = torch.addcmul(
            torch.where(self.moving, before, self.center), self.half, action.clamp(-1.0, 1.0)
        )
        joints = sensed.index_select(-1, self.joints)
        moved = moved.clamp(joints - self.leash, joints + self.leash)
        return moved.clamp(self.lowest, self.highest)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "ActionMap":
        """A copy with its numbers there, of that precision."""
        own = {f.name: x for f in fields(self) if isinstance(x := getattr(self, f.name), Tensor)}
        kind = {name: dtype if x.is_floating_point() else x.dtype for name, x in own.items()}
        return replace(self, **{name: x.to(device, kind[name]) for name, x in own.items()})


def map_of(action: Action, sim: Sim, joints: Sequence[int | None]) -> ActionMap:
    """The maps resolved for a simulation; joints: of each control, the column of obs that is its joint.

    Raises TaskError for an impossible number, start, leash or range of any.
    """
    n, found = int(sim.model.nu), groups(action, sim.model)
    center, half, low, high, leash = torch.zeros(5, n, dtype=sim.dtype, device=sim.device)
    leash += torch.inf
    kinds = [""] * n
    for one, of in found:
        low[of], high[of] = one.limits(sim, of)
        center[of], half[of] = one.affine(sim, of)
        if isinstance(one, Delta):
            leash[of] = one.leashes(sim, of, [joint is not None for joint in joints])
        for i in of:
            kinds[i] = type(one).__name__.lower()
    delta = torch.tensor([kind == "delta" for kind in kinds], device=sim.device)
    acting = [i for i, kind in enumerate(kinds) if kind != "hold"]
    place = torch.tensor([acting.index(i) if i in acting else 0 for i in range(n)], device=sim.device)
    return ActionMap(
        tuple(kinds),
        center,
        half,
        low,
        high,
        torch.where(delta, low, torch.maximum(center - half, low)),
        torch.where(delta, high, torch.minimum(center + half, high)),
        leash,
        joints=torch.tensor([joint or 0 for joint in joints], device=sim.device),
        seen=torch.tensor([joint is not None for joint in joints], device=sim.device) & delta,
        moving=delta if bool(delta.any()) else None,
        place=place if len(acting) < n else None,
    )
