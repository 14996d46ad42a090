"""The command `robokit evaluate`."""

import json
from dataclasses import asdict, dataclass
from os.path import realpath
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from robokit.calls.policies import Subject, file_of, report_on, subject_of
from robokit.calls.resolve import located
from robokit.cli.words import Trust
from robokit.console import say
from robokit.errors import OptionError
from robokit.evaluation.reports.across import pool
from robokit.evaluation.reports.report import Report
from robokit.show.plots import draw, writable
from robokit.task.lookup.find import title
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
    # measured on this task instead: a name, or file.py:Class, with the same inputs, actuators and rate; or
    # where a run's own task is now
    task: str | None = None
    # a second opinion: in this environment of gymnasium instead, as Hopper-v5, docs/from-gymnasium.md
    gymnasium: str | None = None
    trust: Trust = False
    torch: bool = False  # the torch policy of a run, without an exported file, as after a refused export
    json: bool = False  # print JSON

    def __call__(self) -> int:
        places = [located(what) for what in self.what]
        folders = self._folders(places)
        subjects = [subject_of(place, self.task, self.filter, self.torch, self.trust) for place in places]
        _one_task(dict(zip(self.what, subjects, strict=True)))
        reports: dict[str, Report] = {}
        options: dict[str, Any] = {"seed": self.seed, "nominal": self.nominal, "threads": self.threads}
        options["gymnasium"] = self.gymnasium
        for what, subject in zip(self.what, subjects, strict=True):
            report = reports[what] = report_on(subject, self.episodes, self.command, self.gamma, **options)
            if not self.json:
                print(report.text(), flush=True)
            if folders:
                folder = file_of(subject.place).parent
                for picture in draw(folders[what], report, folder if (folder / METRICS).is_file() else None):
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

    def _folders(self, places: list[Path]) -> dict[str, Path]:
        """Run or file -> its folder: `plots`, of several `plots/1`, `plots/2`...; {} without `plots`.

        Raises OptionError for no run or file, one given twice, or a folder that is not writable.
        """
        if len({realpath(file_of(place)) for place in places}) != len(self.what) or not self.what:
            given = " ".join(self.what) or "none"
            raise OptionError(f"evaluate takes one or more names, runs or files, each once; got {given}")
        if self.plots is None:
            return {}
        if len(self.what) == 1:
            return {self.what[0]: writable(self.plots)}
        return {what: writable(self.plots / f"{i}") for i, what in enumerate(self.what, 1)}


def _one_task(subjects: dict[str, Subject]) -> None:
    """Raise OptionError for runs of different tasks or limits, or exported for different tasks."""
    (first, one), *others = subjects.items()
    for what, other in others:
        both = ((title(x.task), x.file and x.file.contract["task"]) for x in (one, other))
        for ours, theirs in zip(*both, strict=True):
            if ours != theirs:
                rule = "runs that are evaluated together must be of one task"
                raise OptionError(f"{rule}: {first} is of {ours!r}, {what} of {theirs!r}")
        if other.task.limits != one.task.limits:
            ours, theirs = ({n: limit.value for n, limit in x.task.limits.items()} for x in (one, other))
            raise OptionError(f"runs must share one set of limits: {first} has {ours}, {what} has {theirs}")
