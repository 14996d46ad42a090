"""Limits, the meter and the multipliers, worked out by hand."""

from typing import Any

import pytest
import torch
from cart import Cart

from robokit.env.env import Env
from robokit.errors import OptionError, TaskError
from robokit.limits.charges import Charges
from robokit.limits.limit import Limit, with_values
from robokit.limits.measures import RECENT
from robokit.limits.meter import Meter, episode_sums
from robokit.limits.multipliers import Multipliers, combine, violation

NEVER = torch.zeros(4, 1, dtype=torch.bool)


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def known(k: int = 1) -> torch.Tensor:
    return torch.ones(k, dtype=torch.bool)


# -- a limit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"value": -0.1}, "Limit.value must be a finite number >= 0, got -0.1"),
        ({"value": float("nan")}, "Limit.value must be a finite number >= 0, got nan"),
        ({"value": True}, "Limit.value must be a finite number"),
        ({"value": 1.5}, "Limit is 1.5, which has no use: a rate cannot come above 1"),
        ({"value": 1.1, "measure": "probability", "largest": 7.0}, "a probability cannot come above 1"),
        ({"value": 1, "measure": "sum"}, "Limit.measure must be one of .*'episode'.*got 'sum'"),
        ({"value": 0.1, "largest": 0.0}, "Limit.largest must be a cost > 0, got 0.0"),
        ({"value": 0.1, "absorb": 2.0}, r"Limit.absorb must be at most largest \(1.0\), got 2.0"),
        ({"value": 0.1, "measure": "probability", "absorb": 1.0}, "absorb has no meaning for a probability"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_by_name(arguments: dict[str, Any], rule: str):
    with pytest.raises(TaskError, match=rule):
        Limit(**arguments)


def limited(**limits: Any) -> type[Cart]:
    return type("Limited", (Cart,), {"limits": limits})


@pytest.mark.parametrize(
    ("task", "rule"),
    [
        (limited(), "costs returns 'away', which has no limit; else make it a metric"),
        (limited(awry=Limit(0.1)), "limits name 'awry', which costs does not return; did you mean 'away'"),
        (limited(away=0.1), r"limits\['away'\] must be a Limit, got 0.1"),
        (
            limited(away=Limit(21.0, "episode")),
            r"away'\] is 21, which has no use: a sum of 20 control steps cannot come above 20",
        ),
    ],
)
def test_costs_and_limits_must_name_each_other(task: type[Cart], rule: str):
    with pytest.raises(TaskError, match=rule):
        Env(task(), 2)


def test_a_discounted_limit_above_what_can_come_is_refused():
    with pytest.raises(TaskError, match=r"limits\['wear'\] is 11, .* a discounted sum cannot come above 10"):
        Multipliers({"wear": Limit(11.0, "discounted")}, steps=10_000, gamma=0.9)


def test_values_from_outside_replace_those_of_the_task_and_nothing_else():
    limits = {"wear": Limit(2.0, "episode", absorb=0.5), "heat": Limit(0.1)}
    assert with_values(limits, {"wear": 1.0}) == {**limits, "wear": Limit(1.0, "episode", absorb=0.5)}
    with pytest.raises(OptionError, match="no limit 'weir'; did you mean 'wear'"):
        with_values(limits, {"weir": 1.0})
    with pytest.raises(OptionError, match=r"limits\['wear'\]: Limit\.value .* got -1.0"):
        with_values(limits, {"wear": -1.0})


# -- what a critic learns ----------------------------------------------------------------------------


def test_a_termination_is_charged_for_the_steps_it_cut_off():
    limits = {"fall": Limit(0.1, absorb=0.5), "plain": Limit(0.1)}
    cost = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    terminated, left = torch.tensor([True, False]), torch.tensor([2.0, 2.0])
    spent, over = Charges(limits).learned(cost, terminated, left, gamma=0.9)
    # 1 + .9 * .5 + .81 * .5
    torch.testing.assert_close(spent, torch.tensor([[1.855, 1.0], [1.0, 1.0]]))
    assert over.tolist() == [[True, True], [False, False]]
    undiscounted, _ = Charges(limits).learned(cost, terminated, left, gamma=1.0)
    assert undiscounted[0, 0] == 2.0


def test_a_probability_is_over_at_the_first_cost_whatever_its_size():
    limits = {"hit": Limit(0.1, "probability"), "heat": Limit(0.1, largest=7.0)}
    cost = torch.tensor([[7.0, 7.0], [0.0, 7.0]])
    spent, over = Charges(limits).learned(cost, torch.tensor([False, False]), torch.zeros(2), gamma=0.9)
    assert spent.tolist() == [[1.0, 7.0], [0.0, 7.0]]
    assert over.tolist() == [[True, False], [False, False]]


def test_the_combined_advantage_by_hand():
    advantage = torch.tensor([[3.0, 1.0, -1.0]])
    assert combine(advantage, torch.tensor([0.5, 2.0])).item() == pytest.approx((3 - 0.5 + 2) / 3.5)
    assert combine(advantage[:, :1], torch.zeros(0)).item() == 3.0


def test_costs_and_limits_in_another_unit_give_the_same_advantage_and_the_lambda_of_that_unit():
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randn(5, 4, 2, generator=generator) * torch.tensor([10.0, 0.3])
    valid, made = torch.ones(5, 4, dtype=torch.bool), []
    for unit in (1.0, 1000.0):
        multipliers = Multipliers({"wear": Limit(0.1 * unit, largest=unit)}, steps=100, gamma=0.99)
        scaled = advantages * torch.tensor([1.0, unit])
        for _ in range(3):
            multipliers.update(row(0.2 * unit), known())
            made.append((multipliers.advantage(scaled, valid), multipliers.lambdas))
    torch.testing.assert_close(made[2][0], made[5][0])
    torch.testing.assert_close(made[2][1], made[5][1] * 1000)


def test_broken_simulations_stay_out_of_the_spread():
    multipliers = Multipliers({"wear": Limit(0.1)}, steps=100, gamma=0.99)
    advantages = torch.tensor([[[1.0, 0.5]], [[-1.0, -0.5]], [[1e6, 1e6]]])
    multipliers.advantage(advantages, torch.tensor([[True], [True], [False]]))
    torch.testing.assert_close(multipliers.scale, row(1.0, 0.5))


def test_a_cost_that_hardly_flows_is_not_blown_up():
    multipliers = Multipliers({"wear": Limit(0.1, largest=2.0)}, steps=100, gamma=0.99)
    multipliers.strength.fill_(1.0)
    advantages = torch.tensor([[[1.0, 1e-6]], [[-1.0, -1e-6]]])
    combined = multipliers.advantage(advantages, torch.ones(2, 1, dtype=torch.bool))
    assert combined[0].item() == pytest.approx((1 - 1e-6 / 0.02) / 2)  # 1 % of the largest cost


def test_a_cost_that_begins_to_flow_is_no_larger_than_it_is():
    multipliers = Multipliers({"wear": Limit(0.1)}, steps=100, gamma=0.99)
    multipliers.strength.fill_(1.0)
    valid = torch.ones(2, 1, dtype=torch.bool)
    multipliers.advantage(torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]]), valid)
    combined = multipliers.advantage(torch.tensor([[[1.0, 0.5]], [[-1.0, -0.5]]]), valid)
    assert combined.abs().max().item() < 1e-6  # one unit of reward against one of cost


# -- multipliers -------------------------------------------------------------------------------------


def test_violations_are_relative_bounded_and_floored():
    measured, aim, floor = row(0.3, 9.0, 0.0, 0.005), row(0.2, 0.2, 0.2, 0.0), row(0.01, 0.01, 0.01, 0.01)
    torch.testing.assert_close(violation(measured, aim, floor), row(0.5, 2.0, -1.0, 0.5))


def test_the_pid_rule_by_hand():
    multipliers = Multipliers({"wear": Limit(0.1)}, 100, 0.99, margin=0.0, gains=(0.5, 0.1, 2.0))
    multipliers.update(row(0.2), known())  # e = 1, the first: s = 1, I = .1
    assert multipliers.strength.item() == pytest.approx(0.5 + 0.1)
    multipliers.update(row(0.3), known())  # e = 2: s = 1.2, ds = .2, I = .3
    assert multipliers.strength.item() == pytest.approx(0.6 + 0.3 + 0.4)
    multipliers.update(row(0.0), known())  # e = -1: s = .76, falling, I = .2
    assert multipliers.strength.item() == pytest.approx(0.38 + 0.2)


def test_the_integral_does_not_wind_up_below_zero():
    multipliers = Multipliers({"wear": Limit(0.1)}, 100, 0.99, margin=0.0, gains=(0.0, 0.1, 0.0))
    for _ in range(100):
        multipliers.update(row(0.0), known())
    multipliers.update(row(0.2), known())
    assert multipliers.strength.item() == pytest.approx(0.1)


def test_training_aims_below_the_limit_by_the_margin():
    multipliers = Multipliers({"wear": Limit(0.2)}, 100, 0.99, rule="dual", margin=0.25, dual_lr=1.0)
    multipliers.update(row(0.16), known())
    assert multipliers.lambdas.item() == pytest.approx(0.01)


def test_the_textbook_rule_and_the_fixed_penalty_are_in_reward_per_unit_of_cost():
    advantages = torch.tensor([[[2.0, 10.0]], [[-2.0, -10.0]]])
    limits, valid = {"wear": Limit(10.0, largest=20.0)}, torch.ones(2, 1, dtype=torch.bool)
    dual = Multipliers(limits, 100, 0.99, rule="dual", margin=0.0, dual_lr=0.1)
    dual.update(row(12.0), known())
    fixed = Multipliers(limits, 100, 0.99, rule="fixed", penalty=0.2)
    fixed.update(row(12.0), known())
    for multipliers in (dual, fixed):
        combined = multipliers.advantage(advantages, valid)
        assert multipliers.lambdas.item() == pytest.approx(0.2)
        # (2 - .2 * 10) / ... = 0: the price eats the gain
        assert combined.abs().max().item() < 1e-6
    dual.update(row(0.0), known())
    assert dual.lambdas.item() == 0.0


def test_what_is_not_known_moves_nothing():
    multipliers = Multipliers({"a": Limit(0.1), "b": Limit(0.1)}, 100, 0.99)
    multipliers.update(row(0.5, torch.nan), torch.tensor([True, False]))
    assert multipliers.strength[0] > 0 and multipliers.strength[1] == 0
    assert multipliers.measured[1].isnan() and multipliers.lambdas.isfinite().all()


def test_multipliers_and_meter_continue_from_their_state():
    limits = {"a": Limit(0.1), "b": Limit(0.1, "probability")}
    generator = torch.Generator().manual_seed(3)

    def use(multipliers: Multipliers, meter: Meter, rounds: int) -> torch.Tensor:
        for _ in range(rounds):
            cost = (torch.rand(8, 4, 2, generator=generator) < 0.3).float()
            done = torch.rand(8, 4, generator=generator) < 0.2
            multipliers.update(*meter.measure(cost, done, done, torch.zeros(8, 4)))
            multipliers.advantage(torch.randn(8, 4, 3, generator=generator), torch.ones(8, 4).bool())
        return multipliers.lambdas

    first = Multipliers(limits, 100, 0.99), Meter(limits, 4, 100)
    use(*first, rounds=20)
    second = Multipliers(limits, 100, 0.99), Meter(limits, 4, 100)
    for ours, theirs in zip(second, first, strict=True):
        ours.load_state_dict(theirs.state_dict())
    state = generator.get_state()
    expected = use(*first, rounds=5)
    generator.set_state(state)
    assert torch.equal(use(*second, rounds=5), expected)
    assert all(torch.equal(v, first[1].state_dict()[k]) for k, v in second[1].state_dict().items())


# -- what is measured --------------------------------------------------------------------------------


def test_episode_sums_equal_a_plain_loop():
    generator = torch.Generator().manual_seed(1)
    x, done = torch.rand(50, 3, 2, generator=generator).double(), torch.rand(50, 3, generator=generator) < 0.2
    running = torch.rand(3, 2, generator=generator).double()
    sums, carry = episode_sums(x, done, running)
    for n in range(3):
        so_far = running[n].clone()
        for t in range(50):
            so_far = so_far + x[t, n]
            torch.testing.assert_close(sums[t, n], so_far)
            if done[t, n]:
                so_far = torch.zeros(2, dtype=torch.float64)
        torch.testing.assert_close(carry[n], so_far)


def measured(limit: Limit, cost: list[float], done: list[int], terminated: bool = True, **more: Any) -> float:
    """J of one simulation's steps, after a first episode that was not seen from its start."""
    meter = Meter({"wear": limit}, 1, 100, gamma=0.5)
    meter.whole.fill_(True)
    ended = torch.tensor(done).bool()[:, None]
    left = torch.tensor(more.get("left", [0.0] * len(cost)))[:, None]
    return meter.measure(torch.tensor(cost)[:, None, None], ended & terminated, ended, left)[0].item()


def test_a_rate_is_the_mean_and_an_episode_that_times_the_length():
    cost, done = [1.0, 0.0, 0.0, 1.0, 1.0], [0, 1, 0, 0, 1]
    assert measured(Limit(0.1), cost, done) == pytest.approx(0.6)
    assert measured(Limit(1.0, "episode"), cost, done) == pytest.approx(0.6 * 2.5)
    # 1 + 0 in the first episode, 0 + .5 + .25 in the second
    assert measured(Limit(1.0, "discounted"), cost, done) == pytest.approx((1 + 0.75) / 2)
    assert measured(Limit(1.0, "episode"), [0.1] * 5, [0] * 5) == pytest.approx(0.1 * 100)  # none has ended


@pytest.mark.parametrize("measure", ["rate", "episode", "discounted", "probability"])
def test_only_steps_that_count_are_measured(measure: Any):
    """The others, of episodes from reset states, cost in every step: as if they were not there."""
    generator = torch.Generator().manual_seed(4)
    cost = (torch.rand(40, 2 * RECENT, 1, generator=generator) < 0.2).float()
    done = torch.rand(40, 2 * RECENT, generator=generator) < 0.1
    cost[:, RECENT:], own = 1.0, torch.arange(2 * RECENT).expand(40, -1) < RECENT
    values = []
    for n, counted in ((RECENT, None), (2 * RECENT, own)):
        meter = Meter({"wear": Limit(0.1, measure)}, n, 100, gamma=0.9)
        value, known = meter.measure(cost[:, :n], done[:, :n], done[:, :n], torch.zeros(40, n), counted)
        assert known.all()
        values.append(value.item())
    assert values[0] == pytest.approx(values[1]) and values[0] > 0
    nothing = meter.measure(cost, done, done, torch.zeros(40, 2 * RECENT), torch.zeros_like(own))
    assert not nothing[1]


def test_dying_early_is_charged_and_a_time_out_is_not():
    cost, done, left = [0.0, 0.0, 0.0, 0.0], [0, 1, 0, 0], [0.0, 6.0, 5.0, 4.0]
    absorbing = Limit(0.1, absorb=1.0)
    assert measured(absorbing, cost, done, left=left) == pytest.approx(6 / (4 + 6))
    assert measured(absorbing, cost, done, terminated=False, left=left) == 0.0
    early = Limit(1.0, "discounted", absorb=1.0)  # 2 steps without a cost, then .25 + ... + .5^7
    assert measured(early, cost, done, left=left) == pytest.approx(0.5 - 0.5**7)
    summed = Limit(1.0, "episode", absorb=1.0)  # one episode of 2 steps and 6 more
    assert measured(summed, cost, done, left=left) == pytest.approx(0.6 * 8)


def test_a_probability_counts_whole_episodes_only_and_waits_for_enough():
    meter = Meter({"hit": Limit(0.1, "probability")}, RECENT, 100)
    cost, done = torch.zeros(4, RECENT, 1), torch.zeros(4, RECENT, dtype=torch.bool)
    cost[0] = 1.0  # in the episode that was under way at first
    done[1], done[3] = True, True
    cost[2, :16] = 1.0
    _, enough = meter.measure(cost, done, done, torch.zeros(4, RECENT))
    value, _ = meter.measure(
        torch.zeros(1, RECENT, 1),
        NEVER[:1].expand(1, RECENT),
        NEVER[:1].expand(1, RECENT),
        torch.zeros(1, RECENT),
    )
    assert enough.item() and value.item() == pytest.approx(0.25)
    fresh = Meter({"hit": Limit(0.1, "probability")}, RECENT, 100)
    _, enough = fresh.measure(cost[:2], done[:2], done[:2], torch.zeros(2, RECENT))
    assert not enough.item()


def test_old_episodes_are_forgotten():
    meter = Meter({"hit": Limit(0.1, "probability")}, 32, 100)
    meter.whole.fill_(True)
    done = torch.ones(1, 32, dtype=torch.bool)
    for hit in (1.0, 1.0, 0.0, 0.0, 0.0, 0.0):
        value, _ = meter.measure(torch.full((1, 32, 1), hit), done, done, torch.zeros(1, 32))
    assert value.item() == pytest.approx(3 / 63)  # half of them go with every 32 new ones
