"""What a task says counts: the names are those of its metrics, and half a second is so many control steps."""

from typing import Any

import pytest
import torch
from cart import Cart, but, refusal

from robokit.env.checks.laws import check_task
from robokit.env.env import Env
from robokit.task.counts import hold_steps


@pytest.mark.parametrize(
    ("control_dt", "seconds", "steps"),
    [(0.02, 0.5, 25), (0.04, 0.5, 13), (0.05, 0.5, 10), (0.044, 1.1, 25), (0.3, 0.5, 2), (1.0, 0.5, 1)],
)
def test_half_a_second_is_rounded_up_to_whole_control_steps(control_dt: float, seconds: float, steps: int):
    assert hold_steps(control_dt, seconds) == steps


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        (
            {"headline": "sucess"},
            "But.headline must be a metric or 'return', got 'sucess'; did you mean 'success'? "
            "There are ['success', 'age']",
        ),
        ({"headline": "retrun"}, "got 'retrun'; did you mean 'return'?"),
        ({"headline": None}, "But.headline must be a metric or 'return', got None"),
        ({"headline": ["success"]}, "But.headline must be a metric or 'return', got ['success']"),
        ({"failure": "success"}, "But.failure must be a tuple of names, as ('terminated',), got 'success'"),
        (
            {"failure": ("terminated", "succes")},
            "But.failure must name boolean metrics or 'terminated', got 'succes'; did you mean 'success'?",
        ),
        ({"failure": ("terminate",)}, "got 'terminate'; did you mean 'terminated'?"),
        (
            {"failure": ("bad",)},
            "But.failure must name boolean metrics or 'terminated', got 'bad'; there are",
        ),
        ({"failure": ("age",)}, "But.failure must name boolean metrics or 'terminated', got 'age', a number"),
        ({"failure": (3,)}, "But.failure must name boolean metrics or 'terminated', got 3"),
    ],
)
def test_a_headline_or_failure_that_is_no_metric_is_refused(attributes: dict[str, Any], words: str):
    assert words in refusal(but(**attributes))


def test_the_check_of_a_task_names_it():
    [*_, last] = check_task(but(headline="sucess"))
    assert not last.ok and "did you mean 'success'?" in last.detail


def test_what_counts_may_be_a_metric_of_either_type_several_failures_or_none():
    for counts in (
        {"headline": "success"},
        {"headline": "age", "failure": ()},
        {"failure": ("terminated", "success")},
        {"failure": ["success"]},
    ):
        Env(but(**counts), 3)


def test_a_task_without_metrics_has_the_return_and_its_terminal_states():
    Env(but(metrics=lambda self, sim: {}), 3)
    assert (Cart.headline, Cart.failure) == ("return", ("terminated",))
    assert "there are []" in refusal(but(metrics=lambda self, sim: {}, headline="x"))


def test_a_headline_must_be_a_metric_of_the_whole_task_and_not_a_reward():
    assert "got 'near'" in refusal(but(headline="near", metrics=lambda self, sim: {"in": torch.ones(3)}))
