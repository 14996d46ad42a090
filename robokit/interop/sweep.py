"""A sweep's space and its trials, by Optuna, in a SQLite file that a killed process leaves whole.

    space = space_of("sac", config, ["lr=1e-4..1e-2,log", "gamma=0.98|0.99", "batch=256"])
    for trial in Study(folder, facts, space, seed, validations=10).until(30):
        ...  # train with trial.options and the hook trial.watch, then trial.tell(value)

The sampler (TPE) draws each trial from the ones before it and a seed of its own, so a sweep that was killed
tries the same options as one that was not.
"""

import ast
import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from robokit.disk.folder import CONFIG
from robokit.disk.read import first_difference
from robokit.errors import OptionError, RunError
from robokit.interop.trackers import optional
from robokit.learning.options import fits, with_options
from robokit.training.hooks import Event
from robokit.training.setup.build import algorithm

# Ranges around our defaults; options after the search of RL Baselines3 Zoo (rl_zoo3/hyperparams_opt.py), with
# n_step, layer_norm and the first temperature added
OFF_POLICY = "lr=1e-4..2e-3,log", "gamma=0.97|0.98|0.99|0.995", "tau=0.002..0.02,log"
SPACES = {
    "ppo": (*OFF_POLICY[:2], "lam=0.9..0.98", "clip=0.1..0.3", "entropy_coef=1e-5..1e-2,log", "epochs=4..15"),
    "sac": (*OFF_POLICY, "n_step=1|3", "layer_norm=False|True", "init_temperature=0.05..1,log"),
    "td3": (*OFF_POLICY, "n_step=1|3", "layer_norm=False|True", "exploration=0.05..0.4,log"),
    "svg": (*OFF_POLICY, "lookahead=1..5", "init_temperature=0.02..0.5,log"),
}
STUDY, RUN, FACTS = "study.db", "run", "facts"  # the file; attributes of a trial and of the study


def space_of(algo: str, config: Any, given: Iterable[str]) -> dict[str, Any]:
    """Optuna's distributions of the options in SPACES[algo] and `given`, which replaces or adds.

    config: all other options. Raises OptionError for an unknown option, or a value that it cannot have.
    """
    pairs = (text.partition("=") for text in (*SPACES.get(algo, ()), *given))
    written = {name.strip().replace("-", "_"): values for name, _, values in pairs}
    return {name: _distribution(name, values, algo, config) for name, values in written.items()}


def _distribution(name: str, text: str, algo: str, config: Any) -> Any:
    """LOW..HIGH, LOW..HIGH,log, or choices between `|`, of which there may be one."""
    kinds = optional("optuna", "a sweep", "sweep").distributions
    low, between, rest = text.partition("..")
    high, _, scale = rest.partition(",")
    try:
        if between and scale in ("", "log"):
            whole = any(f.name == name and not fits(0.5, f.type) for f in fields(config))
            number, kind = (int, kinds.IntDistribution) if whole else (float, kinds.FloatDistribution)
            ends = number(low), number(high)
            found, values = kind(*ends, log=bool(scale)), ends
        else:
            found = kinds.CategoricalDistribution(values := [word.strip() for word in text.split("|")])
        for value in values:
            algorithm(algo).check(with_options(config, {name: option(value)}))
    except ValueError as error:  # also OptionError
        raise OptionError(f"--space {name}={text}: {error}") from error
    return found


def option(drawn: Any) -> Any:
    """An option's value: a choice is read as Python writes it, else it is a word; of a float four digits."""
    if isinstance(drawn, str):
        with contextlib.suppress(ValueError, SyntaxError):
            return ast.literal_eval(drawn)
    return float(f"{drawn:.4g}") if isinstance(drawn, float) else drawn


def validated(event: Event) -> tuple[int, float] | None:
    """(its number, the headline) of a validation; None: the event is another, or a limit did not hold."""
    run, headline = event.run, event.metrics.get("validation/headline")
    if event.kind != "validation" or headline is None or not event.metrics["validation/feasible"]:
        return None
    return min(event.done.steps, run.steps) * run.config["validations"] // run.steps, headline


@dataclass(frozen=True)
class Trial:
    """One training of a sweep."""

    study: "Study"
    own: Any  # Optuna's
    options: dict[str, Any]
    reported: Mapping[int, float]  # validations before it was killed

    @property
    def run(self) -> Path | None:
        """The run folder; None: its training has not begun, or the folder was removed."""
        place = self.study.folder / self.own.user_attrs.get(RUN, "")
        return place if (place / CONFIG).is_file() else None

    def watch(self, event: Event) -> bool:
        """A hook that notes the run folder and the validations, and ends a training that is pruned."""
        if event.kind == "begin":
            self.own.set_user_attr(RUN, os.path.relpath(event.run.path, self.study.folder))
            return event.done.steps >= event.run.steps or not self.own.should_prune()
        if (found := validated(event)) is None:
            return True
        if found[0] not in self.reported:
            self.own.report(found[1], found[0])
        return not self.own.should_prune()

    def tell(self, value: float | None, over: Mapping[str, float] | None = None, state: str = "FAIL") -> None:
        """Finish it with a value, else in a `state`. over: each limit's excess; in the best none is > 0."""
        with self.study.stored() as optuna:
            for name, excess in (over or {}).items():
                self.own.set_constraint(name, excess)
            state = state if value is None else "COMPLETE"
            self.study.own.tell(self.own, value, optuna.trial.TrialState[state])


class Study:
    """The study in `folder`. seed: of the sampler; validations: of a trial.

    Pruning, by the median rule, begins after a quarter of the validations. Raises RunError for a file that
    is locked or damaged, or was begun with other `facts`, JSON values.
    """

    def __init__(
        self, folder: Path, facts: dict[str, Any], space: dict[str, Any], seed: int, validations: int
    ) -> None:
        self.folder, self.space, self._seed = folder, space, seed
        with self.stored() as optuna:
            pruner = optuna.pruners.MedianPruner(n_warmup_steps=validations // 4)
            how = {"study_name": "sweep", "direction": "maximize", "pruner": pruner, "load_if_exists": True}
            self.own = optuna.create_study(storage=f"sqlite:///{folder / STUDY}", **how)
            if (then := self.own.user_attrs.get(FACTS)) is None and not self.own.get_trials():
                self.own.set_user_attr(FACTS, then := facts)
        if then != facts:
            name, theirs, ours = first_difference(then or {}, facts)
            rule = f"{folder} is of another sweep: its {name} is {theirs!r}, not {ours!r}"
            raise RunError(f"{rule}; begin a new one in another --folder")

    def until(self, number: int) -> Iterator[Trial]:
        """Trials, each to be told before the next one, until `number` are finished; first what was left."""
        while True:
            with self.stored() as optuna:
                trials = self.own.get_trials(deepcopy=False)
                left = [trial for trial in trials if trial.state.name == "RUNNING"]
                if not left and sum(trial.state.is_finished() for trial in trials) >= number:
                    return
                place = left[0].number if left else len(trials)
                self.own.sampler = optuna.samplers.TPESampler(seed=self._seed + place)
                own = optuna.trial.Trial(self.own, left[0]._trial_id) if left else self.own.ask()
                options = {name: option(own._suggest(name, one)) for name, one in self.space.items()}
                before = left[0].intermediate_values if left else {}
            yield Trial(self, own, options, before)

    def result(self) -> tuple[dict[str, int], Any]:
        """Number of trials by state; (value, options, run folder) of the best within all limits, or None."""
        with self.stored():
            states = [trial.state.name for trial in self.own.get_trials(deepcopy=False)]
            counts = {state: states.count(state) for state in ("COMPLETE", "PRUNED", "FAIL")}
            try:
                best = self.own.best_trial
            except ValueError:
                return counts, None
        options = {name: option(best.params[name]) for name in self.space}
        return counts, (best.value, options, self.folder / best.user_attrs[RUN])

    @contextlib.contextmanager
    def stored(self) -> Iterator[Any]:
        """Context with optuna, in which an error of the storage is a RunError."""
        optuna, alchemy = import_module("optuna"), import_module("sqlalchemy.exc")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            yield optuna
        except (optuna.exceptions.OptunaError, alchemy.SQLAlchemyError) as error:
            cause = error.__cause__ or error
            raise RunError(f"{self.folder / STUDY}: {getattr(cause, 'orig', None) or cause}") from error
