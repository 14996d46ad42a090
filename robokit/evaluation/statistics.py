"""Estimates from E independent episodes, with their intervals: bootstrap, Clopper-Pearson, CVaR.

    summarize(returns)                              # mean, interquartile mean, percentile bootstrap
    estimate(cost, steps, largest=top)              # sum(cost) / sum(steps), episodes resampled whole
    share(violated)                                 # a probability, Clopper-Pearson

Intervals are two-sided at LEVEL. `at_least` and `at_most` are one-sided bounds at LEVEL each, because a
verdict uses only one of them. Arrays are (E,): one number per episode.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000  # of the bootstrap
CHUNKS = 20  # parts of the resamples, drawn one after the other to save memory
LEVEL = 0.95  # of every interval and bound
SIDES = ((1 - LEVEL) / 2, (1 + LEVEL) / 2, 1 - LEVEL, LEVEL)  # probabilities of low, high, at_least, at_most
FEW = 5  # if fewer episodes have a cost, its possible size is unknown
NEVER = 10**7  # episodes: too many to run
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """Statistics over `count` episodes; `low` and `high` bound the mean (95 %, two-sided)."""

    mean: float
    low: float
    high: float
    iqm: float  # interquartile mean (Agarwal et al. 2021, arXiv:2108.13264)
    std: float
    min: float
    max: float
    count: int  # episodes; for a metric those in which it has a value


@dataclass(frozen=True)
class Estimate:
    """A number, its two-sided interval [low, high], and the one-sided bound on either side, at LEVEL each."""

    value: float
    low: float
    high: float
    at_least: float
    at_most: float


@dataclass(frozen=True)
class Share(Estimate):
    """The probability of an event, which happened in `count` of `episodes`."""

    count: int
    episodes: int


@dataclass(frozen=True)
class Pooled:
    """A number over several runs and its two-sided interval: see statistics.stratified_bootstrap."""

    value: float
    low: float
    high: float


def summarize(x: Array) -> Summary:
    """Statistics of one number per episode, x (E,); low, high: percentile bootstrap of the mean."""
    low, high = bootstrap(x)
    return Summary(
        mean=float(x.mean()),
        low=low,
        high=high,
        iqm=interquartile_mean(x),
        std=float(x.std(ddof=1)),
        min=float(x.min()),
        max=float(x.max()),
        count=len(x),
    )


def interquartile_mean(x: Array) -> float:
    """Mean of the middle half of x (E,); numbers at its edges are weighted by the part inside."""
    return float(_interquartile_means(x[None])[0])


def _interquartile_means(rows: Array) -> Array:
    """Interquartile mean of each row of (R, E), (R,)."""
    ordered, inside = np.sort(rows, -1), _inside(rows.shape[-1], 0.25, 0.75)
    return (ordered * inside).sum(-1) / inside.sum()


def cvar(x: Array, level: float = LEVEL) -> float:
    """Conditional value at risk: mean of the largest 1 - level of x (E,) (Rockafellar & Uryasev 2000)."""
    return float(_cvars(x[None], level)[0])


def _cvars(rows: Array, level: float) -> Array:
    """CVaR of each row of (R, E), (R,)."""
    worst = _inside(rows.shape[-1], level, 1.0)
    return (np.sort(rows, -1) * worst).sum(-1) / worst.sum()


def _inside(n: int, low: float, high: float) -> Array:
    """Weights (n,) in [0, 1], not normalised, of n sorted numbers: the part of each between two quantiles."""
    edges = np.arange(n + 1)
    return np.clip(np.minimum(edges[1:], high * n) - np.maximum(edges[:-1], low * n), 0.0, 1.0)


def ratio(x: Array, weight: Array, worst: float = 1.0) -> float:
    """sum(x) / sum(weight) over episodes (E,); for worst < 1 the mean of the largest share `worst` of x."""
    return float(x.sum() / weight.sum()) if worst == 1 else cvar(x, 1 - worst)


# -- the bootstrap ---------------------------------------------------------------------------------


def bootstrap(x: Array, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Percentile interval of the mean of x (E,) at LEVEL: low, high (Efron & Tibshirani 1993, chapter 13)."""
    low, high = np.quantile(_resampled(x, np.ones_like(x), seed, resamples), SIDES[:2])
    return float(low), float(high)


def _resampled(x: Array, weight: Array, seed: int, resamples: int) -> Array:
    """sum(x) / sum(weight) of R bootstrap samples of the episodes, (R,)."""
    rng, n = np.random.default_rng(seed), len(x)
    parts = [rng.integers(n, size=(resamples // CHUNKS, n)) for _ in range(CHUNKS)]
    return np.concatenate([x[rows].sum(1) / weight[rows].sum(1) for rows in parts])


def corrected_bootstrap(
    x: Array, weight: Array, sides: Sequence[float] = SIDES, seed: int = 0, resamples: int = RESAMPLES
) -> list[float]:
    """Bounds of sum(x) / sum(weight), not `unvaried`, at probabilities `sides`: BCa (Efron 1987, section 4).

    Percentile bounds are too low for costs skewed to the right. BCa moves them by the bias z0 of the
    resampled ratios and by the acceleration a, computed from each episode's influence u on the ratio r:

        u_i = x_i - r weight_i,   a = sum(u^3) / (6 sum(u^2)^1.5)
    """
    ratio = x.sum() / weight.sum()
    drawn = np.sort(_resampled(x, weight, seed, resamples))
    below = np.searchsorted(drawn, ratio, "left") + np.searchsorted(drawn, ratio, "right")  # ties count half
    z0 = NormalDist().inv_cdf(min(max(below / (2 * len(drawn)), 1e-4), 1 - 1e-4))
    u = x - ratio * weight
    a = float((u**3).sum() / (6 * (u**2).sum() ** 1.5))

    def moved(side: float) -> float:
        z = z0 + NormalDist().inv_cdf(side)
        return NormalDist().cdf(z0 + z / (1 - a * z)) if a * z < 1 else float(z > 0)

    return [float(q) for q in np.quantile(drawn, [moved(side) for side in sides])]


def estimate(
    x: Array,
    weight: Array | None = None,
    largest: float = math.inf,
    resamples: int = RESAMPLES,
    highest: float = math.inf,
) -> Estimate:
    """sum(x) / sum(weight) of costs 0 <= x <= largest, with bounds that are valid for rare costs too.

    highest: an upper bound of the ratio itself, which caps the bounds. weight None: 1 for every episode.

    The bootstrap resamples whole episodes, so it cannot account for costs that were never seen. With u_k the
    Clopper-Pearson bound for k of E episodes, and z_j = x_j / mean(weight) the costs in descending order:

    - If at most half have a cost, the wider of the bootstrap's bound and u_k mean(z), mean over those k. But
      for k < FEW a cost's size is unknown: the upper bound is that of auditors for rare errors (Stringer
      1963), with Z = largest / mean(weight): u_0 Z + sum_j (u_j - u_{j-1}) z_j.
    - If all have the same ratio r, a bootstrap has no width: r - u_0 r and r + u_0 (Z - r).
    """
    weight = np.ones_like(x) if weight is None else weight
    n, ratio, most = len(x), float(x.sum() / weight.sum()), largest / float(weight.mean())
    if unvaried(x, weight):
        ways = [max(most - ratio, 0.0) if side > 0.5 else -ratio for side in SIDES]
        ends = (ratio + upper(0, n, max(s, 1 - s)) * w for s, w in zip(SIDES, ways, strict=True))
        return Estimate(ratio, *(min(end, highest) for end in ends))
    bounds = corrected_bootstrap(x, weight, resamples=resamples)
    sizes = np.sort(x[x > 0] / weight.mean())[::-1]
    if 2 * (k := len(sizes)) > n:
        return Estimate(ratio, *bounds)
    for i, side in enumerate(SIDES):
        if side < 0.5:
            bounds[i] = min(bounds[i], lower(k, n, 1 - side) * float(sizes.mean()))
        elif k < FEW:
            steps = np.diff([0.0, *(upper(j, n, side) for j in range(k + 1))])
            bounds[i] = float(steps @ [most, *sizes])
        else:
            bounds[i] = max(bounds[i], upper(k, n, side) * float(sizes.mean()))
    return Estimate(ratio, *(min(bound, highest) for bound in bounds))


def unvaried(x: Array, weight: Array) -> bool:
    """Whether all episodes have the same ratio x / weight, up to rounding."""
    ratio = x.sum() / weight.sum()
    return bool(np.abs(x - ratio * weight).max() <= 1e-9 * max(float(np.abs(x).max()), 1e-300))


def stratified_bootstrap(
    runs: Sequence[Array],
    statistic: Callable[[Array], Array],
    paired: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Percentile interval of a statistic of all episodes of several runs, resampled within each run.

    runs: (E, ...) each; statistic: (R, E of all runs, ...) -> (R,). The runs are fixed (Agarwal et al. 2021,
    section 4.1): the interval is valid for these runs, not for another training.
    paired: episode i starts alike in every run. Such episodes are dependent, so all runs resample the same i.
    """
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(CHUNKS):
        sizes = [(resamples // CHUNKS, len(run)) for run in runs]
        ours = [rng.integers(size[1], size=size) for size in (sizes[:1] if paired else sizes)]
        rows = [run[i] for run, i in zip(runs, ours * len(runs) if paired else ours, strict=True)]
        drawn.append(statistic(np.concatenate(rows, 1)))
    low, high = np.quantile(np.concatenate(drawn), SIDES[:2])
    return float(low), float(high)


def pooled_returns(runs: Sequence[Array], paired: bool = False) -> tuple[float, float, float]:
    """(value, low, high) of the interquartile mean of all runs' episodes, by `stratified_bootstrap`."""
    return interquartile_mean(np.concatenate(runs)), *stratified_bootstrap(runs, _interquartile_means, paired)


def pooled_ratio(
    x: Sequence[Array], weight: Sequence[Array], paired: bool = False, worst: float = 1.0
) -> tuple[float, float, float]:
    """(value, low, high) of `ratio` over all runs' episodes, by `stratified_bootstrap`; (E,) per run."""
    if worst < 1:
        return cvar(np.concatenate(x), 1 - worst), *stratified_bootstrap(
            x, lambda rows: _cvars(rows, 1 - worst), paired
        )
    runs = [np.stack(pair, -1) for pair in zip(x, weight, strict=True)]

    def ratio(rows: Array) -> Array:
        total = rows.sum(-2)
        return total[..., 0] / total[..., 1]

    return float(ratio(np.concatenate(runs))), *stratified_bootstrap(runs, ratio, paired)


# -- probabilities ---------------------------------------------------------------------------------


def share(happened: npt.NDArray[np.bool_]) -> Share:
    """Probability of an event, from whether it happened in each episode (E,)."""
    count, n = int(happened.sum()), len(happened)
    low, high = clopper_pearson(count, n)
    return Share(count / n, low, high, lower(count, n), upper(count, n), count, n)


def clopper_pearson(count: float, episodes: int, level: float = LEVEL) -> tuple[float, float]:
    """Two-sided interval of a probability, with a coverage of at least `level` (Clopper & Pearson 1934)."""
    return lower(count, episodes, (1 + level) / 2), upper(count, episodes, (1 + level) / 2)


def upper(count: float, episodes: int, level: float = LEVEL) -> float:
    """One-sided upper bound: the p at which `count` or fewer of `episodes` has probability 1 - level."""
    if count >= episodes:
        return 1.0
    if count == 0:
        return 1 - (1 - level) ** (1 / episodes)
    return beta_quantile(level, count + 1, episodes - count)


def lower(count: float, episodes: int, level: float = LEVEL) -> float:
    """One-sided lower bound: the p at which `count` or more of `episodes` has probability 1 - level."""
    return 1 - upper(episodes - count, episodes, level)


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x with I_x(a, b) = probability, by bisection to the last bit."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if incomplete_beta(middle, a, b) < probability else (low, middle)
    return high


def incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), regularised: the continued fraction of DLMF 8.17.22, by Lentz's method."""
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(1 - x, b, a)
    if x == 0:
        return 0.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    c, d, m, change = 1.0, 1 / (1 - (a + b) * x / (a + 1)), 0, 2.0
    fraction = d
    while abs(change - 1) > 1e-15 and m < 100_000:
        m += 1
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / (1 + term * d), 1 + term / c
            change = c * d
            fraction *= change
    return math.exp(log_front) * fraction / a


# -- number of episodes for a verdict --------------------------------------------------------------


def episodes_needed(x: Array, weight: Array, measured: Estimate, limit: float) -> int | None:
    """Number of episodes at which the bound of `estimate` reaches the limit; None if it exceeds NEVER.

    measured: an estimate without `highest`, because the width of a capped bound is unknown.

    The distance of a bound from the estimate falls as 1/sqrt(n). If all episodes have the same cost, or fewer
    than FEW have any and the limit is higher, it falls with the probability that an unseen cost can still
    have; if any has one, n is at most that for FEW expected ones. None too if the estimate equals the limit.
    """
    gap, n, k = limit - measured.value, len(x), int((x > 0).sum())
    if math.isclose(limit, measured.value, rel_tol=1e-9):
        return None
    beyond = (measured.at_most if gap > 0 else measured.at_least) - measured.value
    if unvaried(x, weight) or (k < FEW and gap > 0):
        chance = gap / beyond * upper(0, n)  # allowed probability of an unseen cost
        needed = math.log(1 - LEVEL) / math.log1p(-min(chance, 0.5))
        needed = min(needed, n * FEW / k) if 0 < k < FEW else needed
    else:
        needed = n * (beyond / gap) ** 2
    return math.ceil(needed) if needed <= NEVER else None


def episodes_needed_for_share(rate: float, limit: float) -> int | None:
    """Smallest n whose Clopper-Pearson bound decides at this rate; None if rate = limit or n > NEVER."""
    if math.isclose(limit, rate, rel_tol=1e-9):
        return None

    def decides(n: int) -> bool:
        return upper(rate * n, n) <= limit if rate < limit else lower(rate * n, n) > limit

    high = 1
    while not decides(high):
        high *= 2
        if high > NEVER:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
