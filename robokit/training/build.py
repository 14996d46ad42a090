"""From options to a learner at its start.

learner = build_learner(task, Setup(seed=3), options(task, "ppo"))
"""

import importlib
import os
import pkgutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import torch

from robokit.compute import processes
from robokit.compute.compile import choose, lacks
from robokit.compute.devices import cores, find_device
from robokit.console import say
from robokit.env.env import Env
from robokit.env.laws import check_costs
from robokit.errors import OptionError, did_you_mean
from robokit.learning.options import fits, named
from robokit.learning.protocols import Learner
from robokit.seeds import seed
from robokit.task.task import Task

BEGUN = "a training goes on where it was begun; evaluate, play and export need no such device"


@dataclass(frozen=True)
class Setup:
    """What decides a training's results beside its task and the algorithm's own options."""

    algo: str = "ppo"  # the algorithm; its own options stand above
    seed: int = 0  # of everything random, from 0 on; evaluation has other seeds
    sim: Literal["mujoco", "warp"] = "mujoco"  # engine: MuJoCo on CPU threads, or MuJoCo Warp
    device: str = "cpu"  # where the networks live: cpu, cuda, cuda:1...
    threads: int = 0  # threads of the physics; 0: one for each core
    torch_threads: int = 0  # threads of gradient steps; 0: by the training's sizes
    # times that the policy is validated, to export the best one, of those that hold the limits; None: 20 if
    # there are limits, else the last one is exported
    validations: int | None = None


class Built(Learner, Protocol):
    """A learner as `build_learner` makes it."""

    threads: int  # of torch, in gradient steps


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


def build_learner(task: Task, setup: Setup, config: Any, begun: bool = False) -> Built:
    """A Learner at its start. Raises OptionError for a value that cannot work, before anything runs.

    The costs of the task are tried out first, except for a run that was `begun`: there they have been.
    `config.compile` None and `setup.torch_threads` 0 are replaced by the choice of `computing`.
    """
    _check(setup)
    module = algorithm(setup.algo)
    device = find_device(setup.device, BEGUN) if begun else find_device(setup.device)
    config = replace(config, num_envs=config.simulations)
    module.check(config)
    torch.set_num_threads(1)  # outside of gradient steps: the cores are the physics'
    if config.penalty and not task.limits:
        raise OptionError(f"penalty ({config.penalty}) is a multiplier of limits; the task has none")
    if task.limits and not begun:
        check_costs(task, setup.seed)
    compiles, torch_threads = computing(task, setup, config, device)
    env = Env(
        task,
        config.num_envs // processes.world(),
        seed=seed("training", setup.seed, processes.rank()),
        sim=setup.sim,
        device=device,
        threads=setup.threads or cores(),
        compile=compiles,
    )
    learner = module.Learner(env, replace(config, compile=compiles), setup.seed)
    learner.threads = torch_threads
    return learner


def computing(task: Task, setup: Setup, config: Any, device: torch.device) -> tuple[bool, int]:
    """(whether to compile, torch threads): as given, else by the rule `choose` and the training's sizes.

    Prints the choice in one line. Without a compiler nothing is compiled.
    """
    compiles, threads, why = config.compile, setup.torch_threads, "as given"
    if compiles is None or not threads:
        weights, sizes = _weights(task, setup, config), config.sizes
        physics = setup.threads or cores() or os.cpu_count() or 1
        by_sizes = choose(sizes, weights, physics, device.type)
        compiles = by_sizes[0] if compiles is None else compiles
        threads = threads or by_sizes[1]
        why = f"by {sizes.updates:,} gradient steps of {sizes.rows:,} rows and {weights:,} weights"
    how = "compiled" if compiles else "eager"
    if lack := compiles and processes.agreed(lacks(device, setup.sim)):
        compiles, how = False, f"eager and slower, not bit for bit as compiled, for there is no {lack}"
    if lack or why != "as given":
        say(f"gradient steps: {how}, {threads} torch thread{'s' * (threads > 1)} ({why})")
    return compiles, threads


def _weights(task: Task, setup: Setup, config: Any) -> int:
    """Number of weights of the policy that will be trained."""
    env = Env(task, threads=1, nominal=True)
    with torch.random.fork_rng(devices=[]):
        actor = algorithm(setup.algo).make_actor(env, config)
    return sum(p.numel() for p in actor.parameters())


def _check(setup: Setup) -> None:
    seed("training", setup.seed)
    if setup.threads < 0 or setup.torch_threads < 0:
        rule = "threads and torch-threads must be at least 0"
        raise OptionError(f"{rule}, got {setup.threads} and {setup.torch_threads}")
    if setup.validations is not None and setup.validations < 0:
        raise OptionError(f"validations must be at least 0, got {setup.validations}")
