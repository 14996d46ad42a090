"""A sweep: trainings whose options are searched, each judged by the evaluation of its exported file."""

import contextlib
import json
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robokit.calls.training import begin, resume_run
from robokit.compute.compile import torch_threads
from robokit.console import say
from robokit.disk.place import Held, check_place
from robokit.disk.write import make_folder
from robokit.errors import CheckpointError, Error, OptionError, RunError
from robokit.evaluation.measure import evaluate
from robokit.export.file import Exported
from robokit.interop.sweep import Study, Trial, space_of
from robokit.learning.options import with_options
from robokit.task.lookup.find import title
from robokit.task.task import Task
from robokit.training.hooks import Hook
from robokit.training.loop import BY_HOOK, SAVE_SECONDS
from robokit.training.setup.build import Setup, algorithm
from robokit.training.setup.provenance import task_hashes


@dataclass(frozen=True)
class Search:
    """What is the same in all trials of a sweep."""

    task: Task
    setup: Setup  # with a number of validations
    config: Any  # all options that are not searched
    space: Sequence[str] = ()  # texts of --space
    episodes: int = 300  # of the evaluation that a trial is judged by
    init_from: str | None = None
    save_every: float = SAVE_SECONDS
    hooks: Sequence[Hook] = ()

    def sweep(self, folder: Path, trials: int) -> Study:
        """Train until `trials` are finished in `folder`, going on with what is there.

        A trial's value is the lower bound of the headline's 95 % interval, measured on its exported file;
        pruned are those whose validations fall below the median. A trial fails if its options contradict
        each other, its training cannot go on, or its policy cannot be exported; what a disk or the task
        refuses ends the sweep. An interrupt leaves the trial to be gone on with.

        Raises OptionError for a wrong space or without Optuna; RunError for the study of another sweep, one
        that is locked, or another process here; TaskError and ExportError as `train`.
        """
        with self.opened(folder, trials) as study, torch_threads(1):
            for trial in study.until(trials):
                say(f"trial {trial.own.number + 1} of {trials}: {trial.options}")
                say(f"trial {trial.own.number + 1} {self._try(trial, folder)}")
        return study

    @contextlib.contextmanager
    def opened(self, folder: Path, trials: int, by: str = "") -> Iterator[Study]:
        """Context with the study in `folder`, which no other process may sweep in; errors as above."""
        if trials < 1 or self.episodes < 2:
            raise OptionError(f"a sweep needs a trial and 2 episodes, got {trials} and {self.episodes}")
        space = space_of(self.setup.algo, self.config, self.space)
        check_place(folder)
        make_folder(folder)
        with contextlib.closing(Held(folder)) as held:
            if not held.take():
                raise RunError(f"another process sweeps in {folder}")
            facts = self._facts() | {"by": by}
            yield Study(folder, facts, space, self.setup.seed, self.setup.validations or 0)

    def recipe(self, options: dict[str, Any]) -> dict[str, Any]:
        """A trial's options that differ from the algorithm's defaults, for a task's `recipes`."""
        default = asdict(algorithm(self.setup.algo).Config())
        return {k: v for k, v in asdict(with_options(self.config, options)).items() if v != default[k]}

    def _facts(self) -> dict[str, Any]:
        """What must not change between two starts of a sweep, as JSON values."""
        limits = {name: limit.value for name, limit in self.task.limits.items()}
        facts = {"task": title(self.task), "limits": limits, "hashes": task_hashes(self.task)}
        facts |= {"setup": asdict(self.setup), "options": asdict(self.config), "space": self.space}
        return json.loads(json.dumps(facts | {"episodes": self.episodes, "init_from": self.init_from}))

    def _try(self, trial: Trial, folder: Path) -> str:
        """Train, evaluate and tell a trial, from where it was left; returns how it ended."""
        try:
            value, over = self.value(trial, folder)
        except Error as error:
            own = isinstance(error, OptionError) or (trial.run and not isinstance(error.__cause__, OSError))
            if isinstance(error, CheckpointError) or not own:
                raise
            trial.tell(None)
            return f"failed: {error}"
        if value is None:
            trial.tell(None, state="PRUNED")
            return "ended early: below the median"
        trial.tell(value, over)
        return f"has a {self.task.headline} of at least {value:.4g}"

    def value(self, trial: Trial, folder: Path) -> tuple[float | None, dict[str, float]]:
        """Train and measure a trial: (lower bound of the headline, each limit's excess); None: pruned.

        Raises KeyboardInterrupt if the training was stopped, RunError if there is nothing to measure.
        """
        hooks = [trial.watch, *self.hooks]
        if trial.run is not None:
            trained = resume_run(trial.run, None, self.save_every, hooks, self.task)
        else:
            config = with_options(self.config, trial.options)
            trained = begin(self.task, self.setup, config, folder, self.save_every, hooks, self.init_from)
        stop = trained.outcome.stop
        if stop == BY_HOOK:
            return None, {}
        if stop is not None:
            say("the sweep is gone on with by its own command, with this trial first")
            raise KeyboardInterrupt(*[stop] * (stop == signal.SIGTERM))
        if trained.policy is None:
            raise RunError(trained.error or "not exported")
        how = {"gamma": self.config.gamma, "threads": self.setup.threads}
        report = evaluate(Exported.open(trained.policy.path), self.task, self.episodes, **how)
        if report.headline.summary is None:
            raise RunError(f"{report.headline.name} has a value in fewer than 2 of {self.episodes} episodes")
        over = {f"limit {name}": x.measured.value - x.limit for name, x in report.limits.items()}
        return report.headline.summary.low, over | {"broken simulations": float(report.bad)}
