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
    center: Tensor  # ctrl at action 0; of a Delta where it starts, NaN: at its joint
    half: Tensor  # ctrl that an action of 1 adds
    low: Tensor
    high: Tensor
    lowest: Tensor  # of the targets
    highest: Tensor
    leash: Tensor  # inf: none
    joints: Tensor  # column of the observation that is a Delta's joint
    seen: Tensor  # bool: there is one
    moving: Tensor | None  # bool: a Delta; None: none is
    place: Tensor | None  # column of the action; None: each control has its own

    @property
    def span(self) -> Tensor:
        """(nu,) the highest minus the lowest target; 1 for a control that is held."""
        return torch.where(self.highest > self.lowest, self.highest - self.lowest, 1.0)

    @property
    def unit(self) -> Tensor:
        """(nu,) how far an action of 1 moves a target; 1 for a control that is held."""
        return torch.where(self.half > 0, self.half, 1.0)

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
        base = torch.where(self.moving, before, self.center)
        joints = sensed.index_select(-1, self.joints)
        moved = torch.addcmul(base, self.half, action.clamp(-1.0, 1.0))
        return moved.clamp(joints - self.leash, joints + self.leash).clamp(self.lowest, self.highest)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "ActionMap":
        """A copy with its numbers there, of that precision."""
        own = {f.name: x for f in fields(self) if isinstance(x := getattr(self, f.name), Tensor)}
        kind = {name: dtype if x.is_floating_point() else x.dtype for name, x in own.items()}
        return replace(self, **{name: x.to(device, kind[name]) for name, x in own.items()})


def map_of(action: Action, sim: Sim, joints: Sequence[int | None]) -> ActionMap:
    """The maps resolved for a simulation; joints: of each control, the column of obs that is its joint.

    Raises TaskError for an impossible number, start, leash or range of any.
    """
    found, n = groups(action, sim.model), int(sim.model.nu)
    center, half, low, high, leash = torch.zeros(5, n, dtype=sim.dtype, device=sim.device)
    for one, of in found:
        center[of], half[of], low[of], high[of] = one.numbers(sim, of)
        leash[of] = one.leashes(sim, of, joints) if isinstance(one, Delta) else torch.inf
    kind = {i: type(one).__name__.lower() for one, of in found for i in of}
    kinds, acting = tuple(kind[i] for i in range(n)), [i for i in range(n) if kind[i] != "hold"]
    place = [acting.index(i) if i in acting else 0 for i in range(n)]
    columns, place = torch.tensor([[j or 0 for j in joints], place], device=sim.device)
    moving = torch.tensor([kind == "delta" for kind in kinds], device=sim.device)
    lowest = torch.where(moving, low, torch.maximum(center - half, low))
    highest = torch.where(moving, high, torch.minimum(center + half, high))
    own = moving if "delta" in kinds else None, place if len(acting) < n else None
    return ActionMap(kinds, center, half, low, high, lowest, highest, leash, columns, leash.isfinite(), *own)
