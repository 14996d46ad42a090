"""Whether a policy holds its limits: what each cost came to in E episodes, and PASS, FAIL or UNDECIDED.

    ledger = Ledger(limits, num_envs, gamma, device)
    ledger.add(step.cost, running, step.terminated, step.left)         # every control step
    verdicts = [judge(limit, charged, steps, gamma) for ...]           # one for each limit

PASS claims that the limit holds and FAIL that it does not, each wrong in at most 5 % of evaluations.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from robokit.evaluation.ledger import Charged, weighted
from robokit.evaluation.statistics import (
    Estimate,
    Share,
    cvar,
    episodes_needed,
    episodes_needed_for_share,
    estimate,
    share,
)
from robokit.evaluation.table import SAYS, bounds, counted, with_bounds
from robokit.limits.limit import Limit, Measure

Word = Literal["PASS", "FAIL", "UNDECIDED"]


@dataclass(frozen=True)
class Verdict:
    """One limit, what was measured of it, and what that says."""

    limit: float
    measure: Measure
    verdict: Word
    measured: Estimate  # in the limit's own measure
    episodes_needed: int | None  # in all, to decide what is UNDECIDED; None: no number is known to
    any_cost: Share  # episodes in which the cost was ever above 0
    above: Share | None  # episodes whose sum was above the limit, where the measure is `episode`
    episode: Estimate  # sum of an episode
    cvar: float  # mean of the worst 5 % of the episodes' sums
    rate: Estimate  # per control step

    def line(self, name: str) -> str:
        """One row of the table for people."""
        needs, m = "", self.measured
        if self.verdict == "UNDECIDED":
            n = self.episodes_needed
            needs = f": about {n} episodes would decide" if n else ": no number of episodes would decide"
        return (
            f"  {f'{name}, {SAYS[self.measure]}':<38}{m.value:>10.4g}  {bounds(m.at_least, m.at_most):<22}"
            f"{self.limit:>10.4g}  {self.verdict}{needs}"
        )

    def text(self, name: str) -> str:
        """The row, and below it what else was measured."""
        shares = [f"P(any) {counted(self.any_cost)}"]
        shares += [f"P(sum > {self.limit:g}) {counted(self.above)}"] if self.above else []
        sums = (
            f"sum {with_bounds(self.episode)}, worst 5 % {self.cvar:.4g}, per step {with_bounds(self.rate)}"
        )
        return f"{self.line(name)}\n      {', '.join(shares)}\n      {sums}"


def judge(limit: Limit, charged: Charged, steps: int, gamma: float) -> Verdict:
    """The verdict on one limit; `steps` are the control steps of the longest episode."""
    top = float(limit.largest) * steps
    any_cost = share(charged.violated)
    episode = _estimate(charged, "episode", top)
    rate = _estimate(charged, "rate", top, float(limit.largest))
    known: dict[Measure, Estimate] = {"rate": rate, "episode": episode, "probability": any_cost}
    if limit.measure == "discounted":
        known["discounted"] = _estimate(charged, "discounted", limit.most(steps, gamma))
    measured = known[limit.measure]
    word = word_of(measured, limit.value)
    return Verdict(
        limit=float(limit.value),
        measure=limit.measure,
        verdict=word,
        measured=measured,
        episodes_needed=_needed(limit, charged, measured, top) if word == "UNDECIDED" else None,
        any_cost=any_cost,
        above=share(charged.total > limit.value) if limit.measure == "episode" else None,
        episode=episode,
        cvar=cvar(charged.total),
        rate=rate,
    )


def word_of(measured: Estimate, limit: float) -> Word:
    """PASS: the upper bound is within the limit. FAIL: the lower one is beyond it."""
    if measured.at_most <= limit:
        return "PASS"
    return "FAIL" if measured.at_least > limit else "UNDECIDED"


def overall(verdicts: Mapping[str, Verdict]) -> str:
    """One line for all limits. All of them hold with 95 % too: each had to pass by itself."""
    by_word = {w: [k for k, v in verdicts.items() if v.verdict == w] for w in ("FAIL", "UNDECIDED")}
    for word, names in by_word.items():
        if names:
            return f"{word}: {', '.join(names)}"
    return f"PASS: {'all ' if len(verdicts) > 1 else ''}{len(verdicts)} limit{'s' * (len(verdicts) > 1)}"


def _estimate(charged: Charged, measure: Measure, top: float, highest: float = math.inf) -> Estimate:
    x, weight = weighted(charged, measure)
    return estimate(x, weight, max(top, float(x.max())), highest=highest)


def _needed(limit: Limit, charged: Charged, measured: Estimate, top: float) -> int | None:
    if limit.measure == "probability":
        return episodes_needed_for_share(measured.value, limit.value)
    if limit.measure == "rate":  # the bound that falls with more episodes is the one without a cap
        measured = _estimate(charged, "rate", top)
    return episodes_needed(*weighted(charged, limit.measure), measured, limit.value)
