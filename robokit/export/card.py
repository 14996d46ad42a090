"""The card beside an exported file, and checks of its commands and targets."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from robokit.disk.write import write_atomically
from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.export.file import Exported

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


def check_ctrl(env: Env, action: Tensor, ctrl: Tensor) -> None:
    """Raise TaskError unless a file's ctrl (N, A) is, up to ROUNDING, the task's map of its action (N, A)."""
    apart = ((env.targets(action) - ctrl).abs() / env.action_half).amax(0)
    if bool((apart > ROUNDING).any()):
        i = int(apart.argmax())
        off = f"differs from {type(env.task).__name__}.action by {float(apart[i]):.3g} in action units"
        raise TaskError(f"the file's ctrl {i} {off}, because the task has changed: train again")
