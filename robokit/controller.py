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
- A command outside its trained range is clipped to it and counted in `clipped`.
- `step(obs, stamps={"imu": t})` refuses readings older than the contract's `max_age`, by default one control
  period. Stamps and `now` must use the same clock; `now` defaults to time.monotonic().
- Use one Controller per robot, and call it from one thread.
- It bounds commands and actuator targets; filter.py limits slew and torque, and handles dead sensors.
"""

import hashlib
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
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

SCHEMA = 1  # version of the contract's format
METADATA_KEY = "robokit.contract"
REQUIRED = ("task", "robot", "control_dt", "inputs", "actuators", "carry", "commands", "versions", "hashes")
OUTPUTS = ["ctrl", "carry_next"]
KEPT_TIMINGS = 1 << 16  # 20 minutes at 50 Hz
Array = npt.NDArray[np.float32]
Contract = dict[str, Any]


class ContractError(ValueError):
    """A file is damaged, is not an exported policy, or belongs to another robot or control period."""


class ObservationError(ValueError):
    """An observation is missing, unknown, misshaped, stale or not finite, or leads to a non-finite output."""


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
    contract. A step that takes longer than the attribute `deadline` (s, at first a control period) still
    returns, and counts as missed in `timing()`.

    Raises ContractError for a damaged, foreign or unsuitable file.
    """

    def __init__(
        self, file: str | Path | Loaded, *, robot: str | None = None, control_dt: float | None = None
    ) -> None:
        loaded = file if isinstance(file, Loaded) else load(file)
        _check_use(loaded, robot, control_dt)
        _, self._session, self.contract, self.sha256 = loaded
        self.control_dt = float(self.contract["control_dt"])  # s
        self.deadline = self.control_dt  # s
        self.inputs: dict[str, int] = {i["name"]: i["size"] for i in self.contract["inputs"]}
        self.actuators: list[str] = [a["name"] for a in self.contract["actuators"]]  # the order of ctrl
        self.clipped = dict.fromkeys(self.contract["commands"], 0)  # steps in which a command was clipped
        self._max_age = {i["name"]: i.get("max_age") or self.control_dt for i in self.contract["inputs"]}
        self._bounds = {
            name: (np.asarray(c["low"], np.float32), np.asarray(c["high"], np.float32))
            for name, c in self.contract["commands"].items()
        }
        carry = self.contract["carry"]["size"]
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
        self._durations = np.zeros(KEPT_TIMINGS)
        self._count, self._missed, self._longest = 0, 0, 0.0
        for _ in range(10):
            self._session.run_with_iobinding(self._binding)  # a session's first runs allocate memory

    def reset(self) -> None:
        """Begin an episode: the next step clears the previous action and all history."""
        self._carry[:], self._first[:] = 0.0, True

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

        Raises ObservationError for an invalid or stale one; the policy's memory is then as before the call.
        """
        start = time.perf_counter()
        if stamps is not None:
            self._check_age(stamps, time.monotonic() if now is None else now)
        self._read(obs)
        self._session.run_with_iobinding(self._binding)
        if not np.isfinite(self._out).all():
            raise ObservationError("these finite observations lead to an output that is not finite; refused")
        self._carry[:], self._first[:] = self._carry_next, False
        self._time(time.perf_counter() - start)
        return self._ctrl.copy()  # the next step writes here

    @property
    def action(self) -> Array:
        """The policy's last action (A,) in [-1, 1], before it is mapped to ctrl; zeros after a reset."""
        return self._carry[: self.contract["carry"]["action"]].copy()

    def timing(self) -> Timing:
        """Durations of the successful steps so far; zeros before the first."""
        kept = self._durations[: self._count] if self._count else np.zeros(1)
        p50, p99 = (float(p) for p in np.percentile(kept, (50, 99)))
        return Timing(self._count, p50, p99, self._longest, self._missed)

    def _read(self, obs: Mapping[str, npt.ArrayLike]) -> None:
        if not isinstance(obs, Mapping):
            raise ObservationError(f"step takes a mapping of name to numbers, got {type(obs).__name__}")
        if obs.keys() != self._parts.keys():
            raise ObservationError(_wrong_names(obs, self.inputs))
        with np.errstate(over="ignore"):  # too large for float32 becomes inf, and inf is refused
            for name, part in self._parts.items():
                part[:] = _array(name, obs[name], part.shape)
        if not np.isfinite(self._in).all():  # the carry too: a fused GRU would swallow its NaN
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
        for name, stamp in stamps.items():
            if name not in self._max_age:
                raise ObservationError(f"a time stamp for no input: {_wrong_names([name], self.inputs)}")
            if not isinstance(stamp, Real):
                raise ObservationError(
                    f"the time stamp of {name!r} must be a number of seconds, got {stamp!r}"
                )
            age, limit = now - stamp, self._max_age[name]
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
    session = open_session(data, str(path))
    contract = _contract(path, session)
    found = {n.name: (n.type, n.shape[1:]) for n in [*session.get_inputs(), *session.get_outputs()]}
    if found != _signature(contract):
        raise ContractError(f"{path} has graph {found}, its contract says {_signature(contract)}")
    return Loaded(path, session, contract, sha256)


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
    rows = [(a["name"], a.get("low"), a.get("high"), a.get("unit") or "") for a in contract["actuators"]]
    return "\n".join([*lines, *(f"  {name:<20} {low} .. {high} {unit}" for name, low, high, unit in rows)])


def main(arguments: list[str]) -> int:
    """Verify FILE.onnx, the one argument, and print `describe`. Returns 0; 1: refused, 2: other arguments."""
    if len(arguments) != 1:
        print("usage: controller.py FILE.onnx", file=sys.stderr)
        return 2
    try:
        print(describe(load(arguments[0]).contract))
    except ContractError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _verified(path: Path) -> tuple[bytes, str]:
    """The file's bytes and sha256 (hex). Raises ContractError unless `<path>.sha256` lists that sha256."""
    listing = Path(f"{path}.sha256")
    try:
        data, listed = path.read_bytes(), listing.read_text("ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        there = "" if listing.exists() or not path.exists() else ", which is not there"
        why = getattr(error, "strerror", None) or error
        raise ContractError(f"a policy is {path} with {listing.name} beside it{there}: {why}") from error
    if (digest := hashlib.sha256(data).hexdigest()) not in listed:
        raise ContractError(
            f"{path} was damaged or changed: sha256 {digest} is not in {listing.name}: {listed}"
        )
    return data, digest


def open_session(data: bytes, name: str) -> ort.InferenceSession:
    """A session on one CPU thread. Raises ContractError, with `name`, if onnxruntime cannot run `data`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for pool in ("intra", "inter"):  # a spinning thread keeps its core busy between steps
        options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise ContractError(f"onnxruntime {ort.__version__} cannot run {name}: {error}") from error


def _contract(path: Path, session: ort.InferenceSession) -> Contract:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ContractError(f"{path} has no {METADATA_KEY!r} in its metadata: not exported by robokit")
    try:
        contract = json.loads(text)
        if contract["schema"] != SCHEMA:
            raise ContractError(f"{path} has contract schema {contract['schema']!r}; known here: {SCHEMA}")
        if missing := [key for key in REQUIRED if key not in contract]:
            raise KeyError(*missing)
        if not (0 < contract["control_dt"] < math.inf and isinstance(contract["robot"], str)):
            raise TypeError(f"robot {contract['robot']!r}, control_dt {contract['control_dt']!r}")
        size = {i["name"]: i["size"] for i in contract["inputs"]}
        for name, command in contract["commands"].items():
            if not len(command["low"]) == len(command["high"]) == size[name]:
                raise TypeError(f"command {name!r}: {command}")
        _signature(contract)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ContractError(f"{path} has a malformed contract: {type(error).__name__} {error}") from error
    return contract


def _signature(contract: Contract) -> dict[str, tuple[str, list[int]]]:
    carry = ("tensor(float)", [contract["carry"]["size"]])
    terms = {i["name"]: ("tensor(float)", [i["size"]]) for i in contract["inputs"]}
    ctrl = ("tensor(float)", [len([a["name"] for a in contract["actuators"]])])
    return {**terms, "carry": carry, "reset": ("tensor(bool)", []), "ctrl": ctrl, "carry_next": carry}


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
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"the policy has no input {extra[0]!r}{hint}; it takes {list(expected)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
