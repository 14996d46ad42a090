"""Invalid sensors of a task raise an error before anything runs: name, rule and value."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from cart import Cart, Still, but, refusal
from torch import Tensor

from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.sim.base import Sim
from robokit.task.sense import Sense


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        *(({"noise": x}, f"noise must be a size >= 0, got {x}") for x in (-0.1, math.nan, math.inf, True)),
        ({"noise": "0.1"}, "noise must be a size >= 0, got '0.1'"),
        ({"noise": (0, 1)}, r"noise must be a size >= 0, got (0, 1)"),
        ({"bias": -1.0}, "bias must be a half width >= 0, got -1.0"),
        ({"loss": math.inf}, "loss must be failures a second >= 0, got inf"),
        ({"dropout": 1.0}, "dropout must be a chance in [0, 1), got 1.0"),
        ({"dropout": None}, "dropout must be a chance in [0, 1), got None"),
        *(({"offset": x}, f"offset must be m >= 0, got {x}") for x in (-0.1, math.inf, (0.0, 0.1), None)),
        *(({"rotation": x}, f"rotation must be rad in [0, pi), got {x}") for x in (-0.1, 3.2, math.nan)),
        ({"distribution": "normal"}, "distribution must be gaussian or uniform, got 'normal'"),
        ({"hidden": "no"}, "hidden must be True or False, got 'no'"),
        ({"unit": 3}, "unit must be text, got 3"),
        ({"source": True}, "source must be text, got True"),
        *(({"max_age": x}, f"max_age must be seconds > 0, got {x}") for x in (0, -1.0, math.nan, True)),
    ],
)
def test_a_figure_that_cannot_be_is_refused(figures: dict[str, Any], words: str):
    with pytest.raises(TaskError) as error:
        Sense(**figures)
    assert str(error.value) == f"Sense.{words}"


DELAYS = [-0.01, math.nan, math.inf, (0.2, 0.1), (-0.1, 0.1), (0.0, math.nan), (0, 1, 2), (), "0.1", [0, 0.1]]


@pytest.mark.parametrize("delay", [*DELAYS, (0, "x"), None, True, np.zeros(2), torch.zeros(2)])
def test_a_delay_that_cannot_be_is_refused(delay: Any):
    rule = f"must be seconds >= 0, or a range (from, to) of them, got {delay!r}"
    with pytest.raises(TaskError) as error:
        Sense(delay=delay)
    assert str(error.value) == f"Sense.delay {rule}"
    assert refusal(but(action_delay=delay)) == f"But.action_delay {rule}"


@pytest.mark.parametrize("nominal", [False, True])
@pytest.mark.parametrize("delay", [1.01, (0.5, 1.001)])
def test_a_delay_beyond_its_buffer_is_refused(delay: float | tuple[float, float], nominal: bool):
    rule = f"must be at most 50 control steps (1 s), the length of its buffer, got {delay} s"
    for name, attributes in {
        "sensing['tip'].delay": {"sensing": {"tip": Sense(delay=delay)}},
        "action_delay": {"action_delay": delay},
    }.items():
        with pytest.raises(TaskError) as error:
            Env(but(**attributes), 2, nominal=nominal)
        assert str(error.value) == f"But.{name} {rule}"


@pytest.mark.parametrize(
    ("sensing", "words"),
    [
        ({"slid": Sense(0.1)}, "['slid'] must name a measured observation; did you mean 'slide'?"),
        ({"action": Sense(0.1)}, "['action'] must name a measured observation; it measures ["),
        ({"goal": Sense(0.1)}, "['goal'] must name a measured observation; it measures ['slide', "),
        ({3: Sense(0.1)}, "[3] must name a measured observation; it measures"),
        ({"slide": 0.1}, "['slide'] must be a Sense, got 0.1"),
        ({"slide": Sense}, "['slide'] must be a Sense, got <class"),
        (["slide"], " must be {observation: Sense}, got ['slide']"),
    ],
)
def test_sensing_of_what_is_not_measured_is_refused(sensing: Any, words: str):
    assert refusal(but(sensing=sensing)).startswith(f"But.sensing{words}")


def test_the_clock_is_not_measured():
    task = but(clock=1.0, observe=lambda self, sim: {**Cart.observe(self, sim), "clock": sim.memory["clock"]})
    type(task).sensing = {"clock": Sense(0.1)}
    assert refusal(task).startswith("But.sensing['clock'] must name a measured observation; it mea")


def test_something_must_be_left_to_see():
    class Sees(Still):
        sensing = {"tip": Sense(hidden=True)}

        def observe(self, sim: Sim) -> dict[str, Tensor]:
            return {"tip": sim.sensor("tip")}

    assert refusal(Sees()) == "Sees.sensing hides all of ['tip']: nothing is left to see"
