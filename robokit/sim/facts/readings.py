"""Names, units and frames of a model's sensors, joints and actuators, for the contract of an export."""

import hashlib
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from typing import Any

import mujoco
import torch
from torch import Tensor

from robokit.sim.base import Sim
from robokit.sim.facts.controls import Control, controls, gear_of, is_linear, is_motor, is_servo, joint_of
from robokit.sim.mjcf.files import model_files, shown
from robokit.sim.model import Source, name_of, names

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
_FILTERS = (mujoco.mjtDyn.mjDYN_FILTER, mujoco.mjtDyn.mjDYN_FILTEREXACT, mujoco.mjtDyn.mjDYN_DCMOTOR)
_SETPOINTS = {"position": "pos", "velocity": "vel"}  # inputs of an actuator -> keys of _OF_JOINT
_OF_INPUT = {
    "voltage": "V", "pressure": "Pa", "rx": "rad", "ry": "rad", "rz": "rad",
    "qw": "1", "qx": "1", "qy": "1", "qz": "1",
}  # fmt: skip
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
    """Each control, in ctrl's order: name, unit (of ctrl), kp, kd, joint, joint_range, force_range.

    Names: see controls.py. None: no such joint, unit or limit. Absent where it does not apply: kp and kd (of
    a servo), input (what a control means whose actuator has several), time_constant and delay (s).
    """
    model = sim.model
    return [
        {
            "name": control.name,
            "unit": _ctrl_unit(model, control),
            **_gains(model, control),
            **_lags(model, control.actuator),
            **({"input": control.input} if control.shared else {}),
            "joint": _target(model, control.actuator),
            "joint_range": _joint_range(model, control.actuator),
            "force_range": _force_range(model, control.actuator),
        }
        for control in controls(model)
    ]


def model_name(sim: Sim) -> str:
    """The model's name, <mujoco model=...> in the MJCF."""
    name = sim.model.names.split(b"\0")[0]
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")


def model_hashes(source: Source) -> dict[str, str]:
    """Path from the model's folder -> sha256 of each MJCF file: model, includes, attached models; no meshes.

    For an MjSpec {"MjSpec": sha256 of its XML}.
    """
    if not isinstance(source, Path | str):
        return {"MjSpec": hashlib.sha256(_xml(source)).hexdigest()}
    files, folder = model_files(Path(source)), Path(source).parent
    named = {shown(Path(relpath(f, folder)).as_posix()): f for f in files}
    return {name: hashlib.sha256(f.read_bytes()).hexdigest() for name, f in named.items()}


def _xml(spec: mujoco.MjSpec) -> bytes:
    try:
        return spec.to_xml().encode()
    except UnicodeDecodeError as error:  # names in Latin-1
        return error.object


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
    geared = gear_of(model, target) != 1.0  # MuJoCo reports the actuator's side of the gear
    joint = joint_of(model, target)
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
        frame = None if skipped else "world"
        parts = [(part, "m" if part in "xyz" else "1, wxyz", frame) for part in _FREE]
    else:
        body = _object(model, int(mujoco.mjtObj.mjOBJ_BODY), int(model.jnt_bodyid[joint]))
        parts = [(p, "m/s", "world") if p[0] == "v" else (p, "rad/s", body) for p in _FREE_SPEED]
    return [Channel(f"{name} {part}", unit, frame) for part, unit, frame in parts[skipped:]]


def _object(model: mujoco.MjModel, kind: int, number: int) -> str:
    """Type and name of an element, as "site imu"; the number instead if it is unnamed."""
    obj = mujoco.mjtObj(int(kind))
    name = name_of(model, obj, int(number)) or str(int(number))
    return f"{obj.name.removeprefix('mjOBJ_').lower()} {name}"


def _target(model: mujoco.MjModel, actuator: int) -> str | None:
    joint = joint_of(model, actuator)
    return None if joint is None else names(model, "joint")[joint]


def _gains(model: mujoco.MjModel, control: Control) -> dict[str, float]:
    """kp and kd of a servo, of each control that they act on; none with an integral or a limited slew."""
    i, kind = control.actuator, int(model.actuator_gaintype[control.actuator])
    gain, bias, dynamic = model.actuator_gainprm[i], model.actuator_biasprm[i], model.actuator_dynprm[i]
    if is_servo(model, i):
        return {"kp": float(gain[0]), "kd": 0.0 - float(bias[2])}  # not -0.0
    if kind == int(mujoco.mjtGain.mjGAIN_PID):
        kp, kd, plain = 0.0 - float(bias[1]), 0.0 - float(bias[2]), gain[0] == dynamic[1] == 0
    elif kind == int(mujoco.mjtGain.mjGAIN_DCMOTOR):
        kp, kd, plain = float(gain[4]), float(gain[6]), gain[5] == dynamic[7] == 0
    else:
        return {}
    known = {"position": {"kp": kp, "kd": kd}, "velocity": {"kd": kd}}
    return known.get(control.input or "", {}) if plain else {}


def _lags(model: mujoco.MjModel, i: int) -> dict[str, float]:
    """time_constant (s) of the filter before the force (or current), and delay (s) of ctrl, if not zero."""
    filtered = int(model.actuator_dyntype[i]) in map(int, _FILTERS)
    found = {
        "time_constant": float(model.actuator_dynprm[i, 0]) if filtered else 0.0,
        "delay": float(model.actuator_delay[i]),
    }
    return {key: seconds for key, seconds in found.items() if seconds}


def _joint_range(model: mujoco.MjModel, i: int) -> list[float] | None:
    joint = joint_of(model, i)
    limited = joint is not None and model.jnt_limited[joint] and _joint_unit(model, joint, "pos")
    return model.jnt_range[joint].tolist() if limited else None


def _force_range(model: mujoco.MjModel, i: int) -> list[float] | None:
    """[low, high] in the unit of the joint's force: the intersection of actuator's and joint's limits.

    None without a limit, or if no slide or hinge is driven.
    """
    joint = joint_of(model, i)
    if joint is None or _joint_unit(model, joint, "frc") is None:
        return None
    limits = []
    if model.actuator_forcelimited[i]:
        limits.append(sorted((gear_of(model, i) * model.actuator_forcerange[i]).tolist()))
    if model.jnt_actfrclimited[joint]:
        limits.append(model.jnt_actfrcrange[joint].tolist())
    return [max(low for low, _ in limits), min(high for _, high in limits)] if limits else None


def _ctrl_unit(model: mujoco.MjModel, control: Control) -> str | None:
    """Unit of ctrl: of a servo's position or speed, or of a force (`200.0 N m` if that is the force at 1).

    None for a geared servo, any that drives no slide or hinge, and where MuJoCo does not say what ctrl is.
    """
    i = control.actuator
    if control.input in _OF_INPUT:
        return _OF_INPUT[control.input]
    joint, gear = joint_of(model, i), gear_of(model, i)
    if joint is None or not (force := _joint_unit(model, joint, "frc")):
        return None
    motor = is_motor(model, i)
    if motor or control.input == "feedforward":
        factor = gear * (float(model.actuator_gainprm[i, 0]) if motor else 1.0)
        return force if factor == 1.0 else f"{factor} {force}"
    setpoint = "pos" if is_servo(model, i) else _SETPOINTS.get(control.input or "")
    if setpoint is None or gear != 1.0 or not _follows(model, i, setpoint):
        return None
    return _joint_unit(model, joint, setpoint)


def _follows(model: mujoco.MjModel, i: int, setpoint: str) -> bool:
    """Whether ctrl is a set point in the joint's unit: `input` of a <general> is only declared."""
    if int(model.actuator_gaintype[i]) != int(mujoco.mjtGain.mjGAIN_FIXED):
        return True
    gain, (_, position, velocity) = model.actuator_gainprm[i, 0], model.actuator_biasprm[i, :3]
    integrated = int(model.actuator_dyntype[i]) == int(mujoco.mjtDyn.mjDYN_INTEGRATOR)
    if setpoint == "pos":
        return is_servo(model, i)
    return gain != 0 and (gain == -position if integrated else is_linear(model, i) and gain == -velocity)
