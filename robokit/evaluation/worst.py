"""The mean of the worst share of episodes (CVaR), with bounds that hold for few episodes in that share.

estimate_worst(sums, 0.1, largest=top)      # of the worst 10 % of the episodes
"""

import math
from statistics import NormalDist

import numpy as np

from robokit.evaluation import statistics
from robokit.evaluation.statistics import RESAMPLES, SIDES, Array, Estimate, lower


def estimate_worst(x: Array, worst: float, largest: float, resamples: int = RESAMPLES) -> Estimate:
    """CVaR of costs 0 <= x <= largest (E,): mean of the largest share `worst`, with bounds for few episodes.

        CVaR = min_q F(q),   F(q) = q + E[max(x - q, 0)] / worst    (Rockafellar & Uryasev 2000, theorem 1)

    For a fixed q, `estimate` with `resamples` bounds F(q), also for rare or unseen costs above q. But the
    sample's quantile is fitted to the sample. Let m be the smallest number of episodes whose share of all E
    has a Clopper-Pearson lower bound of at least `worst`:

    - The upper bound is that of F(q) for the q exceeded by m episodes; F(q) is at least F's minimum. With
      fewer than FEW episodes in the worst share, q is the sample's quantile, and `estimate` assumes the
      largest cost for an unseen episode: such a bound is hardly ever below a limit.
    - The lower bound is that of F at the sample's quantile, at most the mean of the worst m, a larger share.
    - Each distance from the estimate is multiplied by t / z: the quantiles of Student's t, with one degree of
      freedom less than episodes in the worst share but at least 1, and of the normal distribution.
    """
    bounds = [_bound(x, worst, largest, i, resamples) for i in range(len(SIDES))]
    return Estimate(statistics.cvar(x, 1 - worst), *bounds)


def _bound(x: Array, worst: float, largest: float, i: int, resamples: int) -> float:
    n, is_upper, level = len(x), SIDES[i] > 0.5, max(SIDES[i], 1 - SIDES[i])
    m = next(m for m in range(math.ceil(worst * n), n + 1) if m == n or lower(m, n, level) >= worst)
    q, excess = _excess(x, m / n if is_upper and worst * n >= statistics.FEW else worst)
    found = statistics.estimate(excess / worst, None, (largest - q) / worst, resamples)
    bound = (found.low, found.high, found.at_least, found.at_most)[i]
    freedom = max(1, int(worst * n + 1e-9) - 1)
    wider = student_quantile(level, freedom) / NormalDist().inv_cdf(level)
    bound = q + found.value + wider * (bound - found.value)
    return min(bound, largest) if is_upper else min(max(bound, 0.0), statistics.cvar(x, 1 - m / n))


def _excess(x: Array, share: float) -> tuple[float, Array]:
    """q, the least of x (E,) that at most `share` of x exceeds, and max(x - q, 0) (E,), the excess over q."""
    q = float(np.sort(x)[max(math.ceil((1 - share) * len(x) - 1e-9), 1) - 1])
    return q, np.maximum(x - q, 0.0)


def student_quantile(probability: float, freedom: float) -> float:
    """Student's t with P(T <= t) = probability > 1/2.

    P(|T| > t) = I_x(freedom / 2, 1 / 2) with x = freedom / (freedom + t^2)
    """
    x = statistics.beta_quantile(2 * (1 - probability), freedom / 2, 0.5)
    return math.sqrt(freedom * (1 - x) / x)


def episodes_needed_for_worst(x: Array, worst: float, largest: float, limit: float) -> int | None:
    """`episodes_needed` for `estimate_worst`, approximately: with q of the sample, and without t / z."""
    q, excess = _excess(x, worst)
    measured = statistics.estimate(excess, None, largest - q)
    return statistics.episodes_needed(excess, np.ones_like(x), measured, (limit - q) * worst)
