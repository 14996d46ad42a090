"""Runs, files, tasks and commands, from words or from Python's objects."""

import math
from dataclasses import fields
from itertools import islice
from os import PathLike
from pathlib import Path

from robokit.calls.names import is_shipped, locate
from robokit.disk.folder import CHECKPOINTS, CONFIG, POLICY
from robokit.errors import ExportError, OptionError, RunError, TaskError
from robokit.evaluation.episodes import GAMMA
from robokit.export.file import Exported, exported_at
from robokit.learning.protocols import Actor
from robokit.limits.limit import Limit, with_values
from robokit.task.lookup.files import source_of
from robokit.task.lookup.find import class_name, load_task, title
from robokit.task.lookup.source import is_called
from robokit.task.lookup.trusted import looked_up, trusted
from robokit.task.task import Task
from robokit.training.run import Run
from robokit.training.setup.restore import exported, restore_policy, task_of

What = Run | str | PathLike[str]  # a run, its folder, an exported file, or a name


def located(what: What) -> Path:
    """The run folder or the exported file; errors as `names.locate`."""
    return what.path if isinstance(what, Run) else locate(as_word(what))


def named_run(what: What) -> Run:
    """The run that a folder or a name means; errors as `names.locate` for what is only a file."""
    return what if isinstance(what, Run) else Run.open(locate(as_word(what), only_run=True))


def as_word(what: str | PathLike[str]) -> str | Path:
    """A str or a Path, as calls/names.py takes them; either may be a name or a place."""
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


def policy_of(
    place: Path, task: str | None = None, trust: bool = False
) -> tuple[Exported, Task, Actor | None, bool]:
    """(exported file, its task, torch policy, whether the task is the own one) of a run folder, or of a file.

    A run's policy is exported first if need be. The task has the limits of its training. task: replaces the
    file's or run's own; then, and for a file, the torch policy is None. It is the own task all the same if it
    is that class of that file; if the file's own is unknown here, if it is called like it.
    trust: as `trusted`.
    """
    run, policy, own = None, None, None
    if place.suffix != ".onnx":
        run = Run.open(place)
        try:
            file, own, policy = _of_run(run, task, trust)
        except ExportError as refused:
            raise ExportError(f"{refused}; without a file: robokit evaluate {place} --torch") from refused
    else:
        file = exported_at(place)
        run = run_of(place)
        own = task_of(run, trust=trust) if run and task is None else None
    if task is None:
        return file, own or _with_limits(_own_task(file, trust), file, True), policy, True
    chosen = load_task(task)
    is_own = _is_own(chosen, file, run, trust)
    return file, _with_limits(chosen, file, is_own), None, is_own


def _of_run(run: Run, task: str | None, trust: bool) -> tuple[Exported, Task | None, Actor | None]:
    """(file, task, torch policy) of a run, whose own task is the given one, if that is called like it.

    With a variant, and without a file that may be run for the own task: policy.onnx as it is.
    """
    named = str(run.config.get("task"))
    own = task if task is not None and is_called(type(load_task(task)).__name__, named) else None
    try:
        file, restored = exported(run, own, trust)
    except TaskError:
        if task is None or own is not None or not (run.path / POLICY).is_file():
            raise
        return exported_at(run.path / POLICY), None, None
    return file, restored.env.task, restored.policy


def torch_policy_of(place: Path, task: str | None = None, trust: bool = False) -> tuple[Task, Actor]:
    """The task and torch policy of a run folder, with or without an exported file.

    task: where the run's own task is. Raises OptionError for a file, TaskError for another task.
    """
    if place.suffix == ".onnx":
        raise OptionError(f"--torch goes with a run: {place} holds no torch policy")
    restored = restore_policy(Run.open(place), task=task, trust=trust)
    return restored.env.task, restored.policy


def _own_task(file: Exported, trust: bool) -> Task:
    """The own task of an exported file. Raises TaskError if it may not be run here."""
    named = str(file.contract["task"])
    own = trusted(named, file.path, None, trust, is_shipped(file.path))
    # a contract has the class alone
    return load_task(own if ":" in named else f"{own}:{named}", person=False)


def _is_own(task: Task, file: Exported, run: Run | None, trust: bool) -> bool:
    """Whether a task is the one that a file was exported for; run: the one that the file is of."""
    if class_name(task) != file.contract["task"]:
        return False
    named, data, stored = str(file.contract["task"]), file.path, None
    if run is not None:
        named, data, stored = str(run.config.get("task")), run.path, run.about.get("file")
    try:
        home = looked_up(named, data, stored, trust, run is None and is_shipped(data))
    except TaskError:
        home = None
    source = source_of(type(task))
    return home is None or (source is not None and source.resolve() == home)


def _with_limits(task: Task, file: Exported, own: bool) -> Task:
    """`task` itself, now with the file's limit values, where name and measure are the same.

    A variant keeps limits of its own beside them. Raises TaskError if the file's own task has other limits.
    """
    parts = [part.name for part in fields(Limit)]
    given = file.contract.get("limits") or {}  # older: null
    trained = {k: Limit(**{part: limit[part] for part in parts}) for k, limit in given.items()}
    alike = [k for k in trained.keys() & task.limits.keys() if trained[k].measure == task.limits[k].measure]
    now = with_values(task.limits, {name: trained[name].value for name in alike})
    if own and trained and trained != now:
        differ = f"was trained for {trained}, but {title(task)} now has {now}"
        raise TaskError(f"{file.path} {differ}: train again")
    task.limits = now
    return task
