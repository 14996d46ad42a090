"""The files of a task's class: whether it can be loaded again from there, and what they contained."""

import hashlib
import inspect
import sys
from pathlib import Path

from robokit.errors import TaskError
from robokit.task.lookup.modules import modules_beside
from robokit.task.lookup.source import given
from robokit.task.task import Task


def source_of(cls: type) -> Path | None:
    """The file of a class; None without one: of a notebook's cell, or of executed text."""
    try:
        return Path(inspect.getfile(cls))
    except (TypeError, OSError):
        return None


def check_saved(task: Task) -> None:
    """Raise TaskError unless the class of a task can be loaded again from its file, as a run must.

    It cannot be if it is of a notebook's cell, of executed text or of `python -c`, or inside a function.
    """
    cls = type(task)
    saved = source_of(cls) is not None and hasattr(sys.modules[cls.__module__], cls.__name__)
    if saved and cls.__module__ == "__main__":  # a prompt may have a file, which is not that of its classes
        try:
            inspect.getsource(cls)
        except (OSError, TypeError):
            saved = False
    if not saved:
        rule = "save it in a file, at the top level: a run must be able to load it again"
        raise TaskError(f"{cls.__name__} is a class without a file; {rule}")
    given.add(Path(inspect.getfile(cls)).resolve())


def source_hashes(cls: type[Task]) -> dict[str, str]:
    """sha256 by file of a class, of its bases, and of the modules that these import from their folders.

    In the order of the MRO, the class's own by its file name. A base class of robokit itself or of Python has
    none; one of a shipped task has. A second file of one name has its folder before it, "legs/hopper.py".
    """
    found: dict[str, str] = {}
    bases = [base for base in cls.__mro__ if base is cls or not _is_library(base.__module__)]
    sources = [source.resolve() for base in bases if (source := source_of(base)) is not None]
    beside = [file for source in dict.fromkeys(sources) for file in modules_beside(source)]
    for file in dict.fromkeys([*sources, *beside]):
        names = ("/".join(file.parts[-n:]) for n in range(1, len(file.parts) + 1))
        name = next(name for name in names if name not in found)
        found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def _is_library(module: str) -> bool:
    """Whether a module is one of robokit, shipped tasks apart, or of Python."""
    top = module.partition(".")[0]
    ours = top == "robokit" and not module.startswith("robokit.tasks.")
    return ours or (top != "__main__" and top in sys.stdlib_module_names)
