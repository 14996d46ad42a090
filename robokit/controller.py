"""Runs an exported policy on a robot. Needs only numpy and onnxruntime; the file may be copied to the robot.

    policy = Controller("hopper.onnx", robot="hopper", control_dt=0.008)
    policy.reset()
    while running():  # every control_dt seconds
        write(policy.step({"position": q, "velocity": dq}))

Pitfalls:

- `step` takes raw sensor readings in the contract's units and order: `python controller.py hopper.onnx`
  lists them. Normalisation, history, previous action and scaling to actuator units are inside the file.
- `step` returns actuator targets in MuJoCo's actuator order, not in the joint order of a driver or a message.
- The policy has memory: call `step` once in every control period, and `reset` at the start of an episode.
- A refused observation (ObservationError) does not change the policy's memory: continue with the next good
  one, or stop the robot.
- A command outside its trained range is clipped to it and counted in `clipped`; a target outside its
  actuator's range is clipped too and counted in `ctrl_clipped`, or refused with `beyond="refuse"`.
- `step(obs, stamps={"imu": t})` refuses readings older than the contract's `max_age`, by default one control
  period. Stamps and `now` must use the same clock; `now` defaults to time.monotonic().
- Use one Controller per robot. Threads may take turns; a call while another is inside raises ConcurrentCall.
- It bounds commands and actuator targets; filter.py limits slew and torque, and handles dead sensors.
- A file is data: before onnxruntime sees it, `load` refuses what could read another file, loop, draw random
  numbers or take the machine's memory; all graphs of a process share 1 GB. docs/contract.md describes the
  contract, the table FIELDS.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import stat
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"  # read at onnxruntime's import, which else sends usage data
if "onnxruntime" in sys.modules and NO_TELEMETRY not in os.environ:
    rule = f"onnxruntime was imported before {__name__}, with its telemetry on"
    warnings.warn(f"{rule}: import {__name__} first, or set {NO_TELEMETRY}=1", stacklevel=2)
os.environ.setdefault(NO_TELEMETRY, "1")

import onnxruntime as ort  # noqa: E402

SCHEMA = 2  # version of the contract's format; files of 1 load too
KIND = "policy"
LEARNED = ": a learned model of a task, now.TERM and action to next.TERM, reward, run by onnxruntime itself"
METADATA_KEY = "robokit.contract"
OUTPUTS = ["ctrl", "carry_next"]
ENDS = ("carry", "reset", *OUTPUTS)  # names that no input may have
KEPT_TIMINGS = 1 << 16  # 20 minutes at 50 Hz
MOST_BYTES = {"file": 64 << 20, "contract": 4 << 20, "listing": 1 << 16}
MOST_NODES, MOST_FIELDS, MOST_NUMBERS = 4096, 1 << 18, 1 << 26  # of a graph
MOST_PACKED = 1 << 31  # nodes times the numbers of the largest tensor: onnxruntime may pack it for each node
MOST_DEPTH, MOST_ROWS, MOST_SIZE = 64, 4096, 1 << 16  # of a contract: JSON, inputs or actuators, their sizes
MEMORY = 1 << 30  # bytes that the graphs of a process may use
SLOWEST = 3.0  # s that the first runs of a graph may take
LARGEST = float(np.finfo(np.float32).max)
Array = npt.NDArray[np.float32]
Contract = dict[str, Any]
Bound = tuple[float, float] | None


class Field(NamedTuple):
    """A row of the contract's table. An optional one may be absent; readers ignore keys without a row."""

    key: str  # "inputs[].size": of each row; "commands{}.low": of each name
    type: str  # a key of TYPES, or several: "text | null"
    bound: Bound  # (low, high) of a number, or of the length of a text or list
    required: bool
    since: int  # schema; what is required is so from then on
    says: str


NAME, ROWS, COLUMNS, FROM_0 = (1, 200), (0, MOST_ROWS), (0, MOST_SIZE), (0, LARGEST)
OF_EACH = "text | texts | null"  # one for all columns, or one for each
MAPS = "'ctrl', 'around': default + scale a; 'delta': the last target + scale a; 'hold': default, without a"
FIELDS = (
    Field("schema", "whole", (1, SCHEMA), True, 1, "version of this format"),
    Field("kind", "text", NAME, True, 2, f"what the file is: {KIND!r}"),
    Field("needs", "texts", ROWS, False, 2, "keys of this table that a reader must know, or refuse the file"),
    Field("task", "text", (1, 1000), True, 1, "name of the task"),
    Field("robot", "text", (0, 1000), True, 1, "name of the model"),
    Field("control_dt", "number", (1e-5, 60.0), True, 1, "control period, s"),
    Field("action_delay", "pair | null", None, False, 2, "of ctrl in training, s, beside each actuator's"),
    Field("inputs", "rows", ROWS, True, 1, "what the robot supplies in each step, in the order of obs"),
    Field("inputs[].name", "text", NAME, True, 1, "name of the graph's input"),
    Field("inputs[].size", "whole", (1, MOST_SIZE), True, 1, "numbers in it"),
    Field("inputs[].unit", OF_EACH, COLUMNS, False, 1, "unit"),
    Field("inputs[].frame", OF_EACH, COLUMNS, False, 1, "frame of reference, like 'site imu'"),
    Field("inputs[].source", OF_EACH, COLUMNS, False, 1, "the model's reading that it equals"),
    Field("inputs[].measured_by", OF_EACH, COLUMNS, False, 1, "what measures it on the robot"),
    Field("inputs[].seen", "object", None, False, 1, "range of each column in the recording of the export"),
    Field("inputs[].seen.low", "numbers", (0, MOST_SIZE), True, 1, "lowest, one for each column"),
    Field("inputs[].seen.high", "numbers", (0, MOST_SIZE), True, 1, "highest, one for each column"),
    Field("inputs[].max_age", "number | null", (1e-9, LARGEST), False, 1, "s; null: one control period"),
    Field("actuators", "rows", (1, MOST_ROWS), True, 1, "the columns of ctrl, in order"),
    Field("actuators[].name", "text", NAME, True, 1, "name"),
    Field("actuators[].low", "number | null", None, False, 1, "lowest ctrl; null: no bound"),
    Field("actuators[].high", "number | null", None, False, 1, "highest ctrl; null: no bound"),
    Field("actuators[].default", "number | null", None, False, 1, "ctrl at action 0"),
    Field("actuators[].map", "text", NAME, False, 2, f"ctrl of an action a: {MAPS}"),
    Field("actuators[].scale", "number", FROM_0, False, 2, "ctrl that an action of 1 adds"),
    Field("actuators[].leash", "number | null", FROM_0, False, 2, "largest distance of target and joint"),
    Field("actuators[].sensed", "object | null", None, False, 2, "its joint's reading: a delta starts there"),
    Field("actuators[].sensed.input", "text", NAME, True, 2, "name of the input"),
    Field("actuators[].sensed.column", "whole", COLUMNS, True, 2, "column of it"),
    Field("actuators[].unit", "text | null", (0, 200), False, 1, "unit of ctrl; '3.0 N m': force of ctrl 1"),
    Field("actuators[].input", "text | null", NAME, False, 2, "what ctrl sets: 'position', 'velocity', ..."),
    Field("actuators[].kp", "number | null", None, False, 1, "a servo's gain, N m/rad or N/m"),
    Field("actuators[].kd", "number | null", None, False, 1, "a servo's damping, N m s/rad or N s/m"),
    Field("actuators[].time_constant", "number | null", FROM_0, False, 2, "of the filter of ctrl, s"),
    Field("actuators[].delay", "number | null", FROM_0, False, 2, "of ctrl in the model, s"),
    Field("actuators[].joint", "text | null", (0, 200), False, 1, "the joint that it drives"),
    Field("actuators[].joint_range", "pair | null", None, False, 1, "of that joint, rad or m"),
    Field("actuators[].force_range", "pair | null", None, False, 1, "at that joint, N m or N"),
    Field("carried", "rows", ROWS, True, 2, "the parts of `carry`, in order; one of them is the belief"),
    Field("carried[].name", "text", NAME, True, 2, "'action' (the last one), 'clock', 'target', 'belief'"),
    Field("carried[].size", "whole", (0, MOST_SIZE), True, 2, "numbers in it"),
    Field("carried[].start", "numbers | text", (0, MOST_SIZE), False, 2, "set by reset, or the input copied"),
    Field("commands", "object", None, True, 1, "the inputs that are commands, by name"),
    Field("commands{}", "object", None, False, 1, "a command; readings outside its range are clipped"),
    Field("commands{}.low", "numbers", (1, MOST_SIZE), True, 1, "lowest trained, one for each column"),
    Field("commands{}.high", "numbers", (1, MOST_SIZE), True, 1, "highest trained, one for each column"),
    Field("commands{}.unit", OF_EACH, COLUMNS, False, 1, "unit"),
    Field("commands{}.frame", OF_EACH, COLUMNS, False, 1, "frame of reference"),
    Field("goal", "object | null", None, False, 2, "its command, achieved term, within, hold (s)"),
    Field("limits", "object | null", None, False, 1, "the task's limits on costs, by name"),
    Field("limits{}", "object", None, False, 1, "a limit, as in docs/limits.md"),
    Field("limits{}.value", "number", FROM_0, True, 1, "in the units of its measure"),
    Field("limits{}.measure", "text", NAME, True, 1, "'rate', 'sum', ..."),
    Field("limits{}.largest", "number", FROM_0, True, 1, "cost possible in one control step"),
    Field("limits{}.absorb", "number", FROM_0, True, 1, "charge per control step lost to a termination"),
    Field("randomized", "object | null", None, False, 2, "ranges of physical quantities trained on, by name"),
    Field("versions", "object", None, True, 1, "versions of the packages that wrote the file"),
    Field("versions{}", "text | null", (0, 200), False, 1, "null: not installed"),
    Field("least", "object", None, True, 2, "the oldest that reads the file"),
    Field("least.onnxruntime", "text", NAME, True, 2, "version of onnxruntime"),
    Field("least.ir", "whole", (3, 1000), True, 2, "IR version of the ONNX file"),
    Field("least.opset", "whole", (7, 1000), True, 2, "version of the standard operators"),
    Field("hashes", "object", None, True, 1, "sha256 and commit of what the file was made from"),
    Field("hashes.model", "object | null", None, False, 1, "file of the MJCF -> sha256"),
    Field("hashes.model{}", "text | null", (0, 200), False, 1, "sha256 of one file"),
    Field("hashes.commit", "text | null", (0, 200), False, 1, "commit of the repository"),
    Field("hashes.weights", "text | null", (0, 200), False, 1, "sha256 of the .safetensors beside the file"),
    Field("parent", "object | null", None, False, 1, "what its training started from"),
    Field("origin", "object | null", None, False, 2, "where a policy that was not trained here comes from"),
    Field("evaluation", "object | null", None, False, 1, "of the policy before the export"),
    Field("parity", "rows", ROWS, False, 1, "differences between graph and policy, one row for each batch"),
    Field("parity[].batch", "whole", (1, LARGEST), False, 1, "simulations at once"),
    Field("parity[].ctrl_error", "number", FROM_0, False, 1, "largest, relative to the actuator's span"),
)


class ContractError(ValueError):
    """A file is damaged, is not an exported policy, or belongs to another robot or control period."""


class ObservationError(ValueError):
    """An observation is missing, unknown, misshaped, stale or not finite, or leads to an unusable output."""


class ConcurrentCall(RuntimeError):
    """`step` or `reset` was called while another call is inside; nothing has changed."""


@dataclass(frozen=True)
class Timing:
    """Durations of successful steps in seconds; p50 and p99 of the last 65536, the others of all."""

    count: int
    p50: float
    p99: float
    max: float
    missed: int  # steps that took longer than the deadline


class Loaded(NamedTuple):
    """A verified exported file, in memory."""

    path: Path
    session: ort.InferenceSession
    contract: Contract
    sha256: str  # of the file


class Controller:
    """A policy on a robot: named observations in, actuator targets out, once a control period.

    `file` is a path, or what `load` returned. `robot` and `control_dt` (s), where given, must be those of the
    contract. beyond: a ctrl outside its actuator's range is clipped to it and counted in `ctrl_clipped`
    ("clip"), or raises ObservationError ("refuse"). A step that takes longer than the attribute `deadline`
    (s, at first a control period) still returns, and counts as missed in `timing()`.

    Raises ContractError for a damaged, foreign or unsuitable file.
    """

    def __init__(
        self,
        file: str | Path | Loaded,
        *,
        robot: str | None = None,
        control_dt: float | None = None,
        beyond: str = "clip",
    ) -> None:
        if beyond not in ("clip", "refuse"):
            raise ValueError(f"beyond must be 'clip' or 'refuse', got {beyond!r}")
        loaded = file if isinstance(file, Loaded) else load(file)
        _check_use(loaded, robot, control_dt)
        _, self._session, self.contract, self.sha256 = loaded
        self.control_dt = float(self.contract["control_dt"])  # s
        self.deadline = self.control_dt  # s
        self.inputs: dict[str, int] = {i["name"]: i["size"] for i in self.contract["inputs"]}
        self.actuators: list[str] = [a["name"] for a in self.contract["actuators"]]  # the order of ctrl
        self.beyond = beyond
        self.clipped = dict.fromkeys(self.contract["commands"], 0)  # steps in which a command was clipped
        self.ctrl_clipped = dict.fromkeys(self.actuators, 0)  # steps in which its target was clipped
        self._max_age = {i["name"]: i.get("max_age") or self.control_dt for i in self.contract["inputs"]}
        self._bounds = {
            name: (np.asarray(c["low"], np.float32), np.asarray(c["high"], np.float32))
            for name, c in self.contract["commands"].items()
        }
        carry = carry_size(self.contract)
        self._in, self._parts = _split(self.inputs | {"carry": carry})
        self._out, outputs = _split({"ctrl": len(self.actuators), "carry_next": carry})
        self._first = np.ones(1, np.bool_)
        self._binding = self._session.io_binding()  # a run reads and writes these arrays in place
        self._binding.bind_ortvalue_input("reset", ort.OrtValue.ortvalue_from_numpy(self._first))
        for name, part in self._parts.items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(part[None]))
        for name, part in outputs.items():
            self._binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(part[None]))
        self._carry, (self._ctrl, self._carry_next) = self._parts.pop("carry"), outputs.values()
        self._lowest, self._highest = np.full((2, len(self._out)), np.float32(LARGEST))
        self._lowest *= -1
        for i, actuator in enumerate(self.contract["actuators"]):
            low, high = actuator.get("low"), actuator.get("high")
            self._lowest[i] = -LARGEST if low is None else low
            self._highest[i] = LARGEST if high is None else high
        self._inside = np.zeros((2, len(self._out)), np.bool_)
        self._finite = np.zeros(len(self._in), np.bool_)
        self._action, self._target = (slice(*part_of(self.contract, n)) for n in ("action", "target"))
        self._inside_call: dict[str, object] = {}  # a mark of the call that is inside; no thread waits
        self._durations = np.zeros(KEPT_TIMINGS)
        self._count, self._missed, self._longest = 0, 0, 0.0
        _in_time(str(loaded.path), self._warm_up)

    def reset(self) -> None:
        """Begin an episode: the next step clears the previous action and all history.

        Raises ConcurrentCall, like `step`.
        """
        mark = object()
        try:
            self._enter(mark, "reset")
            self._carry[:], self._first[:] = 0.0, True
        finally:  # a signal's exception may come after any call, so the first one here must clear
            if "mark" in self._inside_call and self._inside_call["mark"] is mark:
                self._inside_call.clear()

    def step(
        self,
        obs: Mapping[str, npt.ArrayLike],
        stamps: Mapping[str, float] | None = None,
        now: float | None = None,
    ) -> Array:
        """Actuator targets, (A,), in the contract's units and order.

        obs: name -> (size,), for exactly the names in `inputs`. stamps: name -> time of measurement (s), for
        some or all of them; more than `max_age` from now, past or future, is refused. now: the same clock's
        time (s), default time.monotonic().

        Raises ObservationError for an invalid or stale one, ConcurrentCall while another call is inside; the
        policy's memory is then as before the call.
        """
        mark = object()
        try:
            self._enter(mark, "step")
            start = time.perf_counter()
            if stamps is not None:
                self._check_age(stamps, time.monotonic() if now is None else now)
            self._read(obs)
            try:
                self._session.run_with_iobinding(self._binding)
            except Exception as error:  # onnxruntime's errors share no base class
                raise ObservationError(
                    f"the graph cannot run these observations: {_cut(error, 500)}"
                ) from error
            np.greater_equal(self._out, self._lowest, self._inside[0])
            np.less_equal(self._out, self._highest, self._inside[1])
            if b"\0" in self._inside.tobytes():  # faster than all(); a NaN is not inside either
                self._hold_range()
            self._carry[:], self._first[:] = self._carry_next, False
            self._time(time.perf_counter() - start)
            return self._ctrl.copy()  # the next step writes here
        finally:  # a signal's exception may come after any call, so the first one here must clear
            if "mark" in self._inside_call and self._inside_call["mark"] is mark:
                self._inside_call.clear()

    def sent(self, ctrl: npt.ArrayLike) -> None:
        """Tell what was sent in place of the last step's ctrl, (A,): a delta moves on from there.

        Other files ignore it. Raises ObservationError unless these are A finite numbers, ConcurrentCall.
        """
        mark = object()
        try:
            self._enter(mark, "sent")
            if not np.isfinite(values := _array("ctrl", ctrl, self._ctrl.shape)).all():
                raise ObservationError(f"what was sent is not finite: {ctrl}")
            if self._target.stop:
                self._carry[self._target] = values
        finally:
            if "mark" in self._inside_call and self._inside_call["mark"] is mark:
                self._inside_call.clear()

    def _warm_up(self, run: Any) -> None:
        for _ in range(10):  # a session's first runs allocate memory
            self._session.run_with_iobinding(self._binding, run)

    def _enter(self, mark: object, what: str) -> None:
        if self._inside_call.setdefault("mark", mark) is not mark:
            raise ConcurrentCall(f"{what} was called while another call is inside this Controller")

    @property
    def action(self) -> Array:
        """The policy's last action (A,) in [-1, 1], before it is mapped to ctrl; zeros after a reset.

        Empty for a file that does not carry it.
        """
        return self._carry[self._action].copy()

    def timing(self) -> Timing:
        """Durations of the successful steps so far; zeros before the first."""
        kept = self._durations[: self._count] if self._count else np.zeros(1)
        p50, p99 = (float(p) for p in np.percentile(kept, (50, 99)))
        return Timing(self._count, p50, p99, self._longest, self._missed)

    def _hold_range(self) -> None:
        """Clip and count the targets outside their range, or refuse them; refuse an output not finite."""
        if not np.isfinite(self._out).all():
            raise ObservationError("these finite observations lead to an output that is not finite; refused")
        low, high = (edges[: len(self.actuators)] for edges in (self._lowest, self._highest))
        wrong = np.flatnonzero((self._ctrl < low) | (self._ctrl > high)).tolist()
        if self.beyond == "refuse":
            i = wrong[0]
            got = f"{self._ctrl[i]}, outside {low[i]} to {high[i]}"
            raise ObservationError(f"these observations lead to a ctrl of {self.actuators[i]!r} of {got}")
        for i in wrong:
            self.ctrl_clipped[self.actuators[i]] += 1
        np.clip(self._ctrl, low, high, out=self._ctrl)
        if self._target.stop:
            self._carry_next[self._target] = self._ctrl

    def _read(self, obs: Mapping[str, npt.ArrayLike]) -> None:
        if not isinstance(obs, Mapping):
            raise ObservationError(f"step takes a mapping of name to numbers, got {type(obs).__name__}")
        if obs.keys() != self._parts.keys():
            raise ObservationError(_wrong_names(obs, self.inputs))
        with np.errstate(over="ignore"):  # too large for float32 becomes inf, and inf is refused
            for name, part in self._parts.items():
                part[:] = _array(name, obs[name], part.shape)
        if (
            b"\0" in np.isfinite(self._in, self._finite).tobytes()
        ):  # the carry too: a fused GRU would swallow its NaN
            for name, part in self._parts.items():
                if not np.isfinite(part).all():
                    raise ObservationError(f"observation {name!r} is not finite in float32: {obs[name]}")
            raise ObservationError("the carried state is not finite; reset() begins a new episode")
        for name, (low, high) in self._bounds.items():
            part = self._parts[name]
            if ((part < low) | (part > high)).any():
                self.clipped[name] += 1
                np.clip(part, low, high, out=part)

    def _check_age(self, stamps: Mapping[str, float], now: float) -> None:
        if not isinstance(stamps, Mapping):
            raise ObservationError(f"stamps are a mapping of name to seconds, got {type(stamps).__name__}")
        if not isinstance(now, Real):
            raise ObservationError(f"now must be a number of seconds, got {_cut(repr(now))}")
        for name, stamp in stamps.items():
            if name not in self._max_age:
                raise ObservationError(f"a time stamp for no input: {_wrong_names([name], self.inputs)}")
            if not isinstance(stamp, Real):
                got = _cut(repr(stamp))
                raise ObservationError(f"the time stamp of {name!r} must be a number of seconds, got {got}")
            age, limit = _seconds(now) - _seconds(stamp), self._max_age[name]
            if not age <= limit:  # `not <=` refuses NaN too
                raise ObservationError(f"observation {name!r} is stale: {age} s old, at most {limit} s")
            if age < -limit:
                raise ObservationError(
                    f"observation {name!r} is {-age} s ahead: do stamps and now use one clock?"
                )

    def _time(self, duration: float) -> None:
        self._durations[self._count % KEPT_TIMINGS] = duration
        self._count += 1
        self._missed += duration > self.deadline
        self._longest = max(self._longest, duration)


def load(path: str | Path) -> Loaded:
    """Open an exported policy. `<path>.sha256` must list its sha256, and its contract must fit its graph.

    For a batch, session.run(OUTPUTS, {name: (B, size), ..., "carry": (B, S), "reset": (B,)}), reset bool, the
    others float32, returns ctrl (B, A) and carry_next (B, S).

    Raises ContractError naming the missing, damaged or different part.
    """
    path = Path(path)
    data, sha256 = _verified(path)
    text = scan(data, str(path)).metadata.get(METADATA_KEY)
    if text is None:
        raise ContractError(f"{path} has no {METADATA_KEY!r} in its metadata: not exported by robokit")
    contract = check_contract(_json(text, str(path)), str(path))
    least = contract.get("least", {}).get("onnxruntime", "0")
    if _version(ort.__version__) < _version(least):
        raise ContractError(f"{path} needs onnxruntime {_cut(least)} or newer; this is {ort.__version__}")
    session = _session(data, str(path))
    try:
        found = {n.name: (n.type, n.shape[1:]) for n in [*session.get_inputs(), *session.get_outputs()]}
    except ValueError as error:  # a name that is no text
        raise ContractError(f"{path} has an input or output without a proper name: {_cut(error)}") from error
    if found != (expected := _signature(contract)):
        raise ContractError(f"{path} has graph {_cut(found, 500)}, its contract says {_cut(expected, 500)}")
    feed = {name: np.zeros((1, *expected[name][1]), np.float32) for name in expected if name not in OUTPUTS}
    feed |= {"reset": np.ones(1, np.bool_)}
    outputs = _in_time(str(path), lambda run: session.run(OUTPUTS, feed, run))
    for name, output in zip(OUTPUTS, outputs, strict=True):
        if (shape := np.shape(output)) != (1, *expected[name][1]):
            raise ContractError(f"{path} gives a {name} of {shape}, its contract says {expected[name][1]}")
    return Loaded(path, session, contract, sha256)


def carry_size(contract: Contract) -> int:
    """S, the size of `carry`."""
    return sum(part["size"] for part in contract["carried"])


def _check_use(loaded: Loaded, robot: str | None, control_dt: float | None) -> None:
    path, contract = loaded.path, loaded.contract
    if robot is not None and robot != contract["robot"]:
        raise ContractError(f"{path} was trained for robot {contract['robot']!r}, not {robot!r}")
    if control_dt is not None and not math.isclose(control_dt, contract["control_dt"], rel_tol=1e-6):
        raise ContractError(f"{path} has a control_dt of {contract['control_dt']} s, not {control_dt} s")


def describe(contract: Contract) -> str:
    """A contract as text: the inputs that the robot supplies, and the actuators in the order of ctrl."""
    lines = [f"{contract['task']} for robot {contract['robot']}, every {contract['control_dt']} s", "supply:"]
    for i in contract["inputs"]:
        known = ("unit", "frame", "max_age", "source", "measured_by")
        facts = [f"{key} {i[key]}" for key in known if i.get(key) is not None]
        if command := contract["commands"].get(i["name"]):
            facts.append(f"clipped to {command['low']} .. {command['high']}")
        lines.append(f"  {i['name']:<20} ({i['size']},)  {', '.join(facts)}")
    lines.append("receive, in this order:")
    for a in contract["actuators"]:
        known = ("map", "scale", "leash", "kp", "kd", "time_constant", "delay", "input")
        span, unit = f"{a.get('low')} .. {a.get('high')}", a.get("unit") or ""
        facts = [f"{span}, {unit} at ctrl 1" if unit[:1].isdigit() else f"{span} {unit}".strip()]
        facts += [f"{key} {a[key]}" for key in known if a.get(key) is not None]
        lines.append(f"  {a['name']:<20} {', '.join(facts)}")
    if (delay := contract.get("action_delay")) and any(delay):
        lines.append(f"commands came late in training: by {delay[0]} .. {delay[1]} s")
    if goal := contract.get("goal"):
        lines.append("goal: " + ", ".join(f"{key} {x}" for key, x in goal.items() if x is not None))
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Verify FILE.onnx, the one argument, and print `describe`. Returns 0; 1: refused, 2: other arguments."""
    if len(arguments) != 1:
        return _tell("usage: controller.py FILE.onnx", 2)
    try:
        text = describe(load(arguments[0]).contract)
    except ContractError as error:
        return _tell(str(error), 1)
    return _print(text)


def _print(text: str) -> int:
    """Print on standard output, as far as it is there. Returns 1 if that fails, with a line that says why."""
    if (out := sys.stdout) is None:  # pyright: ignore[reportUnnecessaryComparison]  # closed by the shell
        return 0
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="backslashreplace")  # of a console that lacks a letter
    try:
        print(text, flush=True)
    except OSError as error:  # a reader like `head` has gone, or the disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # else the exit would write it again
        return 0 if isinstance(error, BrokenPipeError) else _tell(f"cannot print: {error}", 1)
    return 0


def _tell(text: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):  # standard error may be closed or full
        print(text, file=sys.stderr, flush=True)
    return code


def read_bytes(path: Path, most: int) -> bytes:
    """A regular file of at most `most` bytes. Raises OSError for another, without waiting for a FIFO."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(data) > most:
        raise OSError(f"more than {most:,} bytes")
    return data


def _verified(path: Path) -> tuple[bytes, str]:
    """The file's bytes and sha256 (hex). Raises ContractError unless `<path>.sha256` lists that sha256."""
    listing, reading = Path(f"{path}.sha256"), path
    try:
        data, reading = read_bytes(path, MOST_BYTES["file"]), listing
        listed = read_bytes(listing, MOST_BYTES["listing"]).decode("ascii").split()
    except (OSError, ValueError) as error:  # ValueError: no ASCII, or a path with a NUL
        gone = path.exists() and not listing.exists()
        which = ", which is not there" if gone else f"; {reading.name}"
        why = getattr(error, "strerror", None) or error
        raise ContractError(f"a policy is {path} with {listing.name} beside it{which}: {why}") from error
    if (digest := hashlib.sha256(data).hexdigest()) not in listed:
        got = _cut(listed)
        raise ContractError(f"{path} was damaged or changed: sha256 {digest} is not in {listing.name}: {got}")
    return data, digest


def open_session(data: bytes, name: str) -> ort.InferenceSession:
    """A session on one CPU thread. Raises ContractError, with `name`, if `scan` or onnxruntime refuses it."""
    scan(data, name)
    return _session(data, name)


def _session(data: bytes, name: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for pool in ("intra", "inter"):  # a spinning thread keeps its core busy between steps
        options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
    options.log_severity_level = 4  # what is wrong is raised
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.use_env_allocators", "1")  # the one below
    without = ["ConstantFolding"]  # it would run the graph before its time can be limited
    cpu = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        if not _limited:
            ort.create_and_register_allocator(cpu, ort.OrtArenaCfg(MEMORY, 0, -1, -1))
            _limited.append(True)
        return ort.InferenceSession(
            data,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=without,
            enable_fallback=False,  # it would print, and try the same again
        )
    except Exception as error:  # onnxruntime's errors share no base class
        raise ContractError(f"onnxruntime {ort.__version__} cannot run {name}: {_cut(error, 500)}") from error


_limited: list[bool] = []  # whether onnxruntime's memory is limited


def _in_time(name: str, call: Callable[[Any], Any]) -> Any:
    """What a run of a graph returns. Raises ContractError if it fails or takes more than SLOWEST."""
    run, began = ort.RunOptions(), time.monotonic()
    run.log_severity_level = 4
    watch = threading.Timer(SLOWEST, setattr, (run, "terminate", True))
    watch.daemon = True
    watch.start()
    try:
        result = call(run)
    except Exception as error:  # onnxruntime's errors share no base class
        slow = f" within {SLOWEST} s" if time.monotonic() - began >= SLOWEST else ""
        raise ContractError(f"{name} cannot run on zeros{slow}: {_cut(error, 500)}") from error
    finally:
        watch.cancel()
    return result


def _json(text: str, name: str) -> Any:
    """JSON with limits: MOST_BYTES, MOST_DEPTH, finite numbers, no key twice. Raises ContractError."""

    def refuse(rule: str) -> Any:
        raise ContractError(f"{name} has a malformed contract: {rule}")

    def number(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else refuse(f"{_cut(digits)} is beyond any float")

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            found[key] = refuse(f"key {_cut(repr(key))} is there twice") if key in found else value
        return found

    if len(text) > MOST_BYTES["contract"]:
        refuse(f"{len(text):,} characters, at most {MOST_BYTES['contract']:,}")
    depth = 0
    for bracket in re.sub(r'"(?:[^"\\]|\\.?)*+(?:"|\Z)|[^][{}"]+', "", text, flags=re.DOTALL):
        depth += 1 if bracket in "[{" else -1
        if depth > MOST_DEPTH:
            refuse(f"nested more than {MOST_DEPTH} deep")
    try:
        return json.loads(text, parse_constant=refuse, parse_float=number, object_pairs_hook=members)
    except ContractError:
        raise
    except ValueError as error:  # a whole number of thousands of digits, too
        return refuse(f"no JSON: {_cut(error)}")


TYPES: dict[str, Callable[[Any, Bound], bool]] = {
    "null": lambda value, bound: value is None,
    "text": lambda value, bound: isinstance(value, str) and _printable(value, bound),
    "number": lambda value, bound: _is_number(value) and _within(value, bound),
    "whole": lambda value, bound: _is_number(value) and isinstance(value, int) and _within(value, bound),
    "texts": lambda value, bound: _listed(value, bound, _text_or_null),
    "numbers": lambda value, bound: _listed(value, bound, _is_number),
    "pair": lambda value, bound: _listed(value, (2, 2), _is_number) and value[0] <= value[1],
    "rows": lambda value, bound: _listed(value, bound, lambda row: isinstance(row, dict)),
    "object": lambda value, bound: isinstance(value, dict),
}
WORDS = {
    "text": "printable text", "number": "a number", "whole": "a whole number", "texts": "a list of texts",
    "numbers": "a list of numbers", "pair": "[low, high]", "rows": "a list of objects", "object": "an object",
    "null": "null",
}  # fmt: skip


def _printable(value: str, bound: Bound) -> bool:
    return value.isprintable() and _within(len(value), bound)


def _text_or_null(value: Any) -> bool:
    return value is None or (isinstance(value, str) and _printable(value, (0, 1000)))


def _is_number(value: Any) -> bool:
    """Whether it is a number, no boolean, and finite in float32."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def _within(value: float, bound: Bound) -> bool:
    return bound is None or bound[0] <= value <= bound[1]


def _listed(value: Any, bound: Bound, each: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and _within(len(value), bound) and all(map(each, value))


def check_contract(contract: Any, name: str) -> Contract:
    """The contract, checked by FIELDS, with the `kind` and `carried` that a file of schema 1 lacks.

    Raises ContractError with `name`, the key, its rule and the value got.
    """
    if not isinstance(contract, dict):
        raise _malformed(name, "it", "an object", contract)
    schema = contract.get("schema", MISSING)
    if not TYPES["whole"](schema, (1, SCHEMA)):
        raise _malformed(name, "schema", f"one that is known here, 1 to {SCHEMA}", schema)
    if (kind := contract.get("kind", KIND)) != KIND:
        other = f"{name} holds a {_cut(repr(kind))}, and a Controller runs a {KIND!r}"
        raise ContractError(other + (LEARNED if kind == "dynamics" else ""))
    needs, known = contract.get("needs"), {field.key for field in FIELDS}
    for key in needs if isinstance(needs, list) else []:
        if not (isinstance(key, str) and key in known):
            lack = f"needs {_cut(repr(key))}, which this reader does not know: use a newer one"
            raise ContractError(f"{name} {lack}")
    for field in FIELDS:
        _check_field(contract, field, schema, name)
    if schema == 1:
        contract = contract | {"kind": KIND, "carried": _carried_of_schema_1(contract, name)}
    for key, rule, got in _clashes(contract):
        raise _malformed(name, key, rule, got)
    return contract


def _malformed(name: str, key: str, rule: str, got: Any) -> ContractError:
    value = "nothing" if got is MISSING else _cut(json.dumps(got))
    return ContractError(f"{name} has a malformed contract: {_cut(key)} must be {rule}, got {value}")


def _check_field(contract: Contract, field: Field, schema: int, name: str) -> None:
    for key, value in _values(contract, field.key):
        if value is MISSING:
            if field.required and field.since <= schema:
                raise _malformed(name, key, rule_of(field), value)
        elif not any(TYPES[kind](value, field.bound) for kind in field.type.split(" | ")):
            raise _malformed(name, key, rule_of(field), value)


MISSING = object()


def rule_of(field: Field) -> str:
    """A row's type and bound in words: "a whole number from 1 to 65536"."""
    kinds = field.type.split(" | ")
    words, bound = " or ".join(WORDS[kind] for kind in kinds if kind != "null"), field.bound
    if bound is not None and kinds[0] in ("number", "whole"):
        words += f" from {bound[0]:g}" + ("" if bound[1] == LARGEST else f" to {bound[1]:.15g}")
    elif bound is not None:
        words += f", {bound[0]} to {bound[1]} long"
    return f"{words}; or null" if "null" in kinds else words


def _values(contract: Any, key: str) -> Iterator[tuple[str, Any]]:
    """(place, value or MISSING) of a key of FIELDS; none where what it is in is absent or null."""
    places: list[tuple[str, Any]] = [("", contract)]
    for part in re.findall(r"\w+|\[\]|\{\}", key):
        inner: list[tuple[str, Any]] = []
        for place, value in places:
            if part == "[]" and isinstance(value, list):
                inner += [(f"{place}[{i}]", row) for i, row in enumerate(value)]
            elif part == "{}" and isinstance(value, dict):
                inner += [(f"{place}.{name}", row) for name, row in value.items()]
            elif isinstance(value, dict):
                inner.append((f"{place}.{part}".lstrip("."), value.get(part, MISSING)))
        places = inner
    yield from places


def _carried_of_schema_1(contract: Contract, name: str) -> list[Contract]:
    """`carried`, without its starts, from the `carry` of schema 1: {size, then each part's size by name}."""
    carry, rule = contract.get("carry", MISSING), f"an object of sizes, 0 to {MOST_SIZE}"
    if not isinstance(carry, dict):
        raise _malformed(name, "carry", rule, carry)
    if not all(TYPES["whole"](size, (0, MOST_SIZE)) for size in carry.values()):
        raise _malformed(name, "carry", rule, carry)
    parts = [{"name": part, "size": size} for part, size in carry.items() if part != "size"]
    if carry.get("size") != sum(part["size"] for part in parts):
        raise _malformed(name, "carry.size", "the sum of the other sizes", carry.get("size", MISSING))
    return parts


def _clashes(contract: Contract) -> Iterator[tuple[str, str, Any]]:
    """(key, rule, value) of each rule about several keys that a contract breaks."""
    yield from _names_and_totals(contract)
    sizes = {row["name"]: row["size"] for row in contract["inputs"]}
    for i, row in enumerate(contract["inputs"]):
        yield from _lengths(f"inputs[{i}]", row["size"], row)
        yield from _range(f"inputs[{i}].seen", row["size"], row.get("seen"))
    for i, row in enumerate(contract["actuators"]):
        yield from _beyond(f"actuators[{i}]", row, contract["schema"])
        if (sensed := row.get("sensed")) and not sensed["column"] < sizes.get(sensed["input"], 0):
            yield f"actuators[{i}].sensed", f"a column of an input, {_cut(sizes)}", sensed
    for i, row in enumerate(contract["carried"]):
        yield from _lengths(f"carried[{i}]", row["size"], row)
        start = row.get("start")
        if isinstance(start, str) and sizes.get(start) != row["size"]:
            yield f"carried[{i}].start", f"an input of size {row['size']}", start
        if row["name"] == "target" and row["size"] != len(contract["actuators"]):
            yield f"carried[{i}].size", f"{len(contract['actuators'])}, one for each actuator", row["size"]
    for name, row in contract["commands"].items():
        if name not in sizes:
            yield f"commands.{name}", f"the name of an input, {_cut([*sizes])}", name
        yield from _lengths(f"commands.{name}", sizes[name], row)
        yield from _range(f"commands.{name}", sizes[name], row)


def _names_and_totals(contract: Contract) -> Iterator[tuple[str, str, Any]]:
    for key, names in (("inputs", [*ENDS]), ("actuators", []), ("carried", [])):
        for i, row in enumerate(contract[key]):
            if row["name"] in names:
                yield f"{key}[{i}].name", f"none of {_cut(names)}", row["name"]
            names.append(row["name"])
    for key in ("inputs", "carried"):
        if (total := sum(row["size"] for row in contract[key])) > MOST_SIZE:
            yield key, f"of at most {MOST_SIZE} numbers in all", total


def _beyond(key: str, row: Contract, schema: int) -> Iterator[tuple[str, str, Any]]:
    """An actuator's empty range, or its default beyond it, as float32 numbers."""
    low, high = (row.get(edge) for edge in ("low", "high"))
    low, high = (np.float32(none if x is None else x) for x, none in ((low, -LARGEST), (high, LARGEST)))
    if low > high:
        yield f"{key}.low", f"at most high, {high}", row["low"]
    default = row.get("default")
    if schema > 1 and default is not None and not low <= np.float32(default) <= high:
        yield f"{key}.default", f"within its range, {low} to {high}", default


def _lengths(key: str, size: int, row: Contract) -> Iterator[tuple[str, str, Any]]:
    for part in ("unit", "frame", "source", "measured_by", "start"):
        if isinstance(value := row.get(part), list) and len(value) != size:
            yield f"{key}.{part}", f"{size} long, one for each number", value


def _range(key: str, size: int, row: Any) -> Iterator[tuple[str, str, Any]]:
    for edge in ("low", "high") if row else ():
        if len(row[edge]) != size:
            yield f"{key}.{edge}", f"{size} long, one for each number", row[edge]
    if row and any(low > high for low, high in zip(row["low"], row["high"], strict=False)):
        yield f"{key}.low", f"at most high, {_cut(row['high'])}", row["low"]


def _signature(contract: Contract) -> dict[str, tuple[str, list[int]]]:
    carry = ("tensor(float)", [carry_size(contract)])
    terms = {i["name"]: ("tensor(float)", [i["size"]]) for i in contract["inputs"]}
    ctrl = ("tensor(float)", [len(contract["actuators"])])
    return {**terms, "carry": carry, "reset": ("tensor(bool)", []), "ctrl": ctrl, "carry_next": carry}


def part_of(contract: Contract, name: str) -> tuple[int, int]:
    """Begin and end of a carried part in `carry`; (0, 0) if it is not carried."""
    begin = 0
    for part in contract["carried"]:
        if part["name"] == name:
            return begin, begin + part["size"]
        begin += part["size"]
    return 0, 0


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,9}", text)[:3])


def _seconds(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond any float
        return math.inf


def _cut(value: Any, most: int = 80) -> str:
    """One line of text, cut to `most` characters."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 2]}.."


class Scan(NamedTuple):
    """What `scan` finds in the bytes of an ONNX file."""

    ops: list[tuple[str, str]]  # (domain, operator) of each node, in the order of the file
    metadata: dict[str, str]


# (message, field) of onnx.proto -> the message in it, "+" if it may be repeated; "" a text, or numbers
_PROTO = {
    ("model", 7): "graph", ("model", 14): "+property", ("property", 1): "", ("property", 2): "",
    ("graph", 1): "+node", ("graph", 5): "+tensor", ("graph", 15): "+sparse",
    ("graph", 11): "+value", ("graph", 12): "+value", ("graph", 13): "+value",
    ("node", 1): "+", ("node", 4): "", ("node", 7): "", ("node", 5): "+attribute",
    ("attribute", 5): "tensor", ("attribute", 10): "+tensor",
    ("attribute", 22): "sparse", ("attribute", 23): "+sparse",
    ("sparse", 1): "tensor", ("sparse", 2): "tensor",
    ("value", 2): "type", ("type", 1): "array", ("array", 2): "shape", ("shape", 1): "+dim",
}  # fmt: skip
_SIZES = {("tensor", 1), ("sparse", 3), ("dim", 1)}
_REFUSED = {
    ("model", 20): "training steps", ("model", 25): "functions of its own",
    ("attribute", 6): "a subgraph", ("attribute", 11): "subgraphs",
    ("tensor", 13): "data outside of the file", ("tensor", 14): "data outside of the file",
}  # fmt: skip
_FORBIDDEN = re.compile(r"Loop|If|Scan|SequenceMap|Random\w*|Multinomial|Bernoulli")


def scan(data: bytes, name: str) -> Scan:
    """Read the bytes of an ONNX file by protobuf's wire format, without onnxruntime.

    Raises ContractError, with `name`, for data outside of the file, subgraphs, functions, training steps,
    operators that are not standard, loop or draw random numbers, more than MOST_NODES nodes, MOST_FIELDS
    fields or MOST_NUMBERS numbers, and for all that is not read exactly, like a field twice or a group.
    """
    found, counts = Scan([], {}), {"fields": 0, "numbers": 0, "largest": 0}
    messages: list[tuple[str, int, int]] = [("model", 0, len(data))]
    try:
        if data[4:8] == b"ORTM":
            raise ValueError("it is in onnxruntime's own format")
        for message, begin, end in messages:  # grows during the loop
            texts = _message(data, message, begin, end, messages, counts)
            if message == "node":
                _check_node(texts, found)
            if message == "property":
                if texts.get(1, "") in found.metadata:
                    raise ValueError(f"metadata {texts.get(1)!r} is there twice")
                found.metadata[texts.get(1, "")] = texts.get(2, "")
        if len(messages) < 2:
            raise ValueError("there is no graph in it")
        if (packed := len(found.ops) * counts["largest"]) > MOST_PACKED:
            raise ValueError(f"{packed:,} numbers to pack, at most {MOST_PACKED:,}")
    except ValueError as error:  # UnicodeDecodeError is one
        raise ContractError(f"{name} is no ONNX file that is run here: {_cut(error)}") from error
    return found


def _message(
    data: bytes, message: str, at: int, end: int, messages: list[tuple[str, int, int]], counts: dict[str, int]
) -> dict[int, str]:
    """Texts of one message by field; the messages in it are appended. Raises ValueError for a forbidden."""
    texts: dict[int, str] = {}
    seen, size = set[int](), 1
    while at < end:
        number, wire, begin, at = _field(data, at, end)
        counts["fields"] += 1
        if counts["fields"] > MOST_FIELDS:
            raise ValueError(f"more than {MOST_FIELDS:,} fields")
        place = message, number
        if place in _REFUSED and not (number == 14 and wire == 0 and data[begin:at] == b"\0"):
            raise ValueError(f"it has {_REFUSED[place]}")
        if place in _SIZES:
            size *= _product(data, begin, at, wire)
        elif (inner := _PROTO.get(place)) is not None:
            if wire != 2 or (number in seen and not inner.startswith("+")):
                raise ValueError(f"field {number} of a {message} is there twice, or of wire type {wire}")
            seen.add(number)
            if inner.lstrip("+"):
                messages.append((inner.lstrip("+"), begin, at))
            else:
                before = [texts[number]] if number in texts else []
                texts[number] = "\n".join([*before, data[begin:at].decode("utf-8")])
    if message in ("tensor", "sparse"):
        counts["numbers"] += size
        counts["largest"] = max(counts["largest"], size)
    if max(counts["numbers"], size) > MOST_NUMBERS:
        raise ValueError(f"more than {MOST_NUMBERS:,} numbers")
    return texts


def _field(data: bytes, at: int, end: int) -> tuple[int, int, int, int]:
    """(number, wire type, begin and end of the value) of the field at a place."""
    tag, begin = _varint(data, at, end)
    number, wire = tag >> 3, tag & 7
    if wire == 0:
        _, after = _varint(data, begin, end)
    elif wire == 2:
        length, begin = _varint(data, begin, end)
        after = begin + length
    elif wire in (1, 5):
        after = begin + (8 if wire == 1 else 4)
    else:
        raise ValueError(f"field {number} has wire type {wire}")
    if after > end or not 0 < number < 1 << 29:
        raise ValueError(f"field {number} does not end in its message")
    return number, wire, begin, after


def _check_node(texts: dict[int, str], found: Scan) -> None:
    domain, op, inputs = texts.get(7, ""), texts.get(4, ""), texts.get(1, "").split("\n")
    found.ops.append((domain, op))
    if domain not in ("", "ai.onnx") or _FORBIDDEN.fullmatch(op) or (op == "Dropout" and any(inputs[2:])):
        raise ValueError(f"operator {domain}::{op}; standard ones without loops or random numbers are run")
    if len(found.ops) > MOST_NODES:
        raise ValueError(f"more than {MOST_NODES} nodes")


def _product(data: bytes, at: int, end: int, wire: int) -> int:
    """The product of sizes, one or a packed list. Raises ValueError if it is beyond MOST_NUMBERS."""
    product = 1
    if wire not in (0, 2) or end - at > 256:
        raise ValueError(f"sizes of wire type {wire}, {end - at} bytes")
    while at < end:
        size, at = _varint(data, at, end)
        product *= size
        if product > MOST_NUMBERS:
            raise ValueError(f"a size of {product}")
    return product


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128 and value < 1 << 64:
            return value, at
    raise ValueError("a number that does not end")


def _split(sizes: Mapping[str, int]) -> tuple[Array, dict[str, Array]]:
    """One array, for one isfinite check, and its parts by name, (size,) each."""
    whole = np.zeros(sum(sizes.values()), np.float32)
    return whole, dict(zip(sizes, np.split(whole, np.cumsum([*sizes.values()])[:-1]), strict=True))


def _array(name: str, value: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ObservationError(f"observation {name!r} is no array of numbers: {error}") from error
    if array.shape != shape:
        raise ObservationError(f"observation {name!r} must have shape {shape}, got {array.shape}")
    if np.ma.is_masked(value):
        raise ObservationError(f"observation {name!r} must be real numbers, got some that are masked")
    if array.dtype.kind not in "fiub":
        raise ObservationError(f"observation {name!r} must be real numbers, got {array.dtype}")
    return array


def _wrong_names(given: Iterable[str], expected: Iterable[str]) -> str:
    missing, extra = set(expected) - set(given), sorted(set(given) - set(expected), key=str)
    if not extra:
        return f"observation {sorted(missing)[0]!r} is missing; the policy takes {list(expected)}"
    close = get_close_matches(str(extra[0]), missing, n=1)
    hint = f"did you mean {close[0]!r}? It" if close else "it"
    return f"the policy has no input {extra[0]!r}; {hint} takes {list(expected)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
