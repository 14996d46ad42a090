"""What a goal may be, and what it makes of a task: every fault, put into a task that has none."""

from typing import Any

import pytest
import torch
from point import Point, but
from torch import Tensor

from robokit.env.checks.laws import check_task
from robokit.env.env import Env
from robokit.errors import ModelError, TaskError
from robokit.sim.base import Sim
from robokit.task.command import Command
from robokit.task.goal import Goal
from robokit.task.task import Terms


def goal(**changes: Any) -> Goal:
    return Goal(**{"command": "place", "achieved": "tip", "within": 0.1} | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"within": 0.0}, "Goal.within must be above 0, in the command's unit, got 0.0"),
        ({"within": -1.0}, "Goal.within must be above 0"),
        ({"within": float("nan")}, "Goal.within must be above 0"),
        ({"hold": -0.1}, "Goal.hold must be at least 0 s, got -0.1"),
        ({"hold": float("inf")}, "Goal.hold must be at least 0 s"),
        ({"marker": "cube"}, "Goal.marker must be one of ('sphere', 'box', 'arrow'), or None, got 'cube'"),
    ],
)
def test_an_impossible_goal_is_refused(changes: dict[str, Any], words: str):
    with pytest.raises(TaskError) as error:
        goal(**changes)
    assert words in str(error.value)


def refused(**attributes: Any) -> str:
    with pytest.raises((TaskError, ModelError)) as error:
        Env(but(**attributes), 3)
    return str(error.value)


def frame(name: str) -> dict[str, Command]:
    return {"place": Command((-0.6,) * 3, (0.6,) * 3, frame=name)}


def returns(**terms: Any) -> Any:
    return lambda self, achieved, goal: {name: make(achieved, goal) for name, make in terms.items()}


def distance(achieved: Tensor, goal: Tensor) -> Tensor:
    return (achieved - goal).norm(dim=-1)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"goal": 3}, "But.goal must be a Goal, got 3"),
        (
            {"goal": goal(command="plaice")},
            "one of commands, got 'plaice'; did you mean 'place'?",
        ),
        (
            {"goal": goal(achieved="tips")},
            "term of 3 numbers, as its command, got 'tips'; did you mean 'tip'?",
        ),
        ({"goal": goal(hold=0.9)}, "But.goal.hold must be at most time_limit, 0.8 s, got 0.9 s"),
        (
            {"commands": {"place": Command((0.0,), (1.0,))}},
            "of 1 numbers, as its command, got 'tip'; there are {'speed': 3, 'tip': 3, 'place': 1}",
        ),
        (
            {"reached": returns(calm=distance), "weights": {"calm": 1.0}},
            "But.rewards gives 'calm', and so does But.reached: rename one",
        ),
        (
            {"reached": returns(near=distance, far=distance)},
            "rewards returns 'far', which has no weight",
        ),
        ({"reached": returns()}, "weights name 'near', which rewards does not return"),
        ({"reached": returns(near=lambda a, g: a)}, "But.reached 'near' must be a tensor of shape (3,)"),
        ({"reached": lambda self, a, g: None}, "But.reached must return a dict, got NoneType"),
        ({"reached": lambda self, a, g: {"near": a.x}}, "But.reached (test_goal.py, line"),
        (
            {"metrics": lambda self, sim: {"success": sim.qpos[:, 0] > 0}},
            "But.metrics gives 'success', and so does But.goal: rename one",
        ),
        ({"goal": None}, "weights name 'near', which rewards does not return"),
        (
            {"commands": {**Point.commands, "other": Command((0.0,), (1.0,), every="success")}},
            "But.commands['other'] is redrawn at success, so it must be the command of the task's goal",
        ),
        (
            {"goal": goal(marker="sphere"), "commands": frame("base")},
            "Goal.marker needs a command in a",
        ),
        ({"goal": goal(marker="sphere"), "commands": frame("site tap")}, "no site 'tap'"),
    ],
)
def test_a_goal_that_does_not_fit_its_task_is_refused(attributes: dict[str, Any], words: str):
    assert words in refused(**attributes)


def wide(self: Point, sim: Sim, rng: torch.Generator) -> Tensor:
    return torch.zeros(sim.num_envs, 2)


def lost(self: Point, sim: Sim, rng: torch.Generator) -> Tensor:
    raise KeyError("no such place")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (wide, "But.wide 'command' must be a tensor of shape (3, 3), got (3, 2)"),
        (lost, "But.lost (test_goal.py, line"),
        (lambda self, sim, rng: 1.0, "'command' must be a tensor of shape (3, 3), got float"),
    ],
)
def test_a_function_that_draws_no_command_is_refused(function: Any, words: str):
    command = Command((-1.0,) * 3, (1.0,) * 3, region=function)
    assert words in refused(commands={"place": command})


def test_a_task_with_a_goal_is_judged_by_its_success_unless_it_says_otherwise():
    assert Point.headline == "success"
    assert but(headline="return").headline == "return"

    class Second(type(but(headline="return"))):
        goal = goal()

    assert Second.headline == "return"
    assert Env(but(), 2).names.metrics == ("success",)
    assert Env(but(), 2).names.booleans == {"success"}


def test_a_point_keeps_the_laws_of_a_task():
    assert [law.detail for law in check_task(but()) if not law.ok] == []


def mixed(self: Point, achieved: Tensor, goal: Tensor) -> Terms:
    return {"near": (achieved - goal).norm(dim=-1) - achieved.mean()}


def read(self: Point, achieved: Tensor, goal: Tensor) -> Terms:
    return {"near": achieved[:, 0] * float(goal[0, 0])}


@pytest.mark.parametrize(
    ("function", "law", "words"),
    [
        (mixed, "independent", "reached 'near' mixes simulations"),
        (read, "any device", "reached would not run on a GPU"),
    ],
)
def test_reached_is_row_by_row_and_reads_no_value(function: Any, law: str, words: str):
    laws = {one.name: one for one in check_task(but(reached=function), steps=5)}
    assert not laws[law].ok
    assert words in laws[law].detail
