"""Options of off-policy learners: defaults by number of simulations, iterations, refused values."""

from dataclasses import replace
from typing import Any

import mujoco
import pytest
from agents import BOTH, Plain, learner_of
from test_recurrent import Blurred

from robokit.algos import sac, td3
from robokit.env.env import Env
from robokit.errors import OptionError, TaskError
from robokit.learning.offpolicy.options import Pace, check_off_policy


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
    pace = Pace.of(sac.Config(num_envs=num_envs, utd=utd))
    assert pace.transitions == pytest.approx(transitions)


def test_a_batch_that_nobody_chose_holds_whole_windows():
    config = sac.Config(num_envs=33, belief="gru")
    sac.check(config)
    assert Pace.of(config).batch == 256 and Pace.of(replace(config, belief="stack")).batch == 264


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
    ],
)
def test_options_without_effect_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(OptionError, match=words):
        check_off_policy(replace(sac.Config(), **changes))


@pytest.mark.parametrize(("module", "wrong"), [(sac, {"temperature": -1.0}), (td3, {"delay": 0})])
def test_a_learner_checks_its_options_itself(module: Any, wrong: dict[str, Any]):
    with pytest.raises(OptionError):
        module.Learner(Env(Plain(), 1, threads=1), replace(module.Config(hidden=(4,)), **wrong))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 32}, r"batch \(32\) must be at most learning_starts \(24\), the transitions stored"),
        ({"belief": "gru", "window": 25, "batch": None}, r"window \(25\) must be at most learning_starts"),
        ({"penalty": 2.0}, r"penalty \(2.0\) is the multiplier of limit_rule 'fixed'; .* is 'pid'"),
        (
            {"learning_starts": 301},
            r"learning_starts \(301\) must be at most replay \(300\), the transitions kept",
        ),
        ({"steps": 23}, r"learning_starts \(24\) must be at most steps \(23\), the transitions of"),
        ({"utd": 0.0}, "utd must be > 0, got 0.0"),
        ({"hidden": (8, 0)}, r"hidden must be > 0, got \(8, 0\)"),
        ({"utd": -1.0}, "utd must be > 0, got -1.0"),
        ({"n_step": 0}, "n_step must be > 0, got 0"),
        ({"critics": 0}, "critics must be > 0, got 0"),
        ({"learning_starts": 0}, "learning_starts must be > 0, got 0"),
        ({"tau": 1.5}, r"tau must be in \[0, 1\], got 1.5"),
        ({"gamma": 1.1}, r"gamma must be in \[0, 1\], got 1.1"),
        ({"lr": float("nan")}, "lr must be > 0, got nan"),
        ({"belief_lr": 0.0}, "belief_lr must be > 0, got 0.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be > 0, got 0.0"),
        ({"burn_in": -1}, "burn_in must be finite and at least 0, got -1"),
        ({"pessimism": -0.5}, "pessimism must be finite and at least 0, got -0.5"),
        ({"pessimism": 2.0, "critics": 1}, r"pessimism \(2.0\) counts deviations over the critics, of which"),
        (
            {"layer_norm": True, "hidden": ()},
            r"layer_norm needs hidden layers .* hidden is \(\)",
        ),
        ({"bf16": True}, r"bf16 rounds products between hidden layers .* needs two; hidden is \(8,\)"),
        ({"margin": 1.0}, r"margin must be in \[0, 1\), got 1.0"),
        ({"reduce": "max"}, r"reduce must be one of \['min', 'mean'\], got 'max'"),
        ({"belief": "gru", "window": 3}, r"window \(3\), the control steps .* must divide batch \(8\)"),
        ({"critic_belief": "gru", "window": 5}, r"window \(5\), .* must divide batch \(8\)"),
    ],
)
def test_impossible_options_are_refused_before_anything_runs(changes: dict[str, Any], words: str):
    with pytest.raises(OptionError, match=words):
        learner_of("sac", **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"belief": "gru", "window": 8, "burn_in": 2, "n_step": 2},
            r"burn_in \(2\) \+ window \(8\) \+ n_step \(2\) - 1 must be at most the 10 control",
        ),
        ({"n_step": 11}, r"n_step \(11\) must be at most the 10 control steps of an episode"),
        (
            {"n_step": 10},
            r"n_step \(10\) must be at most the 9 of each simulation that are stored",
        ),
        ({"num_envs": 25, "n_step": 2}, r"n_step \(2\) must be at most the 1 of each simulation that are"),
    ],
)
def test_a_window_longer_than_an_episode_or_than_what_is_stored_is_refused(
    changes: dict[str, Any], words: str
):
    with pytest.raises(OptionError, match=words):
        learner_of("td3", Blurred, **changes)
    fits = {"belief": "gru", "window": 8, "n_step": 2, "burn_in": 1, "learning_starts": 30, "replay": 30}
    assert learner_of("td3", Blurred, **fits).length == 10


@BOTH
def test_an_actuator_without_a_range_is_refused_where_actions_fill_it(algo: str):
    class Boundless(Plain):
        model = mujoco.MjSpec.from_string(
            """<mujoco><worldbody><body><joint name="x" type="slide"/><geom size=".1"/></body></worldbody>
            <actuator><motor name="pull" joint="x"/></actuator></mujoco>"""
        )

    with pytest.raises(TaskError, match=r"ctrlrange on every actuator; \['pull'\] have none, nor a limit"):
        learner_of(algo, Boundless)


@BOTH
def test_a_replay_that_does_not_fit_is_refused_before_it_is_allocated(algo: str):
    with pytest.raises(OptionError, match=r"replay \(10000000000000 transitions of \d+ bytes\) takes"):
        learner_of(algo, replay=10**13)


class Long(Plain):
    time_limit = 200 * Plain.control_dt


def test_a_window_that_a_full_replay_may_not_keep_is_refused():
    options = {"num_envs": 1, "learning_starts": 128, "replay": 128, "batch": 8, "steps": 300}
    with pytest.raises(
        OptionError, match=r"n_step \(128\) must be at most the 127 of each simulation that the"
    ):
        learner_of("sac", Long, n_step=128, **options)
    assert learner_of("sac", Long, n_step=127, **options).length == 127
