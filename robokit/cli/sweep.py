"""The command `robokit sweep`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

from tyro.conf import UseAppendAction, arg

from robokit.calls.sweeps import Search
from robokit.cli.arguments import parsed
from robokit.cli.train import Resume, Train, hooks_of
from robokit.console import say
from robokit.disk.folder import file_name
from robokit.errors import OptionError
from robokit.limits.limit import with_values
from robokit.task.lookup.find import load_task, title

VALIDATIONS = 10  # of a trial, unless their number is given


@dataclass(frozen=True)
class Sweep:
    """Search an algorithm's options on a task, by trainings that are judged by their exported files.

    robokit sweep TASK --algo sac --trials 30; every option of robokit train is allowed too and holds in all
    trials. The same command goes on with a sweep that was stopped or killed. Prints the best recipe.
    """

    trials: int = 30  # in total, over all starts of the sweep
    # what is searched, as lr=1e-4..1e-2,log or gamma=0.98|0.99; it replaces or adds a range of docs/sweeps.md
    # (default: those)
    space: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="OPTION=VALUES")] = ()
    episodes: int = 300  # of the evaluation whose lower bound judges a trial
    folder: Path | None = None  # of this sweep; default: RUNS/sweeps/TASK-ALGO
    ray: bool = False  # by Ray Tune: as many trials at once as there are --threads cores for each

    def run(self, train: Train[Any, Any]) -> int:
        assert train.task is not None
        task, setup, hooks = load_task(train.task), train.setup, hooks_of(train.track)
        task.limits = with_values(task.limits, asdict(cast("Any", train.limits)))
        setup = replace(setup, validations=VALIDATIONS) if setup.validations is None else setup
        base = task, setup, train.algorithm, self.space, self.episodes, train.init_from, train.save_every
        search, own = Search(*base, hooks), f"{file_name(title(task))}-{setup.algo}"
        where = self.folder or train.runs / "sweeps" / own, self.trials
        if self.ray:
            from robokit.calls.sweeps_ray import sweep_by_ray

            counts, best = sweep_by_ray(search, *where)
        else:
            counts, best = search.sweep(*where).result()
        say(f"{counts['COMPLETE']} trials measured, {counts['PRUNED']} ended early, {counts['FAIL']} failed")
        if best is None:
            say("none of them was within all limits")
            return 1
        value, options, run = best
        say(f"the best: {run}, {task.headline} at least {value:.4g}; to paste into the task's class:")
        recipes = {setup.algo: search.recipe(options)}
        print(json.dumps(recipes) if train.json else f"recipes = {recipes}")
        return 0


def parse_sweep(
    arguments: Sequence[str], train: Callable[[Sequence[str]], Callable[[], int]]
) -> Callable[[], int]:
    """A sweep over the training that `train` parses from the other arguments."""
    own, rest = parsed(Sweep, args=arguments, prog="robokit sweep", return_unknown_args=True)
    base = train(rest)
    if isinstance(base, Resume):
        raise OptionError("a sweep is gone on with by the same command, without --resume")
    return partial(own.run, base)
