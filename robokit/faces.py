"""A room's face: its public names, each imported from its file at first use.

    __getattr__, __dir__ = face(__name__, {"robokit.task.action": "Around Ctrl"})

So `import robokit.controller` on a robot loads neither torch nor MuJoCo. Inside robokit, files import files.
"""

from collections.abc import Callable, Mapping
from importlib import import_module


def face(room: str, homes: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """(`__getattr__`, `__dir__`) of PEP 562 for the package `room`; homes: module -> its names, by spaces."""
    home = {name: module for module, names in homes.items() for name in names.split()}

    def __getattr__(name: str) -> object:
        if name == "__all__":  # of `from robokit.task import *`, which would otherwise give nothing
            return sorted(home)
        if name not in home:
            raise AttributeError(f"module {room!r} has no attribute {name!r}; it has {sorted(home)}")
        return getattr(import_module(home[name]), name)

    return __getattr__, lambda: sorted(home)
