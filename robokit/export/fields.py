"""The contract inside an exported file."""

import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor

from robokit import __version__
from robokit.controller import KIND, SCHEMA
from robokit.env.env import Env
from robokit.export.gate import IR, OPSET, ORT, Recording
from robokit.learning.protocols import Actor
from robokit.sim.facts.readings import actuators, channels, model_hashes, model_name
from robokit.task.columns import supplied
from robokit.task.command import Command
from robokit.task.lookup.find import class_name
from robokit.task.randomized import Randomized
from robokit.task.sense import Sense, ends
from robokit.task.task import Task

PACKAGES = ("torch", "mujoco", "onnx", "onnxscript", "onnxruntime", "numpy")


SAME_READING = 0.9  # share of equal samples: an observation may clip its reading


def write_contract(policy: Actor, env: Env, recording: Recording, commit: str | None) -> dict[str, Any]:
    """The contract as JSON values, without "parity" and "evaluation"; None: neither model nor task says."""
    task, widths = env.task, supplied(env.columns)
    commands = {name: c for name, c in task.commands.items() if widths.get(name) == len(c.low)}
    belief, rows = ("belief", (0.0,) * policy.belief_size), _actuators(env)
    carried = [*((term.name, term.constant) for term in env.carried), belief]
    return {
        "schema": SCHEMA,
        "kind": KIND,
        **({"needs": ["actuators[].map"]} if env.map.moving is not None else {}),
        "task": class_name(task),
        "robot": model_name(env.sim),
        "control_dt": float(task.control_dt),
        "action_delay": list(ends(task.action_delay)),
        "inputs": [_input(name, env, recording) for name in widths],
        "actuators": rows,
        "carried": [{"name": n, "size": len(s), **_start(n, s, rows)} for n, s in carried],
        "commands": {name: _command(command) for name, command in commands.items()},
        "limits": {name: asdict(limit) for name, limit in task.limits.items()},
        **({"goal": asdict(task.goal)} if task.goal else {}),
        **_randomized(task),
        "versions": versions(),
        "least": {"onnxruntime": ORT, "ir": IR, "opset": OPSET},
        "hashes": {"model": model_hashes(task.model), "commit": commit},
    }


def _randomized(task: Task) -> dict[str, Any]:
    """The ranges of physical quantities that the task's table draws, if it has one."""
    drawn = task.randomize
    return {"randomized": drawn.table.facts()} if isinstance(drawn, Randomized) else {}


def _input(name: str, env: Env, recording: Recording) -> dict[str, Any]:
    """The entry of one observation term; `seen` is each column's range in the recording.

    `unit` and `frame` come from the task's Sense or Command, because the task may convert them. `source`, and
    what they leave None, come from the model's reading that each column equals: one value, or one per column.
    `measured_by`, only where the Sense names its source: what must supply the term.
    """
    values = env.split(recording.obs)[name].flatten(0, 1)  # (T * n, d)
    places = sources(values, recording.readings.flatten(0, 1))
    known = channels(env.sim)
    facts = {
        key: _common([None if i is None else getattr(known[i], key) for i in places])
        for key in ("source", "unit", "frame")
    }
    sense = env.task.sensing.get(name, Sense())
    measured = {"measured_by": sense.source} if sense.source is not None else {}
    low, high = values.amin(0).tolist(), values.amax(0).tolist()
    return {
        "name": name,
        "size": values.shape[1],
        **facts,
        **_said(env.task.commands.get(name, sense)),
        **measured,
        "seen": {"low": low, "high": high},
        "max_age": sense.oldest(env.task.control_dt),
    }


def _command(command: Command) -> dict[str, Any]:
    """The entry of one command; `unit` and `frame` only where the task names them."""
    return {"low": list(command.low), "high": list(command.high), **_said(command)}


def _said(author: Sense | Command) -> dict[str, Any]:
    """The `unit` and `frame` that the task itself names."""
    named = {"unit": author.unit, "frame": author.frame}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in named.items() if v is not None}


def sources(values: Tensor, readings: Tensor) -> list[int | None]:
    """Index of each column's reading, bit-equal in 90 % of nonzero samples; None: constant, or no match."""
    found: list[int | None] = []
    for column in values.unbind(-1):
        moving = column != 0
        same = (readings[moving] == column[moving, None]).float().mean(0)
        known = len(same) > 0 and bool(column.std() > 0) and bool(same.max() >= SAME_READING)
        found.append(int(same.argmax()) if known else None)
    return found


def _common(values: list[Any]) -> Any:
    """The common value of all, or the list itself if they differ."""
    return values[0] if all(v == values[0] for v in values) else values


def _start(name: str, numbers: tuple[float, ...], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """`start` of a carried term; of "target" the one input that it copies, if that is all: see `sensed`."""
    places = [row.get("sensed", {}) for row in rows]
    copied = places[0].get("input")
    whole = places == [{"input": copied, "column": k} for k in range(len(rows))]
    return {"start": list(numbers)} if name != "target" else {"start": copied} if whole else {}


def _actuators(env: Env) -> list[dict[str, Any]]:
    """The model's facts of each control, and its action map's: see the contract's table."""
    columns = [{"input": n, "column": k} for n, width in env.names.obs.items() for k in range(width)]
    own, rows = env.map, actuators(env.sim)
    default = own.center.clamp(own.low, own.high)  # as the graph clips it
    for i, row in enumerate(rows):
        low, high, scale, leash = (float(x[i]) for x in (own.low, own.high, own.half, own.leash))
        row |= {"low": _finite(low), "high": _finite(high), "map": own.kinds[i]}
        row |= {"scale": scale} if scale else {}
        row |= {} if bool(default[i].isnan()) else {"default": float(default[i])}
        if bool(own.seen[i]):
            row |= {"leash": leash, "sensed": columns[int(own.joints[i])]}
    return rows


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def versions() -> dict[str, str | None]:
    """Name -> version of robokit, Python and PACKAGES here; None: not installed."""
    own = {"robokit": __version__, "python": platform.python_version()}
    return own | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
