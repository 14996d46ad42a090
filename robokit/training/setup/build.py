"""Construction of a learner from options.

learner = build_learner(task, Setup(seed=3), options(task, "ppo"))
"""

import importlib
import os
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import torch
from torch import nn

from robokit.compute import processes
from robokit.compute.compile import choose, lacks
from robokit.compute.devices import cores, find_device, has_bf16
from robokit.console import say
from robokit.env.checks.laws import check_costs, check_training
from robokit.env.checks.start import check_start
from robokit.env.env import Env
from robokit.errors import OptionError, did_you_mean
from robokit.learning.constrained import Constrained
from robokit.learning.options import with_options
from robokit.learning.protocols import Learner
from robokit.seeds import seed
from robokit.task.task import Task

MOST_THREADS = 4096
BEGUN = "a run resumes on the device it started on; evaluate, play and export do not need that device"


@dataclass(frozen=True)
class Setup:
    """Options of a training beside those of its algorithm."""

    algo: str = "ppo"  # the algorithm; its options are listed above
    seed: int = 0  # seed of all random numbers, from 0 to 999999; evaluation draws from other seeds
    sim: Literal["mujoco", "warp"] = "mujoco"  # engine: MuJoCo on CPU threads, or MuJoCo Warp
    device: str = "cpu"  # where the networks live: cpu, cuda, cuda:1...
    threads: int = 0  # physics threads; 0: one per core
    torch_threads: int = 0  # torch threads of gradient steps; 0: chosen by the training's sizes
    # number of validations; the best policy within the limits is exported. 0: the last policy is exported.
    # None: 20 if there are limits or a headline, else 0
    validations: int | None = None


class Built(Learner, Protocol):
    """A learner from `build_learner`."""

    threads: int  # torch threads of gradient steps
    constrained: Constrained

    @property
    def networks(self) -> Mapping[str, nn.Module]: ...  # that another training can start from

    def keep_weights(self) -> None:
        """Begin with the present weights, which are a parent's, instead of as at random.

        Call it before the first iteration; before a resumed run's state is loaded.
        """


def algorithms() -> list[str]:
    """Names of all algorithms: the modules of robokit.algos."""
    return [module.name for module in pkgutil.iter_modules([str(Path(__file__).parents[2] / "algos")])]


def algorithm(name: str) -> ModuleType:
    """The module of an algorithm, with its Config and Learner. Raises OptionError for an unknown name."""
    if name not in (known := algorithms()):
        raise OptionError(f"no algorithm {name!r}{did_you_mean(name, known, f'there are {known}')}")
    return importlib.import_module(f"robokit.algos.{name}")


def options(task: Task, algo: str) -> Any:
    """Default Config with the task's recipe for it. Raises OptionError for an unknown name or wrong type."""
    recipe = dict(task.recipes.get(algo, {}))
    return with_options(algorithm(algo).Config(), recipe, f"the {algo} recipe of {type(task).__name__}")


def check_owners(given: Mapping[str, str], algo: str) -> None:
    """Raise OptionError for an option of other algorithms only; given: its name -> as the user wrote it."""
    known = {name: {f.name for f in fields(algorithm(name).Config)} for name in algorithms()}
    for option, written in given.items():
        owners = [name for name, names in known.items() if option in names]
        if owners and algo not in owners:
            first = [", ".join(owners[:-1])] if owners[1:] else []
            raise OptionError(f"{written} is an option of {' and '.join(first + owners[-1:])}, not of {algo}")


def build_learner(task: Task, setup: Setup, config: Any, begun: bool = False) -> Built:
    """A Learner before its first iteration, on a new Env with this process's share of the simulations.

    begun: the run exists, so the task's start and costs have been checked; otherwise they are here.
    `config.compile` None and `setup.torch_threads` 0 are replaced by the choice of `computing`. Sets torch to
    one thread. Raises OptionError for an invalid option.
    """
    check_setup(setup)
    module = algorithm(setup.algo)
    device = find_device(setup.device, BEGUN) if begun else find_device(setup.device)
    config = replace(config, num_envs=config.simulations)
    module.check(config)
    torch.set_num_threads(1)  # outside of gradient steps, to leave the cores to the physics
    if config.penalty and not task.limits:
        raise OptionError(f"penalty ({config.penalty}) is a multiplier of limits; the task has none")
    if not begun:
        check_start(task, setup.seed)
    if task.limits and not begun:
        check_costs(task, setup.seed)
    if task.level and not begun:
        check_training(task, setup.seed)
    if getattr(config, "bf16", False) and not has_bf16(device):
        say("note: this processor has no units for bfloat16, so bf16 makes the training slower")
    compiles, torch_threads = computing(task, setup, config, device)
    env = Env(
        task,
        config.num_envs // processes.world(),
        seed=seed("training", setup.seed, processes.rank()),
        sim=setup.sim,
        device=device,
        threads=setup.threads or cores(),
        compile=compiles,
        training=True,
    )
    learner = module.Learner(env, replace(config, compile=compiles), setup.seed)
    learner.threads = torch_threads
    return learner


def computing(task: Task, setup: Setup, config: Any, device: torch.device) -> tuple[bool, int]:
    """(whether to compile, torch threads): as given, else by the rule `choose` and the training's sizes.

    Prints one line, unless both are given. Without a compiler nothing is compiled, even if that is given.
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
    """Number of weights of the policy alone, its belief included, without the critics."""
    env = Env(task, threads=1, nominal=True)
    with torch.random.fork_rng(devices=[]):
        actor = algorithm(setup.algo).make_actor(env, config)
    return sum(p.numel() for p in actor.parameters())


def check_setup(setup: Setup) -> None:
    """Raise OptionError for an impossible number."""
    seed("training", setup.seed)
    if not (0 <= setup.threads <= MOST_THREADS and 0 <= setup.torch_threads <= MOST_THREADS):
        rule = f"threads and torch-threads must be at least 0 and at most {MOST_THREADS}"
        raise OptionError(f"{rule}, got {setup.threads} and {setup.torch_threads}")
    if setup.validations is not None and setup.validations < 0:
        raise OptionError(f"validations must be at least 0, got {setup.validations}")
