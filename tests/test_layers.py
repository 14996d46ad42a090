"""Imports point down only, read from the source of every file."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FRONT = ROOT / "robokit/__init__.py"  # lazy; tests/test_packaging.py sees what it loads
FILES = sorted(set((ROOT / "robokit").rglob("*.py")) - {FRONT})

# Lowest first. A module imports from the layers below its own, and from its own folder.
LAYERS = (
    "errors",
    "state processes graphs transfer",
    "rewards returns constraint sensing belief networks clock optim options dynamics episodes statistics",
    "policy meter verdict",
    "critic",
    "report",
    "sim",
    "task",
    "contract",
    "env",
    "checkpoint",
    "replay run rollout",
    "train",
    "pace",
    "agent",
    "offpolicy",
    "algos",
    "controller filter",
    "gate filtered",
    "card",
    "export evaluate check play",
    "selection",
    "devices",
    "restore plots",
    "interop",
    "commands",
    "cli",
    "__main__",
)
RANK = {place: rank for rank, layer in enumerate(LAYERS) for place in layer.split()}
ALONE = {
    "controller": set[str](),
    "filter": set[str](),
    "checkpoint": {"errors"},
    "run": {"errors", "checkpoint", "processes"},
    "train": {"errors", "checkpoint", "run", "processes"},
    "replay": {"errors", "processes"},
    "rollout": set[str](),
}  # all of robokit that these may know
ENGINES = {"mujoco", "mujoco_warp", "warp"}
LEARNING = {place: {"torch"} for layer in LAYERS[1:3] for place in layer.split()}
FOREIGN = {  # all that these may know beside the standard library; the others anything but an engine
    **LEARNING,
    "errors": set[str](),
    "statistics": {"numpy"},
    "verdict": {"torch", "numpy"},
    "state": {"torch"},
    "graphs": {"torch"},
    "transfer": {"torch"},
    "processes": {"torch"},
    "controller": {"numpy", "onnxruntime"},
    "filter": {"numpy"},
    "checkpoint": {"torch", "safetensors"},
    "rollout": {"torch"},
    "run": {"torch", "tensorboard"},
    "train": {"torch", "rich"},
    "task": {"torch", "numpy"},
    "env": {"torch", "numpy"},
}


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


def place_of(module: str) -> str:
    """`sim` for robokit.sim.cpu."""
    return [*module.split("."), ""][1]


def inner_fault(place: str, target: str) -> str | None:
    """What is wrong with the module `place` of robokit importing robokit's `target`."""
    if target == "__version__":
        return None
    if place in ALONE:
        return (
            None if target in ALONE[place] else f"may know only {sorted(ALONE[place]) or 'itself'} of robokit"
        )
    if target not in RANK:
        return "is not in the table of layers: give it a place, and import from the module itself"
    return None if target == place or RANK[target] < RANK[place] else "does not point down"


def outer_fault(place: str, top: str) -> str | None:
    """What is wrong with the module `place` of robokit importing a third party's `top`."""
    if top == "tasks":
        return "a task is loaded from its file, never imported"
    if place in FOREIGN and top not in FOREIGN[place]:
        return f"may know only {sorted(FOREIGN[place])} beside the standard library"
    return "only robokit.sim may know an engine" if top in ENGINES and place != "sim" else None


def faults(source: str, module: str, package: str) -> list[str]:
    """Every import of one source that breaks the order, in words."""
    place = place_of(module)
    if place not in RANK and place not in ALONE:
        return [f"{module} has no place in the table of layers: give it one"]
    found = []
    for name in imports(source, package):
        top, target = name.split(".")[0], place_of(name)
        fault = inner_fault(place, target) if top == "robokit" else None
        if top != "robokit" and top not in sys.stdlib_module_names:
            fault = outer_fault(place, top)
        found += [f"{module} imports {name}: {fault}"] if fault else []
    return found


def name_of(path: Path) -> tuple[str, str]:
    """Module and package of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = ".".join(parts[:-1])
    return (package, package) if parts[-1] == "__init__" else (".".join(parts), package)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path):
    assert faults(path.read_text(), *name_of(path)) == []


def test_no_module_imports_itself_in_a_circle():
    modules = {name_of(path)[0]: path for path in FILES}
    graph = {name: set[str]() for name in modules}
    for name, path in modules.items():
        for target in imports(path.read_text(), name_of(path)[1]):
            home = target if target in modules else target.rpartition(".")[0]
            graph[name] |= {home} & modules.keys()
    assert list(TopologicalSorter(graph).static_order())  # CycleError names the circle


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("robokit.returns", "import robokit.env"),
        ("robokit.returns", "from robokit.env import Env"),
        ("robokit.returns", "from robokit import env"),
        ("robokit.returns", "from .env import Env"),
        ("robokit.returns", "from . import env"),
        ("robokit.returns", "def late():\n    import robokit.env"),
        ("robokit.returns", "if TYPE_CHECKING:\n    from robokit.env import Env"),
        ("robokit.returns", "import importlib\nimportlib.import_module('robokit.env')"),
        ("robokit.sim.cpu", "from ..task import Task"),
        ("robokit.algos.ppo", "from robokit.export import export"),
        ("robokit.belief", "import robokit.policy"),
        ("robokit.returns", "import robokit.belief"),  # one layer: neither knows the other
        ("robokit.run", "from robokit.env import Env"),
        ("robokit.run", "import mujoco"),
        ("robokit.env", "import mujoco.batch"),
        ("robokit.play", "from mujoco import viewer"),
        ("robokit.returns", "import numpy"),
        ("robokit.cli", "import tasks.hopper"),
        ("robokit.cli", "from tasks import hopper"),
        ("robokit.cli", "from robokit._tasks import hopper"),
        ("robokit.cli", "import robokit"),
        ("robokit.controller", "import torch"),
        ("robokit.controller", "from robokit.errors import Error"),
        ("robokit.filter", "from robokit.controller import Controller"),
        ("robokit.utils", ""),
        ("robokit.cli", "from robokit import utils"),
    ],
)
def test_the_check_sees(module: str, source: str):
    assert len(faults(source, module, module.rpartition(".")[0])) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("robokit.env", "import robokit.sim.cpu, robokit.task, torch, math"),
        (
            "robokit.sim.cpu",
            "from .model import load\nfrom . import model\nfrom ..errors import ModelError\nimport mujoco",
        ),
        ("robokit.export", "from robokit import __version__, policy\nimport onnx"),
        ("robokit.controller", "import numpy, onnxruntime, json"),
        (
            "robokit.run",
            "from robokit.errors import RunError\nfrom torch.utils.tensorboard import SummaryWriter",
        ),
    ],
)
def test_the_check_lets_pass(module: str, source: str):
    assert faults(source, module, module.rpartition(".")[0]) == []
