"""Training, from Python and from the command line.

run = robokit.train("hopper", steps=500_000, seed=1)
run = robokit.train("hopper", "sac", hidden=[256, 256])
run = robokit.train(resume=run, steps=1_000_000)
"""

import copy
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from robokit.calls.resolve import What, located, named_run
from robokit.compute import processes
from robokit.compute.compile import torch_threads
from robokit.console import say
from robokit.disk.folder import POLICY, file_name
from robokit.disk.place import check_place
from robokit.errors import ExportError, OptionError, RunError
from robokit.export.fields import versions
from robokit.export.write import Written
from robokit.learning.options import fits, plain, with_options
from robokit.limits.limit import with_values
from robokit.sim.model import compiled_once
from robokit.task.lookup.files import check_saved
from robokit.task.lookup.find import load_task, title
from robokit.task.task import Task
from robokit.training.hooks import Event, Hook
from robokit.training.loop import SAVE_SECONDS, Outcome, train as loop
from robokit.training.run import Run
from robokit.training.selection import Selection, validations
from robokit.training.setup import restore
from robokit.training.setup.build import Built, Setup, build_learner, check_owners, options
from robokit.training.setup.init_from import init_learner, open_parent
from robokit.training.setup.provenance import changed, create, unfinished
from robokit.training.setup.rehearse import rehearse

BEGIN_FROM = "a new training starts from its policy with --init-from {}"  # where a resume is refused
Named = str | PathLike[str] | type[Task] | Task  # a task: its name, file.py, file.py:Class, class or object


@dataclass(frozen=True)
class Trained:
    """How a training and the export of its policy ended."""

    run: Run
    outcome: Outcome
    policy: Written | None  # the exported file; None: not exported
    error: str | None  # why the gate refused the policy


def train(
    task: Named | None = None,
    algo: str | None = None,
    *,
    like: Run | str | PathLike[str] | None = None,
    init_from: What | None = None,
    resume: Run | str | PathLike[str] | None = None,
    limits: Mapping[str, float] | None = None,
    runs: str | PathLike[str] = "runs",
    save_every: float = SAVE_SECONDS,
    hooks: Hook | Iterable[Hook] = (),
    trust: bool = False,
    **options: Any,
) -> Run:
    """Train a policy and export it to the run's folder, `policy.onnx`; returns the run.

    task: as in `robokit train`; also a class of a notebook's own file. algo: None: "ppo". options: those of
    the algorithm and of `Setup` (steps, seed, hidden, device...), over the task's recipe. like: a run, or the
    name of one, whose task, options and limits are the defaults. init_from: a run, file or name whose policy
    it starts from, by the names of observations and actuators. resume: a run or its folder, to go on with;
    only steps, save_every and hooks may be new, `runs` is ignored, and `task` is where its own task is now.
    trust: run the task file that a run names, docs/trust.md. limits: {name: value}. runs: folder of
    all runs. save_every: s between checkpoints. hooks: one or several, called in order.

    An interrupt (Ctrl-C, a notebook's stop) ends the training after its iteration: saved, exported, returned.
    If the export is refused, one line says so, and the run has no policy.onnx.

    Raises OptionError, TaskError or RunError for wrong input and ExportError for a task whose policies cannot
    be exported, all before the first step; RunError for a training that cannot go on.
    """
    called = [hooks] if callable(hooks) else [*hooks]
    if wrong := [hook for hook in called if not callable(hook)]:
        raise OptionError(f"a hook must be a function of an Event, got {wrong[0]!r}")
    with processes.joined(), torch_threads(1):  # in gradient steps as many as chosen
        if resume is not None:
            given = {"algo": algo, "like": like, "limits": limits, "init_from": init_from, **options}
            new = {name for name, value in given.items() if value is not None} - {"steps"}
            if new:
                rule = "a resumed run keeps its task and options; only steps, save_every and hooks may be new"
                path = open_run(resume).path
                raise OptionError(f"{rule}, got {', '.join(sorted(new))}; {BEGIN_FROM.format(path)}")
            own = None if task is None else load_task(_as_name(task))
            return resume_run(resume, options.get("steps"), save_every, called, own, trust).run
        chosen, setup, config = _chosen(task, algo, like, limits or {}, options, trust)
        return begin(chosen, setup, config, Path(runs), save_every, called, init_from).run


def open_run(run: Run | str | PathLike[str]) -> Run:
    """A run, or the run in a folder. Raises RunError for anything else."""
    return run if isinstance(run, Run) else Run.open(fspath(run))


def _chosen(
    task: Named | None,
    algo: str | None,
    like: Run | str | PathLike[str] | None,
    limits: Mapping[str, float],
    given: Mapping[str, Any],
    trust: bool,
) -> tuple[Task, Setup, Any]:
    """(task with its limits, Setup, Config) for the arguments of `train`."""
    if like is None:
        if task is None:
            raise OptionError("which task? robokit.train(task), with a name, a file.py or a class")
        chosen = copy.copy(load_task(_as_name(task)))
        setup = Setup(algo=algo or Setup.algo)
        config = options(chosen, setup.algo)
    else:
        run = named_run(like)
        chosen, setup, config = like_run(run, _as_name(task or restore.place_of(run, trust)), algo)
    setup_names = {f.name for f in fields(Setup)} - {"algo"}
    check_owners({name: name for name in given if name not in setup_names}, setup.algo)
    setup = with_options(setup, {k: v for k, v in given.items() if k in setup_names})
    config = with_options(config, {k: v for k, v in given.items() if k not in setup_names})
    chosen.limits = with_values(chosen.limits, {name: plain(value) for name, value in limits.items()})
    return chosen, setup, config


def like_run(run: Run, task: str | type[Task] | Task, algo: str | None) -> tuple[Task, Setup, Any]:
    """`task`, with the options and, where they are its own, the limit values of a run.

    Threads and compiling are chosen anew, by the sizes of this training. Raises OptionError if `algo` is
    given and another one than the run's.
    """
    setup, config = restore.options_of(run)
    setup, config = replace(setup, threads=0, torch_threads=0), replace(config, compile=None)
    if algo not in (None, setup.algo):
        raise OptionError(f"{run.path} was trained by {setup.algo}: its options are not those of {algo}")
    chosen = copy.copy(load_task(task))
    if (other := title(chosen)) != run.config["task"]:
        say(f"note: the options of {run.path}, a run of {run.config['task']}, for {other}")
    own = {name: value for name, value in run.config["limits"].items() if name in chosen.limits}
    chosen.limits = with_values(chosen.limits, own)
    return chosen, setup, config


def _as_name(task: Named) -> str | type[Task] | Task:
    return fspath(task) if isinstance(task, PathLike) else task


@compiled_once()
def begin(
    task: Task,
    setup: Setup,
    config: Any,
    runs: Path,
    save_every: float = SAVE_SECONDS,
    hooks: Iterable[Hook] = (),
    init_from: What | None = None,
) -> Trained:
    """Begin a run in `runs`, train it and export its policy. Errors: see `train`."""
    _check_seconds(save_every)
    check_saved(task)
    if begun := unfinished(runs, task):
        say(f"started again: going on with {begun}")
        return resume_run(begun, None, save_every, hooks, task)
    check_place(runs / file_name(title(task)))
    # process 0's, once all have opened it: `latest` and names move to the new run
    parent = None if init_from is None else processes.everyone(open_parent(located(init_from)))[0]
    learner = build_learner(task, setup, config)
    if parent is not None:
        init_learner(learner, parent)
    _rehearse(learner, setup)
    learner.env.sim.check_saved()  # before there is a run
    run = create(runs, learner, setup, parent)
    return _train(learner, run, save_every, hooks)


def _rehearse(learner: Built, setup: Setup) -> None:
    """Rehearse the export in process 0. Raises ExportError in every process."""
    refused = None
    if not processes.rank():
        try:
            with processes.apart():
                rehearse(learner.policy, restore.export_env(learner.env.task, setup))
        except ExportError as error:
            refused = str(error)
    if refused := processes.agreed(refused):
        raise ExportError(refused)


def resume_run(
    run: Run | str | PathLike[str],
    steps: int | None,
    save_every: float,
    hooks: Iterable[Hook] = (),
    task: str | Task | None = None,
    trust: bool = False,
) -> Trained:
    """Go on with a run, to `steps` in total (None: as it began), and export its policy.

    task, trust: as `task_of`.
    """
    _check_seconds(save_every)
    run = open_run(run)
    if steps is not None:
        total: Any = plain(steps)
        if not fits(total, int):
            raise OptionError(f"steps must be a whole number, got {total!r}")
        run = replace(run, steps=total)
    own = restore.task_of(run, task, trust)
    if differ := changed(run, own):
        rule = f"{run.path} cannot be resumed: changed since it began: {', '.join(differ)}"
        raise RunError(f"{rule}; {BEGIN_FROM.format(run.path)}")
    learner = restore.rebuild(run, own)
    if (done := run.newest(shared=False)[0]) is not None and done.steps >= run.steps:
        say(f"{run.path} has its {run.steps:,} steps already; --steps with more goes on")
    now, then = versions(), run.about["versions"]
    if newer := [f"{name} {then.get(name)} -> {v}" for name, v in now.items() if then.get(name) != v]:
        say(f"note: not bit for bit, other versions than at the start: {', '.join(newer)}")
    return _train(learner, run, save_every, hooks)


def _check_seconds(save_every: float) -> None:
    if not save_every >= 0:
        raise OptionError(f"save_every must be at least 0 s, got {save_every:g}")


def _note_broken(event: Event) -> None:
    """A hook that says when a simulation breaks for the first time, and at the end how often."""
    last = event.kind == "end"
    if not (last or event.metrics.get("episode/bad")):
        return
    if note := event.learner.env.broken.note(last):
        say(f"note: {note}; see robokit check")


def _train(learner: Built, run: Run, save_every: float, hooks: Iterable[Hook]) -> Trained:
    rule = learner.config.limit_rule
    times = validations(run, rule)
    validate = Selection(run, learner, times) if times else (lambda done: {})
    called = [_note_broken, *hooks]
    outcome = loop(learner, run, run.steps, save_seconds=save_every, validate=validate, hooks=called)
    if outcome.stop is not None:
        say(f"stopped and saved; go on with: {restore.going_on(run)}")
    if processes.rank() or outcome.stop == signal.SIGTERM or not outcome.done.steps:
        return Trained(run, outcome, None, None)  # SIGTERM: a scheduler kills what does not end at once
    policy = error = None
    try:
        say(f"trained and saved in {run.path}; checking the policy before it is exported")
        if outcome.stop is not None:
            run.load_policy(learner.policy)  # an interrupted iteration may have changed it
        steps = restore.take_best(run, learner.policy, rule, outcome.done.steps)
        setup, _ = restore.options_of(run)
        best = restore.Restored(learner.policy, steps, restore.export_env(learner.env.task, setup))
        policy = restore.export_policy(run, best, run.path / POLICY)
        say(f"exported {policy.path}")
    except ExportError as refused:
        measure = f"to measure it all the same: robokit evaluate {run.path} --torch"
        error = f"trained and saved, but not exported: {refused}; {measure}"
        say(error)
    except KeyboardInterrupt as interrupt:  # cli/command.py passes SIGTERM's number as an argument
        stop = signal.SIGTERM if interrupt.args else signal.SIGINT
        outcome = replace(outcome, stop=stop)
        say(f"trained and saved, but not exported; later: robokit export {run.path}")
    return Trained(run, outcome, policy, error)
