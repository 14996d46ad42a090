"""Which task file is run for data: a run or an exported file names a task, and never chooses its place.

    place = trusted("hopper", run.path, run.about["file"])

The rule is docs/trust.md. What a person names is found by `find_task` and needs none of this.
"""

from collections.abc import Iterator
from os.path import abspath
from pathlib import Path

from robokit.console import say
from robokit.errors import TaskError
from robokit.task.lookup.find import say_shadowed
from robokit.task.lookup.source import folded, given, has_class, shipped_folder, tasks_below

STORED = "trained from"
LONGEST = 200  # characters of what data says, in a message


def trusted(
    title: object, data: Path, stored: object = None, trust: bool = False, only_shipped: bool = False
) -> str:
    """The task that `data` means, as `file.py` or `file.py:Class`; see `looked_up`. title: of any type too.

    Lines say that a person's file is taken for a shipped name, or another file than the stored one.
    """
    if not isinstance(title, str):
        raise TaskError(f"{data} names no task, but {str(title)[:LONGEST]!r}")
    file = looked_up(title, data, stored, trust, only_shipped)
    say_shadowed(file.stem, file)
    if trust and not file.is_relative_to(shipped_folder().resolve()):
        say(f"trusted: {file} is run for {data}")
    origin = Path(stored) if isinstance(stored, str) and stored else file
    if origin.parts[-2:] != file.parts[-2:]:
        say(f"note: {data} was trained from {origin}; its task {title!r} is {file} here")
    cls = title.partition(":")[2]
    return f"{file}:{cls}" if cls else str(file)


def looked_up(
    title: str, data: Path, stored: object = None, trust: bool = False, only_shipped: bool = False
) -> Path:
    """The absolute task file that `data` means by a task's title: `hopper`, `hopper:Positions` or `Hopper`.

    The first that exists: in ./tasks; the `stored` path that it was trained from; with `trust` one of its
    name in the data's folder or the three above; the shipped one. data: the run folder or the exported file.
    stored: as the data has it, of any type. only_shipped: a shipped policy is of a shipped task.

    Raises TaskError if there is none; and, without `trust`, if that one lies inside or beside the data's
    folder, or the stored one outside the working folder or without that class, unless a person named it in
    this process.
    """
    places = [*_places(title, data, stored, trust)][-1 if only_shipped else 0 :]
    looked = list[str]()
    for where, file in places:
        wrong = None
        if file is not None and not trust and file not in given:
            wrong = _wrong(file, data, title if where == STORED else None)
        if file is not None and wrong is None:
            return file
        looked.append(f"{where} {file} ({wrong})" if wrong else where)
        if wrong:
            break
    raise TaskError(_refusal(title[:LONGEST], data, looked, [f for _, f in places if f is not None]))


def _places(title: str, data: Path, stored: object, trust: bool) -> Iterator[tuple[str, Path | None]]:
    """(where, the absolute file there or None), in the order of docs/trust.md."""
    shipped = _called(title, tasks_below(shipped_folder()))
    yield "./tasks", _called(title, tasks_below(Path("tasks")))
    origin = _file(stored)
    if origin is not None and not (shipped and origin.parts[-2:] == shipped.parts[-2:]):
        yield STORED, origin  # a shipped task of another installation is the one here
    elif isinstance(stored, str) and stored and origin is None:
        yield f"{STORED} {stored[:LONGEST]!r} (no task file here)", None
    if trust:
        stem = title.partition(":")[0]
        for folder in [data, *data.resolve().parents][:4]:
            if folder.is_dir():
                files = {f.stem: f.resolve() for f in folder.glob("*.py") if f.is_file()}
                yield str(folder), _called(stem, files)
    yield "the shipped tasks", shipped


def _called(title: str, files: dict[str, Path]) -> Path | None:
    """The file of a title; that of a contract may be the class alone, which carries the file's name."""
    stem = title.partition(":")[0]
    alike = (file for name, file in files.items() if folded(name) == folded(stem))
    return files.get(stem) or next(alike, None)


def _file(stored: object) -> Path | None:
    """A stored path, without links; None if it is no absolute path of a Python file that is there."""
    try:
        file = Path(stored) if isinstance(stored, str) else Path()
        here = file.is_absolute() and file.suffix == ".py" and file.is_file()
        return file.resolve() if here else None
    except (OSError, RuntimeError, ValueError):  # too long, links in a circle, a zero byte
        return None


def _wrong(file: Path, data: Path, stored: str | None) -> str | None:
    """Why a file may not be run for data that names it; None: it may. stored: the title, if data chose it."""
    here = Path.cwd().resolve()
    if file.is_relative_to(shipped_folder().resolve()):
        return None
    if stored is not None and not file.is_relative_to(here):
        return f"outside the working folder {here}"
    for path in (Path(abspath(data)), data.resolve()):
        folder = path if path.is_dir() else path.parent
        if file.is_relative_to(_outermost(folder, here)) or file.parent == folder.parent:
            return "inside or beside the data's own folder"
    return None if stored is None or has_class(file, stored) else "no class of that name in it"


def _outermost(folder: Path, here: Path) -> Path:
    """The folder directly in the working folder that holds the data's; without one, the data's itself."""
    if not folder.is_relative_to(here) or folder == here:
        return folder
    return here / folder.relative_to(here).parts[0]


def _refusal(title: str, data: Path, looked: list[str], found: list[Path]) -> str:
    """One line: what the data names, where that was looked up, and what to give."""
    files = [*Path().glob("*/*.py"), *Path().glob("*.py")]  # of one name the nearest counts
    near = {file.stem: file for file in files if file.is_file()}
    one = found[0] if found else _called(title, near) or "FILE.py"
    way = f"give --task {one}" + (", or --trust to run what the data names" if found else "")
    return f"{data} names the task {title!r}; looked up: {'; '.join(looked)}; {way}"
