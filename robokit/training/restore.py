"""From options to a learner, and from a run folder back to that learner and its exported file.

    learner = build(task, Setup(seed=3), options(task, "ppo"))
    learner, steps = restore(Run.open("runs/hopper/latest"))
    path, learner = exported(Run.open("runs/hopper/latest"))

A run is trained, evaluated and exported from its config.json alone; what changed since then is said.
"""

import contextlib
import gc
import hashlib
import importlib
import inspect
import json
import os
import pkgutil
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import torch

import robokit.algos
from robokit import __version__
from robokit.compute import processes
from robokit.export.card import write_card
from robokit.env.laws import check_costs
from robokit.limits.multipliers import with_values
from robokit.compute.devices import cores, find_device, lacks
from robokit.env.env import Env
from robokit.errors import OptionError, RunError, did_you_mean
from robokit.evaluation.measure import SEED_OFFSET
from robokit.export.write import Report, export
from robokit.compute.cuda_graph import seconds
from robokit.learning.adam import fastest
from robokit.learning.options import fits, named
from robokit.learning.offpolicy.options import Options, Pace
from robokit.networks.policy import Policy
from robokit.training.run import Learner, Run, say
from robokit.training.selection import TIMES, Selection, load_best
from robokit.sim.facts import model_hashes
from robokit.task.task import Task, known_tasks, load_task, title

POLICY = "policy.onnx"  # in the run folder
EXPORT_ENVS = 64  # simulations the gate replays
SHORT = 2_000  # gradient steps; a training of fewer is not worth a measurement
COLD = 30.0  # s that compiling takes the first time
UNROLLED = 2.0  # s that it takes more for each control step that a recurrent belief is trained through
SAVED = 0.5  # share of an eager gradient step that a compiled one saves: .8 of a small one, .3 of a large one
BEGUN = "a training goes on where it was begun; evaluate, play and export need no such device"
PACKAGES = ("torch", "mujoco", "numpy", "onnxruntime")


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

    env: Env
    config: Any
    threads: int  # of torch, in gradient steps
    chunk: int  # control steps that a gradient step goes through, one after the other

    @property
    def policy(self) -> Policy: ...

    @property
    def updates(self) -> int: ...  # gradient steps of the whole training

    def rehearsal(self) -> Callable[[], object]: ...  # an eager gradient step that changes nothing


def algorithms() -> list[str]:
    """The names of all."""
    return [module.name for module in pkgutil.iter_modules(robokit.algos.__path__)]


def algorithm(name: str) -> ModuleType:
    """The module of an algorithm, with its Config and Learner."""
    if name not in (known := algorithms()):
        raise OptionError(f"no algorithm {name!r}{did_you_mean(name, known)}; there are {known}")
    return importlib.import_module(f"{robokit.algos.__name__}.{name}")


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
    own = 1 if getattr(learner.config, "overlap", False) else getattr(learner.env.sim, "threads", 1)
    threads, duration = fastest(learner.rehearsal(), setup.torch_threads or own)
    return setup.torch_threads or threads, duration


def create(root: Path, learner: Built, setup: Setup) -> Run:
    """A new run folder for a learner at its start."""
    task, file = learner.env.task, _file(learner.env.task)
    threads = getattr(learner.env.sim, "threads", setup.threads)
    setup = replace(setup, threads=threads, torch_threads=learner.threads)
    own = {key: value for key, value in asdict(learner.config).items() if key != "steps"}
    limits = {name: limit.value for name, limit in task.limits.items()}
    parts = {"processes": processes.world(), "options": own, "hashes": _hashes(task)}
    config = {"task": title(task), "limits": limits, **asdict(setup), **parts}
    about = {
        "file": str(file),
        "command": sys.argv,
        "launch": processes.launch(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": {"robokit": commit(Path(__file__)), "task": commit(file)},
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
    }
    steps = learner.config.steps
    made = None if processes.rank() else Run.create(root, file_name(title(task)), steps, config, about)
    path = processes.agreed(made and str(made.path))
    return made or Run.open(path)


def unfinished(root: Path, task: Task) -> Path | None:
    """The run that this call of torchrun began, where it has started its processes again."""
    found = None
    if processes.restarted() and not processes.rank():  # the first one knows: it made the folder
        began = {"launch": processes.launch(), "command": sys.argv}
        for folder in sorted((root / file_name(title(task))).glob("*/")):
            with contextlib.suppress(RunError):
                run = Run.open(folder)
                found = str(run.path) if run.about | began == run.about else found
    path = processes.agreed(found)
    return None if path is None else Path(path)


def file_name(title: str) -> str:
    """A task's title in the names of files and folders."""
    return title.replace(":", "-")


def task_of(run: Run) -> Task:
    """The task that a run was trained on, with its limits: the file it had, or else one of that name."""
    stem, _, cls = str(run.config["task"]).partition(":")
    file = Path(str(run.about.get("file", "")))
    if not file.is_file():
        file = known_tasks().get(stem, file)
    task = load_task(f"{file}:{cls}" if cls else file)
    task.limits = with_values(task.limits, run.config.get("limits", {}))
    return task


def changed(run: Run, task: Task) -> list[str]:
    """Which files of the task are not what they were when the run began."""
    now, then = _hashes(task), run.config["hashes"]
    return [str(name) for name in sorted({*now, *then}) if now.get(name) != then.get(name)]


def going_on(run: Run) -> str:
    """The command that goes on with a run."""
    shared = run.config.get("processes", 1)
    launcher = f"torchrun --nproc-per-node {shared} -m " if shared > 1 else ""
    return f"{launcher}robokit train --resume {run.path}"


def rebuild(run: Run, training: bool = True) -> Built:
    """The learner of a run, at its start.

    Not for `training`: on the CPU, whatever it was trained on, eager, with as little replay as may be.

    Raises RunError for a training that other processes share than those that began it.
    """
    config, task = run.config, task_of(run)
    if training and (shared := config.get("processes", 1)) != processes.world():
        rule = f"{run.path} was begun by {shared} process{'es' * (shared > 1)}, each with its own simulations"
        raise RunError(f"{rule}, and cannot be shared by {processes.world()}; go on with: {going_on(run)}")
    if missing := [f.name for f in fields(Setup) if f.name not in config]:
        raise RunError(f"{run.path} was made by another version of robokit: it does not say {missing}")
    setup = Setup(**{f.name: config[f.name] for f in fields(Setup)})
    own = {name: tuple(v) if isinstance(v, list) else v for name, v in config["options"].items()}
    default = algorithm(setup.algo).Config()
    if unknown := sorted(set(own) ^ {f.name for f in fields(default) if f.name != "steps"}):
        raise RunError(f"{run.path} was made by another version of robokit: its options differ in {unknown}")
    config = replace(default, steps=run.steps, **own)
    if not training:
        setup, config = replace(setup, device="cpu", sim="cpu"), replace(config, compile=False)
    if not training and isinstance(config, Options):
        least = 2 * (Pace.of(config, config.num_envs).starts + config.num_envs)  # what Learner's checks need
        config = replace(config, replay=min(least, config.replay))
    return build(task, setup, config, begun=True)


def selection(run: Run, learner: Built) -> Selection | None:
    """What validates a learner during its training, where it is to be."""
    times = run.config["validations"]
    if times is None:
        times = TIMES if learner.env.task.limits and learner.config.limit_rule != "off" else 0
    return Selection(run, learner, times) if times else None


def restore(run: Run, last: bool = False) -> tuple[Built, int]:
    """The learner of a run at its newest good checkpoint, and the step of its policy.

    The policy is the best one that held the limits in validation, if there is one; or the `last`.
    """
    learner = rebuild(run, training=False)
    if differ := changed(run, learner.env.task):
        say(f"note: changed since {run.path} was trained: {', '.join(differ)}")
    done = run.load_policy(learner.policy)
    if not done.steps:
        raise RunError(f"{run.path} has no checkpoint after its start: it has learned nothing yet")
    return learner, done.steps if last else take_best(run, learner, done.steps)


def take_best(run: Run, learner: Built, steps: int) -> int:
    """Put the best policy of a run in the place of the learner's, made at `steps`; the step that it is of."""
    score = load_best(run, learner.policy)
    judged = run.config["limits"] and learner.config.limit_rule != "off"
    if score is None and judged and selection(run, learner):
        say(f"note: no policy of {run.path} held its limits in validation; this is the last, of step {steps}")
    if score is None:
        return steps
    say(f"the best policy in validation is that of step {score.steps}: return {score.returns:.4g}")
    return score.steps


def export_policy(run: Run, learner: Built, steps: int, path: Path) -> Report:
    """Write a learner's policy through the gate, its sha256 and its card. Raises ExportError."""
    options = {"seed": run.config["seed"], "threads": run.config["threads"]}
    # on the CPU's engine, whichever trained; nominal: what is observed is then what a sensor says
    fresh = Env(learner.env.task, EXPORT_ENVS, **options, nominal=True)
    report = export(learner.policy, fresh, path, commit=run.about["commit"]["robokit"])
    write_card(path, {"run": run.path.name, "steps": steps})
    return report


def exported(run: Run) -> tuple[Path, Built]:
    """The run's policy.onnx of its newest checkpoint, exported now if need be; and the learner."""
    learner, steps = restore(run)
    path = run.path / POLICY
    if _card_steps(path) != steps:
        say(f"exporting the policy of step {steps} to {path}")
        export_policy(run, learner, steps, path)
    return path, learner


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    return {
        "robokit": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def commit(file: Path) -> str | None:
    """The git commit that `file` is tracked in, with "-dirty" where its work tree differs; else None."""
    git = ["git", "-C", str(file.parent)]
    try:
        for command in (
            ["ls-files", "--error-unmatch", file.name],
            ["describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
        ):
            found = subprocess.run([*git, *command], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _file(task: Task) -> Path:
    return Path(inspect.getfile(type(task)))


def _hashes(task: Task) -> dict[str, str]:
    """sha256 of the task file and of each file of the model."""
    own = {_file(task).name: hashlib.sha256(_file(task).read_bytes()).hexdigest()}
    return own | {f"model {name}": digest for name, digest in model_hashes(task.model).items()}


def _card_steps(path: Path) -> int | None:
    """Of a whole export; None where a kill came between."""
    try:
        card = json.loads(path.with_suffix(".json").read_bytes())
        whole = hashlib.sha256(path.read_bytes()).hexdigest() == card["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return card.get("steps") if whole else None
