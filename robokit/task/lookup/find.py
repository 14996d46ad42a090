"""Find and load a task by name, file or class."""

import inspect
import sys
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from types import ModuleType

from robokit.console import say
from robokit.disk.folder import CONFIG
from robokit.errors import TaskError, did_you_mean
from robokit.task.lookup import source
from robokit.task.lookup.files import source_of
from robokit.task.lookup.modules import is_beside, is_installed, run
from robokit.task.task import Task


def find_task(name: str | Path, person: bool = True) -> tuple[Path, str | None]:
    """(absolute file, class or None if none is named) of `path.py`, `path.py:Class`, `task` or `task:Class`.

    person: see `task_file`.
    TaskError for an unknown file or task; the class is not looked up. Says if a shipped task is replaced.
    """
    text, cls = source.split(str(name))
    source.refuse_model(Path(text))
    if text.endswith(".py"):
        return source.task_file(text, person), cls or None
    known = source.known_tasks()
    if text not in known:
        run = "a run folder" if (Path(text) / CONFIG).is_file() else ""
        if other := "an exported file" if text.endswith(".onnx") else run:
            raise TaskError(f"{text} is {other}, and this takes a task: a name, or a path to a .py file")
        file = Path("tasks", f"{text}.py")
        there = f"there are {sorted(known)}, or give a path to a .py file"
        unseen = f"; {file} has no Task that can be seen without importing it; {there}"
        hint = unseen if file.is_file() else did_you_mean(text, known, there)
        raise TaskError(f"no task {text!r}{hint}")
    say_shadowed(text, known[text])
    return known[text], cls or None


def say_shadowed(stem: str, file: Path) -> None:
    """Say that a person's own task file is taken for the name of a shipped task, if it is."""
    shipped = source.shipped_folder().resolve()
    if not file.is_relative_to(shipped) and stem in source.tasks_below(shipped):
        say(f"note: {stem!r} is your own {file}, not the shipped task")


def load_task(task: "str | Path | type[Task] | Task", person: bool = True) -> Task:
    """A Task from a name, path or class, instantiated; an object is returned as it is.

    person: whether a person named it; False: data did, and `trusted` allowed it.
    Raises TaskError if the file is missing, cannot be imported, has no Task, or has several, of which none is
    named and none carries the file's name (hopper.py: Hopper).
    """
    if isinstance(task, Task):
        return task
    cls = task
    if not isinstance(cls, type):
        path, name = find_task(cls, person)
        cls = _choose(_classes(path), path, name)
    if not issubclass(cls, Task):
        raise TaskError(f"{cls.__name__} is not derived from robokit.task.Task")
    try:
        return cls()
    except Exception as error:
        rule = "a task is made without arguments: let its constants have values in the class"
        raise TaskError(f"{cls.__name__}() raised {type(error).__name__}: {error}; {rule}") from error


def title(task: Task) -> str:
    """A task's name: the file's, `hopper`, or `hopper:Positions` for a class not named like the file.

    A class without a file, of a notebook, has its own name.
    """
    file = source_of(type(task))
    return type(task).__name__ if file is None else source.titled(file, type(task).__name__)


def class_name(task: Task) -> str:
    """A contract's `task`: the class, `Hopper`, or `hopper:Positions` for a class not named like the file."""
    name = title(task)
    return name if ":" in name else type(task).__name__


def _classes(path: Path) -> dict[str, type[Task]]:
    """Name -> each Task class that the file defines, not those it imports; runs the file. TaskError for none.

    A shipped file is imported once, as robokit.tasks.NAME; the script that is running is not run again; any
    other is run anew, with the modules beside it.
    """
    try:
        module = _main(path)
        if module is None:
            shipped = path.is_relative_to(source.shipped_folder().resolve())
            module = import_module(f"robokit.tasks.{path.stem}") if shipped else run(path)
    except (Exception, SystemExit) as error:
        where = _where(path, error)
        words = f"{type(error).__name__}: {error}{_remedy(path.parent, error)}"
        raise TaskError(f"{path} does not import{where}: {words}") from error
    members = inspect.getmembers(module, inspect.isclass)
    tasks = {n: c for n, c in members if issubclass(c, Task)}
    own = {n: c for n, c in tasks.items() if c.__module__ == module.__name__}
    if not own:
        names = [n for n, c in tasks.items() if c is not Task]
        rule = f": {names} are imported; give their file or derive one here" if names else " at its top level"
        raise TaskError(f"{path} has no class derived from Task{rule}")
    return own


def _main(path: Path) -> ModuleType | None:
    """The module `__main__` if that is the file, else None."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    return main if file and Path(file).resolve() == path else None


def _where(path: Path, error: BaseException) -> str:
    """`, line 3` of a task file whose import failed, with the last place in a module beside it."""
    frames = extract_tb(error.__traceback__)
    own = [f", line {f.lineno}" for f in frames if f.filename == str(path)]
    files = [(Path(f.filename), f.lineno) for f in frames if f.filename != str(path)]
    beside = [f" ({file.name}, line {n})" for file, n in files if file.is_relative_to(path.parent)]
    return "".join([*own[-1:], *beside[-1:]])


def _remedy(folder: Path, error: BaseException) -> str:
    """What to do about an import that found no module, or an installed one in place of the file beside.

    And about a script that ends while it is imported, and a file that is read where it does not lie.
    """
    if isinstance(error, SystemExit):
        return "; what only a script does belongs under if __name__ == '__main__'"
    if isinstance(error, FileNotFoundError) and (folder / str(error.filename)).exists():
        return f"; it lies beside the task: Path(__file__).parent / {str(error.filename)!r}"
    top = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if top and isinstance(error, ModuleNotFoundError) and is_beside(top, folder):
        return f"; importlib does not see what lies beside a task, import {top} does"
    if isinstance(error, ModuleNotFoundError) or "beyond top-level" in str(error):
        return f"; a task finds what is installed and what lies beside it, in {folder}"
    if not top or not is_installed(top) or not (folder / f"{top}.py").is_file():
        return ""
    return f"; {top}.py beside it has the name of an installed module: from .{top} import, or rename it"


def _choose(classes: dict[str, type[Task]], path: Path, name: str | None) -> type[Task]:
    """The class called `name`; for None the only one, or the one named like the file. Else TaskError."""
    name = source.meant(classes, path) if name is None else name
    if name not in classes:
        hint = did_you_mean(name, classes, f"it has {sorted(classes)}")
        raise TaskError(f"{path} has no task {name!r}{hint}")
    return classes[name]
