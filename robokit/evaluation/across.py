"""Pooled statistics of several runs of one task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from robokit.errors import OptionError
from robokit.evaluation.ledger import weighted
from robokit.evaluation.report import Report
from robokit.evaluation.statistics import Array, Pooled, pooled_ratio, pooled_returns
from robokit.evaluation.table import bounds, with_bounds
from robokit.evaluation.verdict import Verdict, Word
from robokit.limits.measures import MEASURES, EpisodeCosts


@dataclass(frozen=True)
class Across:
    """Statistics of several runs of one algorithm on one task; intervals resample episodes, not runs."""

    runs: list[str]
    means: list[float]  # mean return of each run
    iqm: Pooled  # interquartile mean of the returns of all episodes
    limits: dict[str, Pooled]  # measured cost in each limit's own measure, over all episodes
    verdicts: dict[str, dict[Word, int]]  # limit -> verdict -> number of runs
    paired: bool  # whether episode i starts alike in every run: then all runs resample the same episodes

    def text(self) -> str:
        """The statistics as a text table."""
        drawn = "the same episodes of each resampled" if self.paired else "episodes resampled within each"
        least, most = min(self.means), max(self.means)
        lines = [f"{len(self.runs)} runs, {drawn}; their mean returns {bounds(least, most)}"]
        lines.append(f"  {'interquartile mean of returns':<38}{with_bounds(self.iqm)}")
        for name, pooled in self.limits.items():
            words = ", ".join(f"{count} {word}" for word, count in self.verdicts[name].items() if count)
            lines.append(f"  {f'limit {name}, pooled':<38}{with_bounds(pooled)}  {words}")
        return "\n".join(lines)


def across(
    runs: Sequence[str],
    returns: Sequence[Array],
    costs: Sequence[Mapping[str, EpisodeCosts[Array]]],
    verdicts: Sequence[Mapping[str, Verdict]],
    paired: bool = False,
) -> Across:
    """Pool runs; each argument has one entry per run: returns (E,), costs and verdicts by name of the limit.

    paired: episode i starts alike in every run, so all runs resample the same episodes.
    """
    limits, counts = {}, {}
    for name, verdict in verdicts[0].items():
        x, weight = zip(*(weighted(verdict.measure, of_run[name]) for of_run in costs), strict=True)
        limits[name] = Pooled(*pooled_ratio(x, weight, paired, MEASURES[verdict.measure].worst))
        words = [of_run[name].verdict for of_run in verdicts]
        counts[name] = {word: words.count(word) for word in get_args(Word)}
    means = [float(x.mean()) for x in returns]
    return Across([*runs], means, Pooled(*pooled_returns(returns, paired)), limits, counts, paired)


def pool(reports: Mapping[str, Report]) -> Across:
    """Pool reports by run name, paired if they share seed, nominal and commands.

    Raises OptionError if task, number of episodes, gamma or limits (value or measure) differ.
    """
    (first, one), *others = reports.items()
    for name, other in others:
        for what in ("task", "variant", "episodes", "gamma"):
            ours, theirs = getattr(one, what), getattr(other, what)
            if ours != theirs:
                raise OptionError(f"runs must share one {what}: {first} has {ours!r}, {name} has {theirs!r}")
        ours, theirs = ({k: (v.limit, v.measure) for k, v in r.limits.items()} for r in (one, other))
        if ours != theirs:
            raise OptionError(f"runs must share one set of limits: {first} has {ours}, {name} has {theirs}")

    starts = [(report.seed, report.nominal, report.commands) for report in reports.values()]
    return across(
        [*reports],
        [np.array(report.per_episode["return"]) for report in reports.values()],
        [{name: report.episode_costs(name) for name in report.limits} for report in reports.values()],
        [report.limits for report in reports.values()],
        paired=all(start == starts[0] for start in starts),
    )
