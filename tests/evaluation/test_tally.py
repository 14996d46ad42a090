"""What a metric was in an episode, and which episodes failed: against plain loops, and by hand."""

import math
import re
from collections.abc import Sequence
from typing import Any

import cart
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from robokit.errors import TaskError
from robokit.evaluation.episodes import Episodes, run_episodes
from robokit.evaluation.tally import Tally
from robokit.sim.base import Sim
from robokit.task.task import Task, Terms

NAN = math.nan


def tallied(values: list[float], hold: int, after: float = 1.0) -> dict[str, float]:
    """Kinds of one boolean metric in an episode of `values`, beside another that goes on for two steps."""
    tally = Tally(["it"], {"it": hold}, 2)
    for t, value in enumerate([*values, after, after]):
        tally.add(torch.tensor([[value], [1.0]]), torch.tensor([t < len(values), True]))
    return {kind: float(x[0]) for kind, x in tally.kinds()["it"].items()}


def looped(values: list[float], hold: int) -> dict[str, float]:
    """The same from the episode's steps, as one would say it."""
    counted = [value for value in values if not math.isnan(value)]
    window = values[-hold:]
    return {
        "mean": sum(counted) / len(counted) if counted else NAN,
        "last": counted[-1] if counted else NAN,
        "held": float(len(window) == hold and all(value == 1 for value in window)),
        "ever": max(counted) if counted else NAN,
    }


@pytest.mark.parametrize(
    ("values", "held"),
    [
        ([0, 1, 1, 1], 1),
        ([1, 1, 1], 1),  # exactly as long as it must hold
        ([1, 1], 0),  # too short
        ([1, 1, 1, 0], 0),
        ([1, 0, 1, 1], 0),
        ([0, 1, NAN, 1], 0),  # a step without a value is not one in which it was true
        ([NAN, 1, 1, 1], 1),
        ([1, 1, 1, NAN], 0),
        ([NAN, NAN, NAN, NAN], 0),
    ],
)
def test_held_is_true_in_each_of_the_last_steps_of_an_episode_that_has_as_many(
    values: list[float], held: float
):
    assert tallied(values, hold=3)["held"] == held


def test_each_kind_is_what_a_plain_loop_finds_in_episodes_of_every_length():
    rng, found = np.random.default_rng(0), set[float]()
    for _ in range(300):
        values = rng.choice([1.0, 1.0, 1.0, 0.0, NAN], size=rng.integers(1, 9)).tolist()
        ours, theirs = tallied(values, hold=3, after=float(rng.integers(2))), looped(values, hold=3)
        assert ours == pytest.approx(theirs, nan_ok=True), values
        found.add(theirs["held"])
    assert found == {0.0, 1.0}


def test_a_number_has_a_largest_value_and_cannot_hold():
    tally = Tally(["speed"], {}, 1)
    for value in (1.0, NAN, 5.0, 3.0):
        tally.add(torch.tensor([[value]]), torch.tensor([True]))
    assert {kind: x.tolist() for kind, x in tally.kinds()["speed"].items()} == {
        "mean": [3.0],
        "last": [3.0],
        "max": [5.0],
    }


# -- headline and failure --------------------------------------------------------------------------


class Judged(cart.Still):
    """`late` from step 5 on; `far` where the cart is beyond .05 m."""

    headline = "late"

    def metrics(self, sim: Sim) -> Terms:
        age, x = sim.memory["age"][:, 0], sim.qpos[:, 0]
        half = torch.where(age < 10, age.double(), torch.nan)
        return {"late": age >= 5, "far": x > 0.05, "half": half}


def ran(pushes: Sequence[float] = (-0.5, -0.5), kind: type[Task] = Judged, **attributes: object) -> Episodes:
    action = cart.constant(*pushes)
    return run_episodes(cart.new(type("Of", (kind,), attributes), len(pushes)), lambda env, first: action)


@pytest.mark.parametrize(("seconds", "held"), [(0.58, 0.0), (0.6, 1.0)])
def test_an_episode_has_held_what_was_true_for_its_last_half_second(seconds: float, held: float):
    """True from the sixth of its 29 or 30 steps of .02 s on: for 24 steps, or for the 25 of half a second."""
    assert ran(time_limit=seconds).headline.tolist() == [held] * 2


@pytest.mark.parametrize(
    ("function", "term", "said"),
    [
        ("observe", "tip", "observe 'tip' (inf) must be finite"),
        ("privileged", "ball", "privileged 'ball' (inf) must"),
        ("rewards", "near", "rewards 'near' (inf) must"),
        ("metrics", "half", "metrics 'half' (inf) must"),
    ],
)
def test_a_term_that_becomes_infinite_is_named(function: str, term: str, said: str):
    def change(self: Any, sim: Sim, *action: Tensor) -> Terms:
        terms = getattr(Judged, function)(self, sim, *action)
        late = sim.memory["age"] == 3
        late = late if terms[term].ndim == 2 else late[:, 0]
        return terms | {term: torch.where(late, torch.inf, terms[term])}

    with pytest.raises(TaskError, match=re.escape(said)):
        ran(**{function: change, "sensing": {}})


def test_the_headline_is_of_a_number_its_mean_and_without_one_the_return():
    number, none = ran(headline="half"), ran(headline="return")
    assert number.headline.tolist() == [4.5] * 2  # of 0 ... 9; the other ten steps are not counted
    assert none.headline is none.returns
    assert "headline" not in none.lists() and number.lists()["headline"] == [4.5] * 2


def test_an_episode_fails_by_its_end_by_a_metric_that_was_ever_true_or_by_either():
    pushes = (-0.5, -0.25, 1.0)  # 0, 1 and 6 N: it stays, goes too far, and ends its episode
    seen = {
        name: ran(pushes, failure=failure, terminated=lambda self, sim: sim.qpos[:, 0] > 0.3).failed.tolist()
        for name, failure in {
            "end": ("terminated",),
            "far": ("far",),
            "either": ("terminated", "late"),
            "none": (),
        }.items()
    }
    assert seen == {
        "end": [False, False, True],
        "far": [False, True, True],
        "either": [True, True, True],
        "none": [False, False, False],
    }


class Broken(Judged):
    """Simulation 0 breaks."""

    failure = ("far",)

    def disturb(self, sim: Sim, rng: Generator) -> Terms:
        first = torch.arange(sim.num_envs)[:, None] == 0
        return {"qvel": torch.where(first & (sim.memory["age"] > 7), 1e11, sim.qvel)}


def test_a_broken_simulation_has_failed_and_held_nothing():
    found = ran(kind=Broken, headline="return", time_limit=0.6)
    assert found.bad == 1
    assert found.failed.tolist() == [True, False]
    assert found.metrics["late"]["held"].tolist() == [0.0, 1.0]


def test_a_number_without_a_value_is_null_in_the_lists_of_a_report():
    def metrics(self: object, sim: Sim) -> dict[str, Tensor]:
        return {"half": torch.where(sim.qpos[:, 0] < 0, 1.0, torch.nan)}

    assert ran(headline="half", metrics=metrics).lists()["headline"] == [None, None]
