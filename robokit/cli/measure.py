"""The command `robokit evaluate`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from robokit.cli.names import locate
from robokit.cli.resolve import gamma_of, held_commands, policy_of, run_of, torch_policy_of
from robokit.console import say
from robokit.errors import OptionError
from robokit.evaluation.across import pool
from robokit.evaluation.measure import evaluate
from robokit.evaluation.report import Report
from robokit.export.bounds import filter_for
from robokit.export.file import Exported
from robokit.learning.protocols import Actor
from robokit.show.plots import draw, writable
from robokit.task.lookup.find import title
from robokit.task.task import Task
from robokit.training.folder import POLICY
from robokit.training.log import METRICS


@dataclass(frozen=True)
class Evaluate:
    """Measure the exported file itself in fresh episodes: return, metrics, and a verdict on each limit.

    Exit code 1 if a limit is FAIL or a simulation broke; 0 for PASS and for UNDECIDED.
    """

    # names (their newest run, else policy), run folders or exported files; several must be of one task:
    # measured one by one, then pooled
    what: Positional[Annotated[tuple[str, ...], arg(metavar="NAME|RUN|FILE.onnx [NAME|RUN|FILE.onnx ...]")]]
    episodes: int = 300  # one in each of as many simulations
    nominal: bool = False  # without randomisation, pushes and sensor noise
    seed: int = 0  # of the episodes, from 0 to 999999; disjoint from the seeds of training
    threads: int = 0  # threads of the physics; 0: one for each core
    # constant commands in the task's order, instead of random ones
    command: tuple[float, ...] = ()
    gamma: float | None = None  # of discounted limits; default: the run's own, or 0.99 for a file alone
    # the same episodes also through a filter: a person's numbers or a table as JSON, docs/filter.md
    filter: Path | None = None
    plots: Path | None = None  # folder for plots: the run's curves, and each cost in these episodes
    # measured on this task instead: a name, or file.py:Class, with the same inputs, actuators and rate
    task: str | None = None
    torch: bool = False  # the torch policy of a run, without an exported file, as after a refused export
    json: bool = False  # print JSON

    def __call__(self) -> int:
        self._check_torch()
        places = [locate(what) for what in self.what]
        folders = self._folders(places)
        measured = [self._subject(place) for place in places]
        _one_task({what: (file, task) for what, (file, task, _) in zip(self.what, measured, strict=True)})
        filters = [self.filter and file and filter_for(file, self.filter) for file, _, _ in measured]
        reports: dict[str, Report] = {}
        for what, place, (file, task, policy), filter in zip(
            self.what, places, measured, filters, strict=True
        ):
            path = _file(place)
            commands = held_commands(task, self.command)
            say(f"measuring {self.episodes} episodes of {place}")
            report = reports[what] = evaluate(
                file,
                task,
                self.episodes,
                seed=self.seed,
                nominal=self.nominal,
                commands=commands,
                policy=policy,
                filter=filter,
                gamma=gamma_of(run_of(path)) if self.gamma is None else self.gamma,
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

    def _check_torch(self) -> None:
        for option in ("task", "filter"):
            if self.torch and getattr(self, option) is not None:
                raise OptionError(f"--torch measures a run's policy on its own task; without --{option}")

    def _subject(self, place: Path) -> tuple[Exported | None, Task, Actor | None]:
        return (None, *torch_policy_of(place)) if self.torch else policy_of(place, self.task)

    def _folders(self, places: list[Path]) -> dict[str, Path]:
        """Run or file -> its folder: `plots`, of several `plots/1`, `plots/2`...; {} without `plots`.

        Raises OptionError for no run or file, one given twice, or a folder that is not writable.
        """
        if len({_file(place).resolve() for place in places}) != len(self.what) or not self.what:
            given = " ".join(self.what) or "none"
            raise OptionError(f"evaluate takes one or more names, runs or files, each once; got {given}")
        if self.plots is None:
            return {}
        if len(self.what) == 1:
            return {self.what[0]: writable(self.plots)}
        return {what: writable(self.plots / f"{i}") for i, what in enumerate(self.what, 1)}


def _file(place: Path) -> Path:
    """The exported file of a run folder; a file itself."""
    return place if place.suffix == ".onnx" else place / POLICY


def _one_task(subjects: dict[str, tuple[Exported | None, Task]]) -> None:
    """Raise OptionError for runs of different tasks or limits, or exported for different tasks."""
    (first, (file, task)), *others = subjects.items()
    for what, (its, other) in others:
        ours, theirs = ((title(t), f and f.contract["task"]) for f, t in ((file, task), (its, other)))
        for one, two in zip(ours, theirs, strict=True):
            if one != two:
                rule = "runs that are evaluated together must be of one task"
                raise OptionError(f"{rule}: {first} is of {one!r}, {what} of {two!r}")
        if other.limits != task.limits:
            ours, theirs = ({n: x.value for n, x in t.limits.items()} for t in (task, other))
            raise OptionError(f"runs must share one set of limits: {first} has {ours}, {what} has {theirs}")
