"""Pooled statistics of several runs of one task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from robokit.errors import OptionError
from robokit.evaluation.ledger import weighted
from robokit.evaluation.reports.report import Report
from robokit.evaluation.reports.table import bounds, with_bounds
from robokit.evaluation.reports.verdict import Verdict, Word
from robokit.evaluation.statistics import Array, Pooled, clopper_pearson, pooled_ratio, pooled_returns
from robokit.limits.measures import MEASURES, EpisodeCosts


@dataclass(frozen=True)
class Across:
    """Statistics of several runs of one algorithm on one task; intervals resample episodes, not runs."""

    runs: list[str]
    means: list[float]  # mean return of each run
    iqm: Pooled  # interquartile mean of the returns of all episodes
    headline: dict[str, Pooled | None]  # label -> mean over all episodes with a value; {} for the return
    failure: dict[str, Pooled]  # label -> share of all episodes
    limits: dict[str, Pooled]  # measured cost in each limit's own measure, over all episodes
    verdicts: dict[str, dict[Word, int]]  # limit -> verdict -> number of runs
    paired: bool  # whether episode i starts alike in every run: then all runs resample the same episodes

    def text(self) -> str:
        """The statistics as a text table."""
        drawn = "the same episodes of each resampled" if self.paired else "episodes resampled within each"
        least, most = min(self.means), max(self.means)
        lines = [f"{len(self.runs)} runs, {drawn}; their mean returns {bounds(least, most)}"]
        rows = self.headline | {"interquartile mean of returns": self.iqm} | self.failure
        for label, pooled in rows.items():
            value = with_bounds(pooled) if pooled else "counted in fewer than 2 episodes"
            lines.append(f"  {label:<38}{value}")
        for name, pooled in self.limits.items():
            words = ", ".join(f"{count} {word}" for word, count in self.verdicts[name].items() if count)
            lines.append(f"  {f'limit {name}, pooled':<38}{with_bounds(pooled)}  {words}")
        return "\n".join(lines)


def across(
    runs: Sequence[str],
    returns: Sequence[Array],
    costs: Sequence[Mapping[str, EpisodeCosts[Array]]],
    verdicts: Sequence[Mapping[str, Verdict]],
    headlines: Mapping[str, Sequence[Array]],
    failed: Mapping[str, Sequence[Array]],
    paired: bool = False,
) -> Across:
    """Pool runs; one entry per run: returns (E,), costs and verdicts by name of the limit.

    headlines: by label, (E,) per run with NaN for no value; {} if it is the return. failed: by label, (E,) of
    0 and 1 per run. paired: episode i starts alike in every run, so all runs resample the same episodes.
    """
    limits, counts = {}, {}
    for name, verdict in verdicts[0].items():
        x, weight = zip(*(weighted(verdict.measure, of_run[name]) for of_run in costs), strict=True)
        limits[name] = Pooled(*pooled_ratio(x, weight, paired, MEASURES[verdict.measure].worst))
        words = [of_run[name].verdict for of_run in verdicts]
        counts[name] = {word: words.count(word) for word in get_args(Word)}
    means = [float(x.mean()) for x in returns]
    return Across(
        runs=[*runs],
        means=means,
        iqm=Pooled(*pooled_returns(returns, paired)),
        headline={label: _pooled_mean(numbers, paired) for label, numbers in headlines.items()},
        failure={label: _pooled_share(happened, paired) for label, happened in failed.items()},
        limits=limits,
        verdicts=counts,
        paired=paired,
    )


def _pooled_mean(runs: Sequence[Array], paired: bool) -> Pooled | None:
    """Mean over the episodes of all runs that are not NaN, (E,) per run; None for fewer than two.

    Resampled are the episodes with a value; if paired, those with a value in any run.
    """
    valued = [~np.isnan(x) for x in runs]
    if sum(int(has.sum()) for has in valued) < 2:
        return None
    if all(np.isin(x, (0.0, 1.0)).all() for x in runs):
        return _pooled_share(runs, paired)
    rows = [np.any(valued, 0)] * len(runs) if paired else valued
    kept = [x[keep] for x, keep in zip(runs, rows, strict=True) if keep.any()]
    weights = [(~np.isnan(x)).astype(np.float64) for x in kept]
    return Pooled(*pooled_ratio([np.nan_to_num(x) for x in kept], weights, paired))


def _pooled_share(runs: Sequence[Array], paired: bool) -> Pooled:
    """Share of ones among the episodes of all runs, (E,) of 0 and 1 per run, by Clopper-Pearson.

    Paired episodes may all be the same: the interval is that of as many episodes as one run has.
    """
    happened, alike = np.concatenate(runs), len(runs) if paired else 1
    count, episodes = float(happened.sum()), len(happened)
    return Pooled(count / episodes, *clopper_pearson(count / alike, episodes // alike))


def pool(reports: Mapping[str, Report]) -> Across:
    """Pool reports by run name, paired if they share seed, nominal and commands.

    Raises OptionError if task, number of episodes, gamma, headline, failure or limits (value or measure)
    differ.
    """
    (first, one), *others = reports.items()
    for name, other in others:
        for what in ("task", "variant", "episodes", "gamma", "headline", "failure"):
            ours, theirs = (_named(report, what) for report in (one, other))
            if ours != theirs:
                raise OptionError(f"runs must share one {what}: {first} has {ours!r}, {name} has {theirs!r}")
        ours, theirs = ({k: (v.limit, v.measure) for k, v in r.limits.items()} for r in (one, other))
        if ours != theirs:
            raise OptionError(f"runs must share one set of limits: {first} has {ours}, {name} has {theirs}")

    starts = [(report.seed, report.nominal, report.commands) for report in reports.values()]
    return across(
        [*reports],
        [report.numbers("return") for report in reports.values()],
        [{name: report.episode_costs(name) for name in report.limits} for report in reports.values()],
        [report.limits for report in reports.values()],
        {label: [report.numbers("headline") for report in reports.values()] for label in one.headline.labels},
        {one.failure.label: [report.numbers("failed") for report in reports.values()]},
        paired=all(start == starts[0] for start in starts),
    )


def _named(report: Report, what: str) -> Any:
    """A field of a report; of headline and failure what they name."""
    named = {"headline": (report.headline.name, report.headline.kind), "failure": report.failure.names}
    return named.get(what, getattr(report, what))
