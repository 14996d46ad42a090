"""What task files say of themselves, read and not imported: needs no torch."""

import ast
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from robokit.errors import TaskError, reason
from robokit.tasks import shipped_folder as shipped_folder

MODELS = (".xml", ".mjcf", ".urdf")
MOST = 10_000_000  # bytes of a file that is read for its tasks

given: set[Path] = set()  # absolute task files that a person named in this process, or a class of theirs


def split(name: str) -> tuple[str, str]:
    """(file or name, class or "") of `path.py`, `path.py:Class`, `task` or `task:Class`.

    A path may have colons: only what follows the last one, behind `.py` or in a name without `/`, is a class.
    """
    text, colon, cls = name.rpartition(":")
    parted = colon and "/" not in cls and not name.endswith(".py")
    parted = parted and (text.endswith(".py") or "/" not in text)
    return (text, cls) if parted else (name, "")


def task_file(text: str, person: bool = True) -> Path:
    """The absolute task file of a path. TaskError for no file, or one with a colon in its name.

    person: a person names it, so that data may mean it too (docs/trust.md).
    """
    file = Path(text)
    if not file.is_file():
        there = file.exists() or file.is_symlink()
        raise TaskError(f"{text} is no file that can be read" if there else f"no task file {text}")
    if ":" in file.stem:
        rule = "a task has its file's name, and a colon parts it from a class"
        raise TaskError(f"{text}: {rule}: rename the file")
    if person:
        given.add(file.resolve())
    return file.resolve()


def known_tasks() -> dict[str, Path]:
    """Task name -> file: shipped tasks, and those in ./tasks, which replace shipped tasks of the same name.

    Files are read, not imported. Raises TaskError for one name twice in either folder.
    """
    return tasks_below(shipped_folder()) | tasks_below(Path("tasks"))


def tasks_below(root: Path) -> dict[str, Path]:
    """Task name (file name without .py) -> absolute file, in `root` and its direct subfolders.

    Without files that have no task or a name that begins with "_" or has a colon, and what is no file.
    TaskError for one name twice.
    """
    found: dict[str, Path] = {}
    for file in sorted([*root.glob("*.py"), *root.glob("*/*.py")]):
        if file.stem.startswith("_") or ":" in file.stem or not file.is_file() or summary(file) is None:
            continue
        if found.get(file.stem, file.resolve()) != file.resolve():
            raise TaskError(f"task names must be unique: {found[file.stem]} and {file.resolve()}")
        found[file.stem] = file.resolve()
    return found


def classes(file: Path) -> dict[str, str]:
    """Each task class in a file's source -> the first line of its docstring, "" without.

    A task is a class whose base's name ends in Task, comes from robokit.tasks, or is a task of this file.
    Raises TaskError for a file that cannot be read.
    """
    return dict(_classes(file, _read(file)))


@lru_cache(128)  # a command looks through the shipped files several times
def _classes(file: Path, content: bytes) -> dict[str, str]:
    tree = _tree(file, content)
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
                text = ast.get_docstring(node, clean=False) or ""
                first = text.strip().partition("\n")[0]
                tasks[node.name] = "".join(c if c.isprintable() else " " for c in first).rstrip()
    return tasks


def has_class(file: Path, title: str) -> bool:
    """Whether a file has a title's name and its source, anywhere, that class, derived from any other."""
    try:
        nodes = [n for n in ast.walk(_tree(file, _read(file))) if isinstance(n, ast.ClassDef) and n.bases]
    except TaskError:
        return False
    stem = title.partition(":")[0]
    return folded(file.stem) == folded(stem) and any(is_called(n.name, title) for n in nodes)


def _read(file: Path) -> bytes:
    """A file's source. Raises TaskError for one that cannot be read."""
    try:
        if (size := file.stat().st_size) > MOST:
            raise OSError(f"{size:,} bytes, of at most {MOST:,}")
        return file.read_bytes()
    except (OSError, MemoryError) as error:
        raise TaskError(f"cannot be read: {reason(error, file)}") from error


def _tree(file: Path, content: bytes) -> ast.Module:
    """A file's source, parsed. Raises TaskError for one that is no Python."""
    try:
        return ast.parse(content, file.name)
    except RecursionError as error:
        raise TaskError("cannot be read: too deeply nested") from error
    except (SyntaxError, ValueError, MemoryError) as error:
        raise TaskError(f"cannot be read: {reason(error, file)}") from error


def summary(file: Path) -> str | None:
    """First docstring line of a file's task ("" without), or the text of a read error; None: it has no task.

    Of several tasks, the one named like the file, else the first.
    """
    try:
        tasks = classes(file)
    except TaskError as error:
        return str(error)
    own = [doc for name, doc in tasks.items() if _is_named(name, file)]
    return [*own, *tasks.values()][0] if tasks else None


def variants(file: Path) -> dict[str, str]:
    """Titles of a file's other tasks, `hopper:Positions` -> first docstring line; {} if it cannot be read."""
    try:
        tasks = classes(file)
    except TaskError:
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
    """Raise TaskError for a model, a robot's or Stable-Baselines3's, where a task, run or policy is meant."""
    if path.suffix.lower() in MODELS:
        rule = "is a robot's model, and a task is a Python file over a model"
        raise TaskError(f"{path} {rule}: docs/your-robot.md shows how to write one")
    if path.suffix == ".zip":
        rule = "is a zip, as Stable-Baselines3 writes a model: a policy, without a run or learned dynamics"
        raise TaskError(f"{path} {rule}; robokit export {path} --task TASK makes a file of the policy")


def title_of(name: str) -> str:
    """The title of `task`, `task:Class`, `file.py` or `file.py:Class`; of a name that is no task, itself.

    Raises TaskError for a file that is missing, cannot be read, or has no task, or several and none is meant.
    """
    text, cls = split(name)
    file = task_file(text) if text.endswith(".py") else known_tasks().get(text)
    if file is None:
        return name
    try:
        found = classes(file)
    except TaskError as error:
        raise TaskError(f"{file} {error}") from error
    if not found and not cls:
        raise TaskError(f"{file} has no class derived from Task")
    return titled(file, cls or meant(found, file))


def _is_named(cls: str, file: Path) -> bool:
    """Whether a class carries the file's name: InvertedPendulum in inverted_pendulum.py, in any case."""
    return folded(cls) == folded(file.stem)


def is_called(cls: str, title: str) -> bool:
    """Whether a class is that of a title, `hopper` or `hopper:Positions`, in whatever file."""
    stem, _, named = title.partition(":")
    return cls == named if named else folded(cls) == folded(stem)


def folded(name: str) -> str:
    """The name of a class or file without case and `_`, as they are compared."""
    return name.replace("_", "").lower()
