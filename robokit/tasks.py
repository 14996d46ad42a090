"""The shipped tasks as modules, so that a variant is a subclass in a file of your own.

    from robokit.tasks.go2_walk import Go2Walk

    class Faster(Go2Walk):
        weights = {**Go2Walk.weights, "track": 2.0}

`load_task` uses these modules too, so each class exists once. Only `robokit.tasks.NAME` can be
imported: all shipped tasks are in subfolders, none is directly in the folder of them all.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal


def shipped_folder(what: Literal["tasks", "policies"] = "tasks") -> Path:
    """Folder of the shipped tasks or policies: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).parent
    installed = here / f"_{what}"
    return installed if installed.is_dir() else here.parent / what


# where `import robokit.tasks.NAME` looks; with the folder itself there would be robokit.tasks.FOLDER.NAME too
__path__ = [str(path) for path in sorted(shipped_folder().glob("*/")) if path.name[0] not in "_."]


def __getattr__(name: str) -> ModuleType:
    if not name.startswith("__"):
        try:
            return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"no shipped task {name!r}; there are {__dir__()}")


def __dir__() -> list[str]:
    files = (file for folder in __path__ for file in Path(folder).glob("*.py"))
    return sorted(file.stem for file in files if not file.stem.startswith("_"))
