"""Commands with invalid bounds, intervals or probabilities raise an error."""

from typing import Any

import pytest

from robokit.errors import TaskError
from robokit.task.command import Command


@pytest.mark.parametrize(
    ("low", "high"),
    [((0.0,), (1.0, 2.0)), ((1.0,), (0.0,)), ((float("nan"),), (1.0,)), ((0.0,), (float("inf"),))],
)
def test_a_command_refuses_impossible_bounds(low: tuple[float, ...], high: tuple[float, ...]):
    with pytest.raises(TaskError, match="low <= high of one length"):
        Command(low, high)


@pytest.mark.parametrize("every", [(0.0, 1.0), (2.0, 1.0), (1.0, float("inf")), (3.0,), ()])
def test_a_command_refuses_an_impossible_interval(every: Any):
    with pytest.raises(TaskError, match="every must be a range of seconds"):
        Command((0.0,), (1.0,), every)


def test_a_chance_that_cannot_be_is_refused():
    with pytest.raises(TaskError, match=r"Command.still must be a chance in \[0, 1\], got 1.5"):
        Command((0.0,), (1.0,), still=1.5)
    with pytest.raises(TaskError, match=r"Command.still needs 0 between low and high, got \(0.1,\) and"):
        Command((0.1,), (1.0,), still=0.5)


@pytest.mark.parametrize("text", [3, ("m",), ("m", 3), ("m", "m", "m"), ("m", None), ["m", "m"]])
def test_a_unit_that_is_no_text_or_not_one_for_each_number_is_refused(text: Any):
    for name in ("unit", "frame"):
        with pytest.raises(TaskError) as error:
            Command((0.0, 0.0), (1.0, 1.0), **{name: text})
        assert str(error.value) == f"Command.{name} must be text, or 2 texts, got {text!r}"
