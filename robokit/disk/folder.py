"""The names inside a run folder, its config.json, and the newest run of a task; needs no torch."""

import hashlib
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from robokit.disk.own import CHECKPOINT
from robokit.disk.read import EACH, check_types, read_json
from robokit.errors import DataError, RunError, reason, tell

CONFIG, CHECKPOINTS, BEST, LATEST = "config.json", "checkpoints", "best", "latest"
POLICY = "policy.onnx"
SCHEMA = 1  # of config.json
SETUP = {"seed": int, "threads": int, "torch_threads": int, "validations": int | None, "device": str}
TYPES = {  # of config.json; what is missing is another version's
    "steps": int,
    "config": SETUP
    | {"task": str, "algo": str, "sim": str, "headline": str, "failure": [str], "processes": int}
    | {"limits": {EACH: float}, "hashes": {EACH: str}, "layouts": {EACH: dict}, "options": {"gamma": float}}
    | {"parent": {"name": str, "sha256": str, "steps": int}},
    "about": {"file": str, "command": [str], "started": str, "parent": str}
    | {"versions": {EACH: str | None}, "commit": {EACH: str | None}},
}


def file_name(title: str) -> str:
    """A task's title in the names of files and folders: `-` in place of `:`."""
    return title.replace(":", "-")


def read_config(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """(a run's folder, which links may lead to; the value in its config.json). Raises RunError for no run.

    A `latest` that leads to none, as in a copy without links, means the newest run beside it; a line says so.
    """
    try:
        if (lost := Path(folder)).name == LATEST and not (lost / CONFIG).exists():
            folder = newest_run(lost.parent) or lost
            if folder != lost:
                tell(f"note: {lost} leads to no run; the newest beside it is {folder}")
        path = Path(folder).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        raise RunError(f"{folder} is no run: {reason(error)}") from error
    try:
        config = read_json(path / CONFIG)
        check_types(config, TYPES, CONFIG)
        if config.get("schema", SCHEMA) != SCHEMA:
            raise RunError(f"{folder} has config schema {config['schema']!r}; known here: {SCHEMA}")
        if lacking := [key for key in ("schema", *TYPES) if key not in config]:
            raise DataError(f"it lacks {lacking}")
        if config["steps"] < 1:
            raise DataError(f"steps must be at least 1, got {config['steps']}")
    except FileNotFoundError as error:
        inside = " (its runs are inside; try its 'latest')" if (path / LATEST).exists() else ""
        raise RunError(f"{folder} is no run: it has no {CONFIG}{inside}") from error
    except OSError as error:
        raise RunError(f"{folder} is no run: {reason(error)}") from error
    except DataError as error:
        raise RunError(
            f"{folder} is no run: its {CONFIG} is damaged: {reason(error, path / CONFIG)}"
        ) from error
    return path, config


def digest(value: Any) -> str:
    """sha256 of a JSON value, hex; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def newest_run(folder: Path) -> Path | None:
    """The newest run that has learned, among those of one task, in `runs/<task>`; None: there is none.

    It is where `latest` points; if no such run is there, the one that started last, by its config.json. A run
    has learned that has a checkpoint after its start; a line names each newer one that has not. Raises
    RunError if two started at that moment.
    """
    latest, linked = folder / LATEST, None
    if (latest / CONFIG).is_file():
        target = latest.resolve()
        linked = folder / target.name if target.parent == folder.resolve() else latest
        if _has_learned(linked):
            return linked
    runs = [run for run in sorted(folder.glob("*/")) if run.name != LATEST]
    started = {run: at for run in runs if (at := _started(run)) is not None}
    learned = {run: at for run, at in started.items() if _has_learned(run)}
    last = max(learned.values(), default=0.0)
    for run in dict.fromkeys([*([linked] if linked else []), *(r for r, at in started.items() if at > last)]):
        tell(f"skipped {run}: it has no checkpoint after its start")
    newest = [run for run, at in learned.items() if at == last]
    if len(newest) > 1:
        rule = f"{folder} has no link {LATEST!r} to one that has learned, and two runs started at one moment"
        raise RunError(f"{rule}: name {newest[0]} or {newest[1]}")
    return newest[0] if newest else None


def _has_learned(run: Path) -> bool:
    """Whether a run has a checkpoint after its start: their folders are named after their steps."""
    return any(re.fullmatch(CHECKPOINT, c.name) and int(c.name) for c in (run / CHECKPOINTS).glob("*"))


def _started(run: Path) -> float | None:
    """When a run began, s; None: the folder is no run, or its config.json does not say."""
    try:
        return datetime.fromisoformat(read_json(run / CONFIG)["about"]["started"]).timestamp()
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError):
        return None
