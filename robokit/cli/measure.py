"""The command `robokit evaluate`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from robokit.cli.resolve import gamma_of, held_commands, policy_of, run_of
from robokit.console import say
from robokit.errors import OptionError
from robokit.evaluation.across import pool
from robokit.evaluation.measure import evaluate
from robokit.evaluation.report import Report
from robokit.export.bounds import filter_for
from robokit.show.plots import draw, writable
from robokit.task.lookup.find import title
from robokit.task.task import Task
from robokit.training.log import METRICS
from robokit.training.restore import POLICY


@dataclass(frozen=True)
class Evaluate:
    """Measure the exported file itself in fresh episodes: return, metrics, and a verdict on each limit.

    Exit code 1 if a limit is FAIL or a simulation broke; 0 for PASS and for UNDECIDED.
    """

    # run folders or exported files; several must be of one task: measured one by one, then pooled
    what: Positional[Annotated[tuple[str, ...], arg(metavar="RUN|FILE.onnx [RUN|FILE.onnx ...]")]]
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
    task: str | None = None  # of an exported file whose task has another name: file.py:Class
    json: bool = False  # print JSON

    def __call__(self) -> int:
        folders = self._folders()
        measured = [policy_of(what, self.task) for what in self.what]
        _one_task({what: task for what, (_, task, _) in zip(self.what, measured, strict=True)})
        filters = [self.filter and filter_for(file, self.filter) for file, _, _ in measured]
        reports: dict[str, Report] = {}
        for what, (file, task, policy), filter in zip(self.what, measured, filters, strict=True):
            report = reports[what] = evaluate(
                file,
                task,
                self.episodes,
                seed=self.seed,
                nominal=self.nominal,
                commands=held_commands(task, self.command),
                policy=policy,
                filter=filter,
                gamma=gamma_of(run_of(file.path)) if self.gamma is None else self.gamma,
                threads=self.threads,
            )
            if not self.json:
                print(report.text(), flush=True)
            if folders:
                run = file.path.parent if (file.path.parent / METRICS).is_file() else None
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
        """Run or file -> its folder: `plots`, of several `plots/1`, `plots/2`...; {} without `plots`.

        Raises OptionError for no run or file, one given twice, or a folder that is not writable.
        """
        files = (what if what.endswith(".onnx") else Path(what, POLICY) for what in self.what)
        if len({Path(file).resolve() for file in files}) != len(self.what) or not self.what:
            given = " ".join(self.what) or "none"
            raise OptionError(f"evaluate takes one or more runs or files, each once; got {given}")
        if self.plots is None:
            return {}
        if len(self.what) == 1:
            return {self.what[0]: writable(self.plots)}
        return {what: writable(self.plots / f"{i}") for i, what in enumerate(self.what, 1)}


def _one_task(tasks: dict[str, Task]) -> None:
    """Raise OptionError for runs of different tasks or limits, before the first evaluation."""
    (first, task), *others = tasks.items()
    for what, other in others:
        if title(other) != title(task):
            rule = "runs that are evaluated together must be of one task"
            raise OptionError(f"{rule}: {first} is of {title(task)!r}, {what} of {title(other)!r}")
        if other.limits != task.limits:
            ours, theirs = ({n: x.value for n, x in t.limits.items()} for t in (task, other))
            raise OptionError(f"runs must share one set of limits: {first} has {ours}, {what} has {theirs}")
