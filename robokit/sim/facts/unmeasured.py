"""What a simulation knows and no sensor on a robot reads: place and velocity of a free body, exact contact.

Orientation and rotation count as measured (an IMU), and so does what follows from the joints of a robot
whose base is fixed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from robokit.sim.facts.controls import joint_of
from robokit.sim.model import names

Index = tuple[Any, ...]  # into the dimensions of an MjData field after N

_PLACES = ("framepos", "subtreecom", "geomdist", "geomnormal", "geomfromto")
_SPEEDS = ("framelinvel", "velocimeter", "subtreelinvel")
_CONTACTS = ("touch", "contact")


@dataclass(frozen=True)
class Unmeasured:
    """A quantity in words, and the parts of MjData that it shifts, all by the same vector."""

    name: str
    example: str  # what may measure it
    parts: Mapping[str, Index]


def find_unmeasured(model: mujoco.MjModel) -> list[Unmeasured]:
    """Position and linear velocity of each body that floats, then exact contact.

    A body floats whose parent is the world, on a free joint or on a slide that no actuator drives. What lies
    between two points of one floating tree is not shifted: it follows from the joints.
    """
    roots = [body for body in range(1, model.nbody) if model.body_parentid[body] == 0]
    floating = [body for body in roots if _rails(model, body)]
    found = [quantity for root in floating for quantity in _of_tree(model, root, floating)]
    exact = {
        "cfrc_ext": (slice(1, None),),
        "sensordata": (_sensors(model, lambda i: _kind(model, i) in _CONTACTS),),
    }
    return [*found, Unmeasured("exact contact", "force sensors", exact)]


def _of_tree(model: mujoco.MjModel, root: int, floating: list[int]) -> tuple[Unmeasured, Unmeasured]:
    """Position and velocity of the floating tree `root`."""
    bodies = np.flatnonzero(model.body_rootid == root)
    geoms, sites = (np.flatnonzero(np.isin(of, bodies)) for of in (model.geom_bodyid, model.site_bodyid))
    rails = _rails(model, root)

    def crossing(kinds: tuple[str, ...]) -> np.ndarray:
        """Columns of sensors of these kinds that lead from this tree to another, or to the world."""

        def crosses(i: int) -> bool:
            ends = {_tree(model, *end, floating) for end in _ends(model, i)}
            return _kind(model, i) in kinds and root in ends and len(ends) > 1

        return _sensors(model, crosses)

    place = {
        "qpos": (np.concatenate([int(model.jnt_qposadr[j]) + np.arange(n) for j, n in rails]),),
        **dict.fromkeys(("xpos", "xipos", "subtree_com"), (bodies,)),
        "geom_xpos": (geoms,),
        "site_xpos": (sites,),
        "sensordata": (crossing(_PLACES),),
    }
    speed = {
        "qvel": (np.concatenate([int(model.jnt_dofadr[j]) + np.arange(n) for j, n in rails]),),
        "cvel": (bodies, slice(3, 6)),
        "subtree_linvel": (bodies,),
        "sensordata": (crossing(_SPEEDS),),
    }
    name = names(model, "body")[root] or f"body {root}"
    return (
        Unmeasured(f"the position of {name!r}", "motion capture", place),
        Unmeasured(f"the linear velocity of {name!r}", "state estimator", speed),
    )


def _rails(model: mujoco.MjModel, body: int) -> list[tuple[int, int]]:
    """(joint, its numbers in translation) of a body's free joint and of its slides without an actuator."""
    driven = _driven(model)
    width = {int(mujoco.mjtJoint.mjJNT_FREE): 3, int(mujoco.mjtJoint.mjJNT_SLIDE): 1}
    first = int(model.body_jntadr[body])
    joints = range(first, first + int(model.body_jntnum[body]))
    kinds = {j: int(model.jnt_type[j]) for j in joints if j not in driven}
    return [(j, width[kind]) for j, kind in kinds.items() if kind in width]


def _driven(model: mujoco.MjModel) -> set[int]:
    """Joints that a control moves, directly or by a fixed tendon."""
    driven = (joint_of(model, i) for i in range(model.nactuator) if model.actuator_ctrlnum[i])
    found = {joint for joint in driven if joint is not None}
    pulls = model.actuator_trntype == int(mujoco.mjtTrn.mjTRN_TENDON)
    tendons = np.flatnonzero(pulls & (model.actuator_ctrlnum > 0))
    for target in set(model.actuator_trnid[tendons, 0].tolist()):
        wraps = slice(model.tendon_adr[target], model.tendon_adr[target] + model.tendon_num[target])
        fixed = model.wrap_type[wraps] == int(mujoco.mjtWrap.mjWRAP_JOINT)
        found |= set(model.wrap_objid[wraps][fixed].tolist())
    return found


def _sensors(model: mujoco.MjModel, wanted: Callable[[int], bool]) -> np.ndarray:
    """Columns in sensordata of the sensors that are wanted."""
    starts, widths = model.sensor_adr.tolist(), model.sensor_dim.tolist()
    chosen = [np.arange(starts[i], starts[i] + widths[i]) for i in range(model.nsensor) if wanted(i)]
    return np.concatenate([np.zeros(0, int), *chosen])


def _kind(model: mujoco.MjModel, sensor: int) -> str:
    return mujoco.mjtSensor(int(model.sensor_type[sensor])).name.removeprefix("mjSENS_").lower()


def _ends(model: mujoco.MjModel, sensor: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(type, id) of the sensor's object and of its reference; id -1: the world."""
    obj, ref = (model.sensor_objtype, model.sensor_objid), (model.sensor_reftype, model.sensor_refid)
    return (int(obj[0][sensor]), int(obj[1][sensor])), (int(ref[0][sensor]), int(ref[1][sensor]))


def _tree(model: mujoco.MjModel, kind: int, number: int, floating: list[int]) -> int:
    """The floating body that carries an element; 0: the world, or a fixed base."""
    owner = {
        int(mujoco.mjtObj.mjOBJ_GEOM): model.geom_bodyid,
        int(mujoco.mjtObj.mjOBJ_SITE): model.site_bodyid,
        int(mujoco.mjtObj.mjOBJ_CAMERA): model.cam_bodyid,
    }
    body = 0 if number < 0 else int(owner[kind][number]) if kind in owner else number
    root = int(model.body_rootid[body])
    return root if root in floating else 0
