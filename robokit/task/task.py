"""What an author writes: a task as one class in one file.

    class Balance(Task):
        model = Path(__file__).with_suffix(".xml")
        control_dt = 0.02  # s
        time_limit = 5.0  # s
        weights = {"upright": 1.0}

        def observe(self, sim):
            return {"slide": sim.sensor("slide"), "hinge": sim.sensor("hinge")}

        def rewards(self, sim, action):
            return {"upright": tolerance(torch.cos(sim.qpos[:, 1]), 0.98, 1.0, margin=0.5)}

A task is pure: it reads `sim` and returns tensors for all N simulations at once; only Env and Sim write.
Random draws always have size N and come from the generator handed in.
"""

import importlib.util
import inspect
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from robokit.limits.multipliers import Limit as Limit  # a task file imports it from here
from robokit.errors import TaskError, did_you_mean
from robokit.env.sensing import Range
from robokit.env.sensing import Sense as Sense  # likewise
from robokit.sim import Sim, Source

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Ctrl:
    """Actions in [-1, 1] map affinely onto each actuator's ctrlrange."""

    def affine(self, sim: Sim) -> tuple[Tensor, Tensor]:
        """(center, half), (A,) each, in units of ctrl: ctrl = center + half * action."""
        limited, low, high = _ctrlrange(sim)
        if not limited.all():
            names = [sim.model.actuator(int(i)).name for i in torch.nonzero(~limited)]
            raise TaskError(f"Ctrl() needs a ctrlrange on every actuator; {names} have none: use Around")
        return (low + high) / 2, (high - low) / 2


@dataclass(frozen=True)
class Around:
    """Actions in [-1, 1] are offsets of at most `scale` (units of ctrl) from a keyframe's ctrl."""

    keyframe: str
    scale: float | tuple[float, ...]  # one for all actuators, or one each

    def affine(self, sim: Sim) -> tuple[Tensor, Tensor]:
        center = sim.keyframe(self.keyframe).ctrl
        scale = torch.as_tensor(self.scale, dtype=center.dtype, device=center.device)
        if scale.shape not in ((), center.shape) or not bool(((scale > 0) & scale.isfinite()).all()):
            raise TaskError(f"Around.scale must be > 0, one or {len(center)} numbers; got {self.scale}")
        scale = scale.expand_as(center)
        _check_reach(sim, center - scale, center + scale, f"does the keyframe {self.keyframe!r} have a ctrl?")
        return center, scale


def _check_reach(sim: Sim, lowest: Tensor, highest: Tensor, hint: str) -> None:
    """Raise TaskError where no action moves an actuator: all its targets lie beyond one end of ctrlrange."""
    low, high = ctrl_limits(sim)
    outside = torch.nonzero((highest <= low) | (lowest >= high))
    if len(outside):
        i = int(outside[0])
        targets, span = (f"{float(a[i]):g} to {float(b[i]):g}" for a, b in ((lowest, highest), (low, high)))
        name = sim.model.actuator(i).name
        raise TaskError(
            f"Around's targets of {name!r}, {targets}, must overlap its ctrlrange, {span}: {hint}"
        )


def _ctrlrange(sim: Sim) -> tuple[Tensor, Tensor, Tensor]:
    """(limited, low, high), (A,) each; an actuator without a range has infinite ones."""
    limited = sim.nominal("actuator_ctrllimited").bool()
    low, high = sim.nominal("actuator_ctrlrange").unbind(-1)
    infinity = torch.full_like(low, torch.inf)
    return limited, torch.where(limited, low, -infinity), torch.where(limited, high, infinity)


def ctrl_limits(sim: Sim) -> tuple[Tensor, Tensor]:
    """(low, high), (A,) each: what ctrl is clipped to; infinite where an actuator has no range."""
    return _ctrlrange(sim)[1:]


@dataclass(frozen=True)
class Command:
    """A goal drawn uniformly from [low, high], at a restart and then every `every` seconds (a range)."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    every: tuple[float, float] | None = None  # s; None: one command an episode
    still: float = 0.0  # chance that a command is all zero instead

    def __post_init__(self) -> None:
        pairs = list(zip(self.low, self.high, strict=False))
        if len(self.low) != len(self.high) or not all(-math.inf < a <= b < math.inf for a, b in pairs):
            raise TaskError(f"Command needs low <= high of one length, got {self.low} and {self.high}")
        if self.every is not None and not 0 < self.every[0] <= self.every[1] < math.inf:
            raise TaskError(f"Command.every must be a range of seconds 0 < from <= to, got {self.every}")
        if not 0 <= self.still <= 1:
            raise TaskError(f"Command.still must be a chance in [0, 1], got {self.still}")
        if self.still and not all(a <= 0 <= b for a, b in pairs):
            raise TaskError(f"Command.still needs 0 between low and high, got {self.low} and {self.high}")


@dataclass(frozen=True)
class Mirror:
    """How an observation or action looks in a mirror: x[i] becomes sign[i] * x[order[i]].

    Raises TaskError unless a second look gives x again.
    """

    sign: tuple[float, ...]  # +1 or -1 each
    order: tuple[int, ...] | None = None  # None: each stays in its place

    def __post_init__(self) -> None:
        order, n = self.places, len(self.sign)
        if sorted(order) != list(range(n)) or any(abs(s) != 1 for s in self.sign):
            raise TaskError(f"a Mirror of {n} numbers needs signs of +-1 and each place once, got {self}")
        for i, j in enumerate(order):
            if order[j] != i or self.sign[i] != self.sign[j]:
                raise TaskError(f"a Mirror must be its own inverse; number {i} does not come back in {self}")

    @property
    def places(self) -> tuple[int, ...]:
        return tuple(range(len(self.sign))) if self.order is None else self.order


class Task:
    """Constants as class attributes, then one short method per question. See docs/tasks.md."""

    model: Source  # MJCF file, or an MjSpec (then a property that builds it)
    control_dt: float  # s between two actions; a whole number of timesteps
    time_limit: float  # s; a longer episode is truncated
    action: Ctrl | Around = Ctrl()
    commands: ClassVar[Mapping[str, Command]] = {}
    memory: ClassVar[Mapping[str, int]] = {}  # name -> width: numbers each simulation carries along
    clock: float = (
        0.0  # Hz; memory "clock" (N, 2), sine and cosine from noon on; [0, 0] while commands are zero
    )
    sensing: ClassVar[Mapping[str, Sense]] = {}  # {observation: how the robot's own differs}
    action_delay: Range = 0.0  # s from the policy to the actuators, or a range that each episode draws from
    mirror: ClassVar[Mapping[str, Mirror]] = {}  # of every observation and "action"; for PPO's `mirror`
    history: int | Mapping[str, int] = 1  # frames the `stack` belief keeps, or {term: frames}
    weights: ClassVar[Mapping[str, float]]  # reward = sum of weight * term, per control step
    limits: Mapping[str, Limit] = {}  # {cost: what it must stay below}, one for each of `costs`
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # {"ppo": {option: value}}
    lag: bool = False  # True: derived fields one timestep old, as mj_step leaves them

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        """New values (N, ...) by MuJoCo's state names or memory names; Env writes those that restart."""
        return {}

    def randomize(self, sim: Sim, rng: Generator) -> Terms:
        """New model fields (N, ...) by MuJoCo's names, nominal times a factor, or memory; at every restart.

        On Warp those that need mj_setConst (masses, inertias, lengths) change only at `env.reset()`.
        """
        return {}

    def disturb(self, sim: Sim, rng: Generator) -> Terms:
        """State (N, ...) to write before every control step: pushes."""
        return {}

    def observe(self, sim: Sim) -> Terms:
        """(N, d) each: what the robot itself can supply; "action" is the previous action.

        "action" and "clock" are kept by the exported file itself, the others a robot must supply.
        """
        raise NotImplementedError

    def privileged(self, sim: Sim) -> Terms:
        """(N, d) each: what only a critic may see besides the observation."""
        return {}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        """(N,) each, one per weight; `action` (N, A) in [-1, 1] led here, memory["action"] came before."""
        raise NotImplementedError

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        """(N,) each, one per limit, from 0 to the limit's `largest`; never folded into the reward."""
        return {}

    def terminated(self, sim: Sim) -> Tensor:
        """(N,) bool: the episode ended for good; the time limit is not told here."""
        return torch.zeros(sim.num_envs, dtype=torch.bool, device=sim.device)

    def remember(self, sim: Sim, action: Tensor) -> Terms:
        """Memory (N, d) after this control step."""
        return {}

    def metrics(self, sim: Sim) -> Terms:
        """(N,) each: what `evaluate` reports; `success` where it has a meaning. NaN: not counted now."""
        return {}


def uniform(sim: Sim, rng: Generator, width: int, scale: float = 1.0) -> Tensor:
    """(N, width) from [-scale, scale), in the simulation's precision.

    One seed draws alike on both engines where both are on the CPU; CUDA's generator has other numbers.
    """
    unit = torch.rand(sim.num_envs, width, generator=rng, dtype=torch.float64, device=sim.device)
    return (scale * (2 * unit - 1)).to(sim.qpos.dtype)


def normal(sim: Sim, rng: Generator, width: int, scale: float = 1.0) -> Tensor:
    """(N, width) from a normal distribution of mean 0 and standard deviation `scale`, as `uniform`."""
    draw = torch.randn(sim.num_envs, width, generator=rng, dtype=torch.float64, device=sim.device)
    return (scale * draw).to(sim.qpos.dtype)


def packaged(package: str, file: str) -> Path:
    """A data file inside an installed package: packaged("gymnasium", "envs/mujoco/assets/hopper.xml")."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise TaskError(f"the model lies in the package {package!r}, which is not installed")
    return Path(spec.submodule_search_locations[0]) / file


def shipped_folder() -> Path:
    """Where robokit's own task files are: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).parent
    installed = here / "_tasks"
    return installed if installed.is_dir() else here.parent / "tasks"


def known_tasks() -> dict[str, Path]:
    """Task name -> file, of the shipped tasks and those in ./tasks/, which come first."""
    folders = (shipped_folder(), Path("tasks"))
    files = [f for folder in folders if folder.is_dir() for f in sorted(folder.glob("*.py"))]
    return {f.stem: f.resolve() for f in files if not f.stem.startswith("_")}


def find_task(name: str | Path) -> tuple[Path, str | None]:
    """The file and class of `path.py`, `path.py:Class`, `task` or `task:Class`."""
    text, _, cls = str(name).partition(":")
    path = Path(text)
    if path.suffix == ".py":
        if not path.is_file():
            raise TaskError(f"no task file {text}")
        return path.resolve(), cls or None
    known = known_tasks()
    if text not in known:
        hint = did_you_mean(text, known)
        raise TaskError(f"no task {text!r}{hint}; there are {sorted(known)}, or give a path to a .py file")
    return known[text], cls or None


def load_task(task: "str | Path | type[Task] | Task") -> Task:
    """A Task from a name, a path, a class, or as it is.

    Raises TaskError when the file is missing, does not import, has no Task, or has several of which
    neither is named nor carries the file's own name (hopper.py: Hopper).
    """
    if isinstance(task, Task):
        return task
    cls = task
    if not isinstance(cls, type):
        path, name = find_task(cls)
        cls = _choose(_classes(path), path, name)
    if not issubclass(cls, Task):
        raise TaskError(f"{cls.__name__} is not derived from robokit.task.task.Task")
    return cls()


def title(task: Task) -> str:
    """`hopper`, or `hopper:Positions` for a class that the file's name does not tell."""
    stem, cls = Path(inspect.getfile(type(task))).stem, type(task).__name__
    return stem if cls.lower() == stem.replace("_", "").lower() else f"{stem}:{cls}"


def class_name(task: Task) -> str:
    """A contract's `task`: `Hopper`, or `hopper:Positions` where the file's name does not tell the class."""
    name = title(task)
    return name if ":" in name else type(task).__name__


def _classes(path: Path) -> dict[str, type[Task]]:
    module_name = f"_robokit_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # inspect and dataclasses look a class's module up here
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [f", line {f.lineno}" for f in extract_tb(error.__traceback__) if f.filename == str(path)]
        where = "".join(lines[-1:])
        raise TaskError(f"{path} does not import{where}: {type(error).__name__}: {error}") from error
    members = inspect.getmembers(module, inspect.isclass)
    return {n: c for n, c in members if issubclass(c, Task) and c.__module__ == module_name}


def _choose(classes: dict[str, type[Task]], path: Path, name: str | None) -> type[Task]:
    if not classes:
        raise TaskError(f"{path} has no class derived from Task")
    if name is None:
        own = path.stem.replace("_", "").lower()
        named = [c for n, c in classes.items() if n.lower() == own or len(classes) == 1]
        if not named:
            raise TaskError(f"{path} has several tasks, {sorted(classes)}: name one, as {path.name}:Class")
        return named[0]
    if name not in classes:
        raise TaskError(f"{path} has no task {name!r}{did_you_mean(name, classes)}; it has {sorted(classes)}")
    return classes[name]
