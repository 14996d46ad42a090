"""Names, units and frames of a model's sensors, joints and actuators, for the contract of an export."""

import hashlib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from typing import Any

import mujoco
import torch
from torch import Tensor

from robokit.sim.base import Sim
from robokit.sim.model import Source, names

_SITE = ("touch", "accelerometer", "velocimeter", "gyro", "force", "torque", "magnetometer")
_UNITS = {
    "touch": "N", "accelerometer": "m/s^2", "velocimeter": "m/s", "gyro": "rad/s", "force": "N",
    "torque": "N m", "magnetometer": "T", "rangefinder": "m", "tendonpos": "m", "tendonvel": "m/s",
    "ballquat": "1, wxyz", "ballangvel": "rad/s", "framepos": "m", "framequat": "1, wxyz", "framexaxis": "1",
    "frameyaxis": "1", "framezaxis": "1", "framelinvel": "m/s", "frameangvel": "rad/s",
    "framelinacc": "m/s^2", "frameangacc": "rad/s^2", "subtreecom": "m", "subtreelinvel": "m/s",
    "subtreeangmom": "kg m^2/s", "geomdist": "m", "geomnormal": "1", "geomfromto": "m",
    "e_potential": "J", "e_kinetic": "J", "clock": "s",
}  # fmt: skip
_OF_JOINT = {"pos": ("m", "rad"), "vel": ("m/s", "rad/s"), "frc": ("N", "N m")}  # of a slide and of a hinge
_DIRECT = (mujoco.mjtDyn.mjDYN_NONE, mujoco.mjtDyn.mjDYN_FILTER, mujoco.mjtDyn.mjDYN_FILTEREXACT)
_FREE = ("x", "y", "z", "qw", "qx", "qy", "qz")
_FREE_SPEED = ("vx", "vy", "vz", "wx", "wy", "wz")


@dataclass(frozen=True)
class Channel:
    """One column of `readings`: source as "gyro[0]" or "knee velocity", unit, frame as "site imu".

    unit and frame are None if the model does not define them.
    """

    source: str
    unit: str | None
    frame: str | None


def channels(sim: Sim) -> list[Channel]:
    """The channel of each column of `readings`: all sensors, then qpos, then qvel."""
    model = sim.model
    found = [c for i in range(model.nsensor) for c in _sensor(model, i)]
    joints = range(model.njnt)
    return [
        *found,
        *(c for j in joints for c in _joint(model, j, "pos")),
        *(c for j in joints for c in _joint(model, j, "vel")),
    ]


def readings(sim: Sim) -> Tensor:
    """A copy of sensordata, qpos and qvel side by side, (N, C) float32."""
    return torch.cat([sim.field(f).float() for f in ("sensordata", "qpos", "qvel")], -1)


def actuators(sim: Sim) -> list[dict[str, Any]]:
    """Each actuator, in MuJoCo's order: name, unit (of ctrl), kp, kd, joint, joint_range, force_range.

    An unnamed actuator gets the name of its joint, if that is unique, else "actuator 3". None: no such joint,
    unit or limit. kp and kd are absent if the actuator is no servo.
    """
    model = sim.model
    called = [name or _target(model, i) for i, name in enumerate(names(model, "actuator"))]
    return [
        {
            "name": name or (called[i] if called.count(called[i]) == 1 else None) or f"actuator {i}",
            "unit": _ctrl_unit(model, i),
            **_gains(model, i),
            "joint": _target(model, i),
            "joint_range": _joint_range(model, i),
            "force_range": _force_range(model, i),
        }
        for i, name in enumerate(names(model, "actuator"))
    ]


def model_name(sim: Sim) -> str:
    """The model's name, <mujoco model=...> in the MJCF."""
    return sim.model.names.split(b"\0")[0].decode()


def model_hashes(source: Source) -> dict[str, str]:
    """Path from the model's folder -> sha256 of each MJCF file: model, includes, attached models; no meshes.

    For an MjSpec {"MjSpec": sha256 of its XML}.
    """
    if not isinstance(source, Path | str):
        return {"MjSpec": hashlib.sha256(source.to_xml().encode()).hexdigest()}
    files, folder = [Path(source)], Path(source).parent
    for file in files:  # grows during the loop
        parts = [e for e in ElementTree.parse(file).iter() if e.tag in ("include", "model") and e.get("file")]
        found = [folder / str(e.get("file")) for e in parts]
        files += [f for f in found if f not in files and f.is_file()]
    return {Path(relpath(f, folder)).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _sensor(model: mujoco.MjModel, i: int) -> list[Channel]:
    """Channels of sensor i, one for each of its numbers."""
    kind = mujoco.mjtSensor(int(model.sensor_type[i])).name.removeprefix("mjSENS_").lower()
    name, width = names(model, "sensor")[i], int(model.sensor_dim[i])
    unit, frame = _UNITS.get(kind), None
    if kind.startswith(("joint", "actuator")):
        unit, frame = _sensed_joint_unit(model, i, kind), "joint axis"
    elif kind in _SITE:
        frame = _object(model, model.sensor_objtype[i], model.sensor_objid[i])
    elif kind.startswith(("frame", "subtree")):
        referred = int(model.sensor_refid[i]) >= 0
        frame = _object(model, model.sensor_reftype[i], model.sensor_refid[i]) if referred else "world"
    return [Channel(name if width == 1 else f"{name}[{k}]", unit, frame) for k in range(width)]


def _sensed_joint_unit(model: mujoco.MjModel, i: int, kind: str) -> str | None:
    target = int(model.sensor_objid[i])
    if kind.startswith("joint"):
        return _joint_unit(model, target, kind[-3:])
    geared = model.actuator_gear[target, 0] != 1.0  # MuJoCo reports the actuator's side of the gear
    joint = _driven_joint(model, target)
    return None if geared or joint is None else _joint_unit(model, joint, kind[-3:])


def _joint_unit(model: mujoco.MjModel, joint: int, what: str) -> str | None:
    kind = int(model.jnt_type[joint])
    scalar = {int(mujoco.mjtJoint.mjJNT_SLIDE): 0, int(mujoco.mjtJoint.mjJNT_HINGE): 1}
    return _OF_JOINT[what][scalar[kind]] if kind in scalar else None


def _joint(model: mujoco.MjModel, joint: int, what: str) -> list[Channel]:
    """Channels of a joint in qpos ("pos") or qvel ("vel"); a free one moves in world, turns in body axes."""
    name, kind = names(model, "joint")[joint] or f"joint {joint}", int(model.jnt_type[joint])
    if unit := _joint_unit(model, joint, what):
        return [Channel(name if what == "pos" else f"{name} velocity", unit, "joint axis")]
    skipped = 0 if kind == int(mujoco.mjtJoint.mjJNT_FREE) else 3  # a ball joint only turns
    if what == "pos":
        parts = [
            (part, "m" if part in "xyz" else "1, wxyz", "world" if not skipped else None) for part in _FREE
        ]
    else:
        body = _object(model, int(mujoco.mjtObj.mjOBJ_BODY), int(model.jnt_bodyid[joint]))
        parts = [(p, "m/s", "world") if p[0] == "v" else (p, "rad/s", body) for p in _FREE_SPEED]
    return [Channel(f"{name} {part}", unit, frame) for part, unit, frame in parts[skipped:]]


def _object(model: mujoco.MjModel, kind: int, number: int) -> str:
    """Type and name of an element, as "site imu"; the number instead if it is unnamed."""
    obj = mujoco.mjtObj(int(kind))
    name = mujoco.mj_id2name(model, obj, int(number)) or str(int(number))
    return f"{obj.name.removeprefix('mjOBJ_').lower()} {name}"


def _driven_joint(model: mujoco.MjModel, actuator: int) -> int | None:
    on_joint = int(model.actuator_trntype[actuator]) == int(mujoco.mjtTrn.mjTRN_JOINT)
    return int(model.actuator_trnid[actuator, 0]) if on_joint else None


def _target(model: mujoco.MjModel, actuator: int) -> str | None:
    joint = _driven_joint(model, actuator)
    return None if joint is None else names(model, "joint")[joint]


def _linear(model: mujoco.MjModel, i: int) -> bool:
    """Whether force = gain ctrl + bias; ctrl may be filtered, but not integrated, which makes it a speed."""
    fixed = int(model.actuator_gaintype[i]) == int(mujoco.mjtGain.mjGAIN_FIXED)
    return fixed and int(model.actuator_dyntype[i]) in map(int, _DIRECT)


def _servo(model: mujoco.MjModel, i: int) -> bool:
    """Whether force = kp ctrl - kp position - kd velocity with kp != 0; kd may be 0."""
    affine = int(model.actuator_biastype[i]) == int(mujoco.mjtBias.mjBIAS_AFFINE)
    constant, position, _ = model.actuator_biasprm[i, :3]
    return _linear(model, i) and affine and constant == 0 and position == -model.actuator_gainprm[i, 0] != 0


def _gains(model: mujoco.MjModel, i: int) -> dict[str, float]:
    if not _servo(model, i):
        return {}
    return {"kp": float(model.actuator_gainprm[i, 0]), "kd": -float(model.actuator_biasprm[i, 2])}


def _joint_range(model: mujoco.MjModel, i: int) -> list[float] | None:
    joint = _driven_joint(model, i)
    limited = joint is not None and model.jnt_limited[joint] and _joint_unit(model, joint, "pos")
    return model.jnt_range[joint].tolist() if limited else None


def _force_range(model: mujoco.MjModel, i: int) -> list[float] | None:
    """[low, high] in the unit of the joint's force: the intersection of actuator's and joint's limits.

    None without a limit, or if no slide or hinge is driven.
    """
    joint = _driven_joint(model, i)
    if joint is None or _joint_unit(model, joint, "frc") is None:
        return None
    limits = []
    if model.actuator_forcelimited[i]:
        limits.append(sorted((model.actuator_gear[i, 0] * model.actuator_forcerange[i]).tolist()))
    if model.jnt_actfrclimited[joint]:
        limits.append(model.jnt_actfrcrange[joint].tolist())
    return [max(low for low, _ in limits), min(high for _, high in limits)] if limits else None


def _ctrl_unit(model: mujoco.MjModel, i: int) -> str | None:
    """Unit of ctrl: a servo's position, or a motor's force (`200.0 N m` if that is the force at ctrl 1).

    None for other actuators, a geared servo, and any that drives no slide or hinge.
    """
    joint, gear = _driven_joint(model, i), float(model.actuator_gear[i, 0])
    if joint is None:
        return None
    if _servo(model, i):
        return _joint_unit(model, joint, "pos") if gear == 1.0 else None
    plain = _linear(model, i) and int(model.actuator_biastype[i]) == int(mujoco.mjtBias.mjBIAS_NONE)
    unit, factor = _joint_unit(model, joint, "frc"), gear * float(model.actuator_gainprm[i, 0])
    return None if unit is None or not plain else unit if factor == 1.0 else f"{factor} {unit}"
