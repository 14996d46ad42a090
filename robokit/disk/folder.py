"""The names inside a run folder, and the newest run of a task: what is known of runs without torch."""

import json
from datetime import datetime
from pathlib import Path

from robokit.errors import RunError, tell

CONFIG, CHECKPOINTS, BEST, LATEST = "config.json", "checkpoints", "best", "latest"
POLICY = "policy.onnx"


def file_name(title: str) -> str:
    """A task's title in the names of files and folders: `-` in place of `:`."""
    return title.replace(":", "-")


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
    return any(c.name.isdecimal() and int(c.name) > 0 for c in (run / CHECKPOINTS).glob("*"))


def _started(run: Path) -> float | None:
    """When a run began, s; None: the folder is no run, or its config.json does not say."""
    try:
        about = json.loads((run / CONFIG).read_bytes())["about"]
        return datetime.fromisoformat(about["started"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        return None
