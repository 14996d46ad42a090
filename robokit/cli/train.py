"""The command `train`, for a new run and for a resumed one: dataclasses whose fields are the options."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, cast

from tyro.conf import OmitArgPrefixes, Positional, arg

from robokit.calls.training import Trained, begin, resume_run
from robokit.cli.words import Track, Trust
from robokit.compute import processes
from robokit.limits.limit import Limit, with_values
from robokit.limits.measures import MEASURES
from robokit.task.lookup.find import load_task
from robokit.training.hooks import Hook
from robokit.training.loop import SAVE_SECONDS
from robokit.training.setup.build import Setup

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
    # a run folder, or a name for its newest run: its task, options and limits are the defaults
    like: str | None = None
    # resume the run in this folder (no name), if need be with --steps, --save-every, --track, --json, --trust
    # and as --task where the run's own task is now
    resume: Path | None = None
    # start from the policy of this run folder, exported file or name, by names of observations and actuators
    init_from: str | None = None
    save_every: float = SAVE_SECONDS  # s between two checkpoints
    track: Track = None
    json: bool = False  # print the outcome as one last line of JSON
    trust: Trust = False

    def __call__(self) -> int:
        assert self.task is not None
        hooks = hooks_of(self.track)
        task = load_task(self.task)
        task.limits = with_values(task.limits, asdict(cast("Any", self.limits)))
        options = self.setup, self.algorithm, self.runs, self.save_every
        return _print_outcome(begin(task, *options, hooks, self.init_from), self.json)


def hooks_of(track: str | None) -> list[Hook]:
    """The hook of `--track`, if given. Raises OptionError as `tracker`."""
    if track is None:
        return []
    from robokit.interop.trackers import tracker  # gymnasium is not loaded by other trainings

    return [tracker(track)]


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
    track: Track = None
    json: bool = False  # print the outcome as one last line of JSON
    task: str | None = None  # where the run's own task is now: a name, or file.py:Class
    trust: Trust = False

    def __call__(self) -> int:
        where = {"task": self.task, "trust": self.trust}
        hooks = hooks_of(self.track)
        return _print_outcome(resume_run(self.resume, self.steps, self.save_every, hooks, **where), self.json)


def _print_outcome(trained: Trained, as_json: bool) -> int:
    """Print the outcome in process 0. Returns 0, 1: the export was refused, 128 + signal: stopped."""
    outcome, policy = trained.outcome, trained.policy
    code = 128 + outcome.stop if outcome.stop is not None else 1 if trained.error else 0
    if processes.rank():
        return code
    result = {
        "run": str(trained.run.path),
        **asdict(outcome.done),
        "checkpoint": str(outcome.checkpoint),
        "policy": str(policy.path) if policy else None,
        "parity": max(p.ctrl_error for p in policy.parity) if policy else None,
        "signal": outcome.stop,
        "error": trained.error,
    }
    with contextlib.suppress(BrokenPipeError):  # a closed output does not change the exit code
        print(json.dumps(result) if as_json else trained.run.path)
    return code
