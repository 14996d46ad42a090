"""The command `train`, for a new run and for a resumed one: dataclasses whose fields are the options."""

import contextlib
import json
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, cast

from tyro.conf import OmitArgPrefixes, Positional, arg

from robokit.compute import processes
from robokit.console import say
from robokit.errors import ExportError, OptionError, RunError
from robokit.export.fields import versions
from robokit.limits.limit import Limit, with_values
from robokit.limits.measures import MEASURES
from robokit.task.lookup.find import load_task, title
from robokit.training.build import Built, Setup, build_learner
from robokit.training.init_from import open_parent, start_from
from robokit.training.loop import SAVE_SECONDS, train
from robokit.training.provenance import changed, create, file_name, unfinished
from robokit.training.restore import (
    POLICY,
    Restored,
    export_env,
    export_policy,
    going_on,
    rebuild,
    take_best,
    task_of,
)
from robokit.training.run import Run, check_place
from robokit.training.selection import Selection, validations

Config = TypeVar("Config")
Limits = TypeVar("Limits")


@dataclass(frozen=True)
class Train(Generic[Config, Limits]):
    """Train a policy on a task, or resume a run; the policy is exported to the run folder.

    Options given here override the task's recipe, which overrides the algorithm's defaults.
    """

    algorithm: OmitArgPrefixes[Config]
    setup: OmitArgPrefixes[Setup]
    limits: Limits  # values for the task's limits
    # a name (see robokit tasks), or file.py, or file.py:Class
    task: Positional[Annotated[str | None, arg(metavar="TASK")]] = None
    runs: Path = Path("runs")  # folder of all runs
    # resume the run in this folder; allowed beside it: --steps, --save-every and --json
    resume: Path | None = None
    # start from the policy of this run folder or exported file, by the names of observations and actuators
    init_from: str | None = None
    save_every: float = SAVE_SECONDS  # s between two checkpoints
    json: bool = False  # print the outcome as one last line of JSON

    def __call__(self) -> int:
        assert self.task is not None
        _check_seconds(self.save_every)
        task = load_task(self.task)
        task.limits = with_values(task.limits, asdict(cast("Any", self.limits)))
        if begun := unfinished(self.runs, task):
            say(f"started again: going on with {begun}")
            return Resume(begun, save_every=self.save_every, json=self.json)()
        check_place(self.runs / file_name(title(task)))
        parent = None if self.init_from is None else open_parent(self.init_from)
        learner = build_learner(task, self.setup, self.algorithm)
        if parent is not None:
            start_from(learner, parent)
        run = create(self.runs, learner, self.setup, parent and parent.facts)
        return _train(learner, run, self.save_every, self.json)


def limit_options(limits: Mapping[str, Limit]) -> Any:
    """A dataclass instance with the value of each limit as a field, for `--limits.NAME VALUE`."""
    rows = [
        (n, Annotated[float, arg(help=f"cost {n}: {MEASURES[x.measure].words}")], x.value)
        for n, x in limits.items()
    ]
    return make_dataclass("Limits", rows, frozen=True)()


@dataclass(frozen=True)
class Resume:
    """Resume a run from its newest good checkpoint; on the CPU bit for bit."""

    resume: Path  # the run folder, or the link `latest` to it
    steps: int | None = None  # environment steps in total; None: as the run was started with
    save_every: float = SAVE_SECONDS  # s between two checkpoints
    json: bool = False  # print the outcome as one last line of JSON

    def __call__(self) -> int:
        _check_seconds(self.save_every)
        run = Run.open(self.resume)
        run = run if self.steps is None else replace(run, steps=self.steps)
        if differ := changed(run, task_of(run)):
            rule = f"{run.path} cannot be resumed: changed since it began: {', '.join(differ)}"
            raise RunError(f"{rule}; a new training starts from its policy with --init-from {run.path}")
        learner = rebuild(run)
        now, then = versions(), run.about["versions"]
        if newer := [f"{name} {then.get(name)} -> {v}" for name, v in now.items() if then.get(name) != v]:
            say(f"note: not bit for bit, other versions than at the start: {', '.join(newer)}")
        return _train(learner, run, self.save_every, self.json)


def _check_seconds(save_every: float) -> None:
    if not save_every >= 0:
        raise OptionError(f"save-every must be at least 0 s, got {save_every:g}")


def _train(learner: Built, run: Run, save_every: float, as_json: bool) -> int:
    """Train and export, or stop at a signal; print the outcome. Returns 0, 1: not exported, 128 + signal."""
    rule = learner.config.limit_rule
    times = validations(run, rule)
    validate = Selection(run, learner, times) if times else (lambda done: {})
    outcome = train(learner, run, run.steps, save_seconds=save_every, validate=validate)
    stopped = outcome.signal
    if processes.rank():  # the first process exports and prints the result
        return 128 + stopped if stopped else 0
    policy, error = None, None
    if stopped is None:
        try:
            say(f"trained and saved in {run.path}; checking the policy before it is exported")
            steps = take_best(run, learner.policy, rule, outcome.done.steps)
            best = Restored(learner.policy, steps, export_env(run, learner.env.task))
            policy = export_policy(run, best, run.path / POLICY)
            say(f"exported {policy.path}")
        except ExportError as refused:
            error = f"trained and saved, but not exported: {refused}"
            say(error)
        except KeyboardInterrupt as interrupt:  # cli/command.py passes SIGTERM's number as an argument
            stopped = signal.SIGTERM if interrupt.args else signal.SIGINT
            say(f"trained and saved, but not exported; later: robokit export {run.path}")
    else:
        say(f"stopped and saved; go on with: {going_on(run)}")
    result = {
        "run": str(run.path),
        **asdict(outcome.done),
        "checkpoint": str(outcome.checkpoint),
        "policy": str(policy.path) if policy else None,
        "parity": max(p.ctrl_error for p in policy.parity) if policy else None,
        "signal": stopped,
        "error": error,
    }
    with contextlib.suppress(BrokenPipeError):  # a closed output does not change the exit code
        print(json.dumps(result) if as_json else run.path)
    return 128 + stopped if stopped else 1 if error else 0
