"""Options of all algorithms: the number of simulations."""

from types import ModuleType
from typing import Any

import pytest
from agents import TINY, Plain

from robokit.algos import ppo, sac, td3
from robokit.env.env import Env
from robokit.errors import OptionError

SMALL: dict[ModuleType, dict[str, Any]] = {
    ppo: {"horizon": 8, "minibatch": 24, "hidden": (4,)},
    **{algo: {name: value for name, value in TINY.items() if name != "num_envs"} for algo in (sac, td3)},
}
EACH = pytest.mark.parametrize("algo", SMALL)


@EACH
def test_a_learner_has_the_simulations_of_its_env(algo: ModuleType):
    learner = algo.Learner(Env(Plain(), 3, threads=1), algo.Config(**SMALL[algo]))
    assert learner.config.num_envs == 3 and learner.steps_per_iteration % 3 == 0
    same = algo.Learner(Env(Plain(), 3, threads=1), algo.Config(num_envs=3, **SMALL[algo]))
    assert same.config == learner.config


@EACH
def test_options_that_name_another_number_of_simulations_are_refused(algo: ModuleType):
    config = algo.Config(num_envs=4, **SMALL[algo])
    with pytest.raises(OptionError, match="num_envs is 4, but the Env has 3 simulations"):
        algo.Learner(Env(Plain(), 3, threads=1), config)


def test_without_a_number_a_training_has_the_usual_one():
    assert [algo.Config().simulations for algo in (ppo, sac, td3)] == [32, 1, 1]
    assert ppo.Config(num_envs=8).simulations == 8
