"""Whether a policy holds its limits: what each cost came to in E episodes, and PASS, FAIL or UNDECIDED.

    ledger = Ledger(limits, num_envs, gamma, device)
    ledger.add(step.cost, running, step.terminated, step.left)         # every control step
    verdicts = [judge(limit, charged, steps, gamma) for ...]           # one for each limit

PASS claims that the limit holds and FAIL that it does not, each wrong in at most 5 % of evaluations.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robokit.limits.multipliers import Limit, Measure, cut_off
from robokit.errors import TaskError
from robokit.evaluation.statistics import (
    Array,
    Estimate,
    Share,
    cvar,
    episodes_needed,
    episodes_needed_for_share,
    estimate,
    pooled_ratio,
    pooled_returns,
    share,
)

Word = Literal["PASS", "FAIL", "UNDECIDED"]
SAYS: dict[Measure, str] = {
    "rate": "per control step",
    "episode": "sum of an episode",
    "discounted": "discounted sum",
    "probability": "P(any in an episode)",
}


@dataclass(frozen=True)
class Charged:
    """What one cost came to in each of E episodes."""

    total: Array  # (E,) its sum, `absorb` included for the control steps that a termination cut off
    span: Array  # (E,) control steps that a rate divides by: those cut off too where `absorb` is charged
    discounted: Array  # (E,) sum of gamma^t c_t, `absorb` included
    violated: npt.NDArray[np.bool_]  # (E,) whether the cost itself was ever above 0


class Ledger:
    """Costs of N simulations that all began an episode at the same time, on their device."""

    def __init__(
        self, limits: Mapping[str, Limit], num_envs: int, gamma: float, device: torch.device | str = "cpu"
    ) -> None:
        absorb = [float(limit.absorb) for limit in limits.values()]
        self._absorb = torch.tensor(absorb, dtype=torch.float64, device=device)  # (K,)
        self._names, self._gamma, self._age = [*limits], gamma, 0
        self._sums = torch.zeros(4, num_envs, len(absorb), dtype=torch.float64, device=device)
        self._largest = torch.tensor([float(x.largest) for x in limits.values()], device=device)
        self._least, self._most = torch.zeros_like(self._absorb), torch.zeros_like(self._absorb)

    def add(self, cost: Tensor, running: Tensor, terminated: Tensor, left: Tensor) -> None:
        """One control step: cost (N, K), the others (N,); `running` are those whose episode goes on."""
        alive = running[:, None].double()
        cut = cut_off(running & terminated, left.double())[:, None]
        later = cut_off(running & terminated, left.double(), self._gamma)[:, None]
        now = self._gamma**self._age
        cost = torch.where(running[:, None], cost.double(), 0.0)
        total, span, discounted, violations = self._sums
        total += cost + cut * self._absorb
        span += alive + cut * (self._absorb > 0)
        discounted += now * (cost + later * self._absorb)
        violations += cost > 0
        self._least = torch.minimum(self._least, cost.amin(0))  # NaN stays
        self._most = torch.maximum(self._most, cost.amax(0))
        self._age += 1

    def charged(self) -> dict[str, Charged]:
        """By name. Raises TaskError for a cost that was negative, no number, or above its Limit.largest."""
        bounds = zip(
            self._names, self._least.tolist(), self._most.tolist(), self._largest.tolist(), strict=True
        )
        for name, least, most, largest in bounds:
            if not (least >= 0 and most <= largest * (1 + 1e-6)):
                rule = f"must lie from 0 to {largest:g}, its Limit.largest, in every control step"
                raise TaskError(f"cost {name!r} {rule}; got {most if least >= 0 else least:g}")
        total, span, discounted, violations = self._sums.cpu().numpy()
        return {
            name: Charged(total[:, k], span[:, k], discounted[:, k], violations[:, k] > 0)
            for k, name in enumerate(self._names)
        }


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
            f"  {f'{name}, {SAYS[self.measure]}':<38}{m.value:>10.4g}  {_range(m.at_least, m.at_most):<22}"
            f"{self.limit:>10.4g}  {self.verdict}{needs}"
        )

    def text(self, name: str) -> str:
        """The row, and below it what else was measured."""
        shares = [f"P(any) {_share(self.any_cost)}"]
        shares += [f"P(sum > {self.limit:g}) {_share(self.above)}"] if self.above else []
        sums = f"sum {_interval(self.episode)}, worst 5 % {self.cvar:.4g}, per step {_interval(self.rate)}"
        return f"{self.line(name)}\n      {', '.join(shares)}\n      {sums}"


HEADER = f"  {'limit':<38}{'measured':>10}  {'95 % bounds':<22}{'limit':>10}"


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


def weighted(charged: Charged, measure: Measure) -> tuple[Array, Array]:
    """(E,) and (E,): what a measure is the ratio of."""
    ones = np.ones_like(charged.total)
    return {
        "rate": (charged.total, charged.span),
        "episode": (charged.total, ones),
        "discounted": (charged.discounted, ones),
        "probability": (charged.violated.astype(np.float64), ones),
    }[measure]


@dataclass(frozen=True)
class Pooled:
    """A number over several runs and its two-sided interval: see statistics.stratified_bootstrap."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Across:
    """Several runs of one algorithm on one task."""

    runs: list[str]
    means: list[float]  # of the runs' returns
    iqm: Pooled  # interquartile mean of all their episodes' returns
    limits: dict[str, Pooled]  # each in its own measure, over all episodes of all runs
    verdicts: dict[str, dict[Word, int]]  # limit -> how many runs
    paired: bool  # whether episode i began alike in every run: then all runs resample the same ones

    def text(self) -> str:
        """A table for people."""
        drawn = "the same episodes of each resampled" if self.paired else "episodes resampled within each"
        least, most = min(self.means), max(self.means)
        lines = [f"{len(self.runs)} runs, {drawn}; their mean returns {_range(least, most)}"]
        lines.append(f"  {'interquartile mean of returns':<38}{_interval(self.iqm)}")
        for name, pooled in self.limits.items():
            words = ", ".join(f"{count} {word}" for word, count in self.verdicts[name].items() if count)
            lines.append(f"  {f'limit {name}, pooled':<38}{_interval(pooled)}  {words}")
        return "\n".join(lines)


def across(
    runs: Sequence[str],
    returns: Sequence[Array],
    charged: Sequence[Mapping[str, Charged]],
    verdicts: Sequence[Mapping[str, Verdict]],
    paired: bool = False,
) -> Across:
    """What several runs come to together; one entry each. paired: episode i began alike in all of them."""
    limits, counts = {}, {}
    for name, verdict in verdicts[0].items():
        pairs = [weighted(of_run[name], verdict.measure) for of_run in charged]
        limits[name] = Pooled(*pooled_ratio([x for x, _ in pairs], [weight for _, weight in pairs], paired))
        words = [of_run[name].verdict for of_run in verdicts]
        counts[name] = {word: words.count(word) for word in get_args(Word)}
    means = [float(x.mean()) for x in returns]
    return Across([*runs], means, Pooled(*pooled_returns(returns, paired)), limits, counts, paired)


def _range(low: float, high: float) -> str:
    return f"[{low:.4g}, {high:.4g}]"


def _interval(x: Estimate | Pooled) -> str:
    return f"{x.value:.4g} {_range(x.low, x.high)}"


def _share(x: Share) -> str:
    return f"{x.count} of {x.episodes}: {100 * x.value:.3g} % [{100 * x.low:.3g}, {100 * x.high:.3g}]"
