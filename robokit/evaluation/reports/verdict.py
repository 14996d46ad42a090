"""Verdicts on limits from the costs of E episodes: PASS, FAIL or UNDECIDED.

    ledger = Ledger(limits, num_envs, gamma, device)
    ledger.add(step.cost, running, step.terminated, step.steps_left)         # every control step
    verdicts = [judge(limit, costs, steps, gamma) for ...]             # one for each limit

PASS: the limit holds. FAIL: it does not. Each is wrong in at most 5 % of evaluations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from robokit.evaluation import statistics
from robokit.evaluation.ledger import weighted
from robokit.evaluation.reports.table import bounds, counted, with_bounds
from robokit.evaluation.statistics import Array, Estimate, Share
from robokit.evaluation.worst import episodes_needed_for_worst, estimate_worst
from robokit.limits.limit import Limit
from robokit.limits.measures import MEASURES, EpisodeCosts, Name

Word = Literal["PASS", "FAIL", "UNDECIDED"]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one limit, and the measured costs."""

    limit: float
    measure: Name
    verdict: Word
    measured: Estimate  # in the limit's own measure
    episodes_needed: int | None  # in all, for a verdict if UNDECIDED; None: no number would be enough
    any_cost: Share  # episodes in which the cost was ever above 0
    above: Share | None  # episodes above the limit, for measures of an episode's sum or peak
    episode: Estimate  # mean sum of an episode
    cvar: float  # mean of the worst 5 % of the episodes' sums
    rate: Estimate  # per control step

    def line(self, name: str) -> str:
        """The limit's row of the text table, under its `name`."""
        needs, m = "", self.measured
        if self.verdict == "UNDECIDED":
            n = self.episodes_needed
            needs = f": about {n} episodes would decide" if n else ": no number of episodes would decide"
        row = f"{name}, {MEASURES[self.measure].words}"
        return (
            f"  {row:<38}{m.value:>10.4g}  {bounds(m.at_least, m.at_most):<22}"
            f"{self.limit:>10.4g}  {self.verdict}{needs}"
        )

    def text(self, name: str) -> str:
        """The row, and below it the other measured numbers."""
        shares = [f"P(any) {counted(self.any_cost)}"]
        each = MEASURES[self.measure].each
        shares += [f"P({each} > {self.limit:g}) {counted(self.above)}"] if self.above else []
        sums = f"sum {with_bounds(self.episode)}, worst 5 % {self.cvar:.4g}"
        rate = f"per step {with_bounds(self.rate)}"
        return f"{self.line(name)}\n      {', '.join(shares)}\n      {sums}, {rate}"


def judge(limit: Limit, costs: EpisodeCosts[Array], steps: int, gamma: float) -> Verdict:
    """The verdict on one limit. steps: control steps to the time limit; gamma: of a discounted limit."""
    names: set[Name] = {"rate", "episode", limit.measure}
    found = {name: _estimate(name, limit, costs, steps, gamma) for name in names}
    measured, single = found[limit.measure], MEASURES[limit.measure].each
    word = word_of(measured, limit.value)
    return Verdict(
        limit=float(limit.value),
        measure=limit.measure,
        verdict=word,
        measured=measured,
        episodes_needed=_needed(limit, costs, measured, steps, gamma) if word == "UNDECIDED" else None,
        any_cost=statistics.share(costs.violated > 0),
        above=statistics.share(weighted(limit.measure, costs)[0] > limit.value) if single else None,
        episode=found["episode"],
        cvar=statistics.cvar(costs.total),
        rate=found["rate"],
    )


def word_of(measured: Estimate, limit: float) -> Word:
    """PASS if `at_most` is at most the limit, FAIL if `at_least` is above it, else UNDECIDED."""
    if measured.at_most <= limit:
        return "PASS"
    return "FAIL" if measured.at_least > limit else "UNDECIDED"


def overall(verdicts: Mapping[str, Verdict]) -> str:
    """One line: "FAIL: names", else "UNDECIDED: names", else "PASS: all 3 limits".

    A PASS of all is as sure as each of them: 95 %.
    """
    by_word = {w: [k for k, v in verdicts.items() if v.verdict == w] for w in ("FAIL", "UNDECIDED")}
    for word, names in by_word.items():
        if names:
            return f"{word}: {', '.join(names)}"
    return f"PASS: {'all ' if len(verdicts) > 1 else ''}{len(verdicts)} limit{'s' * (len(verdicts) > 1)}"


def _estimate(name: Name, limit: Limit, costs: EpisodeCosts[Array], steps: int, gamma: float) -> Estimate:
    measure, (x, weight) = MEASURES[name], weighted(name, costs)
    if measure.share:
        return statistics.share(x > 0)
    largest, highest = _bounds(name, limit, x, steps, gamma)
    if measure.worst < 1:
        return estimate_worst(x, measure.worst, largest)
    return statistics.estimate(x, weight, largest, highest=highest)


def _bounds(name: Name, limit: Limit, x: Array, steps: int, gamma: float) -> tuple[float, float]:
    largest, highest = MEASURES[name].bounds(float(limit.largest), steps, gamma)
    return max(largest, float(x.max())), highest


def _needed(
    limit: Limit, costs: EpisodeCosts[Array], measured: Estimate, steps: int, gamma: float
) -> int | None:
    measure, (x, weight) = MEASURES[limit.measure], weighted(limit.measure, costs)
    if measure.share:
        return statistics.episodes_needed_for_share(measured.value, limit.value)
    largest, highest = _bounds(limit.measure, limit, x, steps, gamma)
    if measure.worst < 1:
        return episodes_needed_for_worst(x, measure.worst, largest, limit.value)
    if highest < largest:  # a bound capped at `highest` would not fall with more episodes
        measured = statistics.estimate(x, weight, largest)
    return statistics.episodes_needed(x, weight, measured, limit.value)
