"""The house: which room may import which, from the source of every file; how large files and rooms are."""

import ast
import importlib
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "robokit").rglob("*.py"))

# Lowest first. A room imports its own files and those of lower floors.
FLOORS = (
    "errors faces rewards state tasks",
    "compute disk seeds sim.mjcf",
    "console limits networks sim sim.facts sim.quantities sim.warp",
    "task task.checks task.lookup",
    "env env.checks",
    "learning learning.offpolicy dynamics planning",
    "algos controller filter",
    "export",
    "evaluation evaluation.reports",
    "training training.setup",
    "show interop interop.foreign interop.peers",
    "calls cli __main__",
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
NEIGHBOURS = {  # rooms of its own floor that a room may import
    "sim": {"sim.warp"},
    "sim.warp": {"sim"},
    "sim.facts": {"sim"},
    "sim.quantities": {"sim", "sim.facts"},
    "task.lookup": {"task", "console"},
    "task.checks": {"task"},
    "env.checks": {"env"},
    "evaluation": {"evaluation.reports"},
    "evaluation.reports": {"evaluation"},
    "training.setup": {"training"},
    "learning.offpolicy": {"learning"},
    "planning": {"learning"},
    "dynamics": {"learning", "learning.offpolicy"},
    "interop": {"show"},
    "interop.foreign": {"interop"},
    "interop.peers": {"interop"},
    "cli": {"calls"},
    "__main__": {"cli"},
}
ALONE = {  # all of robokit that a file may import: one loop serves every learner because it knows so little
    "controller": set[str](),
    "filter": set[str](),
    "disk.read": {"errors"},
    "disk.own": {"errors"},
    "disk.lines": {"errors", "disk.read", "disk.write"},
    "disk.checkpoint": {"errors", "disk.own", "disk.read", "disk.write"},
    "task.lookup.source": {"errors", "tasks"},
    "learning.rollout": set[str](),
    "learning.offpolicy.replay": {"errors", "compute.processes"},
    "training.log": {"errors", "console", "disk.lines", "disk.own"},
    "disk.folder": {"errors", "disk.own", "disk.read"},
    "disk.place": {"errors", "disk.write"},
    "training.run": {
        *("errors", "console", "compute.processes", "disk.checkpoint", "disk.write", "learning.protocols"),
        *("disk.folder", "disk.own", "disk.place", "disk.read", "state"),
    },
    "training.loop": {
        *("errors", "console", "compute.compile", "compute.processes", "disk.checkpoint"),
        *("learning.protocols", "training.hooks", "training.log", "training.run"),
    },
}  # fmt: skip
TORCH, NUMPY = {"torch"}, {"numpy"}
FOREIGN = {  # all that a room or file may import beside the standard library; others anything but an engine
    **dict.fromkeys(("state", "rewards", "compute", "limits", "networks", "learning.returns"), TORCH),
    **{file: set[str]() for file in ("errors", "faces", "seeds", "console", "disk.write", "tasks")},
    "disk.checkpoint": {"torch", "safetensors"},
    "task": TORCH | NUMPY,
    "env": TORCH | NUMPY,
    "learning.rollout": TORCH,
    "controller": NUMPY | {"onnxruntime"},
    "filter": NUMPY,
    "evaluation.statistics": NUMPY,
    **{f"disk.{file}": set[str]() for file in ("folder", "lines", "own", "place", "read")},
    "sim.mjcf": set[str](),
    "task.lookup.source": set[str](),
    "training.run": TORCH,
    "training.loop": TORCH | {"rich"},
    "training.log": TORCH,
}
ENGINES = {"mujoco", "mujoco_warp", "warp"}
FILE_LINES, ROOM_LINES = 350, 1500  # raw lines; a room without its subfolders
COPIED = {"controller", "filter"}  # one file each, however long: a robot's owner copies them


def modules() -> dict[str, Path]:
    """`env.env` and `env` (the face) -> file."""
    named = {}
    for path in FILES:
        parts = path.relative_to(ROOT / "robokit").with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


MODULES = modules()
FACES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


def imports(source: str, package: str) -> Iterator[str]:
    """Absolute dotted names that a module of `package` imports anywhere; `from a import b` is a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def room_of(module: str) -> str | None:
    """`sim.warp` of sim.warp.graph, `errors` of errors; None: it has no place in the table."""
    names = module.split(".")
    rooms = (".".join(names[:n]) for n in range(len(names), 0, -1))
    return next((room for room in rooms if room in FLOOR), None)


def home_of(name: str) -> str:
    """The module that an imported robokit.NAME is in: the longest one there is."""
    names = name.split(".")
    starts = (".".join(names[:n]) for n in range(len(names), 0, -1))
    return next((start for start in starts if start in MODULES), name)


def inner_fault(module: str, name: str) -> str | None:
    """What is wrong with `module` of robokit importing robokit's `name`."""
    if name == "__version__":
        return None
    target, room = home_of(name), room_of(module)
    there = room_of(target)
    if module in ALONE:
        known = sorted(ALONE[module]) or "itself"
        return None if target in ALONE[module] else f"may know only {known} of robokit"
    if there is None:
        return "has no place in the table of floors: give it one"
    if target in FACES:
        return "goes through a face: import from the file"
    assert room is not None
    near = there == room or there in NEIGHBOURS.get(room, ())
    return None if near or FLOOR[there] < FLOOR[room] else "does not point down"


def outer_fault(module: str, top: str) -> str | None:
    """What is wrong with `module` of robokit importing a third party's `top`."""
    if top == "tasks":
        return "a task is loaded from its file, never imported"
    room = room_of(module)
    for place in (module, room):
        if place in FOREIGN:
            allowed = FOREIGN[place]
            return None if top in allowed else f"may know only {sorted(allowed)} beside the standard library"
    known = room is not None and room.partition(".")[0] == "sim"
    return "only robokit.sim may know an engine" if top in ENGINES and not known else None


def faults(source: str, module: str, package: str) -> list[str]:
    """Every import of one source that breaks the order, in words; `module` without `robokit.`."""
    if module and room_of(module) is None:
        return [f"{module} has no place in the table of floors: give it one"]
    found = []
    for name in imports(source, package):
        top, _, rest = name.partition(".")
        if top == "robokit":
            fault = inner_fault(module, rest) if rest else "goes through a face: import from the file"
        else:
            fault = None if top in sys.stdlib_module_names else outer_fault(module, top)
        found += [f"{module} imports {name}: {fault}"] if fault else []
    return found


def package_of(module: str) -> str:
    inside = module if module in FACES else module.rpartition(".")[0]
    return f"robokit.{inside}".rstrip(".")


@pytest.mark.parametrize("module", sorted(MODULES.keys() - FACES))
def test_imports_point_down(module: str):
    assert faults(MODULES[module].read_text(), module, package_of(module)) == []


def test_there_are_at_most_twelve_floors():
    assert len(FLOORS) <= 12


def test_no_module_imports_itself_in_a_circle():
    graph = {}
    for name in MODULES.keys() - FACES:
        inside = (n for n in imports(MODULES[name].read_text(), package_of(name)) if n.startswith("robokit."))
        graph[name] = {home_of(n.removeprefix("robokit.")) for n in inside}
    assert list(TopologicalSorter(graph).static_order())  # CycleError names the circle


def offered(face: str) -> dict[str, str]:
    """Name -> module, of the real imports that a face makes for type checkers."""
    tree = ast.parse(MODULES[face].read_text())
    nodes = [node for branch in tree.body if isinstance(branch, ast.If) for node in ast.walk(branch)]
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in froms for alias in node.names}


@pytest.mark.parametrize("face", sorted(face for face in FACES if "face(" in MODULES[face].read_text()))
def test_a_face_offers_what_type_checkers_see_from_its_own_room_or_below(face: str):
    package, real = importlib.import_module(f"robokit.{face}".rstrip(".")), offered(face)
    assert dir(package) == sorted(real)
    for name, module in real.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)
        there = room_of(module.removeprefix("robokit."))
        assert there is not None
        assert not face or there.startswith(face) or FLOOR[there] < FLOOR[face]


def test_a_star_import_gives_what_a_face_offers():
    """`from robokit.task import *` at the top of a task file."""
    found: dict[str, object] = {}
    exec("from robokit.task import *", found)
    assert found.keys() - {"__builtins__"} == offered("task").keys()


@pytest.mark.parametrize("face", sorted(FACES))
def test_no_file_is_named_like_what_its_face_offers(face: str):
    """The import of the file would put the module in the name's place."""
    stems = {path.stem for path in MODULES[face].parent.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert stems.isdisjoint(offered(face))


@pytest.mark.parametrize("module", sorted(MODULES.keys() - COPIED))
def test_a_file_can_be_read_in_one_sitting(module: str):
    assert len(MODULES[module].read_text().splitlines()) <= FILE_LINES


@pytest.mark.parametrize("room", sorted({name for name in FACES if name}))
def test_a_room_is_small_enough_to_know(room: str):
    files = MODULES[room].parent.glob("*.py")
    assert sum(len(path.read_text().splitlines()) for path in files) <= ROOM_LINES


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("learning.returns", "from robokit.export.write import export"),
        ("learning.returns", "from robokit.algos import ppo"),
        ("learning.returns", "from ..algos.ppo import Config"),
        ("learning.returns", "from .. import controller"),
        ("learning.returns", "def late():\n    import robokit.algos.ppo"),
        ("learning.returns", "if TYPE_CHECKING:\n    from robokit.algos.ppo import Config"),
        ("learning.returns", "import importlib\nimportlib.import_module('robokit.algos.ppo')"),
        ("env.env", "from robokit.task import Task"),  # through a face
        ("env.env", "import robokit.task"),
        ("env.env", "from ..task import Task"),
        ("cli.command", "import robokit"),
        ("sim.cpu", "from ..task.task import Task"),
        ("algos.ppo", "from robokit.export.write import export"),
        ("networks.belief", "import robokit.limits.limit"),  # one floor: neither knows the other
        ("task.task", "from robokit.task.lookup.find import load_task"),
        ("learning.adam", "from robokit.learning.offpolicy.replay import Replay"),
        ("training.run", "from robokit.env.env import Env"),
        ("training.run", "import mujoco"),
        ("env.env", "import mujoco.batch"),
        ("show.film", "from mujoco import viewer"),
        ("learning.returns", "import numpy"),
        ("cli.command", "import tasks.hopper"),
        ("cli.command", "from tasks import hopper"),
        ("cli.command", "from robokit._tasks import hopper"),
        ("controller", "import torch"),
        ("controller", "from robokit.errors import Error"),
        ("filter", "from robokit.controller import Controller"),
        ("utils", ""),
        ("cli.command", "from robokit import utils"),
    ],
)
def test_the_check_sees(module: str, source: str):
    assert len(faults(source, module, package_of(module))) >= 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("env.env", "import robokit.sim.cpu, robokit.task.task, torch, math"),
        ("sim.cpu", "from .model import load\nfrom . import model\nfrom .. import errors\nimport mujoco"),
        ("sim.warp.engine", "from robokit.sim.base import Sim\nimport mujoco_warp"),
        ("export.write", "from robokit import __version__\nfrom robokit.networks import policy\nimport onnx"),
        ("controller", "import numpy, onnxruntime, json"),
        ("training.log", "from robokit.errors import Error\nfrom torch.utils import tensorboard"),
    ],
)  # fmt: skip
def test_the_check_lets_pass(module: str, source: str):
    assert faults(source, module, package_of(module)) == []
