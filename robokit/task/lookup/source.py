"""What task files say of themselves, read and not imported: needs no torch."""

import ast
from collections.abc import Iterable
from pathlib import Path

from robokit.errors import TaskError
from robokit.tasks import shipped_folder as shipped_folder

MODELS = (".xml", ".mjcf", ".urdf")


def known_tasks() -> dict[str, Path]:
    """Task name -> file: shipped tasks, and those in ./tasks, which replace shipped tasks of the same name.

    Files are read, not imported. Raises TaskError for one name twice in either folder.
    """
    return tasks_below(shipped_folder()) | tasks_below(Path("tasks"))


def tasks_below(root: Path) -> dict[str, Path]:
    """Task name (file name without .py) -> absolute file, in `root` and its direct subfolders.

    Without files that have no task or a name that begins with "_"; TaskError for one name twice.
    """
    found: dict[str, Path] = {}
    for file in sorted([*root.glob("*.py"), *root.glob("*/*.py")]):
        if file.stem.startswith("_") or summary(file) is None:
            continue
        if file.stem in found:
            raise TaskError(f"task names must be unique: {found[file.stem]} and {file.resolve()}")
        found[file.stem] = file.resolve()
    return found


def classes(file: Path) -> dict[str, str]:
    """Each task class in a file's source -> the first line of its docstring, "" without.

    A task is a class whose base's name ends in Task, comes from robokit.tasks, or is a task of this file.
    Raises SyntaxError, ValueError or OSError for a file that cannot be read.
    """
    tree = ast.parse(file.read_bytes(), str(file))
    shipped = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("robokit.tasks")
        for alias in node.names
    }
    tasks: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
            if any(base.endswith("Task") or base in shipped or base in tasks for base in bases):
                tasks[node.name] = (ast.get_docstring(node) or "").partition("\n")[0]
    return tasks


def summary(file: Path) -> str | None:
    """First docstring line of a file's task ("" without), or the text of a read error; None: it has no task.

    Of several tasks, the one named like the file, else the first.
    """
    try:
        tasks = classes(file)
    except (SyntaxError, ValueError, OSError) as error:
        return f"cannot be read: {error}"
    own = [doc for name, doc in tasks.items() if _is_named(name, file)]
    return [*own, *tasks.values()][0] if tasks else None


def variants(file: Path) -> dict[str, str]:
    """Titles of a file's other tasks, `hopper:Positions` -> first docstring line; {} if it cannot be read."""
    try:
        tasks = classes(file)
    except (SyntaxError, ValueError, OSError):
        return {}
    return {title: doc for name, doc in tasks.items() if (title := titled(file, name)) != file.stem}


def meant(classes: Iterable[str], file: Path) -> str:
    """The class if none is named: the only one, or the one named like the file. TaskError for neither."""
    names = [*classes]
    named = [name for name in names if _is_named(name, file) or len(names) == 1]
    if not named:
        raise TaskError(f"{file} has several tasks, {sorted(names)}: name one, as {file.name}:Class")
    return named[0]


def titled(file: Path, cls: str) -> str:
    """A task's title: the file's name, `hopper`; `hopper:Positions` for a class not named like the file."""
    return file.stem if _is_named(cls, file) else f"{file.stem}:{cls}"


def refuse_model(path: Path) -> None:
    """Raise TaskError for a robot's model where a task, a run or a policy is meant."""
    if path.suffix.lower() in MODELS:
        rule = "is a robot's model, and a task is a Python file over a model"
        raise TaskError(f"{path} {rule}: docs/your-robot.md shows how to write one")


def title_of(name: str) -> str:
    """The title of `task`, `task:Class`, `file.py` or `file.py:Class`; of a name that is no task, itself.

    Raises TaskError for a file that is missing, cannot be read, or has no task, or several and none is meant.
    """
    text, _, cls = name.partition(":")
    file = Path(text) if text.endswith(".py") else known_tasks().get(text)
    if file is None:
        return name
    if not file.is_file():
        raise TaskError(f"no task file {text}")
    try:
        found = classes(file)
    except (SyntaxError, ValueError, OSError) as error:
        raise TaskError(f"{file} cannot be read: {error}") from error
    if not found and not cls:
        raise TaskError(f"{file} has no class derived from Task")
    return titled(file, cls or meant(found, file))


def _is_named(cls: str, file: Path) -> bool:
    """Whether a class carries the file's name: InvertedPendulum in inverted_pendulum.py, in any case."""
    return cls.lower() == file.stem.replace("_", "").lower()
