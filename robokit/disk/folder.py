"""The names inside a run folder, and the newest run of a task: what is known of runs without torch."""

import json
from datetime import datetime
from pathlib import Path

from robokit.errors import RunError

CONFIG, CHECKPOINTS, BEST, LATEST = "config.json", "checkpoints", "best", "latest"
POLICY = "policy.onnx"


def file_name(title: str) -> str:
    """A task's title in the names of files and folders: `-` in place of `:`."""
    return title.replace(":", "-")


def newest_run(folder: Path) -> Path | None:
    """The newest run among those of one task, in `runs/<task>`; None: there is no run.

    It is where `latest` points; if that is not there, the run that started last, by its config.json. Raises
    RunError if two started at that moment.
    """
    latest = folder / LATEST
    if (latest / CONFIG).is_file():
        target = latest.resolve()
        return folder / target.name if target.parent == folder.resolve() else latest
    started = {run: at for run in sorted(folder.glob("*/")) if (at := _started(run)) is not None}
    newest = [run for run, at in started.items() if at == max(started.values())]
    if len(newest) > 1:
        rule = f"{folder} has no link {LATEST!r}, and two of its runs started at one moment"
        raise RunError(f"{rule}: name {newest[0]} or {newest[1]}")
    return newest[0] if newest else None


def _started(run: Path) -> float | None:
    """When a run began, s; None: the folder is no run, or its config.json does not say."""
    try:
        about = json.loads((run / CONFIG).read_bytes())["about"]
        return datetime.fromisoformat(about["started"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        return None
