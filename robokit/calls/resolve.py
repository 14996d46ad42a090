"""Runs, files, tasks and commands, from words or from Python's objects."""

import math
from itertools import islice
from os import PathLike
from pathlib import Path

from robokit.calls.names import locate
from robokit.disk.folder import CHECKPOINTS, CONFIG
from robokit.errors import ExportError, OptionError, RunError, TaskError
from robokit.evaluation.episodes import GAMMA
from robokit.export.file import Exported, exported_at
from robokit.learning.protocols import Actor
from robokit.limits.limit import Limit, with_values
from robokit.task.lookup.find import class_name, load_task, title
from robokit.task.lookup.source import known_tasks
from robokit.task.task import Task
from robokit.training.restore import exported, restore_policy, task_of
from robokit.training.run import Run

What = Run | str | PathLike[str]  # a run, its folder, an exported file, or a name


def located(what: What) -> Path:
    """The run folder or the exported file; errors as `names.locate`."""
    return what.path if isinstance(what, Run) else locate(as_word(what))


def named_run(what: What) -> Run:
    """The run that a folder or a name means; errors as `names.locate` for what is only a file."""
    return what if isinstance(what, Run) else Run.open(locate(as_word(what), only_run=True))


def as_word(what: str | PathLike[str]) -> str | Path:
    """As names.py takes it: a str may be a name, a Path is a place."""
    return what if isinstance(what, str) else Path(what)


def run_of(file: Path) -> Run | None:
    """The run with this file in its folder; None: no or a foreign config.json. Raises RunError if damaged."""
    if not (file.parent / CONFIG).is_file():
        return None
    try:
        return Run.open(file.parent)
    except RunError:
        if (file.parent / CHECKPOINTS).is_dir():
            raise
        return None


def gamma_of(run: Run | None) -> float:
    """The discount of a run; GAMMA without one."""
    return GAMMA if run is None else float(run.config["options"].get("gamma", GAMMA))


def held_commands(task: Task, numbers: tuple[float, ...]) -> dict[str, tuple[float, ...]]:
    """Numbers, in the task's order, by command; {} for none. Raises OptionError for a wrong count or NaN."""
    if not numbers:
        return {}
    widths = {name: len(command.low) for name, command in task.commands.items()}
    if len(numbers) != sum(widths.values()) or not all(map(math.isfinite, numbers)):
        ranges = [f"{n}: {widths[n]} in {c.low} to {c.high}" for n, c in task.commands.items()]
        known = f"{sum(widths.values())} finite numbers ({'; '.join(ranges)})" if ranges else "none"
        raise OptionError(f"--command: {type(task).__name__} takes {known}, got {len(numbers)}: {numbers}")
    rest = iter(numbers)
    return {name: tuple(islice(rest, width)) for name, width in widths.items()}


def policy_of(what: str | Path, task: str | None = None) -> tuple[Exported, Task, Actor | None]:
    """The exported file of a run, file or name (names.locate), its task, and a run's torch policy.

    A run's policy is exported first if need be. The task has the limits of its training. task: replaces the
    file's or run's own; then, and for a file, the torch policy is None.
    """
    path = locate(what)
    if path.suffix != ".onnx":
        try:
            file, restored = exported(Run.open(path))
        except ExportError as refused:
            raise ExportError(f"{refused}; without a file: robokit evaluate {path} --torch") from refused
        if task is None:
            return file, restored.env.task, restored.policy
        return file, _with_limits(load_task(task), file), None
    file = exported_at(path)
    if task is None and (run := run_of(path)):
        return file, task_of(run), None
    return file, _with_limits(load_task(task or _own_task(file)), file), None


def torch_policy_of(what: str | Path) -> tuple[Task, Actor]:
    """The task and the torch policy of a run, with or without an exported file. OptionError for a file."""
    path = locate(what)
    if path.suffix == ".onnx":
        raise OptionError(f"--torch goes with a run: {path} holds no torch policy")
    restored = restore_policy(Run.open(path))
    return restored.env.task, restored.policy


def _own_task(file: Exported) -> str:
    """The known task of an exported file, as `task:Class`. Raises OptionError if there is none."""
    named = str(file.contract["task"])
    stem, _, cls = named.rpartition(":")
    own = [
        s for s in known_tasks() if s == stem or (not stem and s.replace("_", "").lower() == named.lower())
    ]
    if not own:
        raise OptionError(
            f"{file.path} was exported for task {named!r}, which is unknown: give --task file.py:{cls}"
        )
    return f"{own[0]}:{cls}"


def _with_limits(task: Task, file: Exported) -> Task:
    """`task` itself, now with the file's limit values. Raises TaskError if limits differ in anything else.

    A variant keeps limits of its own: it has the file's values where name and measure are the same.
    """
    trained = {k: Limit(**limit) for k, limit in (file.contract.get("limits") or {}).items()}  # older: null
    shared = {
        name: x.value
        for name, x in trained.items()
        if name in task.limits and x.measure == task.limits[name].measure
    }
    now = with_values(task.limits, shared)
    if trained and trained != now and class_name(task) == file.contract["task"]:
        raise TaskError(
            f"{file.path} was trained for {trained}, but {title(task)} now has {now}: train again"
        )
    task.limits = now
    return task
