"""Bounds between a policy and its actuators. One file, of numpy and the standard library, free to copy.

    filter = Filter.open("go2_walk.filter.json").tightened(torque=0.5)  # see `robokit filter`
    policy = Filtered(Controller("go2_walk.onnx"), filter)
    policy.reset()
    while running():  # every control_dt seconds
        write(policy.step({"joint_pos": q, "joint_vel": dq, ...}))  # a safe target, even without a sensor

Safety lives here: deterministic, outside the network. The stages of a control period, in order:

    target      the policy's; the last one while an observation is bad; the fallback's once it is latched
    soft start  start + t / soft_start (target - start), t = 0, control_dt, ...; start: the measured pose
    velocity    servo: |target - q| <= velocity kd / kp, so that a faster joint is never pushed further;
                motor: no force along the motion of a joint faster than velocity
    torque      servo: kp (target - q) - kd dq within torque; motor: the force of ctrl within torque
    slew        |target - last target| <= slew control_dt
    range       low <= target <= high

Each stage clamps the result of the one before, so of two contradictory bounds the later holds. Slew and range
come last because they need no measurement: they hold in every step, even if a sensor is wrong. Velocity and
torque hold as far as the later stages permit; `unmet` counts the steps in which they do not.

Bounds are computed in float64 and rounded inward to float32.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

STAGES = ("soft start", "velocity", "torque", "slew", "range")  # in this order
FALLBACKS = ("hold", "damp", "pose")
KINDS = ("servo", "motor")
TIGHTENED = ("slew", "velocity", "torque")
WATCHED = ("held", "late", "fallback")
OBSERVATION, LATE, TRIPPED = 1, 2, 3  # reasons of a latched fallback
LARGEST = float(np.finfo(np.float32).max)
MOST_BYTES, MOST_DEPTH, MOST_ROWS = 1 << 22, 32, 4096  # of a table
NUMBERS = ("low", "high", "slew", "velocity", "pose", "pose_speed", "default", "kp", "kd", "force")
ABOVE_0, FROM_0 = ("slew", "velocity", "torque", "pose_speed", "kp", "control_dt"), ("kd", "margin")
NEEDS = {  # numbers of an actuator that its bounds are computed from
    "servo": {"velocity": ("kp", "kd", "q"), "torque": ("kp", "kd", "q", "dq"), "fallback 'damp'": ("q",)},
    "motor": {"velocity": ("force", "dq"), "torque": ("force",), "fallback 'damp'": ()},
}
LACKS = {
    "kp": "kp, which the file does not say: give kp",
    "kd": "kd, which the file does not say: give kd",
    "q": "the position of its joint, which no input is known to measure: give position_from",
    "dq": "the velocity of its joint, which no input is known to measure: give velocity_from",
    "force": "the force of ctrl 1, which the file does not say: bound its ctrl with low and high instead",
}
NUMBER = int | float | np.integer | np.floating
Column = tuple[str, int]  # an input of the policy, and an index in it
Reals = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.bool_]
Obs = Mapping[str, npt.ArrayLike]


class FilterError(ValueError):
    """Unusable filter: an impossible number, an unknown name, a fact that is not given, or another file's."""


class ConcurrentCall(RuntimeError):
    """`step`, `reset` or `rearm` was called while another call is inside; nothing has changed."""


@dataclass(frozen=True)
class Bound:
    """The numbers of one actuator; None: no bound, or unknown. Raises FilterError for impossible numbers."""

    name: str
    kind: str  # "servo": ctrl is its joint's position; "motor": ctrl is a force
    low: float | None = None  # units of ctrl
    high: float | None = None
    slew: float | None = None  # units of ctrl per s
    velocity: float | None = None  # rad/s or m/s of the joint
    torque: tuple[float, float] | None = None  # N m or N at the joint, from low to high
    pose: float | None = None  # units of ctrl; end of the fallback "pose"
    pose_speed: float | None = None  # units of ctrl per s
    default: float = 0.0  # units of ctrl; start of a servo if its joint is not measured
    kp: float | None = None  # of a servo, N m/rad or N/m
    kd: float | None = None  # of a servo, N m s/rad or N s/m
    force: float | None = None  # of a motor, N m or N at the joint for ctrl 1
    q: Column | None = None  # observation of the joint's position
    dq: Column | None = None  # observation of the joint's velocity

    def __post_init__(self) -> None:
        self._check_names()
        if self.kind not in KINDS:
            raise FilterError(f"kind of {self.name!r} must be one of {KINDS}, got {self.kind!r}")
        for rule in NUMBERS:
            if getattr(self, rule) is not None:
                check_number(rule, self.name, getattr(self, rule))
        low, high = self.range
        if low > high:
            raise FilterError(f"the range of {self.name!r} is empty: from {low} to {high}")
        if self.velocity is not None:
            self.need("velocity")
            if self.kind == "servo" and self.kd == 0:
                raise FilterError(f"velocity of {self.name!r} needs a kd above 0, got {self.kd}")
        if self.torque is not None:
            self._check_torque(self.torque)

    def _check_names(self) -> None:
        if not isinstance(self.name, str):
            raise FilterError(f"the name of an actuator must be a text, got {cut(repr(self.name))}")
        for what, place in (("q", self.q), ("dq", self.dq)):
            if place is not None and not _is_column(place):
                raise FilterError(f"{what} of {self.name!r} must be [input, column], got {cut(repr(place))}")

    def _check_torque(self, torque: tuple[float, float]) -> None:
        if not (is_pair(torque) and torque[0] <= 0 <= torque[1]):
            raise FilterError(f"torque of {self.name!r} must be [low <= 0, high >= 0], got {torque!r}")
        self.need("torque")
        if self.kind == "motor" and self.force is not None:
            (low, high), edges = self.range, sorted(edge / self.force for edge in torque)
            if edges[0] > high or edges[1] < low:
                outside = f"outside its range, {low} to {high}"
                raise FilterError(
                    f"torque leaves {self.name!r} a ctrl of {edges[0]} to {edges[1]}, {outside}"
                )

    @property
    def range(self) -> tuple[float, float]:
        """(low, high) in units of ctrl; infinite without a bound."""
        return -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high

    def need(self, rule: str) -> None:
        """Raise FilterError if a number in NEEDS[kind][rule] is None, or if `force` in it is 0."""
        for key in NEEDS[self.kind][rule]:
            if getattr(self, key) is None or (key == "force" and self.force == 0):
                raise FilterError(f"{rule} of {self.name!r} needs {LACKS[key]}")


@dataclass(frozen=True)
class Filter:
    """The numbers of every actuator, resolved for one exported file. See docs/filter.md.

    `robokit filter` writes it from a person's numbers. On the robot it can be tightened, never widened.

    Raises FilterError for an impossible number or fallback, and for a fallback without its numbers.
    """

    sha256: str  # of the exported file
    control_dt: float  # s
    actuators: tuple[Bound, ...]  # in the order of ctrl
    soft_start: float = 0.0  # s
    grace: int = 2  # control periods in a row that may be bad or late; one more latches the fallback
    deadline: float | None = None  # s from one step to the next; a later step counts as late
    fallback: str = "hold"  # servos: "hold" last target, "damp" follows q, "pose" moves there; motors: 0

    def __post_init__(self) -> None:
        if not (isinstance(self.actuators, tuple) and 0 < len(self.actuators) <= MOST_ROWS):
            raise FilterError(f"actuators must be 1 to {MOST_ROWS} rows, got {cut(repr(self.actuators))}")
        names = [bound.name for bound in self.actuators]
        if len(set(names)) < len(names):
            raise FilterError(f"two actuators must not have one name, got {cut(names)}")
        check_number("control_dt", "the file", self.control_dt)
        if not (_is_number(self.soft_start) and self.soft_start >= 0):
            raise FilterError(f"soft_start must be a number of seconds from 0 on, got {self.soft_start!r}")
        if self.deadline is not None and not (_is_number(self.deadline) and self.deadline > 0):
            raise FilterError(f"deadline must be a number of seconds above 0, got {self.deadline!r}")
        if not isinstance(self.grace, int) or isinstance(self.grace, bool) or self.grace < 0:
            rule = "grace must be a whole number of control periods from 0 on"
            raise FilterError(f"{rule}, got {self.grace!r}")
        if self.fallback not in FALLBACKS:
            raise FilterError(f"fallback must be one of {FALLBACKS}, got {self.fallback!r}")
        for bound in self.actuators:
            if self.fallback == "damp":
                bound.need("fallback 'damp'")
            self._check_pose(bound)

    def _check_pose(self, bound: Bound) -> None:
        given = bound.pose, bound.pose_speed
        if self.fallback != "pose" and given == (None, None):
            return
        if self.fallback != "pose" or (None in given and bound.kind == "servo"):
            got = f"pose {bound.pose}, pose_speed {bound.pose_speed} and fallback {self.fallback!r}"
            raise FilterError(f"fallback 'pose' goes with pose and pose_speed of {bound.name!r}; got {got}")
        low, high = np.array(bound.range, np.float32)
        widest = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)  # the edges were rounded
        if bound.kind == "servo" and bound.pose is not None and not widest[0] <= bound.pose <= widest[1]:
            rule = f"within its range, {low} to {high}"
            raise FilterError(f"pose of {bound.name!r} must be {rule}; got {bound.pose}")

    @classmethod
    def open(cls, path: str | Path) -> "Filter":
        """Read a table (JSON). Raises FilterError for a file not from `robokit filter`, or changed since."""
        try:
            table = read_object(path)
            if table.pop("digest", None) != digest(table):
                raise FilterError("not written by robokit filter, or changed since")
            table["actuators"] = tuple(map(_row, table["actuators"]))
            return cls(**table)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:  # e.g. another version's
            raise FilterError(f"no filter in {path}: {_why(error)}") from error

    def tightened(self, **factors: float) -> "Filter":
        """A copy in which every bound of `slew`, `velocity` or `torque` is multiplied by a factor in (0, 1].

        Raises FilterError for another rule or factor, and for a rule without a bound on any actuator.
        """
        rows = self.actuators
        for rule, factor in factors.items():
            if rule not in TIGHTENED:
                raise FilterError(f"only {TIGHTENED} can be tightened, got {rule!r}")
            if not (_is_number(factor) and 0 < factor <= 1):
                raise FilterError(f"{rule} is tightened by a factor above 0 and at most 1, got {factor!r}")
            if all(getattr(bound, rule) is None for bound in rows):
                raise FilterError(f"{rule} has no bound that could be tightened")
            rows = tuple(replace(bound, **{rule: _times(getattr(bound, rule), factor)}) for bound in rows)
        return replace(self, actuators=rows)

    def check(self, sha256: str, contract: Mapping[str, Any]) -> None:
        """Raise FilterError unless this filter is for the exported file of that sha256 and contract."""
        if self.sha256 != sha256:
            rule = f"the filter is for the file of sha256 {self.sha256}, not {sha256}"
            raise FilterError(f"{rule}: make a table for this file with robokit filter")
        names, own = ([a["name"] for a in contract["actuators"]], [b.name for b in self.actuators])
        if names != own or not math.isclose(self.control_dt, contract["control_dt"], rel_tol=1e-6):
            got = f"{cut(own)} every {self.control_dt} s"
            raise FilterError(f"the file drives {cut(names)} every {contract['control_dt']} s, not {got}")
        sizes = {i["name"]: i["size"] for i in contract["inputs"]}
        for bound in self.actuators:
            for name, column in (place for place in (bound.q, bound.dq) if place):
                if column >= sizes.get(name, 0):
                    raise FilterError(f"the file has no input {cut(name)!r} with a column {column}")


class Guard:
    """The filter's arithmetic and state for a batch of B robots or simulations.

    The caller checks that the filter belongs to the file (Filter.check).
    """

    def __init__(self, filter: Filter, batch: int = 1) -> None:
        self.filter, self.bounds = filter, Bounds(filter)
        shape = batch, len(self.bounds.names)
        self.acted = {stage: np.zeros(batch, np.int64) for stage in (*STAGES, *WATCHED)}  # steps, (B,) each
        self.unmet = {stage: np.zeros(batch, np.int64) for stage in ("velocity", "torque")}
        self.last = np.zeros(shape, np.float32)  # last targets sent, (B, A)
        self.why = np.zeros(batch, np.int64)  # 0: not latched
        self._start = np.zeros(shape)  # of the soft start
        self._age, self._faults = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
        self._pending = np.ones(batch, np.bool_)
        self._terms = _by_term(self.bounds.q_from), _by_term(self.bounds.dq_from)

    def begin(self, rows: Rows | None = None) -> None:
        """Restart rows (B,) bool, None: all. They are unlatched; their counts of steps go on.

        Each starts at the next step's q, or at `default` if q is NaN; a motor starts at 0.
        """
        rows = np.ones_like(self._pending) if rows is None else rows
        self._pending |= rows
        for state in (self.why, self._age, self._faults):
            state[rows] = 0

    def rearm(self) -> None:
        """Leave the fallback in all rows: a soft start from the last target."""
        self._start = self.last.astype(np.float64)
        for state in (self.why, self._age, self._faults):
            state[:] = 0

    def measure(self, obs: Obs) -> tuple[Reals, Reals]:
        """Joint positions and velocities, (B, A) each, from named terms (B, size) or (size,); NaN: absent."""
        found = np.full((2, *self.last.shape), math.nan)
        for values, terms in zip(found, self._terms, strict=True):
            for name, (i, columns) in terms.items():
                if name in obs:
                    values[:, i] = np.asarray(obs[name]).reshape(len(values), -1)[:, columns]
        return found[0], found[1]

    def step(
        self,
        target: npt.ArrayLike,
        q: npt.ArrayLike = math.nan,
        dq: npt.ArrayLike = math.nan,
        *,
        good: npt.ArrayLike = True,
        late: npt.ArrayLike = False,
    ) -> Floats:
        """The target to send, float32, in the shape of `target`: (A,) or (B, A).

        q, dq: of the actuators' joints, shaped like `target`, or one number; NaN: not measured. good (B,):
        the observations are valid; a target, or a needed q or dq, that is not finite in float32 is bad as
        well. late (B,): the deadline was missed. More than `grace` bad or late steps in succession latch a
        row, until `begin` or `rearm`. A latched row gets the fallback's target, another bad one its last, one
        that is only late its own; all within the bounds.
        """
        b, shape = self.bounds, self.last.shape
        with np.errstate(over="ignore", invalid="ignore"):
            x = np.asarray(target, np.float32).astype(np.float64).reshape(shape)
            q, dq = (_filled(m, shape) for m in (q, dq))
            seen = np.asarray(((np.isfinite(q) | ~b.needs_q) & (np.isfinite(dq) | ~b.needs_dq)).all(-1))
            valid = np.asarray(np.isfinite(x).all(-1) & seen & np.asarray(good, np.bool_))
            self._begin_pending(q)
            self._watch(valid, np.asarray(late, np.bool_))
            x = self._unbounded(x, q, valid)
            measured = b.measured(q, dq, seen[:, None])
            for stage, low, high in measured:
                x = self._clamp(stage, x, low, high)
            x = self._clamp("slew", x, *inward(self.last - b.slew, self.last + b.slew))
            self.last = self._clamp("range", x, b.low, b.high).astype(np.float32)
        for stage, low, high in measured:
            self.unmet[stage] += ((self.last < low) | (self.last > high)).any(-1)
        return self.last.reshape(np.shape(target)).copy()

    def _begin_pending(self, q: Reals) -> None:
        if not self._pending.any():
            return
        b, new = self.bounds, self._pending[:, None]
        here = np.where(np.isfinite(q) & ~b.motor, q, b.rest)
        self.last = np.where(new, np.clip(here, b.low, b.high), self.last).astype(np.float32)
        self._start = np.where(new, self.last, self._start)
        self._pending = np.zeros_like(self._pending)

    def _watch(self, good: Rows, late: Rows) -> None:
        free = self.why == 0
        self._faults = np.where(good & ~late, 0, self._faults + 1)
        why = np.where(good, LATE, OBSERVATION)
        self.why = np.where(free & (self._faults > self.filter.grace), why, self.why)
        self.acted["late"] += late & free
        self.acted["held"] += ~good & (self.why == 0)
        self.acted["fallback"] += self.why > 0

    def _unbounded(self, x: Reals, q: Reals, good: Rows) -> Reals:
        """Target (B, A) before the bounds: x with its soft start, the last if not good, or the fallback's."""
        latched = self.why > 0
        follows = good & ~latched
        if self.filter.soft_start > 0:
            part = np.minimum(self._age * self.bounds.dt / self.filter.soft_start, 1.0)
            soft = (follows & (part < 1.0))[:, None]
            x, given = np.where(soft, self._start + part[:, None] * (x - self._start), x), x
            self.acted["soft start"] += (follows[:, None] & (x != given)).any(-1)
            self._age += follows
        if follows.all():
            return x
        x = np.where(follows[:, None], x, self.last)
        return np.where(latched[:, None], self._fall(q), x) if latched.any() else x

    def _fall(self, q: Reals) -> Reals:
        b, last = self.bounds, self.last.astype(np.float64)
        if self.filter.fallback == "damp":
            last = np.where(np.isfinite(q), q, last)
        if self.filter.fallback == "pose":
            low, high = inward(last - b.pose_step, last + b.pose_step)
            last = np.clip(b.pose, low, high).astype(np.float64)
        return np.where(b.motor, 0.0, last)

    def _clamp(self, stage: str, x: Reals, low: Floats, high: Floats) -> Reals:
        clamped = np.minimum(np.maximum(x, low), high)
        self.acted[stage] += (clamped != x).any(-1)
        return clamped


class Steppable(Protocol):
    """The part of Controller that Filtered uses."""

    contract: dict[str, Any]
    sha256: str

    def reset(self) -> None: ...
    def step(self, obs: Obs, stamps: Mapping[str, float] | None = ..., now: float | None = ...) -> Floats: ...
    def sent(self, ctrl: npt.ArrayLike) -> None: ...


class Filtered:
    """A Controller behind a Filter: `step` returns a safe target even for a bad observation.

    Before the first good observation after a reset, `step` raises like the Controller. Later a bad one
    (missing, NaN, stale) gives the last target, with `state` "held". A step that begins more than the
    filter's `deadline`, if any, after the step before is late; its target is still the policy's. More than
    `grace` bad or late steps in a row latch the filter's `fallback` until `rearm()`.

    Threads may take turns: a call while another is inside raises ConcurrentCall; `trip` is never refused.

    Raises FilterError for a filter of another file.
    """

    def __init__(self, policy: Steppable, filter: Filter) -> None:
        filter.check(policy.sha256, policy.contract)
        self.policy, self.guard = policy, Guard(filter)
        b = self.guard.bounds
        self.actuators, self.control_dt = list(b.names), b.dt  # s
        self.state = "policy"  # of the last step; or "held", "late", "fallback"
        self.reason: str | None = None  # cause and time of the latched fallback
        self.steps = 0
        self._armed, self._then = False, math.nan
        self._moves = any(part["name"] == "target" for part in policy.contract.get("carried", ()))
        self._inside: dict[str, object] = {}  # a mark of the call that is inside; no thread waits
        self._joints = {place[0] for place in (*b.q_from, *b.dq_from) if place}
        self._inputs = {i["name"]: (i["size"], i.get("max_age") or b.dt) for i in policy.contract["inputs"]}

    def reset(self) -> None:
        """Begin an episode at the robot's present pose. A latched fallback stays latched."""
        mark = object()
        try:
            self._enter(mark, "reset")
            self.policy.reset()
            self._then = math.nan
            if self.reason is None:
                self.guard.begin()
                self._armed = False
        finally:  # a signal's exception may come after any call, so the first one here must clear
            if "mark" in self._inside and self._inside["mark"] is mark:
                self._inside.clear()

    def rearm(self) -> None:
        """Leave the fallback, if latched. Always reset the policy, and soft-start from the last target."""
        mark = object()
        try:
            self._enter(mark, "rearm")
            self.reason = None  # first, so that a trip from now on is kept
            self.policy.reset()
            self.guard.rearm()
            self.state, self._then = "policy", math.nan
        finally:
            if "mark" in self._inside and self._inside["mark"] is mark:
                self._inside.clear()

    def trip(self, reason: str) -> None:
        """Latch the fallback from the next step on, unless latched. From any thread or signal handler."""
        self._latch(reason)

    def step(self, obs: Obs, stamps: Mapping[str, float] | None = None, now: float | None = None) -> Floats:
        """Actuator targets (A,); arguments as for Controller.step, with `now` also for the deadline."""
        mark = object()
        try:
            self._enter(mark, "step")
            return self._step(obs, stamps, now)
        finally:
            if "mark" in self._inside and self._inside["mark"] is mark:
                self._inside.clear()

    def _enter(self, mark: object, what: str) -> None:
        if self._inside.setdefault("mark", mark) is not mark:
            raise ConcurrentCall(f"{what} was called while another call is inside this Filtered")

    def _step(self, obs: Obs, stamps: Mapping[str, float] | None, now: float | None) -> Floats:
        if self.reason is not None and not self.guard.why[0]:
            self.guard.why[:] = TRIPPED  # here, because another thread may trip in the middle of a step
        began = time.monotonic() if now is None else now
        gap, self._then = began - self._then, began
        deadline = self.guard.filter.deadline
        late = deadline is not None and gap > deadline
        target, q, dq, fault = np.full(len(self.actuators), math.nan, np.float32), math.nan, math.nan, None
        try:
            target = self.policy.step(obs, stamps, now)
            q, dq = self.guard.measure(obs)
        except Exception as error:  # after any failure the actuators need a target
            if not self._armed:
                self._then = math.nan  # nothing was sent, so the next step cannot be late
                raise
            fault = f"{type(error).__name__}: {error}"
            q, dq = self.guard.measure(self._valid_joints(obs, stamps, began))
        self._armed = True
        ctrl = self.guard.step(target, q, dq, good=fault is None, late=late)
        if self._moves:
            with contextlib.suppress(Exception):  # of a thread inside the policy: the actuators need a target
                self.policy.sent(ctrl)
        if self.guard.why[0] and self.reason is None:
            self._latch(fault or f"{gap} s since the step before, at most {deadline} s")
        latched = bool(self.guard.why[0])
        self.state = "fallback" if latched else "held" if fault else "late" if late else "policy"
        self.steps += 1
        return ctrl

    def _valid_joints(self, obs: Obs, stamps: Mapping[str, float] | None, now: float) -> dict[str, Any]:
        """Input -> value of joint inputs of a valid size, type and age: another sensor may have failed."""
        valid: dict[str, Any] = {}
        for name in self._joints:
            with contextlib.suppress(Exception):  # of any invalid value
                size, most = self._inputs[name]
                value, age = np.asarray(obs[name]), 0.0 if stamps is None else now - stamps.get(name, now)
                if value.shape == (size,) and value.dtype.kind in "fiu" and abs(age) <= most:
                    valid[name] = value
        return valid

    @property
    def acted(self) -> dict[str, int]:
        """STAGES and WATCHED -> number of steps of all episodes in which each acted."""
        return {stage: int(count[0]) for stage, count in self.guard.acted.items()}

    @property
    def unmet(self) -> dict[str, int]:
        """Velocity and torque -> number of steps of all episodes in which a later stage overruled it."""
        return {stage: int(count[0]) for stage, count in self.guard.unmet.items()}

    def _latch(self, reason: str) -> None:
        if self.reason is None:
            self.reason = f"step {self.steps}, {self.steps * self.control_dt:g} s: {reason}"


class Bounds:
    """A Filter as arrays (A,), in the order of ctrl; infinite without a bound. slew: per control period."""

    def __init__(self, filter: Filter) -> None:
        rows = filter.actuators

        def column(key: str, none: float) -> Reals:
            return np.array([none if getattr(b, key) is None else getattr(b, key) for b in rows], np.float64)

        self.names, self.dt = [bound.name for bound in rows], filter.control_dt  # s
        self.motor = np.array([bound.kind == "motor" for bound in rows])
        self.low, self.high = inward(column("low", -math.inf), column("high", math.inf))
        self.slew = column("slew", math.inf) * self.dt  # units of ctrl
        self.velocity = column("velocity", math.inf)
        self.q_from, self.dq_from = [bound.q for bound in rows], [bound.dq for bound in rows]
        self.rest = np.where(self.motor, 0.0, column("default", 0.0))  # start without a measurement
        self.pose, self.pose_step = column("pose", 0.0), column("pose_speed", math.inf) * self.dt
        servo, slow = ~self.motor, np.isfinite(self.velocity)
        weak = np.array([bound.torque is not None for bound in rows])
        self.needs_q = servo & (slow | weak | (filter.fallback == "damp"))
        self.needs_dq = (self.motor & slow) | (servo & weak)
        self._slow, self._weak = bool(slow.any()), bool(weak.any())
        # a motor is treated as a servo with kp = the force of ctrl 1, q = 0 and dq = 0
        self._force = column("force", math.nan)
        self._kp = np.where(self.motor & weak, np.abs(self._force), column("kp", 1.0))
        self._kd = np.where(self.motor, 0.0, column("kd", 0.0))
        velocity = np.where(slow, self.velocity, 0.0)
        self._ahead = np.where(servo & slow, velocity * self._kd / self._kp, math.inf)
        torque = np.array([(-math.inf, math.inf) if b.torque is None else b.torque for b in rows]).T
        self.torque = np.where(self.motor & (self._force < 0), -torque[::-1], torque)  # (2, A)

    def measured(self, q: Reals, dq: Reals, seen: Rows) -> list[tuple[str, Floats, Floats]]:
        """(stage, low, high) of ctrl, (B, A) each, for "velocity" and "torque", where any actuator has one.

        Infinite for servos not `seen` (B, 1).
        """
        q, dq = np.where(self.needs_q, q, 0.0), np.where(self.needs_dq, dq, 0.0)
        known, found = seen | self.motor, []
        if self._slow:
            onward = np.where(np.abs(dq) > self.velocity, dq * self._force, 0.0)
            low = np.where(self.motor, np.where(onward < 0, 0.0, -np.inf), q - self._ahead)
            high = np.where(self.motor, np.where(onward > 0, 0.0, np.inf), q + self._ahead)
            found.append(("velocity", low, high))
        if self._weak:
            braking = self._kd * np.where(self.motor, 0.0, dq)  # for a motor, 0 * NaN would be NaN
            low, high = (q + (braking + bound) / self._kp for bound in self.torque)
            found.append(("torque", low, high))
        return [
            (stage, *inward(np.where(known, low, -np.inf), np.where(known, high, np.inf)))
            for stage, low, high in found
        ]


def check_number(rule: str, name: str, value: Any) -> None:
    """Raise FilterError unless the value is finite, and > 0 for a rule in ABOVE_0, >= 0 for one in FROM_0."""
    from_0, above_0 = rule in FROM_0, rule in ABOVE_0
    if not _is_number(value) or (above_0 and value <= 0) or (from_0 and value < 0):
        end = " and above 0" if above_0 else " and at least 0" if from_0 else ""
        raise FilterError(f"{rule} of {name!r} must be finite{end}, got {value!r}")


def is_pair(value: Any) -> bool:
    """Whether a value is a list or tuple of two finite numbers, low <= high."""
    listed = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))
    return listed and value[0] <= value[1]


def read_object(path: str | Path) -> dict[str, Any]:
    """A JSON object from a regular file, with limits: MOST_BYTES, MOST_DEPTH, finite numbers, no key twice.

    Raises FilterError naming the file and the rule.
    """

    def number(digits: str) -> float:
        if not math.isfinite(value := float(digits)):
            raise FilterError(f"{cut(digits)} is no finite number")
        return value

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise FilterError(f"an object has a key twice: {cut([key for key, _ in pairs])}")
        return found

    try:
        text = _bytes(Path(path)).decode("utf-8")
        depth = 0
        for bracket in re.sub(r'"(?:[^"\\]|\\.?)*+(?:"|\Z)|[^][{}"]+', "", text, flags=re.DOTALL):
            depth += 1 if bracket in "[{" else -1
            if depth > MOST_DEPTH:
                raise FilterError(f"nested more than {MOST_DEPTH} deep")
        table = json.loads(text, parse_constant=number, parse_float=number, object_pairs_hook=members)
    except (OSError, ValueError) as error:
        raise FilterError(f"no filter in {path}: {_why(error)}") from error
    if not isinstance(table, dict):
        raise FilterError(f"{path} must hold a JSON object, got {type(table).__name__}")
    return table


def _bytes(path: Path) -> bytes:
    """A regular file of at most MOST_BYTES. Raises OSError for another, without waiting for a FIFO."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MOST_BYTES:
        raise OSError(f"more than {MOST_BYTES:,} bytes")
    return data


def _why(error: Exception) -> str:
    return cut(getattr(error, "strerror", None) or error, 300)


def cut(value: Any, most: int = 80) -> str:
    """One line of text, cut to `most` characters."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 2]}.."


def _is_column(value: Any) -> bool:
    """Whether a value is (input, column)."""
    pair = isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)
    return pair and isinstance(value[1], int) and not isinstance(value[1], bool) and value[1] >= 0


def _row(numbers: Mapping[str, Any]) -> Bound:
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in numbers.items()}
    return Bound(**values)


def digest(table: Any) -> str:
    """sha256 (hex) of a table, from which the caller removed `digest`; the order of keys has no effect."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def _times(bound: Any, factor: float) -> Any:
    if bound is None:
        return None
    return tuple(edge * factor for edge in bound) if isinstance(bound, tuple) else bound * factor


def _by_term(places: "list[Column | None]") -> dict[str, tuple[list[int], list[int]]]:
    """Term -> (indices of its actuators, their columns in it); an actuator with None is left out."""
    found: dict[str, tuple[list[int], list[int]]] = {}
    for i, place in enumerate(places):
        if place is not None:
            actuators, columns = found.setdefault(place[0], ([], []))
            actuators.append(i)
            columns.append(place[1])
    return found


def _filled(value: npt.ArrayLike, shape: tuple[int, ...]) -> Reals:
    """The value rounded to float32, as float64 in the given shape; a single number is repeated."""
    array = np.asarray(value, np.float32).astype(np.float64)
    return array.reshape(shape) if array.ndim else np.full(shape, array)


def inward(low: Reals, high: Reals) -> tuple[Floats, Floats]:
    """The range rounded inward to float32: low up, high down. An infinite edge stays infinite."""
    below, above = _up(np.stack((low, -high)))
    return below, -above


def _up(x: Reals) -> Floats:
    """The smallest float32 >= x, at most LARGEST."""
    x = np.asarray(np.minimum(x, LARGEST), np.float64)
    near = x.astype(np.float32)
    return np.where(near < x, np.nextafter(near, np.float32(np.inf)), near)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, NUMBER) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False
