"""Estimates from E independent episodes, and how sure they are: bootstrap, Clopper-Pearson, CVaR.

    summarize(returns)                              # mean, interquartile mean, percentile bootstrap
    estimate(cost, steps, largest=top)              # sum(cost) / sum(steps), episodes resampled whole
    share(violated)                                 # a probability, Clopper-Pearson

An interval is two-sided at LEVEL; `at_least` and `at_most` hold with LEVEL each, one at a time: a verdict
claims one of them. Arrays are (E,), one number per episode.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000  # of the bootstrap
CHUNKS = 20  # that they are drawn in, for the memory of many episodes
LEVEL = 0.95  # of every interval and bound
SIDES = ((1 - LEVEL) / 2, (1 + LEVEL) / 2, 1 - LEVEL, LEVEL)  # probabilities of low, high, at_least, at_most
FEW = 5  # episodes with a cost, below which nothing is known of its size
NEVER = 10**7  # episodes: nobody runs so many
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
    count: int  # all episodes; of a metric those in which it was counted


@dataclass(frozen=True)
class Estimate:
    """A number, its two-sided interval, and the bound on either side that holds by itself."""

    value: float
    low: float
    high: float
    at_least: float
    at_most: float


@dataclass(frozen=True)
class Share(Estimate):
    """A probability: in `count` of `episodes` it happened."""

    count: int
    episodes: int


@dataclass(frozen=True)
class Pooled:
    """A number over several runs and its two-sided interval: see statistics.stratified_bootstrap."""

    value: float
    low: float
    high: float


def summarize(x: Array) -> Summary:
    """Mean, interquartile mean and a percentile bootstrap of the mean over episodes x (E,)."""
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
    """Mean of the middle half of x (E,), the numbers at its edges counted by the part that lies inside."""
    return float(_interquartile_means(x[None])[0])


def _interquartile_means(rows: Array) -> Array:
    """(R,) of rows (R, E)."""
    ordered, inside = np.sort(rows, -1), _inside(rows.shape[-1], 0.25, 0.75)
    return (ordered * inside).sum(-1) / inside.sum()


def cvar(x: Array, level: float = LEVEL) -> float:
    """Conditional value at risk: mean of the worst 1 - level of x (E,) (Rockafellar & Uryasev 2000)."""
    return float(_cvars(x[None], level)[0])


def _cvars(rows: Array, level: float) -> Array:
    """(R,) of rows (R, E)."""
    worst = _inside(rows.shape[-1], level, 1.0)
    return (np.sort(rows, -1) * worst).sum(-1) / worst.sum()


def _inside(n: int, low: float, high: float) -> Array:
    """(n,): the part of each of n sorted numbers that lies between two quantiles."""
    edges = np.arange(n + 1)
    return np.clip(np.minimum(edges[1:], high * n) - np.maximum(edges[:-1], low * n), 0.0, 1.0)


def ratio(x: Array, weight: Array, worst: float = 1.0) -> float:
    """sum(x) / sum(weight) of episodes (E,); of their share `worst` alone, the mean of those (weights 1)."""
    return float(x.sum() / weight.sum()) if worst == 1 else cvar(x, 1 - worst)


# -- the bootstrap ---------------------------------------------------------------------------------


def bootstrap(x: Array, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Percentile interval of the mean of x (E,) at LEVEL (Efron & Tibshirani 1993, chapter 13)."""
    low, high = np.quantile(_resampled(x, np.ones_like(x), seed, resamples), SIDES[:2])
    return float(low), float(high)


def _resampled(x: Array, weight: Array, seed: int, resamples: int) -> Array:
    """(R,): sum(x) / sum(weight) of episodes drawn anew, each with its own weight."""
    rng, n = np.random.default_rng(seed), len(x)
    parts = [rng.integers(n, size=(resamples // CHUNKS, n)) for _ in range(CHUNKS)]
    return np.concatenate([x[rows].sum(1) / weight[rows].sum(1) for rows in parts])


def corrected_bootstrap(
    x: Array, weight: Array, sides: Sequence[float] = SIDES, seed: int = 0, resamples: int = RESAMPLES
) -> list[float]:
    """Bounds of sum(x) / sum(weight) at the probabilities `sides`: BCa (Efron 1987, section 4).

    A percentile bootstrap lies too low where costs are skewed to the right; this one is moved by the bias
    z0 of the resampled ratios and by the acceleration a, from each episode's influence u on the ratio:

        u_i = x_i - r weight_i,   a = sum(u^3) / (6 sum(u^2)^1.5)
    """
    ratio = x.sum() / weight.sum()
    drawn = np.sort(_resampled(x, weight, seed, resamples))
    below = np.searchsorted(drawn, ratio, "left") + np.searchsorted(drawn, ratio, "right")  # ties half
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
    """sum(x) / sum(weight) of costs 0 <= x <= largest, with bounds that are honest about rare costs too.

    No bound comes above `highest`, which the ratio itself cannot pass.

    The bootstrap resamples whole episodes, and knows only those that were seen. So, with u_k
    Clopper-Pearson's bound of k of E episodes, and z_j = x_j / mean(weight) the costs, greatest first:

    - Where k < FEW episodes have any cost, how great costs get is not known: with Z of `largest`,
      u_0 Z + sum_j (u_j - u_{j-1}) z_j, auditors' bound for errors that are rare (Stringer 1963).
    - Where at most half have any, the wider of the bootstrap and u_k mean(z).
    - Where all have the same ratio r, a bootstrap has no width: r - u_0 r and r + u_0 (Z - r).
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
    """Whether all episodes have the same ratio, but for rounding."""
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

    runs: (E, ...) each; statistic: (R, E of all runs, ...) -> (R,). Agarwal et al. 2021, section 4.1: the
    runs stay the ones they are, so that the interval is about them and says nothing of another training.
    paired: episode i began alike in every run, so that they are not independent: all runs draw the same i.
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
    """Interquartile mean of the episodes of all runs, and its stratified interval."""
    return interquartile_mean(np.concatenate(runs)), *stratified_bootstrap(runs, _interquartile_means, paired)


def pooled_ratio(
    x: Sequence[Array], weight: Sequence[Array], paired: bool = False, worst: float = 1.0
) -> tuple[float, float, float]:
    """`ratio` over all runs, and its stratified interval."""
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
    """P of what happened or not in each episode (E,)."""
    count, n = int(happened.sum()), len(happened)
    low, high = clopper_pearson(count, n)
    return Share(count / n, low, high, lower(count, n), upper(count, n), count, n)


def clopper_pearson(count: float, episodes: int, level: float = LEVEL) -> tuple[float, float]:
    """Two-sided interval of a probability that is never too short (Clopper & Pearson 1934)."""
    return lower(count, episodes, (1 + level) / 2), upper(count, episodes, (1 + level) / 2)


def upper(count: float, episodes: int, level: float = LEVEL) -> float:
    """One-sided: the p at which `count` or fewer of `episodes` has a chance of 1 - level."""
    if count >= episodes:
        return 1.0
    if count == 0:
        return 1 - (1 - level) ** (1 / episodes)
    return beta_quantile(level, count + 1, episodes - count)


def lower(count: float, episodes: int, level: float = LEVEL) -> float:
    """One-sided: the p at which `count` or more of `episodes` has a chance of 1 - level."""
    return 1 - upper(episodes - count, episodes, level)


def beta_quantile(probability: float, a: float, b: float) -> float:
    """x with I_x(a, b) = probability, by bisection to the last bit."""
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


# -- how many episodes would decide ----------------------------------------------------------------


def episodes_needed(x: Array, weight: Array, measured: Estimate, limit: float) -> int | None:
    """Episodes after which the bound of `estimate` towards the limit reaches it; None where none would.

    `measured` has no `highest`: a bound that was cut off does not say how far it has to fall.

    By the 1/sqrt(n) law of means; where few or no episodes had a cost, by the chance left to one unseen, or,
    if it is sooner, when FEW of them will have been seen. No number decides where the estimate is the limit.
    """
    gap, n, k = limit - measured.value, len(x), int((x > 0).sum())
    if math.isclose(limit, measured.value, rel_tol=1e-9):
        return None
    beyond = (measured.at_most if gap > 0 else measured.at_least) - measured.value
    if unvaried(x, weight) or (k < FEW and gap > 0):
        chance = gap / beyond * upper(0, n)  # that an unseen episode may have
        needed = math.log(1 - LEVEL) / math.log1p(-min(chance, 0.5))
        needed = min(needed, n * FEW / k) if 0 < k < FEW else needed
    else:
        needed = n * (beyond / gap) ** 2
    return math.ceil(needed) if needed <= NEVER else None


def episodes_needed_for_share(rate: float, limit: float) -> int | None:
    """The smallest n whose Clopper-Pearson bound at this very rate decides; None where they are equal."""
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
