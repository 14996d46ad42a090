"""Evaluation, films and export of a trained policy, from Python and from the command line.

    report = robokit.evaluate(run)
    film = robokit.play("go2_walk", command=(0.5, 0.0, 0.0))
    written = robokit.export_policy(run, "policies")

`what` is a run, its folder, an exported file, or a name: that of a task or policy, calls/names.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from robokit.calls import resolve
from robokit.calls.names import is_shipped, path_of
from robokit.calls.resolve import What
from robokit.console import say
from robokit.disk.folder import POLICY, file_name
from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.evaluation.measure import evaluate as measure
from robokit.evaluation.reports.report import Report
from robokit.export.bounds import filter_for
from robokit.export.card import write_card
from robokit.export.file import Exported
from robokit.export.write import Written
from robokit.filter import Filter
from robokit.learning.options import plain
from robokit.learning.protocols import Actor
from robokit.seeds import seed as seed_of
from robokit.show.film import write_film
from robokit.show.window import watch
from robokit.task.lookup.find import load_task, title
from robokit.task.task import Task
from robokit.training.run import Run
from robokit.training.setup.restore import export_policy as write_policy, restore_policy

Command = Sequence[float] | Mapping[str, Sequence[float]]  # numbers in the task's order, or by name


def evaluate(
    what: What,
    task: str | PathLike[str] | None = None,
    episodes: int = 300,
    *,
    seed: int = 0,
    nominal: bool = False,
    command: Command = (),
    gamma: float | None = None,
    filter: str | PathLike[str] | None = None,
    torch: bool = False,
    threads: int = 0,
    gymnasium: str | None = None,
    trust: bool = False,
) -> Report:
    """Measure an exported file in fresh episodes: statistics with intervals, and a verdict on each limit.

    A run's policy is exported first if need be. task: measured on this one instead, with the same inputs,
    actuators and rate; or where a run's own task is now. trust: run what the data names, docs/trust.md.
    seed: of the episodes. nominal: without randomisation, pushes and sensor noise. command: constant commands
    instead of random ones. gamma: of discounted limits; None: the run's, or .99. filter: the same episodes
    also through a filter, a JSON file. torch: the torch policy of a run, without a file. threads: of the
    physics; 0: one for each core. gymnasium: the id of an environment of gymnasium in place of the task's.

    Raises RunError, ContractError, TaskError, FilterError or OptionError for what is not there or not fit.
    """
    subject = subject_of(resolve.located(what), task, filter, torch, trust)
    episodes, seed, gamma, threads = (plain(x) for x in (episodes, seed, gamma, threads))
    options: dict[str, Any] = {"seed": seed, "nominal": nominal, "threads": threads}
    return report_on(subject, episodes, command, gamma, gymnasium, **options)


@dataclass(frozen=True)
class Subject:
    """What is measured."""

    place: Path  # the run folder or the exported file
    file: Exported | None  # None: the torch policy alone
    task: Task
    policy: Actor | None
    filter: Filter | None
    own: bool = True  # whether the task is the file's own, and no variant


def file_of(place: Path) -> Path:
    """The exported file of a run folder, even where there is none yet; a file itself."""
    return place if place.suffix == ".onnx" else place / POLICY


def subject_of(
    place: Path,
    task: str | PathLike[str] | None = None,
    filter: str | PathLike[str] | None = None,
    torch: bool = False,
    trust: bool = False,
) -> Subject:
    """What `evaluate` with these arguments measures. place: see `resolve.located`."""
    given = None if task is None else fspath(task)
    if torch and filter is not None:
        raise OptionError("torch measures a run's policy on its own task, without filter")
    if torch:
        return Subject(place, None, *resolve.torch_policy_of(place, given, trust), None)
    file, chosen, policy, own = resolve.policy_of(place, given, trust)
    guard = None if filter is None else filter_for(file, Path(filter))
    return Subject(place, file, chosen, policy, guard, own)


def report_on(
    subject: Subject, episodes: int, command: Command = (), gamma: float | None = None,
    gymnasium: str | None = None, **options: Any
) -> Report:  # fmt: skip
    """The report of `evaluate`; options: seed, nominal, threads."""
    if gymnasium is not None:
        return _second_opinion(subject, episodes, gymnasium, options["seed"], command, gamma)
    options |= {"commands": held(subject.task, command), "policy": subject.policy}
    options["gamma"] = resolve.gamma_of(resolve.run_of(file_of(subject.place))) if gamma is None else gamma
    say(f"measuring {episodes} episodes of {subject.place}")
    filtered = {"filter": subject.filter, "own": subject.own}
    return measure(subject.file, subject.task, episodes, **options, **filtered)


def _second_opinion(
    subject: Subject, episodes: int, id: str, seed: int, command: Command, gamma: float | None
) -> Report:
    """Raises OptionError for what there is in our episodes only: a filter, commands, gamma, no file."""
    from robokit.interop.peers.second_opinion import evaluate_in_gymnasium  # gymnasium loads for this alone

    of_ours = {"filter": subject.filter is not None, "command": bool(command), "gamma": gamma is not None}
    given = [name for name, is_given in {"torch": subject.file is None, **of_ours}.items() if is_given]
    if subject.file is None or given:
        raise OptionError(f"gymnasium's {id} runs the exported file alone, without --{given[0]}")
    return evaluate_in_gymnasium(subject.file, subject.task, id, episodes, seed=seed, own=subject.own)


def play(
    what: What,
    output: str | PathLike[str] | None = None,
    *,
    seconds: float | None = None,
    seed: int = 0,
    width: int = 640,
    height: int = 480,
    command: Command = (),
    viewer: bool = False,
    nominal: bool = False,
    task: str | PathLike[str] | None = None,
    trust: bool = False,
) -> Path | None:
    """Film an exported file in simulation and return the film; or show it in a window, and return None.

    output: .mp4 or .gif; None: play.mp4 in the run folder, an mp4 beside the file, or here for a policy that
    is given by its name or shipped. seconds: of simulated time; None: one episode, of a film at most 20 s.
    width, height: pixels. viewer: MuJoCo's window, in real time. Others: see `evaluate`.
    """
    drawing = seed_of("evaluation", plain(seed))
    place = resolve.located(what)
    file, chosen, _, own = resolve.policy_of(place, None if task is None else fspath(task), trust)
    env = Env(chosen, seed=drawing, threads=1, nominal=nominal)
    env.hold(held(chosen, command))
    if viewer:
        watch(file, env, seconds, own)
        return None
    film = _film_of(place, named=not isinstance(what, Run) and path_of(resolve.as_word(what)) is None)
    film = film if output is None else Path(output)
    write_film(file, env, film, seconds, width, height, own)
    return film


def _film_of(place: Path, named: bool) -> Path:
    if place.suffix != ".onnx":
        return Run.open(place).path / "play.mp4"
    film = place.with_name("play.mp4" if place.name == POLICY else f"{place.stem}.mp4")
    return Path(film.name) if named or is_shipped(place) else film


def export_policy(
    what: What,
    folder: str | PathLike[str] = "policies",
    *,
    episodes: int = 300,
    last: bool = False,
    task: str | PathLike[str] | None = None,
    normalize: str | PathLike[str] | None = None,
    trust: bool = False,
) -> Written:
    """Write a run's policy to `folder`: <task>.onnx, <task>.onnx.sha256 and the card <task>.json.

    Or that of a model.zip of Stable-Baselines3 (docs/from-sb3.md) for a task; normalize: its VecNormalize's
    file, or "none".

    It is the best that held its limits in validation, else the last. episodes: to measure the card's return
    and costs; 0: none. last: the last in any case. task: where the run's own task is now. trust: see
    `evaluate`. Raises ExportError if the gate refuses it, RunError for no run, DataError for a model.zip
    that cannot be read or is of another task, OptionError for a folder called .onnx or a single episode.
    """
    folder = Path(folder)
    if folder.suffix == ".onnx":
        raise OptionError(f"the output must be a folder, for <task>.onnx, got {folder}")
    if episodes < 0 or episodes == 1:
        raise OptionError(f"episodes must be at least 2, or 0 for none, got {episodes}")
    given = None if task is None else fspath(task)
    normal = None if normalize is None else fspath(normalize)
    if not isinstance(what, Run) and Path(what).suffix == ".zip":
        return _export_zip(Path(what), folder, given, normal, episodes, trust)
    if normal is not None:
        raise OptionError(f"--normalize is of a model.zip of Stable-Baselines3, got {normal!r} for {what}")
    run = resolve.named_run(what)
    restored = restore_policy(run, last, given, trust)
    path = folder / f"{file_name(run.config['task'])}.onnx"
    if path.exists():
        say(f"note: replacing {path}")
    say(f"exporting the policy of step {restored.steps} to {path}")
    written = write_policy(run, restored, path)
    card = {"run": run.path.name, "steps": restored.steps}
    options: dict[str, Any] = {"policy": restored.policy, "gamma": resolve.gamma_of(run)}
    _write_card(path, restored.env.task, episodes, card, options)
    return written


def _export_zip(
    model: Path, folder: Path, task: str | None, normalize: str | None, episodes: int, trust: bool
) -> Written:
    from robokit.interop.sb3_zip import export_zip  # gymnasium is not loaded by other commands

    if task is None:
        raise OptionError(f"{model} does not name its task: give it, --task TASK")
    chosen = load_task(task)
    path = folder / f"{file_name(title(chosen))}.onnx"
    written = export_zip(model, chosen, path, normalize, trust)
    _write_card(path, chosen, episodes, {"model": model.name}, {})
    return written


def _write_card(
    path: Path, task: Task, episodes: int, card: dict[str, Any], options: Mapping[str, Any]
) -> None:
    """The card of an exported file; with episodes its measured return and costs."""
    file = Exported.open(path)
    if episodes:
        say(f"measuring {episodes} episodes of {path}")
        measured = measure(file, task, episodes, **options)
        card |= {
            "return": measured.returns.mean,
            "costs": {name: summary.mean for name, summary in measured.costs.items()},
            "evaluation": {**measured.facts(), "file": path.name},
        }
    write_card(file, card)


def held(task: Task, command: Command) -> Mapping[str, Sequence[float]]:
    """A command as Env.hold takes it; errors as `held_commands`."""
    return command if isinstance(command, Mapping) else resolve.held_commands(task, tuple(command))
