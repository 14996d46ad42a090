"""The same sweep by Ray Tune: several trials at once, on this machine or a cluster."""

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from robokit.calls.sweeps import Search
from robokit.compute.compile import torch_threads
from robokit.disk.folder import CONFIG
from robokit.interop.sweep import option, validated
from robokit.interop.trackers import optional
from robokit.limits.limit import with_values
from robokit.task.lookup.find import load_task
from robokit.training.hooks import Event
from robokit.training.setup.provenance import task_file


def sweep_by_ray(search: Search, folder: Path, trials: int) -> tuple[dict[str, int], Any]:
    """As `Search.sweep` and its result, and its errors.

    A trial takes `setup.threads` cores, at least one, and a GPU unless its device is the CPU.
    """
    ray, tune, by_optuna = (optional(f"ray{x}", "--ray", "ray") for x in ("", ".tune", ".tune.search.optuna"))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    setup, kept = replace(search.setup, threads=max(1, search.setup.threads)), folder.resolve() / "ray"
    limits = {name: limit.value for name, limit in search.task.limits.items()}
    place = f"{task_file(search.task).resolve()}:{type(search.task).__name__}"
    given = {"base": {**vars(search), "setup": setup, "task": place}, "limits": limits, "folder": kept.parent}
    needs = {"cpu": setup.threads, "gpu": float(setup.device != "cpu")}
    train = tune.with_resources(tune.with_parameters(_train, **given), needs)
    opened = replace(search, setup=setup).opened(folder, trials, f"ray, {trials} trials")
    with opened as study, contextlib.redirect_stdout(sys.stderr):  # standard output is for results
        ray.init(ignore_reinit_error=True)
        if tune.Tuner.can_restore(str(kept)):
            tuner = tune.Tuner.restore(str(kept), train, resume_unfinished=True)
        else:
            best, after = {"metric": "value", "mode": "max"}, (setup.validations or 0) // 4
            median = tune.schedulers.MedianStoppingRule("number", grace_period=after, **best)
            sampler = by_optuna.OptunaSearch(study.space, seed=setup.seed, **best)
            config = tune.TuneConfig(search_alg=sampler, scheduler=median, num_samples=trials)
            where = tune.RunConfig(kept.name, str(kept.parent))
            tuner = tune.Tuner(train, tune_config=config, run_config=where)
        results = tuner.fit()
    ends = [one.metrics for one in results if one.error is None and "over" in one.metrics]
    counts = {"COMPLETE": len(ends), "FAIL": results.num_errors}
    counts |= {"PRUNED": len(results) - sum(counts.values())}
    fit = [(end["value"], end["options"], Path(end["run"])) for end in ends if end["over"] <= 0]
    return counts, max(fit, key=lambda end: end[0], default=None)


def _train(drawn: dict[str, Any], base: dict[str, Any], limits: dict[str, float], folder: Path) -> None:
    """One trial, in a process of Ray; its validations are reported, and Tune ends one that is pruned."""
    tune, task = optional("ray.tune", "--ray", "ray"), load_task(base["task"])
    task.limits = with_values(task.limits, limits)
    own, search = folder / "trials" / tune.get_context().get_trial_id(), Search(**{**base, "task": task})

    def watch(event: Event) -> None:
        if found := validated(event):
            tune.report({"value": found[1], "number": found[0]})

    def run() -> Path | None:
        return next((file.parent for file in own.glob(f"*/2*/{CONFIG}")), None)

    options = {name: option(value) for name, value in drawn.items()}
    trial: Any = SimpleNamespace(options=options, run=run(), watch=watch)
    with torch_threads(1):
        value, over = search.value(trial, own)
    end = {"value": value, "over": max(over.values()), "run": str(run()), "options": options}
    tune.report({"number": (search.setup.validations or 0) + 1, **end})
