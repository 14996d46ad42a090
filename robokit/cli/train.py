"""The commands, one dataclass each: its fields are the options, their comments the help, a call runs it."""

import contextlib
import json
import math
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, make_dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, cast

from tyro.conf import OmitArgPrefixes, Positional, arg

from robokit.compute import processes
from robokit.export.card import inspect, write_card
from robokit.env.laws import Finding, check_task
from robokit.limits.multipliers import Limit, with_values
from robokit.controller import ContractError, describe, load
from robokit.env.env import Env
from robokit.errors import ExportError, OptionError, RunError, TaskError
from robokit.evaluation.measure import GAMMA, SEED_OFFSET, check_seed, evaluate
from robokit.filter import read_filter
from robokit.show.film import film, watch
from robokit.show.plots import draw, writable
from robokit.networks.policy import Policy
from robokit.evaluation.report import Report, pool
from robokit.training.restore import (
    POLICY,
    Built,
    Setup,
    algorithm,
    build,
    changed,
    create,
    export_policy,
    exported,
    file_name,
    going_on,
    options,
    rebuild,
    restore,
    selection,
    take_best,
    task_of,
    unfinished,
    versions,
)
from robokit.training.run import CHECKPOINTS, CONFIG, METRICS, Run, check_place, say
from robokit.task.task import Task, find_task, known_tasks, load_task, title
from robokit.training.loop import SAVE_SECONDS, train

Config = TypeVar("Config")
Limits = TypeVar("Limits")
TaskName = Annotated[str, arg(metavar="TASK")]
What = Positional[Annotated[str, arg(metavar="RUN|FILE.onnx")]]
OUTPUT = arg(aliases=["-o"])


@dataclass(frozen=True)
class Tasks:
    """List the tasks there are: shipped ones, and those in ./tasks."""

    json: bool = False  # for machines

    def __call__(self) -> int:
        rows = [{"name": n, "file": str(file), "doc": _about(file)} for n, file in known_tasks().items()]
        text = "\n".join(f"{row['name']:<26}{row['doc']}" for row in rows)
        print(json.dumps(rows, indent=1) if self.json else text)
        return 0


@dataclass(frozen=True)
class Train(Generic[Config, Limits]):
    """Train a policy on a task, or go on with a run; the exported policy lies in the run folder.

    An option is the algorithm's default, else the task's recipe for it, else what is given here.
    """

    algorithm: OmitArgPrefixes[Config]
    setup: OmitArgPrefixes[Setup]
    limits: Limits  # other values of the task's limits
    # a name (see robokit tasks), or file.py, or file.py:Class
    task: Positional[Annotated[str | None, arg(metavar="TASK")]] = None
    runs: Path = Path("runs")  # folder of all runs
    # go on with this run folder instead; beside it only --steps, --save-every and --json
    resume: Path | None = None
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
        learner = build(task, self.setup, self.algorithm)
        return _train(learner, create(self.runs, learner, self.setup), self.save_every, self.json)


def limit_options(limits: Mapping[str, Limit]) -> Any:
    """An object with one number for each limit: `--limits.NAME VALUE`."""
    rows = [
        (n, Annotated[float, arg(help=f"{x.measure} of the cost {n}")], x.value) for n, x in limits.items()
    ]
    return make_dataclass("Limits", rows, frozen=True)()


@dataclass(frozen=True)
class Resume:
    """Go on with a run from its newest good checkpoint; on the CPU bit for bit."""

    resume: Path  # the run folder, or the link `latest` to it
    steps: int | None = None  # environment steps in all, instead of those the run was begun with
    save_every: float = SAVE_SECONDS  # s between two checkpoints
    json: bool = False  # print the outcome as one last line of JSON

    def __call__(self) -> int:
        _check_seconds(self.save_every)
        run = Run.open(self.resume)
        run = run if self.steps is None else replace(run, steps=self.steps)
        learner = rebuild(run)
        if differ := changed(run, learner.env.task):
            raise RunError(f"{run.path} cannot go on: changed since it began: {', '.join(differ)}")
        now, then = versions(), run.about["versions"]
        if newer := [f"{name} {then.get(name)} -> {v}" for name, v in now.items() if then.get(name) != v]:
            say(f"note: not bit for bit, other versions than at the start: {', '.join(newer)}")
        return _train(learner, run, self.save_every, self.json)


@dataclass(frozen=True)
class Evaluate:
    """Measure the exported file itself in fresh episodes: return, metrics, and a verdict on each limit.

    Exit code 1 where a limit is FAIL or a simulation broke; 0 for PASS and for UNDECIDED.
    """

    # run folders or exported files; several of one task are measured one by one and then together
    what: Positional[Annotated[tuple[str, ...], arg(metavar="RUN|FILE.onnx [RUN|FILE.onnx ...]")]]
    episodes: int = 300  # one in each of so many simulations
    nominal: bool = False  # without randomisation, pushes and sensor noise
    seed: int = 0  # of the episodes; never those of training
    threads: int = 0  # threads of the physics; 0: one for each core
    # hold the task's commands at these numbers, in its order, instead of drawing them
    command: tuple[float, ...] = ()
    gamma: float | None = None  # of discounted limits; default: the run's own, or 0.99 for a file alone
    filter: Path | None = None  # the same episodes also through a filter: JSON of its numbers, docs/filter.md
    plots: Path | None = None  # folder for pictures: the run's curves, and each cost in these episodes
    task: str | None = None  # of an exported file whose task has another name: file.py:Class
    json: bool = False  # for machines

    def __call__(self) -> int:
        folders, filter = self._folders(), None if self.filter is None else read_filter(self.filter)
        measured = [policy_of(what, self.task) for what in self.what]
        _one_task({what: task for what, (_, task, _) in zip(self.what, measured, strict=True)})
        reports: dict[str, Report] = {}
        for what, (path, task, policy) in zip(self.what, measured, strict=True):
            report = reports[what] = evaluate(
                path,
                task,
                self.episodes,
                seed=self.seed,
                nominal=self.nominal,
                commands=_by_name(task, self.command),
                policy=policy,
                filter=filter,
                gamma=_gamma(_run_of(path)) if self.gamma is None else self.gamma,
                threads=self.threads,
            )
            if not self.json:
                print(report.text(), flush=True)
            if folders:
                run = path.parent if (path.parent / METRICS).is_file() else None
                for picture in draw(folders[what], report, run):
                    say(f"drew {picture}")
        together = pool(reports) if len(reports) > 1 else None
        if self.json and together:
            runs = {what: asdict(report) for what, report in reports.items()}
            print(json.dumps({"runs": runs, "across": asdict(together)}, indent=1))
        elif self.json:
            print(reports[self.what[0]].to_json())
        elif together:
            print(together.text())
        return 1 if any(report.failed for report in reports.values()) else 0

    def _folders(self) -> dict[str, Path]:
        """Where each one's pictures go: one folder, or one in it for each of several."""
        files = (what if what.endswith(".onnx") else Path(what, POLICY) for what in self.what)
        if len({Path(file).resolve() for file in files}) != len(self.what) or not self.what:
            given = " ".join(self.what) or "none"
            raise OptionError(f"evaluate takes one or more runs or files, each once; got {given}")
        if self.plots is None:
            return {}
        if len(self.what) == 1:
            return {self.what[0]: writable(self.plots)}
        return {what: writable(self.plots / f"{i}") for i, what in enumerate(self.what, 1)}


@dataclass(frozen=True)
class Play:
    """Film the exported file at work, or show it in MuJoCo's viewer."""

    what: What  # a run folder, or an exported file
    # .mp4 or .gif; default: play.mp4 in the run folder, or an mp4 beside the file
    output: Annotated[Path | None, OUTPUT] = None
    seconds: float | None = None  # s of simulated time; default: one episode, at most 20 s of a film
    seed: int = 0  # of the episodes; never those of training
    width: int = 640  # pixels from left to right
    height: int = 480  # pixels from top to bottom
    # hold the task's commands at these numbers, in its order, instead of drawing them
    command: tuple[float, ...] = ()
    viewer: bool = False  # MuJoCo's own window, in real time, instead of a film
    nominal: bool = False  # without randomisation, pushes and sensor noise
    task: str | None = None  # of an exported file whose task has another name: file.py:Class

    def __call__(self) -> int:
        check_seed(self.seed)
        path, task, _ = policy_of(self.what, self.task)
        env = Env(task, seed=SEED_OFFSET + self.seed, threads=1, nominal=self.nominal)
        env.hold(_by_name(task, self.command))
        if self.viewer:
            watch(path, env, self.seconds)
            return 0
        output = self.output or path.with_name("play.mp4" if path.name == POLICY else f"{path.stem}.mp4")
        film(path, env, output, self.seconds, self.width, self.height)
        print(output)
        return 0


@dataclass(frozen=True)
class Export:
    """Write a run's policy, the best that held its limits or the last, as one ONNX file that was checked."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]  # a run folder
    # folder for <task>.onnx, <task>.onnx.sha256 and the card <task>.json
    output: Annotated[Path, OUTPUT] = Path("policies")
    episodes: int = 300  # that the card's return is measured in; 0: none
    last: bool = False  # the last policy, even if an earlier one was the best that held the limits
    json: bool = False  # for machines

    def __call__(self) -> int:
        if self.output.suffix == ".onnx":
            raise OptionError(f"--output is the folder that <task>.onnx is written into, got {self.output}")
        if self.episodes < 0 or self.episodes == 1:
            raise OptionError(f"episodes must be at least 2, or 0 for none, got {self.episodes}")
        run = Run.open(self.run)
        learner, steps = restore(run, self.last)
        path = self.output / f"{file_name(run.config['task'])}.onnx"
        if path.exists():
            say(f"note: replacing {path}")
        report = export_policy(run, learner, steps, path)
        card: dict[str, Any] = {"run": run.path.name, "steps": steps}
        if self.episodes:
            options: dict[str, Any] = {"policy": learner.policy, "gamma": _gamma(run)}
            measured = evaluate(path, learner.env.task, self.episodes, **options)
            costs = {name: summary.mean for name, summary in measured.costs.items()}
            card |= {
                "return": measured.returns.mean,
                "costs": costs,
                "evaluation": {**measured.facts(), "file": path.name},
            }
        beside = write_card(path, card)
        error = max(p.ctrl_error for p in report.parity)
        print(
            beside.read_text() if self.json else f"{path}: equal within {error:.1e} of the actuators' range"
        )
        return 0


@dataclass(frozen=True)
class Check:
    """Check a task file against the task contract, or an exported file against its own."""

    # a task (its name, file.py or file.py:Class), an exported file, or the run folder that it lies in
    what: Positional[Annotated[str, arg(metavar="TASK|RUN|FILE.onnx")]]
    json: bool = False  # for machines

    def __call__(self) -> int:
        if self.what.endswith(".onnx"):
            return self._file(Path(self.what))
        if Path(self.what, CONFIG).is_file():
            return self._file(Path(self.what, POLICY))
        find_task(self.what)
        try:
            task = load_task(self.what)
            findings = [*check_task(task), *map(partial(_recipe, task), task.recipes)]
        except TaskError as error:
            findings = [Finding("import", False, str(error))]
        rows = [f"{'ok' if f.ok else 'FAIL':<5}{f.name:<15}{' '.join(f.detail.split())}" for f in findings]
        print(json.dumps([asdict(f) for f in findings], indent=1) if self.json else "\n".join(rows))
        return 0 if all(f.ok for f in findings) else 1

    def _file(self, path: Path) -> int:
        if not path.is_file():
            raise OptionError(f"no file {path}")
        try:
            found = inspect(path)
        except ContractError as error:
            print(json.dumps({"ok": False, "error": str(error)}) if self.json else f"FAIL {error}")
            return 1
        gaps = "\n".join(f"  {gap}" for gap in found["gaps"]) or "  nothing"
        text = f"ok   {describe(found['contract'])}\nnot said:\n{gaps}"
        print(json.dumps({"ok": True, **found}, indent=1) if self.json else text)
        return 0


def _recipe(task: Task, algo: str) -> Finding:
    """Whether a recipe names options that there are, with values that can work."""
    try:
        algorithm(algo).check(options(task, algo))
    except OptionError as error:
        return Finding(f"recipe {algo}", False, str(error))
    return Finding(f"recipe {algo}", True, ", ".join(f"{k}={v}" for k, v in task.recipes[algo].items()))


COMMANDS: dict[str, type] = {
    "tasks": Tasks,
    "train": Train,
    "evaluate": Evaluate,
    "play": Play,
    "export": Export,
    "check": Check,
}


def _check_seconds(save_every: float) -> None:
    if not save_every >= 0:
        raise OptionError(f"save-every must be at least 0 s, got {save_every:g}")


def _train(learner: Built, run: Run, save_every: float, as_json: bool) -> int:
    """Train to the end or to a signal, and export what has come of it."""
    validate = selection(run, learner) or (lambda done: {})
    outcome = train(learner, run, run.steps, save_seconds=save_every, validate=validate)
    stopped = outcome.signal
    if processes.rank():  # the first one exports and says what came of it
        return 128 + stopped if stopped else 0
    policy, error = None, None
    if stopped is None:
        try:
            say(f"trained and saved in {run.path}; checking the policy before it is exported")
            steps = take_best(run, learner, outcome.done.steps)
            policy = export_policy(run, learner, steps, run.path / POLICY)
            say(f"exported {policy.path}")
        except ExportError as refused:
            error = f"trained and saved, but not exported: {refused}"
            say(error)
        except KeyboardInterrupt as interrupt:  # cli raises it with a number for SIGTERM
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
    with contextlib.suppress(BrokenPipeError):  # a stop is none the less one where nobody reads this any more
        print(json.dumps(result) if as_json else run.path)
    return 128 + stopped if stopped else 1 if error else 0


def _one_task(tasks: dict[str, Task]) -> None:
    """Raise OptionError for runs of different tasks or limits, before any of them is measured."""
    (first, task), *others = tasks.items()
    for what, other in others:
        if title(other) != title(task):
            rule = "runs that are evaluated together must be of one task"
            raise OptionError(f"{rule}: {first} is of {title(task)!r}, {what} of {title(other)!r}")
        if other.limits != task.limits:
            ours, theirs = ({n: x.value for n, x in t.limits.items()} for t in (task, other))
            raise OptionError(f"runs must share one set of limits: {first} has {ours}, {what} has {theirs}")


def _run_of(file: Path) -> Run | None:
    """The run that an exported file lies in; the config.json of something else makes none."""
    if not (file.parent / CONFIG).is_file():
        return None
    try:
        return Run.open(file.parent)
    except RunError:
        if (file.parent / CHECKPOINTS).is_dir():
            raise
        return None


def _gamma(run: Run | None) -> float:
    """What a run discounted with."""
    return GAMMA if run is None else float(run.config["options"].get("gamma", GAMMA))


def _by_name(task: Task, numbers: tuple[float, ...]) -> dict[str, tuple[float, ...]]:
    """The numbers of each of the task's commands; nothing where none are given."""
    if not numbers:
        return {}
    widths = {name: len(command.low) for name, command in task.commands.items()}
    if len(numbers) != sum(widths.values()) or not all(map(math.isfinite, numbers)):
        ranges = [f"{n}: {widths[n]} in {c.low} to {c.high}" for n, c in task.commands.items()]
        known = f"{sum(widths.values())} finite numbers ({'; '.join(ranges)})" if ranges else "none"
        raise OptionError(f"--command: {type(task).__name__} takes {known}, got {len(numbers)}: {numbers}")
    rest = iter(numbers)
    return {name: tuple(islice(rest, width)) for name, width in widths.items()}


def policy_of(what: str, task: str | None) -> tuple[Path, Task, Policy | None]:
    """The exported file, its task, and the torch policy where a run folder is given."""
    path = Path(what)
    if path.suffix != ".onnx":
        if task is not None:
            raise OptionError(f"--task goes with an exported file; {what} is a run, which knows its own")
        path, learner = exported(Run.open(path))
        return path, learner.env.task, learner.policy
    if not path.is_file():
        raise OptionError(f"no file {path}")
    if task is not None:
        return path, _held(load_task(task), path), None
    if run := _run_of(path):
        return path, task_of(run), None
    named = str(load(path)[1]["task"])
    stem, _, cls = named.rpartition(":")
    own = [
        s for s in known_tasks() if s == stem or (not stem and s.replace("_", "").lower() == named.lower())
    ]
    if not own:
        raise OptionError(f"{path} was exported for task {named!r}: say where it is, --task file.py:{cls}")
    return path, _held(load_task(f"{own[0]}:{cls}"), path), None


def _held(task: Task, path: Path) -> Task:
    """The task with the limits that a file was trained for. Raises TaskError where they differ now."""
    trained = {k: Limit(**limit) for k, limit in (load(path)[1].get("limits") or {}).items()}  # older: null
    now = with_values(task.limits, {name: x.value for name, x in trained.items() if name in task.limits})
    if trained and trained != now:
        raise TaskError(f"{path} was trained for {trained}, but {title(task)} now has {now}: train again")
    task.limits = now
    return task


def _about(file: Path) -> str:
    """A task's first line of documentation."""
    try:
        return (type(load_task(file)).__doc__ or "").strip().splitlines()[0]
    except TaskError as error:
        return str(error)
