"""Resolves a person's filter numbers into the table that is read by the filter on the robot.

    file = Exported.open("go2_walk.onnx")
    filter = resolve({"slew": 12.0, "torque": {"*_calf": 30.0, "*": 20.0}}, file.contract, file.sha256)
    write_filter(filter, "go2_walk.filter.json")

A key of EACH has one value for all actuators, or {name or pattern: value}: a name takes precedence over a
pattern (`*`, `?`, `[...]`), and an earlier pattern over a later one. An actuator without a value has no such
bound.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from robokit.disk.write import write_atomically
from robokit.errors import did_you_mean
from robokit.export.file import Exported
from robokit.filter import (
    KINDS,
    Bound,
    Column,
    Filter,
    FilterError,
    check_number,
    digest,
    inward,
    is_pair,
    read_object,
)

EACH = (
    *("slew", "low", "high", "margin", "velocity", "torque", "pose", "pose_speed"),
    *("kind", "kp", "kd", "joint_range", "position_from", "velocity_from"),
)
WHOLE = ("soft_start", "grace", "deadline", "fallback")
PLACES, SPEEDS, FORCES = ("rad", "m"), ("rad/s", "m/s"), ("N m", "N")  # units
Values = Mapping[str, Any]  # a person's values for one actuator, by key


def filter_for(file: Exported, path: str | Path) -> Filter:
    """Read the filter of an exported file from JSON: a table, which has "sha256", or a person's numbers.

    Raises FilterError for numbers that `resolve` refuses, and for a table of another file.
    """
    numbers = read_object(path)
    if "sha256" not in numbers:
        return resolve(numbers, file.contract, file.sha256)
    filter = Filter.open(path)
    filter.check(file.sha256, file.contract)
    return filter


def write_filter(filter: Filter, path: str | Path) -> None:
    """Write the table as JSON, one line per actuator, with a digest that `Filter.open` verifies."""
    table = json.loads(json.dumps(asdict(filter), default=float))
    rows = ",\n  ".join(json.dumps(row) for row in table["actuators"])
    own = {"digest": digest(table)} | {key: value for key, value in table.items() if key != "actuators"}
    text = json.dumps(own, indent=1).removesuffix("\n}") + f',\n "actuators": [\n  {rows}\n ]\n}}\n'
    write_atomically(Path(path), text.encode())


def resolve(numbers: Mapping[str, Any], contract: Mapping[str, Any], sha256: str) -> Filter:
    """The filter with a person's numbers for the exported file with this contract and sha256.

    Raises FilterError for an unknown key or actuator, a pattern without a match, an impossible number, and a
    fact that is neither in the contract nor in the numbers.
    """
    known = (*EACH, *WHOLE)
    for key in numbers:
        if key not in known:
            hint = did_you_mean(str(key), known, f"it has {list(known)}")
            raise FilterError(f"a filter has no {key!r}{hint}")
    facts = contract["actuators"]
    names = [fact["name"] for fact in facts]
    given = {key: _each(key, numbers[key], names) for key in EACH if numbers.get(key) is not None}
    values = {name: {key: each[name] for key, each in given.items() if name in each} for name in names}
    rows = [_row(fact, values[fact["name"]], contract) for fact in facts]
    own = {key: numbers[key] for key in WHOLE if key in numbers}
    return Filter(sha256, float(contract["control_dt"]), tuple(rows), **own)


def _each(key: str, given: Any, names: list[str]) -> dict[str, Any]:
    """{actuator: value} of one key, given as one value or {name or pattern: value}; others are absent.

    Raises FilterError for a name or pattern that no actuator matches.
    """
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    found: dict[str, Any] = {}
    for place in sorted(given, key=lambda place: place not in names):  # names first, then patterns in order
        matching = [place] if place in names else [n for n in names if fnmatchcase(n, str(place))]
        if not matching:
            hint = did_you_mean(str(place), names, f"there are {names}")
            raise FilterError(f"{key}: no actuator {place!r}{hint}")
        found = {**dict.fromkeys(matching, given[place]), **found}
    return found


def _row(fact: Mapping[str, Any], values: Values, contract: Mapping[str, Any]) -> Bound:
    name, kind = fact["name"], values.get("kind") or _kind(fact)
    if kind not in KINDS:
        rule = "must be 'servo' or 'motor'"
        lacks = "the file does not say which" if kind is None else f"got {kind!r}"
        raise FilterError(f"kind of {name!r} {rule}; {lacks}")
    servo = kind == "servo"
    low, high = _range(fact, values, servo)
    filed = fact if fact.get("unit") in PLACES else {}  # gains of a geared servo: not in its joint's units
    q, dq = (_column(what, fact, values, contract) for what in ("position", "velocity"))
    numbers = {key: values.get(key) for key in ("slew", "velocity", "pose", "pose_speed")}
    gains = {key: values.get(key, filed.get(key)) for key in ("kp", "kd")} if servo else {}
    return Bound(
        name,
        kind,
        low if math.isfinite(low) else None,
        high if math.isfinite(high) else None,
        **numbers,
        torque=_torque(fact, values),
        default=fact.get("default") or 0.0,
        **gains,
        force=None if servo else _force(fact.get("unit")),
        q=q,
        dq=dq,
    )


def _kind(fact: Mapping[str, Any]) -> str | None:
    """Kind of a Bound: "servo" for ctrl in rad or m with a kp, "motor" for a force; None for neither.

    Also None for one of several controls of an actuator: its force depends on the others, too.
    """
    if fact.get("input") is not None:
        return None
    if fact.get("kp") is not None and fact.get("unit") in PLACES:
        return "servo"
    return "motor" if _force(fact.get("unit")) is not None else None


def _force(unit: str | None) -> float | None:
    """Force at the joint for ctrl 1, from a unit like "N m" or "200.0 N m"; None for other units."""
    number, _, rest = (unit or "").partition(" ")
    try:
        return 1.0 if unit in FORCES else float(number) if rest in FORCES else None
    except ValueError:
        return None


def _range(fact: Mapping[str, Any], values: Values, servo: bool) -> tuple[float, float]:
    """(low, high) of ctrl: within the file's, the person's and, for a servo, the joint's less any `margin`.

    The file's is rounded to the nearest float32, the others inward; an edge that none bounds is infinite.
    """
    name = fact["name"]
    low, high = (float(np.float32(edge)) for edge in _edges(fact))  # as clipped by the exported graph
    for key in ("low", "high"):
        if values.get(key) is not None:
            check_number(key, name, values[key])
    bounds = [_edges(values)]
    joint, margin = values.get("joint_range", fact.get("joint_range")), values.get("margin")
    if joint is not None and not is_pair(joint):
        raise FilterError(f"joint_range of {name!r} must be [low, high], got {joint!r}")
    if margin is not None:
        check_number("margin", name, margin)
        if servo and joint is None:
            lacks = "which the file does not say: give joint_range"
            raise FilterError(f"margin of {name!r} needs the range of its joint, {lacks}")
        bounds += [(joint[0] + margin, joint[1] - margin)] if servo and joint else []
    for pair in bounds:
        inner = inward(*map(np.asarray, pair))
        low, high = max(low, float(inner[0])), min(high, float(inner[1]))
    return low, high


def _edges(numbers: Mapping[str, Any]) -> tuple[float, float]:
    low, high = numbers.get("low"), numbers.get("high")
    return -math.inf if low is None else low, math.inf if high is None else high


def _torque(fact: Mapping[str, Any], values: Values) -> tuple[float, float] | None:
    """(low, high) at the joint: (-t, t) for a number t, `force_range` for "file"; None without a bound."""
    name, given = fact["name"], values.get("torque")
    if given is None:
        return None
    if given == "file":
        if fact.get("force_range") is None:
            raise FilterError(f"torque 'file' needs force_range of {name!r}, which the file does not say")
        return tuple(fact["force_range"])
    check_number("torque", name, given)
    return -given, given


def _column(what: str, fact: Mapping[str, Any], values: Values, contract: Mapping[str, Any]) -> Column | None:
    """(input, column) of the "position" or "velocity" (`what`) of an actuator's joint; None if unknown.

    A person's `position_from` or `velocity_from`, an input or [input, column], precedes the file's sources.
    """
    inputs, key = {i["name"]: i for i in contract["inputs"]}, f"{what}_from"
    suffix, units = ("", PLACES) if what == "position" else (" velocity", SPEEDS)
    if key not in values:
        return _observed(f"{fact.get('joint')}{suffix}", inputs, units)
    if values[key] is None:
        return None
    joint = fact.get("joint") or fact["name"]  # missing in older files; their joints were named alike
    return _named(f"{key} of {fact['name']!r}", values[key], f"{joint}{suffix}", inputs)


def _observed(source: str, inputs: Mapping[str, Any], units: tuple[str, str]) -> Column | None:
    """The first (input, column) with this source, frame "joint axis" and one of the units; None: no such."""
    for name, term in inputs.items():
        for column in range(term["size"]):
            facts = [_at(term.get(key), column) for key in ("source", "frame", "unit")]
            if facts[:2] == [source, "joint axis"] and facts[2] in units:
                return name, column
    return None


def _named(where: str, given: Any, source: str, inputs: Mapping[str, Any]) -> Column:
    """(input, column) from [input, column], or from an input: its first column with this source.

    Raises FilterError, begun with `where`, for any other value.
    """
    pair = given if isinstance(given, list | tuple) else [given, None]
    if len(pair) != 2 or not isinstance(pair[0], str):
        raise FilterError(f"{where} must be an input or [input, column], got {given!r}")
    term, column = pair
    if term not in inputs:
        sizes = {name: i["size"] for name, i in inputs.items()}
        hint = did_you_mean(term, inputs, f"the policy takes {sizes}")
        raise FilterError(f"{where}: no input {term!r}{hint}")
    size = inputs[term]["size"]
    if column is None:
        sources = [_at(inputs[term].get("source"), i) for i in range(size)]
        if source not in sources:
            raise FilterError(f"{where}: no column of {term!r} is {source!r}: give [{term!r}, column]")
        return term, sources.index(source)
    if not isinstance(column, int) or isinstance(column, bool) or not 0 <= column < size:
        raise FilterError(f"{where}: {term!r} has columns 0 to {size - 1}, got {column!r}")
    return term, column


def _at(value: Any, column: int) -> Any:
    return value[column] if isinstance(value, list) else value
