"""Joint positions that bring a site or body to a point: damped least squares (Wampler 1986; Buss 2004, 5).

qpos, error = reach(model, "tip", [[0.3, 0.1, 0.2]])      # m: how far the tip stays from each point
"""

import mujoco
import numpy as np
import numpy.typing as npt
from torch import Tensor

from robokit.sim.base import Sim
from robokit.sim.model import index, names

JOINTS = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
DAMPING = 0.03  # lambda: near a singular pose steps stay short
LONGEST = 0.1  # m, of the error that one step removes
PLACES = {"site": "site_xpos", "body": "xpos"}  # fields of MjData
AXES = {"site": "site_xmat", "body": "xmat"}
Array = npt.NDArray[np.float64]


def reach(
    model: mujoco.MjModel,
    site: str,
    points: npt.ArrayLike,
    start: npt.ArrayLike | None = None,
    steps: int = 100,
    within: float = 1e-4,
    axes: npt.ArrayLike | None = None,
) -> tuple[Array, Array]:
    """(qpos (K, nq), distance (K,) in m) with the site near points (K, 3) in the world.

    site: its name, or that of a body where no site has it. Only hinges and slides between it and the world
    move, within their ranges. start: (nq,), or (K, nq); None: qpos0. axes: (K, 3, 3) or (3, 3), how the site
    is to be turned, columns in the world; distances are then of (m, rad). Ends after `steps`, or `within`.

    dq = J^T (J J^T + lambda^2 1)^-1 e

    Raises ModelError if there is no such site.
    """
    goals = np.asarray(points, float).reshape(-1, 3)
    begin = np.asarray(model.qpos0 if start is None else start, float)
    qpos = np.broadcast_to(begin, (len(goals), model.nq)).copy()
    distance, data, at = np.empty(len(goals)), mujoco.MjData(model), find(model, site)
    joints = chain(model, site)
    turned = None if axes is None else np.broadcast_to(np.asarray(axes, float), (len(goals), 3, 3))
    for row, goal in enumerate(goals):
        data.qpos[:] = qpos[row]
        turn = None if turned is None else turned[row]
        distance[row] = _approach(data, at, goal, turn, joints, steps, within)
        qpos[row] = data.qpos
    return qpos, distance


def chain(model: mujoco.MjModel, site: str) -> list[int]:
    """Indices of the hinges and slides that move a site. Raises ModelError if there is no such site."""
    return [j for j in _joints(model, *find(model, site)) if int(model.jnt_type[j]) in JOINTS]


def place_of(sim: Sim, places: Tensor, kinds: tuple[int, ...] = JOINTS) -> str | None:
    """Name of a site or body that is at `places` (N, 3), float32, and that joints of `kinds` alone move."""
    for kind in PLACES if places.shape[1] == 3 else ():
        same = (sim.field(PLACES[kind]).float() == places[:, None]).all(-1).all(0)
        for at in same.nonzero()[:, 0].tolist():
            joints, name = _joints(sim.model, kind, at), names(sim.model, kind)[at]
            alone = joints and all(int(sim.model.jnt_type[j]) in kinds for j in joints)
            if name and alone and find(sim.model, name) == (kind, at):
                return name
    return None


def find(model: mujoco.MjModel, name: str) -> tuple[str, int]:
    """Kind and index of the site of this name, else of the body. Raises ModelError if there is neither."""
    kind = "body" if name in names(model, "body") and name not in names(model, "site") else "site"
    return kind, index(model, kind, name)


def _joints(model: mujoco.MjModel, kind: str, at: int) -> list[int]:
    """Indices of all joints between a site or body and the world."""
    body, joints = int(model.site_bodyid[at]) if kind == "site" else at, list[int]()
    while body:
        first = int(model.body_jntadr[body])
        joints += range(first, first + int(model.body_jntnum[body]))
        body = int(model.body_parentid[body])
    return sorted(joints)


def random_joints(model: mujoco.MjModel, joints: list[int], n: int, rng: np.random.Generator) -> Array:
    """(n, nq): qpos0 with these joints uniform in their ranges; without a range, within pi or 1 m of it."""
    qpos = np.tile(model.qpos0, (n, 1))
    for joint in joints:
        low, high = _range(model, joint)
        qpos[:, model.jnt_qposadr[joint]] = rng.uniform(low, high, n)
    return qpos


def reachable(
    model: mujoco.MjModel, site: str, points: npt.ArrayLike, rng: np.random.Generator, tries: int = 1000
) -> Array:
    """Distances (K,), m, that stay between the site and points (K, 3), each from the nearest of `tries`."""
    goals = np.asarray(points, float).reshape(-1, 3)
    starts = random_joints(model, chain(model, site), tries, rng)
    data, (kind, at), places = mujoco.MjData(model), find(model, site), np.empty((tries, 3))
    for row, qpos in enumerate(starts):
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        places[row] = getattr(data, PLACES[kind])[at]
    nearest = np.linalg.norm(places[None] - goals[:, None], axis=-1).argmin(1)
    return reach(model, site, goals, starts[nearest])[1]


def _approach(
    data: mujoco.MjData,
    site: tuple[str, int],
    goal: Array,
    turn: Array | None,
    joints: list[int],
    steps: int,
    within: float,
) -> float:
    """Move data.qpos towards the goal, and the site's axes towards `turn`; the distance that stays."""
    model, rows = data.model, 3 if turn is None else 6
    places, dofs = model.jnt_qposadr[joints], model.jnt_dofadr[joints]
    low, high = np.array([_range(model, joint, np.inf) for joint in joints]).reshape(-1, 2).T
    (kind, at), jacobian, error, quat = site, np.zeros((6, model.nv)), np.zeros(rows), np.empty(4)
    place, axes = getattr(data, PLACES[kind])[at], getattr(data, AXES[kind])[at].reshape(3, 3)  # live views
    derive = mujoco.mj_jacSite if kind == "site" else mujoco.mj_jacBody
    for step in range(steps + 1):
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        error[:3] = goal - place
        if turn is not None:
            mujoco.mju_mat2Quat(quat, (turn @ axes.T).ravel())
            mujoco.mju_quat2Vel(error[3:], quat, 1.0)  # rad
        distance = float(np.linalg.norm(error))
        if distance <= within or step == steps:
            break
        derive(model, data, jacobian[:3], jacobian[3:], at)
        own = jacobian[:rows, dofs]
        damped = own @ own.T + DAMPING**2 * np.eye(rows)
        move = own.T @ np.linalg.solve(damped, error * min(1.0, LONGEST / distance))
        data.qpos[places] = np.clip(data.qpos[places] + move, low, high)
    return float(np.linalg.norm(error))


def _range(model: mujoco.MjModel, joint: int, free: float | None = None) -> tuple[float, float]:
    """A joint's range in rad or m; without one: `free` to both sides, None: pi, or 1 m, of qpos0."""
    if model.jnt_limited[joint]:
        return float(model.jnt_range[joint, 0]), float(model.jnt_range[joint, 1])
    wide = np.pi if int(model.jnt_type[joint]) == JOINTS[0] else 1.0
    middle = float(model.qpos0[model.jnt_qposadr[joint]])
    return middle - (wide if free is None else free), middle + (wide if free is None else free)
