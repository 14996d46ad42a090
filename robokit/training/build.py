"""From options to a learner."""

import gc
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import torch

from robokit.compute import processes
from robokit.compute.compile import fastest, seconds
from robokit.compute.devices import cores, find_device, lacks
from robokit.console import say
from robokit.env.env import Env
from robokit.env.laws import check_costs
from robokit.errors import OptionError, did_you_mean
from robokit.evaluation.episodes import SEED_OFFSET
from robokit.learning.options import fits, named
from robokit.learning.protocols import Learner
from robokit.task.task import Task

SHORT = 2_000  # gradient steps; a training of fewer is not worth a measurement


COLD = 30.0  # s that compiling takes the first time


UNROLLED = 2.0  # s that it takes more for each control step that a recurrent belief is trained through


SAVED = 0.5  # share of an eager gradient step that a compiled one saves: .8 of a small one, .3 of a large one


BEGUN = "a training goes on where it was begun; evaluate, play and export need no such device"


@dataclass(frozen=True)
class Setup:
    """What decides a training's results beside its task and the algorithm's own options."""

    algo: str = "ppo"  # the algorithm; its own options stand above
    seed: int = 0  # of everything random, from 0 on; evaluation has other seeds
    sim: Literal["cpu", "gpu"] = "cpu"  # physics: MuJoCo on CPU threads, or MuJoCo Warp
    device: str = "cpu"  # where the networks live: cpu, cuda, cuda:1...
    threads: int = 0  # threads of the physics; 0: one for each core
    torch_threads: int = 0  # threads of gradient steps; 0: one, or the physics' number where it is faster
    # times that the policy is validated, to export the best one, of those that hold the limits; None: 20 if
    # there are limits, else the last one is exported
    validations: int | None = None


class Built(Learner, Protocol):
    """A learner as `build` makes it."""

    threads: int  # of torch, in gradient steps
    chunk: int  # control steps that a gradient step goes through, one after the other

    @property
    def updates(self) -> int: ...  # gradient steps of the whole training

    def rehearsal(self) -> Callable[[], object]: ...  # an eager gradient step that changes nothing


def algorithms() -> list[str]:
    """The names of all."""
    return [module.name for module in pkgutil.iter_modules([str(Path(__file__).parents[1] / "algos")])]


def algorithm(name: str) -> ModuleType:
    """The module of an algorithm, with its Config and Learner."""
    if name not in (known := algorithms()):
        raise OptionError(f"no algorithm {name!r}{did_you_mean(name, known)}; there are {known}")
    return importlib.import_module(f"robokit.algos.{name}")


def options(task: Task, algo: str) -> Any:
    """The algorithm's Config with the task's recipe. Raises OptionError for a wrong name or type in it."""
    config, recipe = algorithm(algo).Config(), dict(task.recipes.get(algo, {}))
    known = {f.name: f.type for f in fields(config)}
    for name, value in recipe.items():
        if name not in known:
            where = f"the {algo} recipe of {type(task).__name__} sets an unknown option"
            raise OptionError(f"{where} {name!r}{did_you_mean(name, known)}; there are {[*known]}")
        if not fits(value, known[name]):
            where = f"the {algo} recipe of {type(task).__name__} sets {name}"
            raise OptionError(f"{where} to {value!r}; it must be {named(known[name])}")
    return replace(config, **recipe)


def build(task: Task, setup: Setup, config: Any, begun: bool = False) -> Built:
    """A Learner at its start. Raises OptionError for a value that cannot work, before anything runs.

    The task's costs are tried out first, but for a run that was `begun`: there they were.

    What setup and config leave open, torch_threads and compile, is measured and decided here, and `create`
    stores it.
    """
    if not 0 <= setup.seed < SEED_OFFSET:
        raise OptionError(f"seed must be from 0 to {SEED_OFFSET - 1}, got {setup.seed}")
    if setup.threads < 0 or setup.torch_threads < 0:
        rule = "threads and torch-threads must be at least 0"
        raise OptionError(f"{rule}, got {setup.threads} and {setup.torch_threads}")
    if setup.validations is not None and setup.validations < 0:
        raise OptionError(f"validations must be at least 0, got {setup.validations}")
    module = algorithm(setup.algo)
    device = find_device(setup.device, BEGUN) if begun else find_device(setup.device)
    config = replace(config, num_envs=config.simulations)
    module.check(config)
    torch.set_num_threads(1)  # outside of gradient steps: the cores are the physics'
    if config.compile and (found := processes.agreed(lacks(device, setup.sim))):
        say(f"note: no {found}, so nothing is compiled: slower, not bit for bit")
        config = replace(config, compile=False)

    if config.penalty and not task.limits:
        raise OptionError(f"penalty ({config.penalty}) is a multiplier of limits; the task has none")
    if task.limits and not begun:
        check_costs(task, setup.seed)

    def start(compile: bool) -> Built:
        env = Env(
            task,
            config.num_envs // processes.world(),
            seed=processes.seed(setup.seed),
            sim=setup.sim,
            device=device,
            threads=setup.threads or cores(),
            compile=compile,
        )
        return module.Learner(env, replace(config, compile=compile), setup.seed)

    learner = start(bool(config.compile))
    with processes.apart():
        measured = _measured(learner, setup)
    learner.threads, duration = processes.agreed(measured)
    cold = COLD + UNROLLED * (learner.chunk - 1)
    worth = config.compile is None and duration * learner.updates * SAVED > cold
    if worth and not processes.agreed(lacks(device, setup.sim)):
        say(f"compiling, which takes {cold:.0f} s or so the first time; --compile False does without")
        threads = learner.threads
        del learner  # before there is another: a GPU might not hold two
        gc.collect()
        torch.cuda.empty_cache()
        learner = start(compile=True)
        learner.threads = threads
    return learner


def _measured(learner: Built, setup: Setup) -> tuple[int, float]:
    """Torch threads for gradient steps, and the seconds that one takes eagerly; 0 where that is no question.

    A short run is not worth a measurement. Threads are one for a learner on a GPU: it has no use for more.
    """
    threads, undecided = setup.torch_threads or 1, learner.config.compile is None
    if learner.updates < SHORT:
        return threads, 0.0
    if learner.env.device.type != "cpu":
        return threads, seconds(learner.rehearsal(), learner.env.device) if undecided else 0.0
    if not undecided and setup.torch_threads:
        return threads, 0.0
    own = getattr(learner.env.sim, "threads", 1)
    threads, duration = fastest(learner.rehearsal(), setup.torch_threads or own)
    return setup.torch_threads or threads, duration
