"""The card beside an exported file, and checks of its commands and targets."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robokit.disk.read import read_json
from robokit.disk.write import write_atomically
from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.export.file import Exported
from robokit.sim.facts.readings import actuators, model_name
from robokit.task.columns import supplied
from robokit.task.lookup.files import source_of
from robokit.task.lookup.find import class_name
from robokit.task.task import Task

Fact = tuple[str, Any, Any]  # what, in the file, in the task

ROUNDING = 1e-3  # largest error, in action units, due to float32 rounding of a target far from zero


def write_card(file: Exported, evaluation: Mapping[str, Any]) -> Path:
    """Write `<policy>.json` beside a file: task, robot, commit, sha256, parity_error, `evaluation`'s keys.

    A policy whose training started from another has its `parent` too.
    """
    contract = file.contract
    card = {
        "task": contract["task"],
        "robot": contract["robot"],
        "commit": contract["hashes"]["commit"],
        "sha256": file.sha256,
        "parity_error": max(p["ctrl_error"] for p in contract["parity"]),
        **({"parent": contract["parent"]} if "parent" in contract else {}),
        **evaluation,
    }
    beside = file.path.with_suffix(".json")
    write_atomically(beside, (json.dumps(card, indent=2, allow_nan=False) + "\n").encode())
    return beside


def steps_of(file: Exported) -> int | None:
    """The step of the training on a file's card; None without a card of this very file."""
    try:
        card = read_json(file.path.with_suffix(".json"))
        return int(card["steps"]) if card["sha256"] == file.sha256 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def clip_command(contract: Mapping[str, Any], name: str, numbers: Sequence[float]) -> list[float]:
    """A command clipped to the range that the policy was trained on; an unknown command is unchanged."""
    command = contract["commands"].get(name, {"low": numbers, "high": numbers})
    return np.clip(numbers, command["low"], command["high"]).tolist()


def clip_note(contract: Mapping[str, Any], name: str, numbers: Sequence[float], steps: int) -> str:
    """A message about a command that was clipped in `steps` steps."""
    command = contract["commands"][name]
    rows = numbers, clip_command(contract, name, numbers), command["low"], command["high"]
    given, taken, low, high = (" ".join(f"{x:g}" for x in row) for row in rows)
    return f"{name} {given} clipped to {taken} (trained range {low} to {high}), {steps} steps"


def variant(contract: Mapping[str, Any], env: Env, own: bool | None = None) -> str | None:
    """None if an exported file runs on the task that it was exported for, else both tasks in words.

    own: whether it is that task; None: if its class has the name in the contract. What counts is the
    contract: names and sizes of the inputs, the actuators in their order, their action maps, and the control
    period. Raises TaskError naming all that differ. Older contracts lack the scale of actions: see
    `check_ctrl`.
    """
    named, here = contract["task"], class_name(env.task)
    own = named == here if own is None else own
    here = f"{here} of {_file_of(env.task)}" if named == here and not own else here
    takes, gives = {i["name"]: i["size"] for i in contract["inputs"]}, supplied(env.columns)
    theirs, ours = ([a["name"] for a in of] for of in (contract["actuators"], actuators(env.sim)))
    facts: list[Fact] = [
        *((f"input {n!r}", takes.get(n, "none"), gives.get(n, "none")) for n in {**takes, **gives}),
        ("actuators", theirs, ours),
        *(_maps(contract["actuators"], env) if theirs == ours else ()),
        ("control_dt", contract["control_dt"], float(env.task.control_dt)),
    ]
    if own:
        facts.append(("robot", contract["robot"], model_name(env.sim)))
    differ = [f"{what}: {there} in the file, {now} in the task" for what, there, now in facts if there != now]
    if differ:
        again = ", which has changed: train again" if own else ""
        raise TaskError(f"a file exported for {named} does not fit {here}{again}; {'; '.join(differ)}")
    if own:
        return None
    robots = contract["robot"], model_name(env.sim)
    model = "" if robots[0] == robots[1] else f", on robot {robots[1]!r} and not {robots[0]!r}"
    return f"{here}, exported for {named}{model}"


def _maps(known: Sequence[Mapping[str, Any]], env: Env) -> Iterator[Fact]:
    """For each part of the action map that the contract has: the first actuator in which it differs."""
    for a, kind in zip(known, env.map.kinds, strict=True):
        if a.get("map", kind) != kind:
            yield f"action map of {a['name']!r}", a["map"], kind
    parts = {
        "low": ("lowest ctrl", env.map.low),
        "high": ("highest ctrl", env.map.high),
        "default": ("ctrl at action 0", env.map.center.clamp(env.map.low, env.map.high)),
        "scale": ("ctrl of an action of 1", env.map.half),
        "leash": ("leash", env.map.leash),
    }
    rooms = (ROUNDING * env.map.unit).tolist()
    for key, (words, values) in parts.items():
        rows = zip(known, values.tolist(), rooms, strict=True)
        apart = [(a["name"], a[key], x) for a, x, room in rows if key in a and not _close(a[key], x, room)]
        if apart:
            name, there, now = apart[0]
            more = f" and {len(apart) - 1} more" if len(apart) > 1 else ""
            yield f"{words} of {name!r}{more}", "none" if there is None else f"{there:g}", f"{now:g}"


def _close(there: float | None, now: float, room: float) -> bool:
    """Whether a contract's number, None for one that is infinite, is the task's."""
    return not math.isfinite(now) if there is None else abs(there - now) <= room


def _file_of(task: Task) -> str:
    """The task's file, from here if it is below; "another file" if it has none."""
    file = source_of(type(task))
    if file is None:
        return "another file"
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def check_ctrl(env: Env, action: Tensor, ctrl: Tensor) -> None:
    """Raise TaskError unless a file's ctrl (N, nu) is, up to rounding, the task's map of its action (N, A).

    Rounding: ROUNDING, or two float32 ulps of ctrl if that is more.
    """
    targets = env.targets(action)
    apart, unit = (targets - ctrl).abs(), env.map.unit
    ulps = 2 * torch.finfo(torch.float32).eps * targets.abs()
    if bool((apart > torch.maximum(ROUNDING * unit, ulps)).any()):
        worst = (apart / unit).amax(0)
        i = int(worst.argmax())
        name, kind = actuators(env.sim)[i]["name"], type(env.task).__name__
        off = f"differs from {kind}.action by {float(worst[i]):.3g} in action units"
        scale = f"its scale there is {float(env.map.half[i]):g}, in the file another"
        raise TaskError(f"the file's ctrl of {name!r} {off}: {scale}; give it the file's, or train again")
