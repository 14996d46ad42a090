"""A room's face: its public names, each imported from its file at first use.

    if TYPE_CHECKING:
        from robokit.task.action import Around as Around, Ctrl as Ctrl
    __getattr__, __dir__ = face(__name__, __file__)

So `import robokit.controller` on a robot loads neither torch nor MuJoCo. Inside robokit, files import files.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path


def face(room: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """(`__getattr__`, `__dir__`) of PEP 562 for a package: what its file imports as itself, `X as X`.

    The file is read at first use: Python and type checkers have one list.
    """

    @cache
    def homes() -> dict[str, str]:
        from ast import ImportFrom, parse, walk

        froms = [node for node in walk(parse(Path(file).read_bytes())) if isinstance(node, ImportFrom)]
        return {x.name: str(node.module) for node in froms for x in node.names if x.asname == x.name}

    def __getattr__(name: str) -> object:
        if name == "__all__":  # of `from robokit.task import *`, which would otherwise give nothing
            return sorted(homes())
        if name not in homes():
            raise AttributeError(f"module {room!r} has no attribute {name!r}; it has {sorted(homes())}")
        return getattr(import_module(homes()[name]), name)

    return __getattr__, lambda: sorted(homes())
