"""How often is learned from what, and what is refused: the pace of off-policy learners."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_offpolicy import Limited, Plain, learner_of
from torch import Tensor

from robokit.algos import sac, td3
from robokit.constraint import SLOW
from robokit.env import Env
from robokit.errors import OptionError
from robokit.pace import Pace, check


@pytest.mark.parametrize(
    ("num_envs", "utd", "transitions"),
    [
        (1, 1.0, 1000),  # as many gradient steps
        (1, 4.0, 250),  # 1000 gradient steps
        (1, 0.25, 1000),  # 250 gradient steps
        (1, 0.05, 2000),  # 100 gradient steps
        (1024, None, 10_000),  # 78 gradient steps, ten control steps
        (64, None, 1000),  # 125 gradient steps
    ],
)
def test_an_iteration_is_a_thousand_transitions_or_enough_gradient_steps(
    num_envs: int, utd: float | None, transitions: float
):
    pace = Pace.of(sac.Config(num_envs=num_envs, utd=utd), num_envs)
    assert pace.transitions == pytest.approx(transitions)


def test_a_batch_that_nobody_chose_holds_whole_windows():
    config = sac.Config(num_envs=33, belief="gru")
    sac.check(config)
    assert Pace.of(config, 33).batch == 256 and Pace.of(replace(config, belief="stack"), 33).batch == 264


def test_the_pace_is_that_of_the_simulations_that_there_are():
    config = sac.Config(hidden=(4,))
    learner = sac.Learner(Env(Plain(), 64, threads=1), config)
    assert learner.pace == Pace(5000, 512, 1 / 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 5000}, r"steps \(5000\) must leave a gradient step: learning_starts is 5000, utd 1"),
        ({"steps": 5009, "utd": 0.1}, "must leave a gradient step"),
        ({"utd": 1e6}, r"utd \(1e\+06\) asks for 1e\+06 gradient steps in a control step, at most 1000"),
        ({"burn_in": 2}, r"burn_in \(2\) has no use: neither belief nor critic_belief is recurrent"),
        ({"shared": True, "critic": "obs"}, "one kind of recurrent belief; got .*belief 'memoryless'"),
    ],
)
def test_options_without_effect_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(OptionError, match=words):
        check(replace(sac.Config(), **changes))


def test_a_target_entropy_beside_a_fixed_temperature_is_refused():
    with pytest.raises(OptionError, match="not a fixed one; got target_entropy -1"):
        sac.check(sac.Config(target_entropy=-1.0, temperature=0.2))


@pytest.mark.parametrize(("module", "wrong"), [(sac, {"temperature": -1.0}), (td3, {"delay": 0})])
def test_a_learner_checks_its_options_itself(module: Any, wrong: dict[str, Any]):
    with pytest.raises(OptionError):
        module.Learner(Env(Plain(), 1, threads=1), replace(module.Config(hidden=(4,)), **wrong))


class Long(Plain):
    time_limit = 200 * Plain.control_dt


def test_a_window_that_a_full_replay_may_not_keep_is_refused():
    options = {"num_envs": 1, "learning_starts": 128, "replay": 128, "batch": 8, "steps": 300}
    with pytest.raises(
        OptionError, match=r"n_step \(128\) must be at most the 127 of each simulation that the"
    ):
        learner_of("sac", Long, n_step=128, **options)
    assert learner_of("sac", Long, n_step=127, **options).length == 127


def test_units_of_costs_forget_the_critics_of_the_first_gradient_steps():
    learner = learner_of("sac", Limited, utd=0.5)
    spreads, counted = list[Tensor](), list[int]()
    for _ in range(6):
        before, gradients = learner.multipliers.spread.clone(), learner.gradients
        learner.iterate()
        if learner.gradients > gradients:
            spreads.append(learner.multipliers.spread)
            counted.append(learner.gradients - gradients)
            share = counted[-1] / learner.gradients
            if len(counted) > 1:  # the weight of an iteration is its share of all gradient steps
                assert share > 1 - SLOW
                assert not torch.equal(before, spreads[-1])
    follow = learner.multipliers.follow
    follow(torch.full_like(spreads[-1], 7.0), slow=0.0)
    assert learner.multipliers.spread.tolist() == [7.0] * 3
    follow(torch.full_like(spreads[-1], 8.0), slow=0.75)
    assert learner.multipliers.spread.tolist() == [7.25] * 3


def test_the_policys_gradient_leaves_a_shared_belief_out():
    memory = {"belief": "gru", "critic_belief": "gru", "critic": "obs", "belief_size": 4, "window": 4}
    learner = learner_of("sac", **memory, shared=True)
    learner.iterate()
    learner.iterate()
    assert learner.gradients > 0
    moments = learner.agent.actor.views(learner.agent.actor.first)
    assert all(not moments[name].any() for name in moments if name.startswith("belief."))
    assert moments["head.0.weight"].any()
