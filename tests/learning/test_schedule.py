"""Options that move: linear to the steps that a run was begun with, in every algorithm, saved."""

from dataclasses import dataclass, fields, replace

import pytest
import torch
from agents import agent_of, learner_of

from robokit.errors import OptionError
from robokit.learning.options import Options, with_options
from robokit.learning.schedule import Schedules, first, is_scheduled
from robokit.training.setup.build import algorithm

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Config(Options):
    exploration: float | tuple[float, float] = (0.4, 0.0)


def test_a_value_moves_linearly_to_its_end_and_stays_there():
    schedules, seen = Schedules(Config(steps=100, lr=(1.0, 3.0)), CPU), []
    storage = schedules.values["lr"]
    for _ in range(4):
        schedules.advance(40)
        seen.append((float(storage), float(schedules.values["exploration"])))
    assert seen == [pytest.approx(pair) for pair in [(1.8, 0.24), (2.6, 0.08), (3.0, 0.0), (3.0, 0.0)]]


def test_one_number_never_moves_and_is_not_logged():
    schedules = Schedules(Config(lr=1e-3), CPU)
    schedules.advance(1000)
    assert schedules.values["lr"] == torch.tensor(1e-3)
    assert [*schedules.metrics()] == ["schedule/exploration"]


def test_a_run_that_is_resumed_with_more_steps_stays_at_the_end():
    begun, longer = Schedules(Config(steps=100), CPU), Schedules(Config(steps=1000), CPU)
    begun.advance(100)
    longer.load_state_dict({name: value.clone() for name, value in begun.state_dict().items()})
    longer.advance(500)
    assert float(longer.values["exploration"]) == 0.0


@pytest.mark.parametrize(
    ("algo", "option"), [("td3", "exploration"), ("sac", "temperature"), ("sac", "lr"), ("td3", "lr")]
)
def test_a_moving_option_changes_what_is_learned_and_continues_bit_for_bit(algo: str, option: str):
    changes = {option: (0.4, 0.0), "steps": 400, "utd": 0.5}
    straight, constant = learner_of(algo, **changes), learner_of(algo, **{**changes, option: 0.4})
    straight.iterate()
    constant.iterate()
    assert float(straight.schedules.values[option]) < 0.4
    saved = {name: value.clone() for name, value in straight.state_dict().items()}
    again = learner_of(algo, seed=3, **changes)
    again.load_state_dict(saved)
    for number in straight.replay.segments():
        again.replay.load_segment(number, straight.replay.segments()[number])
    assert straight.iterate() == again.iterate()
    constant.iterate()
    policies = (learner.policy.state_dict().values() for learner in (straight, again, constant))
    own, resumed, other = (torch.cat([x.flatten() for x in values]) for values in policies)
    assert torch.equal(own, resumed)
    assert not torch.equal(own, other)


def test_the_exploration_noise_is_the_one_of_the_moment():
    learner = learner_of("td3", exploration=(0.5, 0.1), steps=400)
    learner.schedules.advance(400)
    zero, one = torch.zeros(1, 2), torch.ones(1, 2)
    assert torch.allclose(learner.policy.sample_from(zero, one), 0.1 * one)
    assert "noise" not in learner.policy.state_dict()


@pytest.mark.parametrize("value", [(3e-4,), (3e-4, 1e-4, 0.0), "linear", True])
def test_a_schedule_is_one_number_or_two(value: object):
    with pytest.raises(OptionError, match=r"lr, set to .*, must be of the type float"):
        with_options(Config(), {"lr": value})


def test_a_list_of_a_recipe_or_of_json_is_a_schedule():
    assert with_options(Config(), {"lr": [3e-4, 0]}).lr == (3e-4, 0)
    assert first(replace(Config(), lr=(3e-4, 0)).lr) == 3e-4


@pytest.mark.parametrize(
    ("algo", "names"),
    [("ppo", {"lr", "entropy_coef"}), ("sac", {"lr", "temperature"}), ("td3", {"lr", "exploration"})],
)
def test_the_options_marked_as_scheduled_are_these(algo: str, names: set[str]):
    options = algorithm(algo).Config
    assert {field.name for field in fields(options) if is_scheduled(field.type)} == names


def test_a_rising_learning_rate_ends_with_the_beliefs_own():
    agent = agent_of("sac", belief="gru", lr=(1e-8, 1e-3), belief_lr=1e-4, batch=8, window=4)
    rates = agent.actor.rates
    assert rates is not None
    assert float(rates.min()) == pytest.approx(0.1)  # of 1e-3: not 1e-4 / 1e-8 of it
