"""How near a model's robots come to a point with what they move or carry, and what is in the air there."""

import copy

import mujoco
import numpy as np
from torch import Tensor

from robokit.sim.base import Sim
from robokit.sim.kinematics import Array, chain, find, place_of, reachable
from robokit.sim.model import names

FREE, BALL = int(mujoco.mjtJoint.mjJNT_FREE), int(mujoco.mjtJoint.mjJNT_BALL)


def apart(sim: Sim, places: Tensor, points: Array, rng: np.random.Generator) -> tuple[str, Array] | None:
    """Name of what is at `places` (N, 3), float32, and distances (K,), m, that stay from it to points (K, 3).

    Of a free body: between a sphere around it, at the point, and those around the robots' last links; below
    0 they meet. None: of neither it nor what hinges and slides alone move; and of a free body where a robot
    that floats, a constraint or a mocap body may carry it.
    """
    model, called = sim.model, names(sim.model, "body")
    if name := place_of(sim, places):
        return name, reachable(model, name, points, rng)
    last = [name for body, name in enumerate(called) if body and name and body not in model.body_parentid]
    links = [link for link in last if chain(model, link)]
    if (name := place_of(sim, places, (FREE,))) is None or not links or not _stands(model):
        return None
    far = [reachable(model, link, points, rng) - _sphere(model, link)[1] for link in links]
    return name, np.min(far, axis=0) - _sphere(model, name)[1]


def is_held(sim: Sim, name: str, points: Array, within: float, seconds: float) -> bool:
    """Whether only a robot can keep a site or body within m of any of points (K, 3) for some time.

    So it is the robot's; or it would fall further in that time, even if thrown, and six rays from each point
    meet nothing else in its sphere.
    """
    model, data, rays = copy.copy(sim.model), mujoco.MjData(sim.model), [*np.eye(3), *-np.eye(3)]
    model.geom_matid[:], model.geom_rgba[:, 3] = -1, 1.0  # rays pass what is not drawn, and end a plane
    model.geom_size[model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE), :2] = 0.0  # where its picture does
    data.qpos[:] = sim.qpos[0].cpu().numpy()
    mujoco.mj_kinematics(model, data)
    body, radius = _sphere(model, name)
    hits = [mujoco.mj_ray(model, data, at, ray, None, True, body, None) for at in points for ray in rays]
    falls = -model.opt.gravity[2] * seconds**2 > 16 * within  # g t^2 / 8, from its top, by 2 within
    in_air = falls and not any(0 <= hit <= radius + within for hit in hits)
    return in_air or bool(chain(model, name))


def _sphere(model: mujoco.MjModel, name: str) -> tuple[int, float]:
    """(body of a site, or the body of this name; radius of the sphere around it that holds its geoms, m)."""
    kind, at = find(model, name)
    body, place = (model.site_bodyid[at], model.site_pos[at]) if kind == "site" else (at, 0.0)
    far = np.linalg.norm(model.geom_pos - place, axis=1) + model.geom_rbound
    return int(body), float(far[model.geom_bodyid == body].max(initial=0.0))


def _stands(model: mujoco.MjModel) -> bool:
    """Whether actuators move nothing that floats, and only contacts carry."""
    data, free = mujoco.MjData(model), model.dof_treeid[model.jnt_dofadr[model.jnt_type == FREE]]
    mujoco.mj_fwdPosition(model, data)
    floats = np.isin(model.dof_treeid[data.moment_colind], free).any()
    pairs = (model.eq_type == int(mujoco.mjtEq.mjEQ_JOINT)).all()  # as of two fingers
    return bool(pairs and not (floats or model.nmocap or BALL in model.jnt_type))
