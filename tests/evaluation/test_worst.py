"""The mean of the worst share of episodes: by hand, and bounds with their nominal coverage."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from robokit.evaluation.statistics import FEW, cvar, lower, pooled_ratio, ratio, upper
from robokit.evaluation.worst import episodes_needed_for_worst, estimate_worst, student_quantile


def test_the_worst_tenth_by_hand():
    x = np.arange(1.0, 41.0)
    assert estimate_worst(x, 0.1, 100.0).value == ratio(x, np.ones(40), 0.1) == 38.5  # 37, 38, 39, 40
    assert estimate_worst(x[:25], 0.1, 100.0).value == pytest.approx((25 + 24 + 0.5 * 23) / 2.5)


@pytest.mark.parametrize(("freedom", "t"), [(1, 6.3138), (4, 2.1318), (9, 1.8331), (29, 1.6991)])  # any table
def test_students_quantiles_are_those_of_the_tables(freedom: int, t: float):
    assert student_quantile(0.95, freedom) == pytest.approx(t, abs=1e-4)


def test_a_cost_never_seen_is_as_great_as_an_unseen_worst_tenth_can_be():
    never = estimate_worst(np.zeros(300), 0.1, 1000.0)
    t = student_quantile(0.95, 29) / 1.644854
    assert (never.value, never.at_least) == (0.0, 0.0)
    assert never.at_most == pytest.approx(t * 1000 * upper(0, 300) / 0.1, rel=1e-5)


def test_fewer_than_five_episodes_in_the_tail_claim_nothing():
    """Nine episodes of ten cost about 1, and up to 100 may: of 40 episodes the 4 worst say little of it."""
    x = 1 + np.random.default_rng(0).random(40)
    assert estimate_worst(x, 0.1, 100.0).at_most > 40
    assert estimate_worst(np.tile(x, 10), 0.1, 100.0).at_most < 2.1
    assert len(x) * 0.1 < FEW


def test_a_lower_bound_admits_that_the_worst_share_was_hit_too_often():
    x = np.repeat(
        [20.0, 0.0], [12, 88]
    )  # 12 of 100: P(x = 20) may be below .1, although all the worst cost 20
    m = next(m for m in range(1, 101) if lower(m, 100) >= 0.1)
    found = estimate_worst(x, 0.1, 20.0)
    assert found.value == found.at_most == 20.0
    assert found.at_least == pytest.approx(20 * 12 / m) and m == 16


def test_a_limit_that_is_half_as_far_away_needs_four_times_the_episodes():
    x = np.random.default_rng(0).exponential(size=400)
    value = cvar(x, 0.9)
    far, near = (episodes_needed_for_worst(x, 0.1, 20.0, value + gap) for gap in (0.2, 0.1))
    assert far is not None and near == pytest.approx(4 * far, rel=0.01)
    assert episodes_needed_for_worst(x, 0.1, 20.0, value) is None


def test_several_runs_have_the_worst_tenth_of_all_their_episodes():
    runs = [np.arange(0.0, 10.0), np.arange(100.0, 110.0)]
    value, low, high = pooled_ratio(runs, [np.ones(10)] * 2, worst=0.1)
    assert value == 108.5 and 104 < low < value < high <= 109


# -- how often the bounds hold ---------------------------------------------------------------------

DRAWN: dict[str, tuple[Callable[[np.random.Generator, int], npt.NDArray[Any]], float]] = {
    "normal": (lambda rng, n: rng.normal(10, 1, n), 30.0),
    "exponential": (lambda rng, n: rng.exponential(size=n), 20.0),
    "exponential in 6 %": (lambda rng, n: rng.exponential(size=n) * (rng.random(n) < 0.06), 20.0),
    "all or nothing in 8 %": (lambda rng, n: np.where(rng.random(n) < 0.08, 20.0, 0.0), 20.0),
}


@pytest.mark.medium
@pytest.mark.parametrize("kind", DRAWN)
def test_the_bounds_of_the_worst_tenth_hold(kind: str):
    """95 % is wanted; of 100 experiments 91 % is within chance."""
    draw, largest = DRAWN[kind]
    truth = cvar(draw(np.random.default_rng(99), 1_000_000), 0.9)
    found = [estimate_worst(draw(np.random.default_rng(i), 100), 0.1, largest, 200) for i in range(100)]
    assert np.mean([truth <= x.at_most * (1 + 1e-3) for x in found]) >= 0.91
    assert np.mean([x.at_least <= truth * (1 + 1e-3) for x in found]) >= 0.91
