"""The card beside an exported file, and checks of its commands and targets."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robokit.disk.write import write_atomically
from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.export.file import Exported
from robokit.sim.facts import actuators, model_name
from robokit.task.columns import supplied
from robokit.task.lookup.find import class_name

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


def variant(contract: Mapping[str, Any], env: Env) -> str | None:
    """None if an exported file runs on the task that it was exported for, else both tasks in words.

    What counts is the contract: the names and sizes of the inputs, the actuators in their order, and the
    control period. Raises TaskError naming all that differ.
    """
    own, here = contract["task"], class_name(env.task)
    takes, gives = {i["name"]: i["size"] for i in contract["inputs"]}, supplied(env.columns)
    named, names = ([a["name"] for a in of] for of in (contract["actuators"], actuators(env.sim)))
    facts: list[tuple[str, Any, Any]] = [
        *((f"input {n!r}", takes.get(n, "none"), gives.get(n, "none")) for n in {**takes, **gives}),
        ("actuators", named, names),
        ("control_dt", contract["control_dt"], float(env.task.control_dt)),
    ]
    if own == here:
        facts.append(("robot", contract["robot"], model_name(env.sim)))
    differ = [f"{what}: {there} in the file, {now} in the task" for what, there, now in facts if there != now]
    if differ:
        again = ", which has changed: train again" if own == here else ""
        raise TaskError(f"a file exported for {own} does not fit {here}{again}; {'; '.join(differ)}")
    if own == here:
        return None
    robots = contract["robot"], model_name(env.sim)
    model = "" if robots[0] == robots[1] else f", on robot {robots[1]!r} and not {robots[0]!r}"
    return f"{here}, exported for {own}{model}"


def check_ctrl(env: Env, action: Tensor, ctrl: Tensor) -> None:
    """Raise TaskError unless a file's ctrl (N, A) is, up to rounding, the task's map of its action (N, A).

    Rounding: ROUNDING, or two float32 ulps of ctrl if that is more.
    """
    targets = env.targets(action)
    apart = (targets - ctrl).abs()
    ulps = 2 * torch.finfo(torch.float32).eps * targets.abs()
    if bool((apart > torch.maximum(ROUNDING * env.action_half, ulps)).any()):
        worst = (apart / env.action_half).amax(0)
        i = int(worst.argmax())
        off = f"differs from {type(env.task).__name__}.action by {float(worst[i]):.3g} in action units"
        raise TaskError(f"the file's ctrl {i} {off}, because the task has changed: train again")
