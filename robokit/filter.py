"""Bounds between a policy and its actuators: numpy and the standard library; one file that may be copied.

    policy = Filtered(Controller("go2_walk.onnx"), Filter(slew=12.0, soft_start=2.0, grace=2))
    policy.reset()
    while running():  # every control_dt seconds
        write(policy.step({"joint_pos": q, "joint_vel": dq, ...}))  # a target, whatever is measured

This is where safety lives: deterministic, outside the network. What a control period does, in this order:

    what        the policy's target; the last one while an observation is bad; the fallback once latched
    soft start  start + t / soft_start (target - start), t = 0, control_dt, ... from where the robot is
    velocity    servo: |target - q| <= velocity kd / kp, so that at this speed it pushes no further;
                motor: no force along the motion of a joint that is faster than this
    torque      servo: |kp (target - q) - kd dq| <= torque; motor: |force of ctrl| <= torque
    slew        |target - last target| <= slew control_dt
    range       the actuator's, and of a servo its joint's less `margin`

Each clamps what the one before it left, so of two that contradict each other the later holds. Slew and range
come last because they measure nothing: they hold in every step, whatever a sensor says. Velocity and torque
hold as far as those two permit; a step in which one did not is counted in `unmet`.

Bounds are worked out in float64 and rounded inward to float32; the file's own range to the nearest, as its
graph does.
"""

import contextlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

STAGES = ("soft start", "velocity", "torque", "slew", "range")  # in this order
FALLBACKS = ("hold", "damp", "pose")
WATCHED = ("held", "late", "fallback")
OBSERVATION, LATE, TRIPPED = 1, 2, 3  # why a row is latched
PLACES, SPEEDS, FORCES = ("rad", "m"), ("rad/s", "m/s"), ("N m", "N")  # units
LARGEST = float(np.finfo(np.float32).max)
Numbers = float | Sequence[float] | Mapping[str, float]  # one for all actuators, one each, or some by name
Pairs = Sequence[Sequence[float] | None] | Mapping[str, Sequence[float]]  # one each, or some by name
Columns = (
    str | Sequence[Sequence[Any] | None]
)  # an input of one number for each actuator, or [input, column] each
Reals = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.bool_]
Obs = Mapping[str, npt.ArrayLike]


class FilterError(ValueError):
    """A filter that cannot work: an impossible number, an unknown name, a fact that nobody said."""


@dataclass(frozen=True)
class Filter:
    """A person's numbers. A stage whose number is None does not act; Guard checks them against a contract."""

    slew: Numbers | None = None  # units of ctrl per s
    low: Numbers | None = None  # units of ctrl; of this and the file's range the narrower holds
    high: Numbers | None = None
    margin: Numbers | None = None  # rad or m that a servo's target stays inside its joint's range
    velocity: Numbers | None = None  # rad/s or m/s of the joint
    torque: Numbers | str | None = None  # N m or N at the joint; "file": the file's force_range
    soft_start: float = 0.0  # s
    grace: int = 2  # control periods in a row that may be bad or late; one more latches the fallback
    deadline: float | None = None  # s from one step to the next; what comes later counts as late
    fallback: str = "hold"  # of servos: "hold", "damp" follows q, "pose" moves there; motors go to 0
    pose: Numbers | None = None  # units of ctrl
    pose_speed: Numbers | None = None  # units of ctrl per s
    # what the file does not say
    kinds: Mapping[str, str] | None = None  # {actuator: "servo" or "motor"}
    kp: Numbers | None = None  # N m/rad or N/m
    kd: Numbers | None = None  # N m s/rad or N s/m
    joint_range: Pairs | None = None  # rad or m
    position_from: Columns | None = None  # which observations are the actuators' joints'
    velocity_from: Columns | None = None

    def __post_init__(self) -> None:
        for key in ("soft_start", "deadline"):
            value = getattr(self, key)
            if value is None and key == "deadline":
                continue
            if value is None or not (_is_number(value) and value >= 0):
                raise FilterError(f"{key} must be a number of seconds from 0 on, got {value!r}")
        if self.deadline == 0:
            raise FilterError("deadline must be above 0 s: every step would be late")
        if not isinstance(self.grace, int) or isinstance(self.grace, bool) or self.grace < 0:
            raise FilterError(
                f"grace must be a whole number of control periods from 0 on, got {self.grace!r}"
            )
        if self.fallback not in FALLBACKS:
            raise FilterError(f"fallback must be one of {FALLBACKS}, got {self.fallback!r}")
        for key in ("pose", "pose_speed"):
            if (getattr(self, key) is not None) != (self.fallback == "pose"):
                got = f"{key} {getattr(self, key)!r} and fallback {self.fallback!r}"
                raise FilterError(f"{key} goes with fallback 'pose', which needs it; got {got}")


def read_filter(path: str | Path) -> Filter:
    """A Filter from a JSON object of its fields. Raises FilterError for any other key, or a bad number."""
    try:
        numbers = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FilterError(f"no filter in {path}: {error}") from error
    if not isinstance(numbers, dict):
        raise FilterError(f"{path} must hold a JSON object, got {type(numbers).__name__}")
    known = [f.name for f in fields(Filter)]
    for key in numbers:
        if key not in known:
            raise FilterError(f"{path}: a filter has no {key!r}{_hint(key, known)}; it has {known}")
    return Filter(**numbers)


class Guard:
    """The filter's arithmetic for B robots or simulations side by side, elementwise, with the state of each.

    Raises FilterError for a number that does not fit the contract, and for a fact that neither of them says.
    """

    def __init__(self, contract: Mapping[str, Any], filter: Filter, batch: int = 1) -> None:
        self.filter, self.bounds = filter, Bounds(contract, filter)
        shape = batch, len(self.bounds.names)
        self.acted = {stage: np.zeros(batch, np.int64) for stage in (*STAGES, *WATCHED)}  # steps, (B,) each
        self.unmet = {stage: np.zeros(batch, np.int64) for stage in ("velocity", "torque")}
        self.last = np.zeros(shape, np.float32)  # what was sent
        self.why = np.zeros(batch, np.int64)  # 0: not latched
        self._start = np.zeros(shape)  # (B, A) of the soft start
        self._age, self._faults = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
        self._pending = np.ones(batch, np.bool_)
        self._terms = _by_term(self.bounds.q_from), _by_term(self.bounds.dq_from)

    def begin(self, rows: Rows | None = None) -> None:
        """Rows (B,), or all, begin anew: unlatched, and from wherever the next step measures them."""
        rows = np.ones_like(self._pending) if rows is None else rows
        self._pending |= rows
        for state in (self.why, self._age, self._faults):
            state[rows] = 0

    def rearm(self) -> None:
        """Leave the fallback: a soft start from the last target."""
        self._start = self.last.astype(np.float64)
        for state in (self.why, self._age, self._faults):
            state[:] = 0

    def measure(self, obs: Obs) -> tuple[Reals, Reals]:
        """(q, dq), (B, A) each, of the actuators' joints, from named terms (B, size); NaN: not observed."""
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
        """What to send, float32, shaped as `target`: (A,) or (B, A).

        q, dq: of the actuators' joints. good (B,): the observations may be acted on; a target, or a needed q
        or dq, that is not finite in float32 is bad as well. late (B,): the step came too late.
        """
        b, shape = self.bounds, self.last.shape
        with np.errstate(over="ignore", invalid="ignore"):
            x = np.asarray(target, np.float32).astype(np.float64).reshape(shape)
            q, dq = (_filled(m, shape) for m in (q, dq))
            seen = np.asarray(((np.isfinite(q) | ~b.needs_q) & (np.isfinite(dq) | ~b.needs_dq)).all(-1))
            fine = np.isfinite(x).all(-1) & seen & np.asarray(good, np.bool_)
            self._begin_pending(q)
            self._watch(np.asarray(fine), np.asarray(late, np.bool_))
            x = self._wanted(x, q, np.asarray(fine))
            measured = b.measured(q, dq, seen[:, None])
            for stage, low, high in measured:
                x = self._clamp(stage, x, low, high)
            if b.slew is not None:
                x = self._clamp("slew", x, *_inward(self.last - b.slew, self.last + b.slew))
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

    def _wanted(self, x: Reals, q: Reals, good: Rows) -> Reals:
        """(B, A): the policy's target, softly started; the last one; or the fallback's."""
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
            low, high = _inward(last - b.pose_step, last + b.pose_step)
            last = np.clip(b.pose, low, high).astype(np.float64)
        return np.where(b.motor, 0.0, last)

    def _clamp(self, stage: str, x: Reals, low: Floats, high: Floats) -> Reals:
        clamped = np.minimum(np.maximum(x, low), high)
        self.acted[stage] += (clamped != x).any(-1)
        return clamped


class Steppable(Protocol):
    """What Filtered needs of a Controller."""

    contract: dict[str, Any]

    def reset(self) -> None: ...
    def step(self, obs: Obs, stamps: Mapping[str, float] | None = ..., now: float | None = ...) -> Floats: ...


class Filtered:
    """A Controller behind a Filter: `step` gives a target that may be sent, whatever was observed.

    Until the first good observation after a reset there is no such target, and `step` raises as the
    Controller does. After that a bad one (missing, NaN, stale) gives the last target, and `state` says so;
    more than `grace` in a row latch the fallback until `rearm()`.
    """

    def __init__(self, policy: Steppable, filter: Filter) -> None:
        self.policy, self.guard = policy, Guard(policy.contract, filter)
        self.actuators = list(self.guard.bounds.names)
        self.control_dt = self.guard.bounds.dt  # s
        self.state = "policy"  # or "held", "late", "fallback": what the last step did
        self.reason: str | None = None  # why and when the fallback was latched
        self.steps = 0
        self._armed, self._then = False, math.nan
        self._joints = {
            place[0] for place in (*self.guard.bounds.q_from, *self.guard.bounds.dq_from) if place
        }
        self._inputs = {
            i["name"]: (i["size"], i.get("max_age") or self.control_dt) for i in policy.contract["inputs"]
        }

    def reset(self) -> None:
        """Begin an episode from wherever the robot is; one that is latched stays so."""
        self.policy.reset()
        self._then = math.nan
        if self.reason is None:
            self.guard.begin()
            self._armed = False

    def rearm(self) -> None:
        """Leave the fallback: the policy forgets its past and starts softly from the last target."""
        self.reason = None  # first: a trip from now on shall count
        self.policy.reset()
        self.guard.rearm()
        self.state, self._then = "policy", math.nan

    def trip(self, reason: str) -> None:
        """Latch the fallback from the next step on; from any thread, or in a signal's handler."""
        self._latch(reason)

    def step(self, obs: Obs, stamps: Mapping[str, float] | None = None, now: float | None = None) -> Floats:
        """Actuator targets, (A,), as Controller.step; `now` is also the clock of the deadline."""
        if self.reason is not None and not self.guard.why[0]:
            self.guard.why[:] = TRIPPED  # here: a trip may come in the middle of a step, from another thread
        began = time.monotonic() if now is None else now
        gap, self._then = began - self._then, began
        deadline = self.guard.filter.deadline
        late = deadline is not None and gap > deadline
        target, q, dq, fault = np.full(len(self.actuators), math.nan, np.float32), math.nan, math.nan, None
        try:
            target = self.policy.step(obs, stamps, now)
            q, dq = self.guard.measure(obs)
        except Exception as error:  # whatever failed, the actuators need a target
            if not self._armed:
                self._then = math.nan  # nothing was sent that the next step could be late after
                raise
            fault = f"{type(error).__name__}: {error}"
            q, dq = self.guard.measure(self._believed(obs, stamps, began))
        self._armed = True
        ctrl = self.guard.step(target, q, dq, good=fault is None, late=late)
        if self.guard.why[0] and self.reason is None:
            self._latch(fault or f"{gap} s since the step before, at most {deadline} s")
        latched = bool(self.guard.why[0])
        self.state = "fallback" if latched else "held" if fault else "late" if late else "policy"
        self.steps += 1
        return ctrl

    def _believed(self, obs: Obs, stamps: Mapping[str, float] | None, now: float) -> dict[str, Any]:
        """Of observations that were refused those of the joints: another sensor may be what failed."""
        believed: dict[str, Any] = {}
        for name in self._joints:
            with contextlib.suppress(Exception):  # whatever it is, the actuators need a target
                size, most = self._inputs[name]
                value, age = np.asarray(obs[name]), 0.0 if stamps is None else now - stamps.get(name, now)
                if value.shape == (size,) and value.dtype.kind in "fiu" and abs(age) <= most:
                    believed[name] = value
        return believed

    @property
    def acted(self) -> dict[str, int]:
        """In how many steps each stage and watchdog acted."""
        return {stage: int(count[0]) for stage, count in self.guard.acted.items()}

    @property
    def unmet(self) -> dict[str, int]:
        """In how many steps a later stage overruled a bound."""
        return {stage: int(count[0]) for stage, count in self.guard.unmet.items()}

    def _latch(self, reason: str) -> None:
        if self.reason is None:
            self.reason = f"step {self.steps}, {self.steps * self.control_dt:g} s: {reason}"


class Bounds:
    """A Filter's numbers and a contract's facts as arrays (A,), in the order of ctrl; see FilterError."""

    def __init__(self, contract: Mapping[str, Any], filter: Filter) -> None:
        self._contract, self._filter = contract, filter
        self._facts: list[Mapping[str, Any]] = contract["actuators"]
        self.names: list[str] = [fact["name"] for fact in self._facts]
        self.dt = float(contract["control_dt"])  # s
        self.motor = np.array([kind == "motor" for kind in self._kinds()])
        self.low, self.high = self._range()  # float32
        self.q_from, self.dq_from = self._columns("position", PLACES), self._columns("velocity", SPEEDS)
        slew, self.velocity = self._optional("slew"), self._optional("velocity")
        self.slew = None if slew is None else slew * self.dt  # units of ctrl
        self.torque = self._torque()  # (low, high) at the joint
        servo: Rows = ~self.motor
        slow = np.isfinite(np.full(len(servo), np.inf) if self.velocity is None else self.velocity)
        weak = np.isfinite(np.full((1, len(servo)), np.inf) if self.torque is None else self.torque).all(0)
        damped = np.full(len(servo), filter.fallback == "damp")
        self.needs_q = servo & (slow | weak | damped)
        self.needs_dq = (self.motor & slow) | (servo & weak)
        self._require("position", self.q_from, self.needs_q)
        self._require("velocity", self.dq_from, self.needs_dq)
        self._kp, self._kd = self._gain("kp", servo & (slow | weak)), self._gain("kd", servo & (slow | weak))
        self._force = np.array([_force(fact.get("unit")) or math.nan for fact in self._facts])  # of ctrl 1
        if self.torque is not None:
            self._torque_of_motors(np.asarray(weak))
        self._ahead = None if self.velocity is None else self._most_ahead(servo & slow)
        default = [fact.get("default") or 0.0 for fact in self._facts]
        self.rest = np.where(self.motor, 0.0, default)  # where a start is not measured
        self.pose, self.pose_step = self._pose()

    def measured(self, q: Reals, dq: Reals, seen: Rows) -> list[tuple[str, Floats, Floats]]:
        """(stage, low, high) of velocity and torque; (B, A) each, without bounds where nothing was seen."""
        q, dq = np.where(self.needs_q, q, 0.0), np.where(self.needs_dq, dq, 0.0)
        known, found = seen | self.motor, []
        if self.velocity is not None and self._ahead is not None:
            onward = np.where(np.abs(dq) > self.velocity, dq * self._force, 0.0)
            low = np.where(self.motor, np.where(onward < 0, 0.0, -np.inf), q - self._ahead)
            high = np.where(self.motor, np.where(onward > 0, 0.0, np.inf), q + self._ahead)
            found.append(("velocity", low, high))
        if self.torque is not None:
            braking = self._kd * np.where(self.motor, 0.0, dq)  # 0 * NaN of a motor's would be NaN
            low, high = (q + (braking + bound) / self._kp for bound in self.torque)
            found.append(("torque", low, high))
        return [
            (stage, *_inward(np.where(known, low, -np.inf), np.where(known, high, np.inf)))
            for stage, low, high in found
        ]

    def _kinds(self) -> list[str]:
        """Of each actuator "servo" (ctrl is its joint's position) or "motor" (ctrl is a force)."""
        given = {} if self._filter.kinds is None else self._filter.kinds
        if not isinstance(given, Mapping):
            raise FilterError(f"kinds must be {{actuator: 'servo' or 'motor'}}, got {given!r}")
        for name, kind in given.items():
            self._known("kinds", name)
            if kind not in ("servo", "motor"):
                raise FilterError(f"kinds[{name!r}] must be 'servo' or 'motor', got {kind!r}")
        found = [given.get(fact["name"]) or _kind(fact) for fact in self._facts]
        for name, kind in zip(self.names, found, strict=True):
            if kind is None:
                remedy = f'say it with kinds = {{"{name}": "servo"}} or "motor"'
                raise FilterError(f"the file does not say whether actuator {name!r} is a servo: {remedy}")
        return [str(kind) for kind in found]

    def _range(self) -> tuple[Floats, Floats]:
        nearest = (_edges(self._facts, "low", -math.inf), _edges(self._facts, "high", math.inf))
        low, high = (edge.astype(np.float32) for edge in nearest)
        for key, value in (("low", self._filter.low), ("high", self._filter.high)):
            if value is not None and key == "low":
                low = np.maximum(low, _up(self._numbers(key, value, -math.inf)))
            elif value is not None:
                high = np.minimum(high, _down(self._numbers(key, value, math.inf)))
        given = {} if self._filter.margin is None else self._filter.margin
        margin = self._numbers("margin", given, -math.inf, least=0.0)
        joints = self._joint_range(~self.motor & np.isfinite(margin))
        low, high = np.maximum(low, _up(joints[0] + margin)), np.minimum(high, _down(joints[1] - margin))
        for i in np.flatnonzero(low > high)[:1]:
            raise FilterError(f"the range of {self.names[i]!r} is empty: from {low[i]} to {high[i]}")
        return low, high

    def _joint_range(self, wanted: Rows) -> Reals:
        """(2, A): infinite where it is not wanted, or where a person says that there is none."""
        given, pairs = self._filter.joint_range, np.tile([[-math.inf], [math.inf]], len(self.names))
        if not (given is None or isinstance(given, Mapping) or _is_list(given, len(self.names))):
            raise FilterError(f"joint_range must be one [low, high] for each of {self.names}, got {given!r}")
        for name in given if isinstance(given, Mapping) else ():
            self._known("joint_range", name)
        for i, name in enumerate(self.names):
            if given is None or (isinstance(given, Mapping) and name not in given):
                pair = self._fact("joint_range", i, "margin") if wanted[i] else None
            else:
                pair = given[name] if isinstance(given, Mapping) else given[i]
            if pair is None:
                continue
            if not _is_list(pair, 2) or not all(map(_is_number, pair)) or pair[0] > pair[1]:
                raise FilterError(f"joint_range of {name!r} must be [low, high], got {pair!r}")
            if wanted[i]:
                pairs[:, i] = pair
        return pairs

    def _torque(self) -> Reals | None:
        """(2, A) at the joint, from low to high."""
        given = self._filter.torque
        if isinstance(given, str):
            if given != "file":
                raise FilterError(f"torque must be numbers or 'file', got {given!r}")
            pairs = [self._fact("force_range", i, "torque 'file'") for i in range(len(self.names))]
            return np.array(pairs, np.float64).T
        most = self._optional("torque")
        return None if most is None else np.stack((-most, most))

    def _torque_of_motors(self, weak: Rows) -> None:
        """From the joint to ctrl: kp is what ctrl 1 gives."""
        assert self.torque is not None
        for i in np.flatnonzero(self.motor & weak):
            name, force = self.names[i], self._force[i]
            if not math.isfinite(force):
                remedy = "bound its ctrl with low and high, and give torque by name to the others"
                raise FilterError(f"torque: the file does not say what ctrl 1 of {name!r} gives: {remedy}")
            self._kp[i] = abs(force)
            self.torque[:, i] = self.torque[:, i] if force > 0 else -self.torque[::-1, i]
            low, high = self.torque[:, i] / self._kp[i]
            if low > self.high[i] or high < self.low[i]:
                outside = f"outside its range, {self.low[i]} to {self.high[i]}"
                raise FilterError(f"torque leaves {name!r} a ctrl of {low} to {high}, {outside}")

    def _most_ahead(self, wanted: Rows) -> Reals:
        """(A,): how far a servo's target may lie from q, so that at `velocity` it pushes no further."""
        assert self.velocity is not None
        for i in np.flatnonzero(wanted & (self._kd <= 0)):
            raise FilterError(f"velocity needs a kd above 0; that of {self.names[i]!r} is {self._kd[i]}")
        for i in np.flatnonzero(self.motor & np.isfinite(self.velocity) & ~np.isfinite(self._force)):
            lacks = f"what ctrl 1 of {self.names[i]!r} gives"
            raise FilterError(f"velocity: the file does not say {lacks}; give velocity by name to the others")
        return np.where(wanted, np.where(wanted, self.velocity, 0.0) * self._kd / self._kp, math.inf)

    def _pose(self) -> tuple[Reals, Reals]:
        """(A,) each: where to, and how far in a control period."""
        given, speed = self._filter.pose, self._filter.pose_speed
        if given is None or speed is None:
            return self.rest, np.zeros_like(self.rest)
        pose = self._numbers("pose", given, math.nan)
        for i, name in enumerate(self.names):
            if self.motor[i]:
                continue
            low, high = np.nextafter(self.low[i], -np.inf), np.nextafter(self.high[i], np.inf)  # were rounded
            if not low <= pose[i] <= high:  # so written that one not named is refused
                rule = f"within its range, {self.low[i]} to {self.high[i]}"
                raise FilterError(f"pose must give {name!r} a number {rule}; got {pose[i]}")
        return pose, self._numbers("pose_speed", speed, math.inf, above=0.0) * self.dt

    def _gain(self, key: str, wanted: Rows) -> Reals:
        """kp or kd, (A,); 1 or 0 where it is not wanted."""
        given, gains = getattr(self._filter, key), np.full(len(self.names), float(key == "kp"))
        numbers = gains if given is None else self._numbers(key, given, math.nan, least=0.0)
        for i in np.flatnonzero(wanted):
            known = given is not None and not math.isnan(numbers[i])
            gains[i] = numbers[i] if known else self._fact(key, int(i), "velocity or torque")
            if key == "kp" and not gains[i] > 0:
                raise FilterError(f"kp of {self.names[i]!r} must be above 0, got {gains[i]}")
        return gains

    def _fact(self, key: str, i: int, stage: str) -> Any:
        fact = self._facts[i]
        if fact.get(key) is None or (key in ("kp", "kd") and fact.get("unit") not in PLACES):
            remedy = "torque as numbers" if key == "force_range" else key
            name = self.names[i]
            raise FilterError(f"{stage} needs {key} of {name!r}, which the file does not say: give {remedy}")
        return fact[key]

    def _columns(self, what: str, units: tuple[str, str]) -> "list[tuple[str, int] | None]":
        """Which column of which input is each actuator's joint's position or velocity; None: not observed."""
        key, given = f"{what}_from", getattr(self._filter, f"{what}_from")
        width = {i["name"]: i["size"] for i in self._contract["inputs"]}
        if given is None:
            return [self._observed(fact.get("joint"), what, units) for fact in self._facts]
        if isinstance(given, str):
            if width.get(given, len(self.names)) != len(self.names):
                rule = f"an input of {len(self.names)} numbers, as ctrl"
                raise FilterError(f"{key} must be {rule}; {given!r} has {width[given]}: give [input, column]")
            given = [(given, i) for i in range(len(self.names))]
        if not _is_list(given, len(self.names)):
            raise FilterError(f"{key} must be one [input, column] for each of {self.names}, got {given!r}")
        for name, pair in zip(self.names, given, strict=True):
            if pair is None:
                continue
            if not _is_list(pair, 2) or not isinstance(pair[0], str):
                raise FilterError(f"{key} of {name!r} must be [input, column], got {pair!r}")
            if pair[0] not in width:
                hint = _hint(pair[0], width)
                raise FilterError(f"{key}: no input {pair!r}{hint}; the policy takes {width}")
            whole = isinstance(pair[1], int) and not isinstance(pair[1], bool)
            if not whole or not 0 <= pair[1] < width[pair[0]]:
                raise FilterError(
                    f"{key}: {pair[0]!r} has columns 0 to {width[pair[0]] - 1}, got {pair[1]!r}"
                )
        return [None if pair is None else (pair[0], pair[1]) for pair in given]

    def _observed(self, joint: str | None, what: str, units: tuple[str, str]) -> "tuple[str, int] | None":
        source = joint if what == "position" else f"{joint} velocity"
        for term in self._contract["inputs"]:
            for column in range(term["size"]):
                told = [_at(term.get(key), column) for key in ("source", "frame", "unit")]
                if joint is not None and told[:2] == [source, "joint axis"] and told[2] in units:
                    return term["name"], column
        return None

    def _require(self, what: str, columns: "list[tuple[str, int] | None]", wanted: Rows) -> None:
        for i in np.flatnonzero(wanted):
            if columns[i] is None:
                lacks = f"the {what} of the joint of {self.names[i]!r} is: give {what}_from"
                raise FilterError(f"the file does not say which input {lacks}")

    def _optional(self, key: str) -> Reals | None:
        given = getattr(self._filter, key)
        return None if given is None else self._numbers(key, given, math.inf, above=0.0)

    def _numbers(
        self, key: str, given: Any, missing: float, *, least: float = -math.inf, above: float = -math.inf
    ) -> Reals:
        """(A,); `missing` for an actuator that a mapping does not name."""
        if isinstance(given, Mapping):
            for name in given:
                self._known(key, name)
            values = [given.get(name, missing) for name in self.names]
        else:
            one = isinstance(given, str) or not isinstance(given, Sequence | np.ndarray)
            values: list[Any] = [given] * len(self.names) if one else list(given)
        if len(values) != len(self.names):
            raise FilterError(
                f"{key} must be one number or {len(self.names)}, for {self.names}; got {given!r}"
            )
        for name, value in zip(self.names, values, strict=True):
            named = not isinstance(given, Mapping) or name in given
            if named and not (_is_number(value) and value >= least and value > above):
                rule = f"above {above:g}" if above > -math.inf else f"at least {least:g}"
                rule = "finite" if rule == "at least -inf" else f"finite and {rule}"
                raise FilterError(f"{key} of {name!r} must be {rule}, got {value!r}")
        return np.array(values, np.float64)

    def _known(self, key: str, name: Any) -> None:
        if name not in self.names:
            raise FilterError(f"{key}: no actuator {name!r}{_hint(name, self.names)}; there are {self.names}")


def _kind(fact: Mapping[str, Any]) -> str | None:
    """What the unit of ctrl tells; a geared servo's is no unit of its joint."""
    if fact.get("kp") is not None and fact.get("unit") in PLACES:
        return "servo"
    return "motor" if _force(fact.get("unit")) is not None else None


def _force(unit: str | None) -> float | None:
    """What ctrl 1 gives at the joint, of units as "N m" and "200.0 N m"."""
    number, _, rest = (unit or "").partition(" ")
    try:
        return 1.0 if unit in FORCES else float(number) if rest in FORCES else None
    except ValueError:
        return None


def _by_term(places: "list[tuple[str, int] | None]") -> dict[str, tuple[list[int], list[int]]]:
    """Term -> (actuators, columns)."""
    found: dict[str, tuple[list[int], list[int]]] = {}
    for i, place in enumerate(places):
        if place is not None:
            actuators, columns = found.setdefault(place[0], ([], []))
            actuators.append(i)
            columns.append(place[1])
    return found


def _filled(value: npt.ArrayLike, shape: tuple[int, ...]) -> Reals:
    """As float32 has it."""
    array = np.asarray(value, np.float32).astype(np.float64)
    return array.reshape(shape) if array.ndim else np.full(shape, array)


def _edges(facts: list[Mapping[str, Any]], key: str, none: float) -> Reals:
    return np.array([none if fact.get(key) is None else fact[key] for fact in facts], np.float64)


def _up(x: Reals) -> Floats:
    """The smallest float32 that is not below x; never infinity."""
    x = np.asarray(np.minimum(x, LARGEST), np.float64)
    near = x.astype(np.float32)
    return np.where(near < x, np.nextafter(near, np.float32(np.inf)), near)


def _down(x: Reals) -> Floats:
    return -_up(-x)


def _inward(low: Reals, high: Reals) -> tuple[Floats, Floats]:
    below, above = _up(np.stack((low, -high)))
    return below, -above


def _at(value: Any, column: int) -> Any:
    return value[column] if isinstance(value, list) else value


def _is_number(value: Any) -> bool:
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return real and math.isfinite(value)


def _is_list(value: Any, length: int) -> bool:
    """Of so many values; a string is none."""
    listed = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)
    return listed and len(value) == length


def _hint(name: Any, known: Iterable[str]) -> str:
    close = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
