"""What a file says about its policy: the contract inside, which a robot reads, and the card beside it."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from robokit import __version__
from robokit.disk.checkpoint import write_atomically
from robokit.controller import SCHEMA, load
from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.export.gate import CARRIED, Rollout
from robokit.networks.policy import Policy
from robokit.env.sensing import Sense
from robokit.sim.facts import actuators, channels, model_hashes, model_name
from robokit.task.task import class_name

PACKAGES = ("torch", "mujoco", "onnx", "onnxscript", "onnxruntime", "numpy")
ON_THE_CARD = ("evaluation",)  # measured after the file was written
ROUNDING = 1e-3  # of an action: float32 near a target that is large beside what actions move it by
SAME_READING = 0.9  # of the samples; an observation may clip what it reads


def write_contract(policy: Policy, env: Env, rollout: Rollout, commit: str | None) -> dict[str, Any]:
    """What a robot needs to know, as JSON values; None where nobody said."""
    task, widths = env.task, supplied(env)
    commands = {name: c for name, c in task.commands.items() if widths.get(name) == len(c.low)}
    carry = {"action": policy.act_dim, **({"clock": 2} if task.clock else {}), "belief": policy.belief_size}
    return {
        "schema": SCHEMA,
        "task": class_name(task),
        "robot": model_name(env.sim),
        "control_dt": float(task.control_dt),
        "inputs": [_input(name, env, rollout) for name in widths],
        "actuators": _actuators(env),
        "carry": {"size": sum(carry.values()), **carry},
        "commands": {n: {"low": list(c.low), "high": list(c.high)} for n, c in commands.items()},
        "limits": {name: asdict(limit) for name, limit in task.limits.items()},
        "versions": {"robokit": __version__} | {name: _version(name) for name in PACKAGES},
        "hashes": {"model": model_hashes(task.model), "commit": commit},
    }


def inspect(path: str | Path) -> dict[str, Any]:
    """{"contract": ..., "gaps": [...]} of a file. Raises ContractError when it is not whole."""
    contract = load(path)[1]
    return {"contract": contract, "gaps": list(gaps(contract))}


def gaps(contract: Mapping[str, Any]) -> tuple[str, ...]:
    """Dotted names of everything the contract has no value for."""
    told = {key: value for key, value in contract.items() if key not in ON_THE_CARD}
    return tuple(_holes(told, ""))


def write_card(path: str | Path, evaluation: Mapping[str, Any]) -> Path:
    """`<policy>.json` beside a file: task, commit, sha256, parity error, and what evaluating it gave.

    Raises ContractError when the file is not whole.
    """
    contract, path = load(path)[1], Path(path)
    card = {
        "task": contract["task"],
        "robot": contract["robot"],
        "commit": contract["hashes"]["commit"],
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "parity_error": max(p["ctrl_error"] for p in contract["parity"]),
        **evaluation,
    }
    beside = path.with_suffix(".json")
    write_atomically(beside, (json.dumps(card, indent=2, allow_nan=False) + "\n").encode())
    return beside


def clip_command(contract: Mapping[str, Any], name: str, numbers: Sequence[float]) -> list[float]:
    """A command as the policy takes it: within what it was trained on."""
    command = contract["commands"].get(name, {"low": numbers, "high": numbers})
    return np.clip(numbers, command["low"], command["high"]).tolist()


def clip_note(contract: Mapping[str, Any], name: str, numbers: Sequence[float], steps: int) -> str:
    """What to say of a command that was clipped in so many steps."""
    command = contract["commands"][name]
    rows = numbers, clip_command(contract, name, numbers), command["low"], command["high"]
    given, taken, low, high = (" ".join(f"{x:g}" for x in row) for row in rows)
    return f"{name} {given} clipped to {taken} (trained range {low} to {high}), {steps} steps"


def _holes(value: Any, place: str) -> Iterator[str]:
    if value is None:
        yield place
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _holes(inner, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            name = inner["name"] if isinstance(inner, Mapping) and "name" in inner else i
            yield from _holes(inner, f"{place}.{name}")


def check_ctrl(env: Env, action: Tensor, ctrl: Tensor) -> None:
    """Raise TaskError unless a file's ctrl (N, A) is what the task makes of its action (N, A)."""
    apart = ((env.targets(action) - ctrl).abs() / env.action_half).amax(0)
    if bool((apart > ROUNDING).any()):
        i = int(apart.argmax())
        rule = f"is not what {type(env.task).__name__}.action now makes of its action"
        raise TaskError(f"the file's ctrl {i} {rule}, {float(apart[i]):.3g} of an action off: train again")


def supplied(env: Env) -> dict[str, int]:
    """The observation terms that a robot must supply, name -> width: all that are not carried."""
    return {name: width for name, width in env.names.obs.items() if name not in CARRIED}


def _input(name: str, env: Env, rollout: Rollout) -> dict[str, Any]:
    """One observation term; `seen` is its range in the rollout that checked the export.

    Its unit and frame are the model's, found by which reading each number equals, unless the task's Sense
    says them: the author may have changed them on the way, and knows.
    """
    start = sum(width for _, width in _before(name, env))
    values = rollout.obs[..., start : start + env.names.obs[name]].flatten(0, 1)  # (T * n, d)
    sources = _sources(values, rollout.readings.flatten(0, 1))
    known = channels(env.sim)
    facts = {
        key: _once([None if i is None else getattr(known[i], key) for i in sources])
        for key in ("source", "unit", "frame")
    }
    sense = env.task.sensing.get(name, Sense())
    said = {key: value for key, value in (("unit", sense.unit), ("frame", sense.frame)) if value is not None}
    low, high = values.amin(0).tolist(), values.amax(0).tolist()
    return {
        "name": name,
        "size": values.shape[1],
        **facts,
        **said,
        "seen": {"low": low, "high": high},
        "max_age": sense.max_age,
    }


def _before(name: str, env: Env) -> list[tuple[str, int]]:
    terms = list(env.names.obs.items())
    return terms[: [n for n, _ in terms].index(name)]


def _sources(values: Tensor, readings: Tensor) -> list[int | None]:
    """Which reading each column is: equal to the last bit in most samples but zeros, and not constant."""
    found: list[int | None] = []
    for column in values.unbind(-1):
        moving = column != 0
        same = (readings[moving] == column[moving, None]).float().mean(0)
        known = len(same) > 0 and bool(column.std() > 0) and bool(same.max() >= SAME_READING)
        found.append(int(same.argmax()) if known else None)
    return found


def _once(values: list[Any]) -> Any:
    """One value where all are equal."""
    return values[0] if all(v == values[0] for v in values) else values


def _actuators(env: Env) -> list[dict[str, Any]]:
    """`default` is ctrl at action 0; a range that is not limited is None."""
    bounds = zip(env.action_low.tolist(), env.action_high.tolist(), env.action_center.tolist(), strict=True)
    return [
        fact | {"low": _finite(low), "high": _finite(high), "default": default}
        for fact, (low, high, default) in zip(actuators(env.sim), bounds, strict=True)
    ]


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
