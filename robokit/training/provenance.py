"""Where a run comes from: commits, hashes."""

import hashlib
import inspect
import subprocess
from pathlib import Path

from robokit.sim.facts import model_hashes
from robokit.task.task import Task
from robokit.training.run import Run


def changed(run: Run, task: Task) -> list[str]:
    """Which files of the task are not what they were when the run began."""
    now, then = task_hashes(task), run.config["hashes"]
    return [str(name) for name in sorted({*now, *then}) if now.get(name) != then.get(name)]


def commit(file: Path) -> str | None:
    """The git commit that `file` is tracked in, with "-dirty" where its work tree differs; else None."""
    git = ["git", "-C", str(file.parent)]
    try:
        for command in (
            ["ls-files", "--error-unmatch", file.name],
            ["describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
        ):
            found = subprocess.run([*git, *command], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def task_file(task: Task) -> Path:
    return Path(inspect.getfile(type(task)))


def task_hashes(task: Task) -> dict[str, str]:
    """sha256 of the task file and of each file of the model."""
    own = {task_file(task).name: hashlib.sha256(task_file(task).read_bytes()).hexdigest()}
    return own | {f"model {name}": digest for name, digest in model_hashes(task.model).items()}
