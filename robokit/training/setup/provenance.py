"""Provenance of a run: options, versions, commits and hashes, written when its folder is made."""

import contextlib
import inspect
import os
import platform
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

from robokit.compute import processes
from robokit.console import say
from robokit.disk.folder import file_name
from robokit.errors import RunError
from robokit.export.fields import versions
from robokit.learning.layouts import layouts_of
from robokit.sim.facts.readings import model_hashes
from robokit.task.lookup.files import source_hashes
from robokit.task.lookup.find import title
from robokit.task.states import state_hashes
from robokit.task.task import Task
from robokit.training.run import Run
from robokit.training.setup.build import Built, Setup
from robokit.training.setup.init_from import Parent

MODEL = "model "  # before the names of the model's files


def create(root: Path, learner: Built, setup: Setup, parent: Parent | None = None) -> Run:
    """Create a new learner's run folder `root/<task>/<date>` in process 0; every process returns its Run.

    Its config has the numbers of threads in use, where `setup` may have 0; the layouts of its networks, which
    outlast its task's files; and the facts of its parent, whose place is in `about`.
    """
    task, file = learner.env.task, task_file(learner.env.task)
    threads = getattr(learner.env.sim, "threads", setup.threads)
    setup = replace(setup, threads=threads, torch_threads=learner.threads)
    own = {key: value for key, value in asdict(learner.config).items() if key != "steps"}
    limits = {name: limit.value for name, limit in task.limits.items()}
    parts = {"processes": processes.world(), "options": own, "hashes": task_hashes(task)}
    parts |= {"layouts": {name: layout.facts() for name, layout in layouts_of(learner).items()}}
    parts |= {} if parent is None else {"parent": parent.facts}
    counts = {"headline": task.headline, "failure": [*task.failure]}
    config = {"task": title(task), "limits": limits, **counts, **asdict(setup), **parts}
    about = {
        "file": str(file.resolve()),
        "command": sys.argv,
        "launch": processes.launch(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": {"robokit": commit(Path(__file__).parents[2] / "__init__.py"), "task": commit(file)},
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        **({} if parent is None else {"parent": str(parent.path)}),
    }
    steps = learner.config.steps
    made = refused = None
    if not processes.rank():
        try:
            made = Run.create(root, file_name(title(task)), steps, config, about)
        except RunError as error:
            refused = str(error)
    path, refused = processes.agreed((made and str(made.path), refused))
    if refused:  # in every process: the others would wait
        raise RunError(refused)
    return made or Run.open(path)


def unfinished(root: Path, task: Task) -> Path | None:
    """The folder of the run that this call of torchrun began before it restarted its processes, or None."""
    found = None
    if processes.restarted() and not processes.rank():  # process 0 made the folder
        began = {"launch": processes.launch(), "command": sys.argv}
        for folder in sorted((root / file_name(title(task))).glob("*/")):
            with contextlib.suppress(RunError):
                run = Run.open(folder)
                found = str(run.path) if run.about | began == run.about else found
    path = processes.agreed(found)
    return None if path is None else Path(path)


def changed(run: Run, task: Task) -> list[str]:
    """Keys of `task_hashes` of files that were changed, added or removed since the run began.

    One begun before base classes and helpers had hashes says so in a line. Raises RunError without hashes.
    """
    now, then = task_hashes(task), run.config.get("hashes")
    if not isinstance(then, dict):
        raise RunError(f"{run.path} has no hashes of its task's files in its config.json, got {then!r}")
    own = task_file(task).name
    if unknown := [n for n in now.keys() - then.keys() if n != own and not n.startswith(MODEL)]:
        say(f"note: {run.path} does not tell whether these have changed: {', '.join(sorted(unknown))}")
        now = {name: digest for name, digest in now.items() if name not in unknown}
    return [str(name) for name in sorted({*now, *then}) if now.get(name) != then.get(name)]


def commit(file: Path) -> str | None:
    """The git commit of a tracked `file`, "-dirty" if its folder has changes to tracked files; else None."""
    git, found = ["git", "-c", "core.fsmonitor=false", "-C", str(file.parent)], list[str]()
    try:
        for command in (
            ["ls-files", "--error-unmatch", "--", file.name],
            ["rev-parse", "HEAD"],
            ["status", "--porcelain", "--untracked-files=no", "--", "."],
        ):
            ran = subprocess.run([*git, *command], capture_output=True, text=True, check=True, timeout=10)
            found.append(ran.stdout.strip())
    except (OSError, subprocess.SubprocessError):
        return None
    return found[1] + "-dirty" * bool(found[2])


def task_file(task: Task) -> Path:
    return Path(inspect.getfile(type(task)))


def task_hashes(task: Task) -> dict[str, str]:
    """sha256 by file: see `source_hashes`, `state_hashes`, and each file of the model by "model <path>"."""
    of_model = {f"{MODEL}{n}": d for n, d in model_hashes(task.model).items()}
    return source_hashes(type(task)) | of_model | state_hashes(task)
