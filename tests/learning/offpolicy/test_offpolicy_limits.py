"""SAC and TD3 on constrained problems with known solutions, judged by their actions in training.

A deterministic policy cannot choose arms at random, so TD3's actions are the arms' probabilities.
"""

import dataclasses
import statistics
from typing import Any

import pytest
import torch
from bandits import Jolts, Lqr, MixedThree, MixedTwo, Three, Two
from test_limits import lqr

from robokit.algos import sac, td3
from robokit.env.env import Env
from robokit.learning.offpolicy.loop import OffPolicy
from robokit.task.task import Task

SMALL: dict[str, Any] = {
    "steps": 10**9,
    "num_envs": 64,
    "replay": 20_000,
    "learning_starts": 1000,
    "utd": 1 / 32,
    "hidden": (32, 32),
    "lr": 1e-3,
    "gamma": 0.0,
    "margin": 0.0,
    "compile": False,
}
ALGORITHMS: dict[str, tuple[Any, dict[str, type[Task]]]] = {
    "sac": (sac, {"two": Two, "three": Three}),
    "td3": (td3, {"two": MixedTwo, "three": MixedThree}),
}


def learner_of(algo: str, task: type[Task], **changes: Any) -> OffPolicy:
    module = ALGORITHMS[algo][0]
    config = dataclasses.replace(module.Config(**SMALL), **changes)
    return module.Learner(Env(task(), config.num_envs, seed=0, threads=1), config, 0)


def trained(learner: OffPolicy, iterations: int, last: int) -> dict[str, float]:
    """Means over the last iterations."""
    metrics = [learner.iterate() for _ in range(iterations)][-last:]
    return {key: statistics.mean(m[key] for m in metrics) for key in metrics[-1] if key in metrics[0]}


@pytest.mark.slow
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_t1_one_arm_at_most_three_tenths_of_the_time_at_a_price_of_one(algo: str):
    found = trained(learner_of(algo, ALGORITHMS[algo][1]["two"]), 300, last=150)
    assert found["cost/use"] == pytest.approx(0.3, abs=0.02)
    assert found["limit/use/lambda"] == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_t2_two_limits_that_bind_and_one_that_does_not(algo: str):
    found = trained(learner_of(algo, ALGORITHMS[algo][1]["three"]), 400, last=200)
    assert found["cost/first"] == pytest.approx(0.2, abs=0.02)
    assert found["cost/second"] == pytest.approx(0.3, abs=0.02)
    assert found["reward/gain"] == pytest.approx(0.8, abs=0.04)
    assert found["limit/first/lambda"] == pytest.approx(1.0, abs=0.1)
    assert found["limit/second/lambda"] == pytest.approx(2.0, abs=0.1)
    assert found["limit/slack/lambda"] <= 0.01


@pytest.mark.parametrize("critic", ["state", "obs"])
def test_critics_alone_see_the_running_maximum_and_go_on_from_it(critic: str):
    changes = {"critic": critic, "gamma": 1.0, "learning_starts": 512, "utd": 1 / 64}
    learner, again = (learner_of("sac", Jolts, **changes) for _ in range(2))
    learner.iterate()
    again.load_state_dict(learner.state_dict())
    rows, belief = learner.replay.sample(64, learner.length, learner.rng)
    batch = learner.agent.batch(rows, belief)
    assert batch["obs"].shape[-1] == 1 and batch["state"].shape[-1] == batch["final_state"].shape[-1] == 2
    second, m = batch["state"].unbind(-1)
    rise = torch.where(second > 0.5, (0.5 - m).clamp(min=0), batch["cost"][..., 0])
    assert torch.equal(batch["cost"][..., 0], rise) and {0.0, 1.0} <= {*m.flatten().tolist()}
    assert torch.equal(batch["final_state"][..., 1:], batch["state"][..., 1:] + batch["cost"])
    assert torch.equal(again.constrained.maxima.largest, learner.constrained.maxima.largest)


def riccati(cost: float) -> tuple[float, float]:
    """lambda and J of the best u = -K x whose discounted effort is `cost`."""

    def effort(k: float) -> float:
        return k**2 * squares(k)

    def squares(k: float) -> float:  # sum of gamma^t x^2
        return 1 / (1 - 0.99 * (1 - k / 2) ** 2)

    low, high, h = 0.01, 2.0, 1e-5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if effort(middle) > cost else (middle, high)
    price = (squares(low - h) - squares(low + h)) / (effort(low + h) - effort(low - h))
    return price, -squares(low)


def test_the_price_of_an_effort_is_what_is_known_of_it():
    assert riccati(0.5) == pytest.approx((3.6560, -2.46509), rel=1e-4)
    assert riccati(1.0) == pytest.approx((0.90373, -1.54868), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algo", "explores"),
    [("sac", {"target_entropy": -4.0}), ("td3", {"exploration": 0.01, "smoothing": 0.02})],
)
def test_t3_a_linear_quadratic_problem_comes_to_what_its_riccati_equation_allows(
    algo: str, explores: dict[str, float]
):
    """What one policy does moves with every gradient step of a constant size, so means are judged.

    The price and the return are those of the effort that is made: one that is 5 % off is 10 % dearer.
    """
    changes: dict[str, Any] = {"num_envs": 16, "replay": 300_000, "utd": 1 / 8, "gamma": 0.99}
    learner = learner_of(algo, Lqr, **changes, **explores, gains=(1.0, 0.03, 0.0))
    rows = list[tuple[float, ...]]()
    for _ in range(300):
        found = learner.iterate()
        measured = (found.get(f"limit/effort/{what}", 0.0) for what in ("lambda", "measured"))
        with torch.no_grad():
            rows.append((*measured, *lqr(learner)))
    price, measured, gain, cost = (statistics.mean(column) for column in zip(*rows[-100:], strict=True))
    assert measured == pytest.approx(0.5, rel=0.05)  # as it explores
    assert cost == pytest.approx(0.5, rel=0.1)
    expected, best = riccati(cost)
    assert price == pytest.approx(expected, rel=0.15)
    assert gain == pytest.approx(best, rel=0.1)
