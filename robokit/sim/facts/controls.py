"""Controls, the columns of ctrl: which actuator each belongs to, its name, and the range that bounds it.

Three counts, never one for another: A, the numbers of a policy's action (Env.act_dim); controls (model.nu);
actuators (model.nactuator), each with one control, with several (a <pid> with position and velocity) or with
none (a <dcmotor input="none">).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import mujoco

from robokit.sim.model import names

_MEANINGS = {"pos": "position", "vel": "velocity", "ff": "feedforward"}  # of MuJoCo's names of inputs
_RANGES = {"position": "posrange", "velocity": "velrange", "feedforward": "ffrange"}  # of a <pid>
_JOINTS = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))
_DIRECT = (mujoco.mjtDyn.mjDYN_NONE, mujoco.mjtDyn.mjDYN_FILTER, mujoco.mjtDyn.mjDYN_FILTEREXACT)
_OF_SEVERAL = (mujoco.mjtGain.mjGAIN_PID, mujoco.mjtGain.mjGAIN_DCMOTOR)  # inputs that are chosen


@dataclass(frozen=True)
class Control:
    """One column of ctrl."""

    name: str  # the actuator's, with the input's if it has several; no two controls have the same
    actuator: int
    input: str | None  # "position", "velocity", "voltage", "qw", ...; None: MuJoCo declares nothing
    shared: bool  # whether its actuator has other controls


@dataclass(frozen=True)
class CtrlRange:
    """What bounds a control without a ctrlrange, in units of ctrl; source in MJCF's words."""

    low: float
    high: float
    source: str


def controls(model: mujoco.MjModel) -> list[Control]:
    """Each column of ctrl, in order."""
    called, found = _actuator_names(model), []
    for i, count in enumerate(model.actuator_ctrlnum.tolist()):
        for k in range(count):
            short = mujoco.mj_actuatorInputName(model, i, k)
            meaning = _MEANINGS.get(short, short)
            name = called[i] if count == 1 else f"{called[i]} {meaning or k}"
            found.append(Control(name, i, meaning, count > 1))
    twice = {name for name, count in Counter(c.name for c in found).items() if count > 1}
    return [
        Control(f"{c.name} (control {k})", c.actuator, c.input, c.shared) if c.name in twice else c
        for k, c in enumerate(found)
    ]


def _actuator_names(model: mujoco.MjModel) -> list[str]:
    """Names of the actuators; an unnamed one has its joint's, if no other has that, else "actuator 3"."""
    given, joints = names(model, "actuator"), names(model, "joint")
    called = list(given)
    for i, name in enumerate(given):
        joint = None if name else joint_of(model, i)
        called[i] = name if joint is None else joints[joint]
    return [
        name or (called[i] if called.count(called[i]) == 1 else "") or f"actuator {i}"
        for i, name in enumerate(given)
    ]


def joint_of(model: mujoco.MjModel, actuator: int) -> int | None:
    """The joint that an actuator drives directly; None for a tendon, site or body."""
    kind, (target, reference) = int(model.actuator_trntype[actuator]), model.actuator_trnid[actuator].tolist()
    ball = kind == int(mujoco.mjtTrn.mjTRN_SO3) and reference < 0  # else between two sites
    return target if kind in _JOINTS or ball else None


def gear_of(model: mujoco.MjModel, actuator: int) -> float:
    """The first gear of an actuator: length of the actuator per unit of its joint."""
    return float(model.actuator_gear[model.actuator_outadr[actuator], 0])


def is_linear(model: mujoco.MjModel, i: int) -> bool:
    """Whether force = gain ctrl + bias; ctrl may be filtered, but not integrated, which makes it a speed."""
    fixed = int(model.actuator_gaintype[i]) == int(mujoco.mjtGain.mjGAIN_FIXED)
    return fixed and int(model.actuator_dyntype[i]) in map(int, _DIRECT)


def is_motor(model: mujoco.MjModel, i: int) -> bool:
    """Whether force = gain ctrl."""
    return is_linear(model, i) and int(model.actuator_biastype[i]) == int(mujoco.mjtBias.mjBIAS_NONE)


def is_servo(model: mujoco.MjModel, i: int) -> bool:
    """Whether force = kp ctrl - kp position - kd velocity with kp != 0; kd may be 0."""
    affine = int(model.actuator_biastype[i]) == int(mujoco.mjtBias.mjBIAS_AFFINE)
    constant, position, _ = model.actuator_biasprm[i, :3]
    return is_linear(model, i) and affine and constant == 0 and position == -model.actuator_gainprm[i, 0] != 0


def sets_position(model: mujoco.MjModel, control: Control) -> bool:
    """Whether the force pulls a position to ctrl: of a servo, or of a <general> in units of its own."""
    i = control.actuator
    if int(model.actuator_gaintype[i]) in map(int, _OF_SEVERAL):
        return control.input == "position"
    affine = int(model.actuator_biastype[i]) == int(mujoco.mjtBias.mjBIAS_AFFINE)
    return is_linear(model, i) and affine and bool(model.actuator_biasprm[i, 1] != 0)


def is_disabled(model: mujoco.MjModel, actuator: int) -> bool:
    """Whether <option actuatorgroupdisable> lists the actuator's group: it gives no force."""
    group = int(model.actuator_group[actuator])
    return 0 <= group <= 30 and bool(model.opt.disableactuator >> group & 1)


def range_keys(model: mujoco.MjModel, columns: Iterable[int]) -> str:
    """The attributes that set these controls' ranges, as MJCF: a <pid> has its own for each input."""
    keys, known = list[str](), controls(model)
    for control in (known[i] for i in columns):
        pid = int(model.actuator_gaintype[control.actuator]) == int(mujoco.mjtGain.mjGAIN_PID)
        keys.append(_RANGES.get(control.input or "", "ctrlrange") if pid else "ctrlrange")
    return ", ".join(f'{key}="..."' for key in dict.fromkeys(keys))


def bounds(model: mujoco.MjModel) -> list[CtrlRange | None]:
    """For each control what else in the model bounds it; None: nothing.

    A force (a motor's ctrl, a feedforward) is bounded by the actuator's forcerange and by actuatorfrcrange of
    its joint or tendon; a servo's target by the range of these, as inheritrange would have it, both through
    the gear; a muscle's excitation by 0 and 1.
    """
    return [_bound(model, control) for control in controls(model)]


def _bound(model: mujoco.MjModel, control: Control) -> CtrlRange | None:
    i = control.actuator
    if int(model.actuator_dyntype[i]) == int(mujoco.mjtDyn.mjDYN_MUSCLE):
        return CtrlRange(0.0, 1.0, "a muscle's excitation")
    several = int(model.actuator_gaintype[i]) in map(int, _OF_SEVERAL)
    if is_motor(model, i):
        found = _force_bounds(model, i, float(model.actuator_gainprm[i, 0]))
    elif several and control.input == "feedforward":
        found = _force_bounds(model, i, 1.0)
    elif is_servo(model, i) or (several and control.input == "position"):
        found = _target_bounds(model, i)
    else:
        found = []
    if not found:
        return None
    narrow = reduce(_intersection, found)
    return narrow if narrow.low < narrow.high else None


def _intersection(a: CtrlRange, b: CtrlRange) -> CtrlRange:
    if a.low >= b.low and a.high <= b.high:
        return a
    if b.low >= a.low and b.high <= a.high:
        return b
    return CtrlRange(max(a.low, b.low), min(a.high, b.high), f"{a.source} and {b.source}")


def _force_bounds(model: mujoco.MjModel, i: int, gain: float) -> list[CtrlRange]:
    """Bounds of ctrl where gain ctrl is the actuator's force, and gear times that the joint's or tendon's."""
    kind, target = _target(model, i)
    found = [(model.actuator_forcelimited[i], model.actuator_forcerange[i], gain, "its forcerange")]
    if kind:
        field, factor = {"joint": "jnt", "tendon": "tendon"}[kind], gain * gear_of(model, i)
        limited = getattr(model, f"{field}_actfrclimited")[target]
        pair = getattr(model, f"{field}_actfrcrange")[target]
        found.append((limited, pair, factor, f"its {kind}'s actuatorfrcrange"))
    return [
        CtrlRange(float(min(pair / factor)), float(max(pair / factor)), source)
        for limited, pair, factor, source in found
        if limited and factor
    ]


def _target_bounds(model: mujoco.MjModel, i: int) -> list[CtrlRange]:
    kind, target = _target(model, i)
    if not kind:
        return []
    field = {"joint": "jnt", "tendon": "tendon"}[kind]
    pair = gear_of(model, i) * getattr(model, f"{field}_range")[target]
    limited = bool(getattr(model, f"{field}_limited")[target])
    return [CtrlRange(float(min(pair)), float(max(pair)), f"its {kind}'s range")] if limited else []


def _target(model: mujoco.MjModel, i: int) -> tuple[str, int]:
    """("joint", id) for a slide or hinge, ("tendon", id), else ("", -1)."""
    scalar = (int(mujoco.mjtJoint.mjJNT_SLIDE), int(mujoco.mjtJoint.mjJNT_HINGE))
    joint = joint_of(model, i)
    if joint is not None:
        return ("joint", joint) if int(model.jnt_type[joint]) in scalar else ("", -1)
    on_tendon = int(model.actuator_trntype[i]) == int(mujoco.mjtTrn.mjTRN_TENDON)
    return ("tendon", int(model.actuator_trnid[i, 0])) if on_tendon else ("", -1)
