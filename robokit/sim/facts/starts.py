"""Faults of the states that simulations start from: joints beyond their ranges, bodies inside one another."""

from collections.abc import Iterator

import mujoco
import numpy as np
import torch

from robokit.sim.base import Sim
from robokit.sim.model import names

BEYOND = 0.01  # of a joint's range: a little noise around a start at its end is less
DEEP = 0.005  # m: soft contact at rest is less deep

Fault = tuple[float, str]  # its size, and in words what is how far off


def beyond_ranges(sim: Sim) -> list[Fault | None]:
    """For each simulation the slide or hinge (m, rad) furthest beyond its range, if by more than BEYOND."""
    model = sim.model
    units = {int(mujoco.mjtJoint.mjJNT_SLIDE): "m", int(mujoco.mjtJoint.mjJNT_HINGE): "rad"}
    limited = [j for j in range(model.njnt) if model.jnt_limited[j] and int(model.jnt_type[j]) in units]
    if not limited:
        return [None] * sim.num_envs
    low, high = sim.nominal("jnt_range")[limited].unbind(-1)
    at = sim.qpos[:, model.jnt_qposadr[limited].tolist()]
    over = torch.maximum(low - at, at - high)
    share, worst = (over / (high - low)).max(-1)
    known, found = names(model, "joint"), []
    for row, (far, column) in enumerate(zip(share.tolist(), worst.tolist(), strict=True)):
        joint, size = limited[column], float(over[row, column])
        words = f"{known[joint] or f'joint {joint}'!r} by {size:.3g} {units[int(model.jnt_type[joint])]}"
        found.append((size, words) if far > BEYOND else None)
    return found


def beyond_act(sim: Sim) -> list[Fault | None]:
    """For each simulation the actuator whose act is furthest beyond its actrange; MuJoCo clips it at once."""
    model, called = sim.model, names(sim.model, "actuator")
    limited = [i for i in range(model.nactuator) if model.actuator_actlimited[i] and model.actuator_actnum[i]]
    if not limited:
        return [None] * sim.num_envs
    columns = [int(model.actuator_actadr[i] + model.actuator_actnum[i]) - 1 for i in limited]  # the last one
    low, high = sim.nominal("actuator_actrange")[limited].unbind(-1)
    at = sim.field("act")[:, columns]
    far, worst = torch.maximum(low - at, at - high).max(-1)
    found = zip(far.tolist(), (limited[k] for k in worst.tolist()), strict=True)
    named = ((size, called[i] or f"actuator {i}") for size, i in found)
    return [(size, f"{name!r} by {size:.3g}") if size > 0 else None for size, name in named]


def penetrations(sim: Sim, objects: bool = False) -> list[Fault | None]:
    """For each simulation its deepest contact (m), if deeper than DEEP, in the nominal model's geometry.

    objects: only contacts of rigid free bodies, which have no other joints, with what cannot move.
    """
    data, found = mujoco.MjData(sim.model), []
    fields = {name: sim.field(name).cpu().numpy() for name in ("qpos", "mocap_pos", "mocap_quat")}
    for row in range(sim.num_envs):
        for name, values in fields.items():
            getattr(data, name)[:] = values[row]
        mujoco.mj_fwdPosition(sim.model, data)
        found.append(max(_deep(sim.model, data, objects), default=None))
    return found


def _deep(model: mujoco.MjModel, data: mujoco.MjData, objects: bool) -> Iterator[Fault]:
    first = model.jnt_type[model.dof_jntid[model.tree_dofadr]]
    rigid = np.flatnonzero((first == int(mujoco.mjtJoint.mjJNT_FREE)) & (model.tree_dofnum == 6))
    for contact in data.contact:
        trees = sorted(model.body_treeid[model.geom_bodyid[contact.geom]])  # -1 of what cannot move
        if -contact.dist > DEEP and (not objects or (trees[0] == -1 and trees[1] in rigid)):
            one, other = (_geom(model, int(geom)) for geom in contact.geom)
            yield -contact.dist, f"{one} and {other} by {-1000 * contact.dist:.3g} mm"


def _geom(model: mujoco.MjModel, geom: int) -> str:
    """Name of a geom, else of its body."""
    if geom < 0:
        return "a flex"
    body = names(model, "body")[model.geom_bodyid[geom]]
    return repr(names(model, "geom")[geom] or body or f"geom {geom}")
