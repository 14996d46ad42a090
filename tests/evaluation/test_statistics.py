"""The statistics of evaluation: numbers worked out by hand, and intervals with their nominal coverage."""

import math

import numpy as np
import pytest

from robokit.evaluation.statistics import (
    FEW,
    Array,
    bootstrap,
    clopper_pearson,
    corrected_bootstrap,
    cvar,
    episodes_needed,
    episodes_needed_for_share,
    estimate,
    incomplete_beta,
    interquartile_mean,
    lower,
    pooled_ratio,
    pooled_returns,
    share,
    stratified_bootstrap,
    summarize,
    upper,
)


def array(*numbers: float) -> Array:
    return np.array(numbers, dtype=np.float64)


def rare(episodes: int, *costs: float) -> Array:
    """Costs of the first episodes, 0 in the others."""
    return np.concatenate((array(*costs), np.zeros(episodes - len(costs))))


def test_interquartile_mean_by_hand():
    assert interquartile_mean(array(1, 2, 3, 100)) == 2.5
    assert interquartile_mean(array(0, 1, 2)) == pytest.approx((0.25 * 0 + 1 + 0.25 * 2) / 1.5)
    x = np.random.default_rng(0).normal(size=40)
    assert interquartile_mean(x) == pytest.approx(np.sort(x)[10:30].mean())


def test_conditional_value_at_risk_by_hand():
    assert cvar(np.arange(1.0, 41.0)) == 39.5  # the worst 2 of 40
    assert cvar(array(*range(1, 31))) == pytest.approx((30 + 0.5 * 29) / 1.5)  # the worst 1.5 of 30
    assert cvar(array(1, 2, 7)) == 7  # less than one whole episode


def test_the_bootstrap_is_the_normal_approximation_for_many_episodes():
    x = np.random.default_rng(1).normal(size=1000)
    half = 1.96 * x.std() / np.sqrt(1000)
    expected = pytest.approx((x.mean() - half, x.mean() + half), abs=0.15 * half)
    assert bootstrap(x) == expected
    assert tuple(corrected_bootstrap(x, np.ones(1000))[:2]) == expected
    assert summarize(x).mean == x.mean()


# -- probabilities ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "bound"), [(10, 0.26), (100, 0.0295), (300, 0.0099), (3000, 0.001)])
def test_no_violation_in_n_episodes_bounds_its_probability(n: int, bound: float):
    assert upper(0, n) == pytest.approx(bound, rel=0.006)
    assert (1 - upper(0, n)) ** n == pytest.approx(0.05)
    assert lower(0, n) == 0.0 and upper(n, n) == 1.0
    assert lower(n, n) == pytest.approx(0.05 ** (1 / n))


def tail(count: int, n: int, p: float) -> float:
    """P(X <= count) of a binomial."""
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(count + 1))


@pytest.mark.parametrize(("count", "n"), [(1, 10), (3, 20), (7, 8), (50, 100), (299, 300)])
def test_clopper_pearson_bounds_are_where_the_binomial_tails_are_what_is_left(count: int, n: int):
    low, high = clopper_pearson(count, n)
    assert tail(count, n, high) == pytest.approx(0.025)
    assert 1 - tail(count - 1, n, low) == pytest.approx(0.025)
    assert tail(count, n, upper(count, n)) == pytest.approx(0.05)
    assert 1 - tail(count - 1, n, lower(count, n)) == pytest.approx(0.05)


def test_the_regularised_incomplete_beta_by_hand():
    assert incomplete_beta(0.3, 1, 1) == pytest.approx(0.3)
    assert incomplete_beta(0.3, 2, 3) == pytest.approx(0.3483)  # 1 - .7^4 - 4 .3 .7^3
    assert incomplete_beta(0.5, 1e5, 1e5) == pytest.approx(0.5)
    assert (incomplete_beta(0.0, 2, 3), incomplete_beta(1.0, 2, 3)) == (0.0, 1.0)


def test_clopper_pearson_covers_at_least_as_often_as_it_says_whatever_the_probability():
    for n in (10, 60):
        bounds = np.array([clopper_pearson(k, n) for k in range(n + 1)])
        for p in (0.001, 0.01, 0.05, 0.2, 0.5, 0.93):
            chance = np.diff([0.0, *(tail(k, n, p) for k in range(n + 1))])
            assert chance[(bounds[:, 0] <= p) & (p <= bounds[:, 1])].sum() >= 0.95


def test_a_share_counts():
    of_four = share(np.array([True, False, False, True]))
    assert (of_four.count, of_four.episodes, of_four.value) == (2, 4, 0.5)
    assert (of_four.low, of_four.high) == clopper_pearson(2, 4)
    assert (of_four.at_least, of_four.at_most) == (lower(2, 4), upper(2, 4))


# -- (T10) how often intervals cover ---------------------------------------------------------------

TRIALS, FEWER = 1500, 400  # experiments, and resamples in each


def coverage(x: Array, weight: Array, truth: float) -> tuple[float, float, float]:
    """Of experiments x (trials, E): how often the interval, the lower and the upper bound hold."""
    bounds = [
        corrected_bootstrap(a, b, seed=i, resamples=FEWER)
        for i, (a, b) in enumerate(zip(x, weight, strict=True))
    ]
    low, high, at_least, at_most = np.array(bounds).T
    return (
        float(((low <= truth) & (truth <= high)).mean()),
        float((at_least <= truth).mean()),
        float((truth <= at_most).mean()),
    )


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["normal", "exponential", "clustered rate"])
def test_bootstrap_intervals_cover_as_often_as_they_say(kind: str):
    rng, shape = np.random.default_rng(0), (TRIALS, 100)
    ones = np.ones(shape)
    if kind == "clustered rate":  # each episode has a length and a chance per step of its own
        steps = rng.integers(50, 150, shape).astype(np.float64)
        cost, weight, truth = rng.binomial(steps.astype(int), rng.beta(2, 18, shape)), steps, 0.1
    else:
        cost, weight, truth = getattr(rng, kind)(size=shape), ones, float(kind == "exponential")
    two_sided, at_least, at_most = coverage(cost.astype(np.float64), weight, truth)
    assert 0.93 <= two_sided <= 0.97
    assert 0.93 <= at_least <= 0.97
    assert 0.93 <= at_most <= 0.97


@pytest.mark.medium
@pytest.mark.parametrize("chance", [0.01, 0.03, 0.06])
def test_the_bound_of_a_rare_cost_holds_where_a_percentile_bootstrap_would_not(chance: float):
    rng = np.random.default_rng(0)
    drawn = rng.exponential(size=(400, 100)) * (rng.random((400, 100)) < chance)
    assert np.mean([chance <= estimate(x, None, 20.0, FEWER).at_most for x in drawn]) >= 0.95
    percentile = [bootstrap(x, resamples=FEWER)[1] for x in drawn]  # which should hold in 97.5 %
    assert np.mean([chance <= high for high in percentile]) < 0.9


# -- costs -----------------------------------------------------------------------------------------


def test_a_rate_is_the_ratio_of_sums_and_not_the_mean_of_rates():
    rate = estimate(array(9, 1, 3, 7), array(10, 90, 50, 50), 200)
    assert rate.value == 0.1
    assert 0 < rate.low < rate.at_least < 0.1 < rate.at_most < rate.high


def test_steps_of_one_episode_are_not_independent():
    cost = np.repeat([0.0, 100.0], 50)  # of 100 steps: all or none
    rate = estimate(cost, np.full(100, 100.0), 100)
    half = 1.96 * 0.5 / np.sqrt(100)  # as of 100 coins, and not of 10,000
    assert (rate.low, rate.high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.1 * half)


def test_a_cost_never_seen_is_bounded_by_its_chance_times_its_largest():
    never = estimate(np.zeros(300), None, 1000.0)
    assert (never.value, never.low, never.at_least) == (0.0, 0.0, 0.0)
    assert never.at_most == pytest.approx(1000 * (1 - 0.05 ** (1 / 300)))
    assert never.high == pytest.approx(1000 * (1 - 0.025 ** (1 / 300)))
    rate = estimate(np.zeros(300), np.full(300, 500.0), 1000.0)  # episodes half as long as they may be
    assert rate.at_most == pytest.approx(2 * (1 - 0.05 ** (1 / 300)))


def test_episodes_that_are_all_the_same_do_not_make_an_interval_of_no_width():
    p = upper(0, 20)
    same = estimate(np.full(20, 10.0), None, 50.0)
    assert same.value == 10.0
    assert (same.at_least, same.at_most) == pytest.approx((10 - p * 10, 10 + p * 40))
    assert estimate(np.full(20, 50.0), None, 50.0).at_most == 50.0  # nothing is above the largest


def test_few_violations_are_no_better_than_none():
    """Seeing one more can only raise the bound, until FEW of them say how great they are."""
    bounds = [estimate(rare(100, *[3.0] * k), None, 1000.0).at_most for k in range(FEW)]
    assert bounds == sorted(bounds)
    steps = [upper(0, 100), upper(1, 100) - upper(0, 100)]
    assert bounds[1] == pytest.approx(1000 * steps[0] + 3 * steps[1])
    known = estimate(rare(100, *[3.0] * FEW), None, 1000.0).at_most
    assert known == pytest.approx(3 * upper(FEW, 100))


# -- how many episodes would decide ----------------------------------------------------------------


def test_the_half_width_shrinks_with_the_root_of_the_episodes():
    x, ones = np.repeat([9.0, 11.0], 50), np.ones(100)
    measured = estimate(x, ones, 1000)
    half = measured.at_most - 10
    assert half == pytest.approx(1.645 * 0.1, rel=0.05)
    assert episodes_needed(x, ones, measured, 10 + half / 2) == pytest.approx(400, abs=1)
    below = measured.value - measured.at_least
    assert episodes_needed(x, ones, measured, 10 - below / 3) == pytest.approx(900, abs=1)
    assert episodes_needed(x, ones, measured, 10.0) is None
    assert episodes_needed(x, ones, measured, 10 + 1e-7) is None  # more than anybody runs


@pytest.mark.parametrize(("limit", "needed"), [(25.0, 119), (10.0, 299), (1.0, 2995)])
def test_where_nothing_was_seen_the_bound_of_nothing_seen_decides(limit: float, needed: int):
    x, ones = np.zeros(50), np.ones(50)
    assert episodes_needed(x, ones, estimate(x, ones, 1000.0), limit) == needed
    assert estimate(np.zeros(needed), None, 1000.0).at_most <= limit
    assert estimate(np.zeros(needed - 1), None, 1000.0).at_most > limit


def test_no_number_of_episodes_shows_that_a_cost_is_zero():
    x, ones = np.zeros(50), np.ones(50)
    assert episodes_needed(x, ones, estimate(x, ones, 1000.0), 0.0) is None
    assert episodes_needed_for_share(0.0, 0.0) is None


def test_few_violations_are_decided_at_the_latest_when_there_are_some_more():
    x, ones = rare(100, 1.0), np.ones(100)
    measured = estimate(x, ones, 1000.0)
    assert episodes_needed(x, ones, measured, 0.1) == 100 * FEW
    assert 100 < (episodes_needed(x, ones, measured, 20.0) or 0) < 100 * FEW


@pytest.mark.parametrize(("rate", "limit"), [(0.0, 0.05), (0.02, 0.05), (0.08, 0.05), (1.0, 0.9)])
def test_a_share_is_decided_by_the_first_number_of_episodes_that_bounds_it(rate: float, limit: float):
    n = episodes_needed_for_share(rate, limit)
    assert n is not None
    for episodes, decided in ((n, True), (n - 1, False)):
        count = rate * episodes
        bound = upper(count, episodes) <= limit if rate < limit else lower(count, episodes) > limit
        assert bound == decided
    assert rate != 0.0 or n == 59  # .95^59 < .05


# -- several runs ----------------------------------------------------------------------------------


def test_runs_are_resampled_each_within_itself():
    """Two runs that differ much and vary little: the interval knows that both are always there."""
    rng = np.random.default_rng(0)
    runs = [rng.normal(0, 0.01, 50), rng.normal(100, 0.01, 50)]
    value, low, high = pooled_ratio(runs, [np.ones(50)] * 2)
    assert value == pytest.approx(50, abs=0.01)
    assert high - low == pytest.approx(2 * 1.96 * 0.01 / np.sqrt(100), rel=0.15)
    unstratified = bootstrap(np.concatenate(runs))
    assert unstratified[1] - unstratified[0] > 10


def test_runs_that_share_their_starts_are_covered_as_often_as_is_said():
    rng, offsets = np.random.default_rng(0), np.array([0.0, 1.0, 5.0])
    held = {True: 0, False: 0}
    for trial in range(400):
        starts = rng.normal(size=100)
        runs = [starts + offset + rng.normal(0, 0.1, 100) for offset in offsets]
        for paired in held:
            low, high = stratified_bootstrap(runs, lambda rows: rows.mean(-1), paired, trial, resamples=FEWER)
            held[paired] += low <= offsets.mean() <= high
    assert 0.92 <= held[True] / 400 <= 0.97
    assert held[False] / 400 < 0.8


def test_returns_of_several_runs_by_hand():
    iqm, low, high = pooled_returns([np.array([1.0, 1.0]), np.array([2.0, 4.0]), np.array([9.0, 9.0])])
    assert iqm == pytest.approx((0.5 * 1 + 2 + 4 + 0.5 * 9) / 3)
    assert low < iqm < high


def test_a_pooled_rate_weighs_each_run_by_its_steps():
    value, low, high = pooled_ratio([array(1, 1), array(0, 0)], [array(10, 10), array(30, 30)])
    assert (value, low, high) == (2 / 80, 2 / 80, 2 / 80)


def test_the_bound_of_a_rate_of_short_episodes_does_not_come_above_what_a_rate_can_be():
    nothing, all_of_it, spans = np.zeros(300), np.full(300, 5.0), np.full(300, 5.0)
    assert estimate(nothing, spans, 1000.0, highest=1.0).at_most == 1.0
    assert estimate(all_of_it, spans, 1000.0, highest=1.0).at_most == 1.0
    assert estimate(nothing, np.full(300, 1000.0), 1000.0, highest=1.0).at_most < 0.01
