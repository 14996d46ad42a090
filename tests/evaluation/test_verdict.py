"""Verdicts on limits: the charges of episodes, the claims, and their error rates."""

import math

import cart
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from robokit.errors import TaskError
from robokit.evaluation.episodes import run_episodes
from robokit.evaluation.ledger import Ledger
from robokit.evaluation.reports.across import across
from robokit.evaluation.reports.report import Failure, Headline, Through, judged
from robokit.evaluation.reports.verdict import Verdict, judge, overall, word_of
from robokit.evaluation.statistics import Array, lower, share, summarize, upper
from robokit.limits.limit import Limit
from robokit.limits.measures import EpisodeCosts
from robokit.sim.base import Sim
from robokit.task.task import Task, Terms

STEPS = cart.PERIODS


def still(num_envs: int, task: type[Task], gamma: float = 0.99) -> EpisodeCosts[Array]:
    """Totals of the cost of a cart without actions."""
    env = cart.new(task, num_envs)
    zero = torch.zeros(num_envs, env.act_dim)
    return run_episodes(env, lambda env, first: zero, gamma).charged["away"]


def charged(
    total: Array, span: Array | float = STEPS, discounted: Array | None = None
) -> EpisodeCosts[Array]:
    spans = np.zeros_like(total) + span
    return EpisodeCosts(total, spans, total if discounted is None else discounted, np.sign(total), total)


def normal(mean: float, std: float, episodes: int = 100) -> Array:
    """Numbers of exactly this mean and deviation."""
    x = np.random.default_rng(0).normal(size=episodes)
    return np.asarray(mean + std * (x - x.mean()) / x.std(), dtype=np.float64)


# -- what is charged -------------------------------------------------------------------------------


class Stops(cart.Still):
    """A cost of 1/4 in each control step; the first simulation terminates in its fifth, the others never."""

    limits = {"away": Limit(0.5, absorb=1.0)}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        return {"away": torch.full_like(sim.qpos[:, 0], 0.25)}

    def terminated(self, sim: Sim) -> Tensor:
        return (torch.arange(sim.num_envs) == 0) & (sim.memory["age"][:, 0] == 4)


class Free(Stops):
    limits = {"away": Limit(0.5)}


def test_dying_early_buys_nothing_where_absorb_is_charged():
    ran = still(2, Stops, gamma=0.9)
    assert ran.total.tolist() == [5 * 0.25 + 15, 20 * 0.25]
    assert ran.span.tolist() == [20, 20]
    own, cut = sum(0.9**t * 0.25 for t in range(5)), sum(0.9**t for t in range(5, 20))
    assert ran.discounted.tolist() == pytest.approx([own + cut, sum(0.9**t * 0.25 for t in range(20))])


def test_without_absorb_a_termination_just_ends_the_sum():
    ran = still(2, Free, gamma=1.0)
    assert ran.total.tolist() == ran.discounted.tolist() == [1.25, 5.0]
    assert ran.span.tolist() == [5, 20]


def test_undiscounted_is_the_plain_sum_with_absorb_too():
    ran = still(2, Stops, gamma=1.0)
    assert ran.discounted.tolist() == ran.total.tolist()


def test_an_absorbed_step_is_no_violation():
    ledger = Ledger({"fall": Limit(0.5, absorb=1.0)}, 1, 0.99)
    yes = torch.ones(1, dtype=torch.bool)
    ledger.add(torch.zeros(1, 1), yes, yes, torch.full((1,), 7.0))
    fall = ledger.costs()["fall"]
    assert (fall.total.tolist(), fall.violated.tolist()) == ([7.0], [False])


@pytest.mark.parametrize("cost", [-0.5, 1.5, torch.nan])
def test_a_cost_below_zero_above_its_largest_or_not_a_number_is_refused_by_name(cost: float):
    ledger = Ledger({"near": Limit(0.5), "far": Limit(0.5)}, 3, 0.99)
    running = torch.tensor([True, True, False])
    none, left = torch.zeros(3, dtype=torch.bool), torch.zeros(3)
    ledger.add(torch.tensor([[0.0, 0.0], [0.0, 0.0], [cost, cost]]), running, none, left)
    assert ledger.costs()["near"].total.tolist() == [0, 0, 0]  # an episode that is over
    ledger.add(torch.tensor([[0.0, 0.0], [0.0, cost], [0.0, 0.0]]), running, none, left)
    ledger.add(torch.zeros(3, 2), running, none, left)
    with pytest.raises(TaskError, match=f"cost 'far' must lie from 0 to 1, .* got {cost}"):
        ledger.costs()


# -- (T8) independent chances ----------------------------------------------------------------------

CHANCE = 0.03  # per control step


class Dice(cart.Still):
    """A cost of 1 with an independent chance in each control step; the dice are cast at the start."""

    memory = {**cart.Still.memory, "dice": STEPS}
    limits = {"away": Limit(0.5, "probability")}

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        return {"dice": torch.rand(sim.num_envs, STEPS, generator=rng, dtype=torch.float64)}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        cast = sim.memory["dice"].gather(1, sim.memory["age"].long())[:, 0]
        return {"away": (cast < CHANCE).to(cast.dtype)}


@pytest.mark.parametrize("steps", [1, 5, STEPS])
def test_the_chance_of_a_first_violation_within_n_steps_is_the_geometric_law(steps: int):
    task = type("Shorter", (Dice,), {"time_limit": steps * cart.Cart.control_dt})
    env = cart.new(task, 2000)
    zero = torch.zeros(2000, env.act_dim)
    ran = run_episodes(env, lambda env, first: zero).charged["away"]
    verdict = judge(Limit(0.5, "probability"), ran, steps, 0.99)
    exact = 1 - (1 - CHANCE) ** steps
    assert verdict.any_cost.low < exact < verdict.any_cost.high
    assert verdict.any_cost.high - verdict.any_cost.low < 0.06  # and that says something
    assert verdict.rate.low < CHANCE < verdict.rate.high
    assert verdict.measured == verdict.any_cost


def test_a_first_violation_counts_the_episode_once_however_many_follow():
    ran = still(500, Dice)
    assert ran.total.max() > 1
    assert ran.violated.tolist() == (ran.total > 0).tolist()


# -- what is claimed -------------------------------------------------------------------------------


def test_each_measure_is_judged_in_its_own_units():
    ran = charged(array := np.repeat([2.0, 4.0, 0.0], 100), np.repeat([10.0, 20.0, 10.0], 100), array / 2)
    measured = {
        measure: judge(Limit(0.5, measure), ran, STEPS, 0.99).measured.value
        for measure in ("rate", "episode", "discounted", "probability")
    }
    assert measured == pytest.approx({"rate": 6 / 40, "episode": 2, "discounted": 1, "probability": 2 / 3})


@pytest.mark.parametrize(
    ("mean", "word", "needed"), [(8, "PASS", None), (12, "FAIL", None), (9.9, "UNDECIDED", 271)]
)
def test_a_limit_on_sums_by_hand(mean: float, word: str, needed: int | None):
    verdict = judge(Limit(10.0, "episode"), charged(normal(mean, 1.0)), STEPS, 0.99)
    assert verdict.verdict == word
    assert verdict.episodes_needed == (needed and pytest.approx(needed, rel=0.15))  # (1.645 / .1)^2
    assert verdict.measured == verdict.episode
    assert verdict.above is not None and verdict.above.value == pytest.approx((normal(mean, 1.0) > 10).mean())


def test_a_verdict_claims_one_side_and_so_uses_the_one_sided_bound():
    total = normal(9.82, 1.0)  # 1.645 deviations of the mean are within the limit, 1.96 are not
    verdict = judge(Limit(10.0, "episode"), charged(total), STEPS, 0.99)
    assert verdict.measured.at_most < 10 < verdict.measured.high
    assert verdict.verdict == "PASS"


def test_no_violation_passes_a_probability_when_there_are_enough_episodes():
    words = {
        n: judge(Limit(0.05, "probability"), charged(np.zeros(n)), STEPS, 0.99) for n in (58, 59)
    }  # .95^59 < .05
    assert {n: (v.verdict, v.episodes_needed) for n, v in words.items()} == {
        58: ("UNDECIDED", 59),
        59: ("PASS", None),
    }


def test_no_violation_passes_a_rate_only_when_the_unseen_could_not_break_it():
    for n, word in ((298, "UNDECIDED"), (299, "PASS")):
        verdict = judge(Limit(0.01), charged(np.zeros(n)), STEPS, 0.99)
        assert verdict.verdict == word
    assert "about 299 episodes would decide" in judge(Limit(0.01), charged(np.zeros(20)), STEPS, 0.9).line(
        "x"
    )


def test_a_limit_of_zero_fails_at_the_first_violation_and_can_never_pass():
    none, one = np.zeros(100), np.zeros(100)
    one[0] = 1.0
    never = judge(Limit(0.0), charged(none), STEPS, 0.99)
    assert (never.verdict, never.episodes_needed) == ("UNDECIDED", None)
    assert "no number of episodes would decide" in never.text("x")
    assert judge(Limit(0.0, "probability"), charged(one), STEPS, 0.99).verdict == "FAIL"


def test_a_discounted_cost_never_seen_is_bounded_by_the_largest_discounted_sum():
    verdict = judge(Limit(1.0, "discounted", largest=2.0), charged(np.zeros(100)), 3, 0.5)
    assert verdict.measured.at_most == pytest.approx(upper(0, 100) * 2 * (1 + 0.5 + 0.25))
    assert verdict.episode.at_most == pytest.approx(upper(0, 100) * 2 * 3)


@pytest.mark.parametrize("limit", [0.02, 0.1, 0.5])
def test_a_limit_that_is_just_met_is_passed_or_failed_in_at_most_one_evaluation_of_twenty(limit: float):
    n = 100
    chance = {"PASS": 0.0, "FAIL": 0.0, "UNDECIDED": 0.0}
    for k in range(n + 1):
        word = word_of(share(np.arange(n) < k), limit)
        chance[word] += math.comb(n, k) * limit**k * (1 - limit) ** (n - k)
    assert chance["PASS"] <= 0.05 and 0 < chance["FAIL"] <= 0.05


def test_the_overall_word_is_the_worst_one():
    words: dict[str, Verdict] = {
        name: judge(Limit(10.0, "episode"), charged(normal(mean, 1.0)), STEPS, 0.99)
        for name, mean in (("good", 8.0), ("bad", 12.0), ("open", 9.9))
    }
    assert overall(words) == "FAIL: bad"
    assert overall({k: words[k] for k in ("good", "open")}) == "UNDECIDED: open"
    assert overall({"good": words["good"]}) == "PASS: 1 limit"


def test_the_table_says_what_was_counted():
    total = np.repeat([30.0, 20.0, 0.0], [3, 7, 90])
    text = judge(Limit(25.0, "episode", absorb=1.0), charged(total), STEPS, 0.99).text("speed")
    assert "speed, sum of an episode" in text and "PASS" in text
    assert "P(any) 10 of 100: 10 %" in text
    assert f"P(sum > 25) 3 of 100: 3 % [{100 * lower(3, 100, 0.975):.3g}, " in text
    assert "worst 5 % 26" in text  # (3 * 30 + 2 * 20) / 5


# -- several runs ----------------------------------------------------------------------------------


def test_several_runs_are_pooled_and_their_verdicts_counted():
    limit = {"away": Limit(10.0, "episode")}
    runs = [{"away": charged(normal(mean, 1.0))} for mean in (7.0, 8.0, 12.0)]
    verdicts = [{"away": judge(limit["away"], run["away"], STEPS, 0.99)} for run in runs]
    returns = [normal(mean, 1.0) for mean in (100.0, 200.0, 300.0)]
    together = across(["a", "b", "c"], returns, runs, verdicts, {}, {})
    assert together.means == pytest.approx([100, 200, 300])
    assert together.iqm.value == pytest.approx(200, abs=0.5)
    assert together.iqm.high - together.iqm.low < 1  # within runs, although these lie far apart
    assert together.limits["away"].value == pytest.approx(9)
    assert together.verdicts["away"] == {"PASS": 2, "FAIL": 1, "UNDECIDED": 0}
    assert "2 PASS, 1 FAIL" in together.text()


def test_the_rate_of_short_episodes_is_not_said_to_come_above_what_a_rate_can_be():
    nothing = np.zeros(300)
    clean = EpisodeCosts(nothing, np.full(300, 5.0), nothing, nothing, nothing)
    assert judge(Limit(0.5), clean, 1000, 0.99).measured.at_most == 1.0


@pytest.mark.parametrize("costs", [[], [5.0], [2.0, 1.0, 1.0]])
def test_the_episodes_said_to_decide_a_rate_of_short_episodes_are_about_those_that_do(costs: list[float]):
    def of(total: Array) -> Verdict:
        return judge(Limit(0.3), charged(total, 30.0), 1000, 0.99)

    total = np.array([*costs, *[0.0] * (10 - len(costs))])
    needed, decides = of(total).episodes_needed, 1
    while of(np.tile(total, decides)).verdict == "UNDECIDED":
        decides += 1
    assert needed is not None and 10 * decides / 1.5 < needed < 1.5 * 10 * decides


def test_what_the_filter_breaks_is_in_the_verdict():
    good, bad = (judge(Limit(0.5), charged(np.full(300, x), 10.0), 10, 0.99) for x in (1.0, 9.0))
    some = summarize(np.arange(3.0))
    counts = Headline("return", "sum", some), Failure([], share(np.zeros(3, np.bool_)))
    through = Through({}, *counts, some, some, 0, 0, 0, {}, {"fall": bad})
    assert overall(judged({"fall": good}, None)) == "PASS: 1 limit"
    assert overall(judged({"fall": good}, through)) == "FAIL: fall through the filter"
