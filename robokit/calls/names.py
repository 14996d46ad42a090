"""Runs and exported files by name: `go2_walk` is the task's newest run, else a policy. Needs no torch."""

from pathlib import Path

from robokit.disk.folder import CONFIG, file_name, newest_run
from robokit.errors import OptionError, RunError, did_you_mean, tell
from robokit.task.lookup.source import known_tasks, refuse_model, shipped_folder, split, title_of, variants

RUNS, POLICIES = Path("runs"), Path("policies")


def path_of(what: str | Path) -> Path | None:
    """The path, if `what` is one: it ends in .onnx, has a separator and no .py, or is a run; None: a name.

    Raises OptionError for a word that is a task and a run folder here, a Path is the folder; TaskError for a
    robot's model.
    """
    text = str(what)
    refuse_model(Path(text))
    if text.endswith(".onnx"):
        return Path(text)
    if (Path(text) / CONFIG).is_file():
        if isinstance(what, str) and text in known_tasks():
            here = f"{text!r} is a task, and a run folder here"
            raise OptionError(f"{here}: ./{text} is the folder; rename it to use the name of the task")
        return Path(text)
    return Path(text) if "/" in text and not split(text)[0].endswith(".py") else None


def locate(what: str | Path, only_run: bool = False) -> Path:
    """The run folder or the exported file (it ends in .onnx) that a path or a name means.

    A name is that of a task, `task:Class`, `file.py` or `file.py:Class`, or of a policy. It means the newest
    run in ./runs/<task> that has learned, else ./policies/<name>.onnx, else the shipped policy; a line says
    which. `task` is one class, as for `train`: no run of another class in its file is meant. A shipped policy
    is that of the shipped task alone: no file of the user's own, by its path or in ./tasks, means it.

    Raises RunError if there is nothing of that name, if it has two newest runs, or for a file if only a run
    will do; OptionError and TaskError as `path_of` and `title_of`.
    """
    path = path_of(what)
    if path is None:
        title = title_of(str(what))
        run = newest_run(RUNS / file_name(title))
        own = _is_own(str(what))
        path = run or _policy(title, own)
        if path is None:
            raise RunError(_unknown(what, title, own))
        if run or not only_run:
            other = _policy(title, own) if run else None
            tell(f"{what}: {_kind(path)} {path}" + (f", before {_kind(other)} {other}" if other else ""))
    if only_run and path.suffix == ".onnx":
        raise RunError(f"this takes a run, and {path} is an exported file, without checkpoints")
    return path


def is_shipped(file: Path) -> bool:
    """Whether a file lies in the folder of the shipped policies; in a checkout that is ./policies."""
    return file.parent.resolve() == shipped_folder("policies").resolve()


def _is_own(what: str) -> bool:
    """Whether a name means a task file that is not shipped: by its path, or the one in ./tasks."""
    text, known = split(what)[0], known_tasks()
    stem = text if text in known else text.partition("-")[0]  # of a policy, go2_walk-Go2WalkSensed
    file = Path(text) if text.endswith(".py") else known.get(stem)
    return file is not None and not file.resolve().is_relative_to(shipped_folder().resolve())


def _policy(title: str, own: bool) -> Path | None:
    """The exported file of a title: of ./policies, else, unless the task is the user's own, a shipped one."""
    files = (folder / f"{file_name(title)}.onnx" for folder in (POLICIES, shipped_folder("policies")))
    return next((file for file in files if file.is_file() and not (own and is_shipped(file))), None)


def _kind(path: Path) -> str:
    if path.suffix != ".onnx":
        return "the run"
    return "the shipped policy" if is_shipped(path) else "the policy"


def _unknown(what: str | Path, title: str, own: bool) -> str:
    known = _titles()
    if own or title in known:
        others = sorted(name for name in known if name.startswith(f"{title}:") and _policy(name, own))
        there = f"; there are policies of {', '.join(others)}" if others else ""
        return f"{title!r} has no run in ./{RUNS} and no policy: robokit train {what}{there}"
    hint = did_you_mean(title, known, "see robokit tasks")
    return f"{what} is no run, no file, and no name of a task or policy{hint}"


def _titles() -> set[str]:
    """Titles of the known tasks, and the names of policies."""
    found = {path.stem for folder in (POLICIES, shipped_folder("policies")) for path in folder.glob("*.onnx")}
    for name, file in known_tasks().items():
        found |= {name, *variants(file)}
    return found
