"""Restoring from a run folder: the learner, to resume it, the policy alone, or the exported file.

    learner = rebuild(Run.open("runs/hopper/latest"))
    restored = restore_policy(Run.open("runs/hopper/latest"))
    file, restored = exported(Run.open("runs/hopper/latest"))

All options come from the run's config.json; changes of the task's files since then are reported.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from robokit.compute import processes
from robokit.compute.devices import cores
from robokit.console import say
from robokit.disk.folder import POLICY
from robokit.dynamics.imagine import Model
from robokit.env.env import Env
from robokit.errors import OptionError, RunError, TaskError
from robokit.export.card import steps_of, write_card
from robokit.export.file import Exported
from robokit.export.write import Written, export
from robokit.learning.options import least_weights, with_options
from robokit.limits.limit import with_values
from robokit.networks.policy import Policy
from robokit.task.lookup.find import load_task, title
from robokit.task.lookup.source import is_called
from robokit.task.lookup.trusted import trusted
from robokit.task.task import RETURN, Task
from robokit.training.run import CONFIG, UNSAVED, Done, Run
from robokit.training.selection import headline_of, load_best, validations
from robokit.training.setup.build import Built, Setup, algorithm, build_learner, check_setup
from robokit.training.setup.init_from import init_learner, parent_of
from robokit.training.setup.provenance import changed

REQUIRED, ABOUT = ("task", "limits", "options", "hashes"), ("versions", "commit")  # of a run's config, about
MODEL = "model."  # prefix of a model's tensors in a learner's state
EXPORT_ENVS = 64  # simulations of the export's gate
ENGINES = {"cpu": "mujoco", "gpu": "warp"}  # names in runs of robokit 0.1 -> names now


@dataclass(frozen=True)
class Restored:
    """A run's policy, its step in the training, and the simulations for its export."""

    policy: Policy
    steps: int
    env: Env  # see export_env


def place_of(run: Run, trust: bool = False) -> str:
    """A run's task as `file.py` or `file.py:Class`, by the rule of docs/trust.md; errors as `trusted`."""
    return trusted(run.config.get("task"), run.path, run.about.get("file"), trust)


def task_of(run: Run, given: str | Task | None = None, trust: bool = False) -> Task:
    """A run's task with the run's limits; given: where a person says it is. TaskError for another."""
    task = load_task(given) if given else load_task(place_of(run, trust), person=False)
    if given and not is_called(type(task).__name__, str(named := run.config.get("task"))):
        raise TaskError(f"{run.path} is a run of {named!r}, not of {title(task)!r}: give FILE.py:Class")
    try:
        task.limits = with_values(task.limits, run.config.get("limits", {}))
    except OptionError as error:
        raise OptionError(f"{run.path}/{CONFIG}: {error}") from error
    return task


def going_on(run: Run) -> str:
    """The command that resumes a run."""
    shared = run.config.get("processes", 1)
    launcher = f"torchrun --nproc-per-node {shared} -m " if shared > 1 else ""
    return f"{launcher}robokit train --resume {run.path}"


def rebuild(run: Run, task: Task | None = None, eager: bool = False) -> Built:
    """A learner with a run's options, before its first iteration: no checkpoint is loaded.

    eager: nothing is compiled, even if the run was.

    A run that was killed before its first checkpoint starts from its parent again, if it has one. Raises
    RunError for a run of another version of robokit or of another number of processes; as `parent_of`.
    """
    setup, config = options_of(run)
    task = task_of(run) if task is None else task
    if (shared := run.config.get("processes", 1)) != processes.world():
        rule = f"{run.path} was begun by {shared} process{'es' * (shared > 1)}, each with its own simulations"
        raise RunError(f"{rule}, and cannot be shared by {processes.world()}; go on with: {going_on(run)}")
    check_sizes(run, config)
    config = replace(config, compile=False) if eager else config
    learner = build_learner(task, setup, config, begun=True)
    if run.config.get("parent"):
        if run.newest(shared=False)[0] is None:
            init_learner(learner, parent_of(run))
        else:
            learner.keep_weights()
    return learner


def options_of(run: Run) -> tuple[Setup, Any]:
    """Setup and the algorithm's Config of a run, checked as a recipe is, and with sizes that its policy has.

    Raises RunError for a run of another version of robokit, OptionError for an invalid option.
    """
    stored, where, known = run.config, f"{run.path}/{CONFIG}", [f.name for f in fields(Setup)]
    lacking = [n for n in (*known, *REQUIRED) if n not in stored] + [n for n in ABOUT if n not in run.about]
    if lacking:
        raise RunError(f"{run.path} was made by another version of robokit: its {CONFIG} lacks {lacking}")
    engine, own = {"sim": ENGINES.get(stored["sim"], stored["sim"])}, stored["options"]
    try:
        setup = with_options(Setup(), {name: stored[name] for name in known} | engine)
        check_setup(setup)
        module = algorithm(setup.algo)
        default = module.Config()
        if unknown := sorted(set(own) ^ {f.name for f in fields(default) if f.name != "steps"}):
            rule = "was made by another version of robokit: its options differ in"
            raise RunError(f"{run.path} {rule} {unknown}")
        config = with_options(replace(default, steps=run.steps), own)
        module.check(config)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from error
    return setup, config


def check_sizes(run: Run, config: Any) -> None:
    """Raise RunError if the options need more weights or simulations than a run's last checkpoint has."""
    if (last := run.last()) is None:
        return
    least = max(least_weights(config), config.simulations // max(1, run.config.get("processes", 1)))
    if least > (most := sum(x.numel() for x in last.tensors.values())):
        rule = f"hidden, belief_size or num_envs need {least:,} numbers in the checkpoint {last.path}"
        raise RunError(f"{run.path}/{CONFIG}: {rule}, which has {most:,}")


def restore_policy(
    run: Run, last: bool = False, task: str | Task | None = None, trust: bool = False
) -> Restored:
    """A run's policy on the CPU: the best of those within the limits in validation, else the last.

    last: take the last in any case. task, trust: as `task_of`. Raises RunError without a checkpoint after the
    start.
    """
    setup, config = options_of(run)
    own, module = task_of(run, task, trust), algorithm(setup.algo)
    check_sizes(run, config)
    if differ := changed(run, own):
        say(f"note: changed since {run.path} was trained: {', '.join(differ)}")
    env = export_env(own, setup)
    policy = module.make_actor(env, config)
    steps = run.load_policy(policy).steps
    if not steps:
        raise RunError(f"{run.path} {UNSAVED}")
    return Restored(policy, steps if last else take_best(run, policy, config.limit_rule, steps), env)


def restore_model(run: Run, task: str | None = None, trust: bool = False) -> tuple[Model, Restored]:
    """The learned model of a run's last checkpoint, and the policy whose beliefs are inputs of the model.

    task, trust: as `task_of`. Raises RunError for a run of an algorithm without a model, and as
    `restore_policy`.
    """
    make, config = _model_maker(run)
    restored = restore_policy(run, True, task, trust)
    model = make(restored.env, config, restored.policy)
    run.load_policy(model.net, MODEL)
    return model, restored


def restore_learner(run: Run, task: str | None = None, trust: bool = False) -> tuple[Any, Done]:
    """The learner of a run that learns a model, with its replay, and the run's progress; errors as above."""
    _model_maker(run)
    own = task_of(run, task, trust)
    if differ := changed(run, own):
        say(f"note: changed since {run.path} was trained: {', '.join(differ)}")
    learner = rebuild(run, own, eager=True)
    done = run.resume(learner)
    if not done.steps:
        raise RunError(f"{run.path} {UNSAVED}")
    return learner, done


def _model_maker(run: Run) -> tuple[Any, Any]:
    """(`make_model`, Config) of a run's algorithm. Raises RunError for an algorithm without a model."""
    setup, config = options_of(run)
    if (make := getattr(algorithm(setup.algo), "make_model", None)) is None:
        raise RunError(f"{run.path} is a run of {setup.algo}, which learns no model: train with --algo svg")
    return make, config


def take_best(run: Run, policy: Policy, rule: str, steps: int) -> int:
    """Load a run's best policy into `policy`, if there is one; return its step, else the given `steps`.

    rule: the run's limit_rule.
    """
    score = load_best(run, policy)
    judged = run.config["limits"] and rule != "off"
    if score is None and judged and validations(run, rule):
        say(f"note: no policy of {run.path} held its limits in validation; this is the last, of step {steps}")
    if score is None:
        return steps
    name, value = headline_of(run), score.headline
    said = "" if name == RETURN or value is None else f"{name} {value:.4g}, "
    say(f"the best policy in validation is that of step {score.steps}: {said}return {score.returns:.4g}")
    return score.steps


def export_env(task: Task, setup: Setup) -> Env:
    """EXPORT_ENVS simulations for the gate, always on MuJoCo; nominal: without delays or sensor errors."""
    return Env(task, EXPORT_ENVS, seed=setup.seed, threads=setup.threads or cores(), nominal=True)


def export_policy(run: Run, restored: Restored, path: Path) -> Written:
    """Write a run's policy to `path`, and its card beside it. Raises ExportError if the gate refuses it."""
    facts = {"commit": run.about["commit"].get("robokit"), "parent": run.config.get("parent")}
    written = export(restored.policy, restored.env, path, **facts)
    write_card(Exported.open(path), {"run": run.path.name, "steps": restored.steps})
    return written


def exported(run: Run, task: str | None = None, trust: bool = False) -> tuple[Exported, Restored]:
    """policy.onnx, exported first if it is missing, damaged or of another step, and its restored policy."""
    restored = restore_policy(run, task=task, trust=trust)
    path = run.path / POLICY
    file = _of_step(path, restored.steps)
    if file is None:
        say(f"exporting the policy of step {restored.steps} to {path}")
        export_policy(run, restored, path)
    return file or Exported.open(path), restored


def _of_step(path: Path, steps: int) -> Exported | None:
    """The exported file; None unless the card beside it has its sha256 and this step of the training."""
    try:
        file = Exported.open(path) if path.is_file() else None  # no FIFO
    except (OSError, ValueError):  # ContractError is a ValueError
        return None
    return file if file and steps_of(file) == steps else None
