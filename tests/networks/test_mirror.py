"""A policy averaged with its mirror image."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from cart import Cart, but, new, refusal

from robokit.algos.ppo import Config, Learner
from robokit.controller import carry_size, load
from robokit.errors import OptionError, TaskError
from robokit.export.write import export
from robokit.networks.belief import KINDS, make_belief
from robokit.networks.mirror import Reflection, reflections
from robokit.networks.policy import Gaussian
from robokit.task.mirror import Mirror

PLAIN = Mirror(sign=(-1,))
MIRROR = {
    "slide": PLAIN,
    "hinge_speed": PLAIN,
    "tip": Mirror(sign=(-1, 1, 1)),
    "goal": PLAIN,
    "turn": Mirror(sign=(1, 1), order=(1, 0)),
    "action": Mirror(sign=(-1, -1)),
}


class Symmetric(Cart):
    mirror = MIRROR


@pytest.mark.parametrize(
    "wrong",
    [
        {"sign": (1, 1, 1), "order": (1, 2, 0)},  # three looks until all is back
        {"sign": (1, -1), "order": (1, 0)},
        {"sign": (2,)},
        {"sign": (1, 1), "order": (0, 0)},
        {"sign": (1,), "order": (0, 1)},
        {"sign": (math.nan,)},
    ],
)
def test_a_mirror_that_is_not_its_own_inverse_is_refused(wrong: dict[str, Any]):
    with pytest.raises(TaskError, match="Mirror"):
        Mirror(**wrong)


@pytest.mark.parametrize(
    ("mirror", "words"),
    [
        ({**MIRROR, "tip": PLAIN}, "mirror['tip'] must be a Mirror of 3 numbers"),
        ({**MIRROR, "tip": (1, 1, 1)}, "mirror['tip'] must be a Mirror of 3 numbers"),
        ({k: v for k, v in MIRROR.items() if k != "action"}, "missing or unknown: ['action']"),
        ({**MIRROR, "tipp": PLAIN}, "missing or unknown: ['tipp']"),
    ],
)
def test_a_mirror_names_every_observation_and_the_action_with_their_widths(mirror: Any, words: str):
    assert words in refusal(but(mirror=mirror))


def test_the_mirror_of_an_observation_is_that_of_its_terms():
    env = new(Symmetric, 1)
    of_obs, of_action = reflections(env.task.mirror, env.names.obs)
    obs = torch.arange(1.0, 11.0)[None]  # slide 1, hinge_speed 2, tip 3 4 5, goal 6, turn 7 8, action 9 10
    assert of_obs(obs).tolist() == [[-1, -2, -3, 4, 5, -6, 8, 7, -9, -10]]
    assert of_action(torch.tensor([[1.0, 2.0]])).tolist() == [[-1, -2]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mirrored_policy_commutes_with_its_mirror_over_time(kind: str):
    torch.manual_seed(0)
    of_obs, of_action = Reflection([1, 0, 2], [1.0, 1.0, -1.0]), Reflection([1, 0], [-1.0, -1.0])
    belief = make_belief(kind, {"a": 2, "b": 1}, 3)
    policy = Gaussian(3, 2, belief, mirror=(of_obs, of_action), init_std=1.0)
    with torch.no_grad():
        list(policy.head.parameters())[-2].mul_(100)
        policy.normalizer.mean.copy_(torch.tensor([1.0, -2.0, 3.0]))  # a normaliser that knows no mirror
    here, there = torch.zeros(2, 5, policy.belief_size).unbind()
    for t in range(4):
        obs, first = torch.randn(5, 3), torch.full((5,), t == 0)
        left, here = policy.sample(obs, here, first, torch.zeros(5, 2))
        right, there = policy.sample(of_obs(obs), there, first, torch.zeros(5, 2))
        torch.testing.assert_close(right, of_action(left))
        assert left.abs().max() > 0.1
        assert kind == "memoryless" or t == 0 or not torch.equal(here, there)


def test_a_mirrored_policy_is_exported(tmp_path: Path):
    env = new(Symmetric, 2)
    belief = make_belief("stack", env.names.obs, 2)
    policy = Gaussian(env.obs_dim, env.act_dim, belief, mirror=reflections(env.task.mirror, env.names.obs))
    report = export(policy, env, tmp_path / "cart.onnx")
    assert carry_size(load(report.path).contract) == env.act_dim + 2 * 2 * env.obs_dim


def test_ppo_mirrors_when_asked_and_refuses_a_task_without():
    config = Config(num_envs=4, horizon=8, minibatch=32, epochs=1, steps=64, mirror=True, compile=False)
    learner = Learner(new(Symmetric, 4), config)
    assert learner.policy.mirror is not None
    learner.iterate()
    with pytest.raises(OptionError, match="the task has no mirror"):
        Learner(new(Cart, 4), config)
