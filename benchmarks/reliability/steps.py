"""Row `controller`: faulty steps of every shipped file, beside a twin that is spared them."""

import math
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reliability.child import resident
from reliability.record import Facts, Place, Row, judged

POLICIES = Path(__file__).parents[2] / "policies"
STEPS = {"small": 2_000, "medium": 25_000, "night": 25_000}  # of one trial
FILTERED = 9  # of ten trials, one goes through a filter
GROWTH = 1.0  # MB
WARM = 0.3  # of the steps, after which resident memory may not grow
NUMBERS = {"slew": 50.0, "soft_start": 0.1, "grace": 3}  # of the filter, on every actuator
Obs = Any

# -- faults: each changes one good observation in place, or returns another ---------------------------

REFUSED: dict[str, Callable[[Obs, str, random.Random], Obs]] = {
    "NaN": lambda obs, name, rng: _at(obs, name, math.nan, rng),
    "inf": lambda obs, name, rng: _at(obs, name, rng.choice((math.inf, -math.inf)), rng),
    "beyond float32": lambda obs, name, rng: _at(obs, name, rng.choice((1e39, -1e300)), rng),
    "missing": lambda obs, name, rng: {key: obs[key] for key in obs if key != name},
    "unknown name": lambda obs, name, rng: {**obs, rng.choice(("", "x", name + " ", 7, None)): 0.0},
    "longer": lambda obs, name, rng: {**obs, name: np.append(obs[name], 0.0)},
    "shorter": lambda obs, name, rng: {**obs, name: obs[name][:-1]},
    "a row": lambda obs, name, rng: {**obs, name: obs[name][None]},
    "words": lambda obs, name, rng: {**obs, name: rng.choice(("nan", "1.0", b"1", ["x"] * len(obs[name])))},
    "nothing": lambda obs, name, rng: {**obs, name: rng.choice((None, {}, set(), [], object()))},
    "ragged": lambda obs, name, rng: {**obs, name: [[1.0], [1.0, 2.0]]},
    "complex": lambda obs, name, rng: {**obs, name: obs[name] + 0j},
    "objects": lambda obs, name, rng: {**obs, name: obs[name].astype(object)},
    "huge integers": lambda obs, name, rng: {**obs, name: [10**400] * len(obs[name])},
    "masked": lambda obs, name, rng: {**obs, name: np.ma.masked_all(len(obs[name]))},
    "times": lambda obs, name, rng: {**obs, name: np.zeros(len(obs[name]), "datetime64[s]")},
    "no mapping": lambda obs, name, rng: rng.choice((None, [], 1.0, "obs", [*obs.items()])),
}
ACCEPTED: dict[str, Callable[[Obs, str, random.Random], Obs]] = {  # if the output is finite
    "large": lambda obs, name, rng: _at(obs, name, rng.choice((1e6, -1e20, 3e38)), rng),
    "tiny": lambda obs, name, rng: _at(obs, name, rng.choice((1e-40, -1e-45, -0.0)), rng),
    "integers": lambda obs, name, rng: {**obs, name: np.ones(len(obs[name]), np.int64)},
    "lists": lambda obs, name, rng: {**obs, name: obs[name].tolist()},
}
STALE: dict[str, Callable[[str, random.Random], Any]] = {  # stamps, at now 100 s
    "stale": lambda name, rng: {name: rng.choice((0.0, -1e300, -math.inf))},
    "ahead": lambda name, rng: {name: rng.choice((1e6, math.inf))},
    "stamp NaN": lambda name, rng: {name: math.nan},
    "stamp of words": lambda name, rng: {name: rng.choice(("now", None, [1.0], 1j))},
    "stamp of no input": lambda name, rng: {rng.choice(("x", 7, None)): 100.0},
    "no stamps": lambda name, rng: rng.choice(([name], 1.0, name)),
}
NOW = 100.0  # s


def _at(obs: Obs, name: str, value: float, rng: random.Random) -> Obs:
    changed = obs[name].copy()
    changed[rng.randrange(len(changed))] = value
    return {**obs, name: changed}


@dataclass
class Count:
    """What went wrong, and how often."""

    faults: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    good: int = 0

    def add(self, fault: str) -> None:
        self.faults[fault] = self.faults.get(fault, 0) + 1

    def words(self) -> list[str]:
        return [f"{fault}: {count} times" for fault, count in self.faults.items()]


def trial(place: Place) -> Facts:
    warnings.simplefilter("ignore")  # numpy's own, of ragged and masked arrays
    files = sorted(POLICIES.glob("*.onnx"))
    steps = STEPS[place.size]
    if place.number % 10 == FILTERED:
        return _filtered(files[place.number // 10 % len(files)], steps, place)
    return _bare(files[place.number % len(files)], steps, place.rng)


def observations(inputs: dict[str, int], seed: int) -> Callable[[], Obs]:
    draw = np.random.default_rng(seed)
    return lambda: {name: draw.normal(0.0, 0.5, size) for name, size in inputs.items()}


def _bare(path: Path, steps: int, rng: random.Random) -> Facts:
    from robokit.controller import Controller, ObservationError

    policy, twin, count = Controller(path), Controller(path), Count()
    low, high = _range(policy.contract)
    draw, names, memory = observations(policy.inputs, rng.randrange(1 << 30)), [*policy.inputs], math.nan
    for k in range(steps):
        if k == int(steps * WARM):
            memory = resident()
        if rng.random() < 0.01:
            policy.reset()
            twin.reset()
        kind, obs, stamps = _faulty(draw(), names, rng)
        before = policy.action, dict(policy.clipped)
        try:
            ctrl = policy.step(obs, stamps, NOW)
        except ObservationError as error:
            count.refused += 1
            if kind is None:
                count.add(f"a good step refused: {error}")
            if not np.array_equal(policy.action, before[0]) or policy.clipped != before[1]:
                count.add(f"{kind} changed the state")
        except Exception as error:  # noqa: BLE001  it is what is looked for
            count.add(f"{kind}: {type(error).__name__}")
        else:
            fault = "accepted" if kind in REFUSED or kind in STALE else _command(ctrl, low, high)
            fault = fault or ("" if np.array_equal(ctrl, twin.step(obs)) else "unequal to an unfaulted run")
            count.good += 1
            if fault:
                count.add(f"{kind}: {fault}")
    return _facts(path.name, steps, count, memory)


def _command(ctrl: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    fine = np.isfinite(ctrl).all() and (low <= ctrl).all() and (ctrl <= high).all()
    return "" if fine else "a bad command"


def _faulty(obs: Obs, names: list[str], rng: random.Random) -> tuple[str | None, Obs, Any]:
    """(fault, observation, stamps); without a fault every second time."""
    if rng.random() < 0.5:
        return None, obs, dict.fromkeys(names, NOW) if rng.random() < 0.5 else None
    kind, name = rng.choice((*REFUSED, *ACCEPTED, *STALE)), rng.choice(names)
    if kind in STALE:
        return kind, obs, STALE[kind](name, rng)
    return kind, {**REFUSED, **ACCEPTED}[kind](obs, name, rng), None


def _filtered(path: Path, steps: int, place: Place) -> Facts:
    import json

    from robokit.controller import Controller
    from robokit.export.bounds import filter_for
    from robokit.export.file import exported_at
    from robokit.filter import Filtered

    numbers = place.folder / "numbers.json"
    numbers.write_text(json.dumps(NUMBERS))
    filter, count = filter_for(exported_at(path), numbers), Count()
    policy, rng = Filtered(Controller(path), filter), place.rng
    low, high = _range(policy.policy.contract)
    slew = np.array([bound.slew for bound in filter.actuators]) * filter.control_dt
    inputs = {i["name"]: i["size"] for i in policy.policy.contract["inputs"]}
    draw, names, memory, last = observations(inputs, rng.randrange(1 << 30)), [*inputs], math.nan, None
    policy.reset()
    policy.step(draw(), None, NOW)
    for k in range(steps):
        if k == int(steps * WARM):
            memory = resident()
        if rng.random() < 0.05:
            policy.rearm()
        kind, obs, stamps = _faulty(draw(), names, rng)
        try:
            ctrl = policy.step(obs, stamps, NOW)
        except Exception as error:  # noqa: BLE001  it must never raise once it has begun
            count.add(f"{kind}: {type(error).__name__}")
            continue
        count.good += 1
        if fault := _command(ctrl, low, high):
            count.add(f"{kind}: {fault}")
        if last is not None and (np.abs(ctrl.astype(np.float64) - last) > slew * (1 + 1e-6)).any():
            count.add(f"{kind}: faster than slew")
        last = ctrl.astype(np.float64)
    return _facts(f"{path.name}, filtered", steps, count, memory)


def _range(contract: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The contract's range in float32; infinite without one."""
    rows = [(a.get("low"), a.get("high")) for a in contract["actuators"]]
    low = np.array([-math.inf if low is None else low for low, _ in rows], np.float32)
    return low, np.array([math.inf if high is None else high for _, high in rows], np.float32)


def _facts(what: str, steps: int, count: Count, memory: float) -> Facts:
    growth = resident() - memory
    faults = count.words() + ([f"grew by {growth:.1f} MB"] if growth > GROWTH else [])
    more = {"steps": steps, "refused": count.refused, "filtered": "filtered" in what}
    return judged(f"{what}, {steps:,} steps", faults, **more, growth=round(growth, 2))


def figure(found: list[Facts]) -> str:
    steps = {
        kind: sum(f.get("steps", 0) for f in found if f.get("filtered") is kind) for kind in (False, True)
    }
    grown = max((f.get("growth", 0.0) for f in found), default=0.0)
    return f"{steps[False]:,} steps and {steps[True]:,} filtered; at most {grown:+.2f} MB"


ROW = Row(
    "controller",
    "10^6 faulty steps, 10^5 filtered: 0 bad commands, untyped errors, changes of state; RSS + < 1 MB",
    {"small": 10, "medium": 45, "night": 400},
    trial,
    seconds=900.0,
    figure=figure,
)
