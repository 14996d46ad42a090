"""What an arm task cannot be trained with is refused before a training, or noted by `robokit check`."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Generator

from robokit.cli.command import main
from robokit.env.checks.notes import _region, _starts
from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.sim.base import Sim
from robokit.task import Ball, Command, Delta, Sense, States
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import shipped_folder
from robokit.task.task import Task, Terms

FOLDER = shipped_folder() / "manipulation"


def task_of(name: str, **attributes: Any) -> Task:
    return type("But", (type(load_task(name)),), attributes)()


def noted(find: Callable[[Env, int], Iterable[tuple[str, str]]], task: Task) -> dict[str, str]:
    return dict(find(Env(task, 32), 0))


def deep(self: Task, sim: Sim, rng: Generator) -> Terms:
    start = type(load_task("arm_push:Clean")).reset(self, sim, rng)
    start["qpos"][:, 11] = 0.01  # m: half of the cube is in the table
    return start


def test_a_cube_in_the_table_is_noted_with_both_geoms_and_the_depth():
    note = noted(_starts, task_of("arm_push:Clean", reset=deep))["penetration"]
    assert "'table' and 'cube' by 10 mm" in note
    assert "penetration" not in noted(_starts, load_task("arm_push:Clean"))


def test_a_goal_out_of_reach_is_noted_with_a_point_and_how_far_it_stays():
    far = {"goal": Command(region=Ball((0.9, 0.0, 0.3), 0.2), unit="m", frame="world")}
    note = noted(_region, task_of("arm_reach:Clean", commands=far))["goal"]
    assert "'gripper' comes within 0.02 m of" in note
    assert "a smaller region in But.commands" in note
    assert noted(_region, load_task("arm_reach")) == {}


def test_states_of_another_arm_are_refused_with_the_command():
    class Fewer(type(load_task("arm_push"))):  # type: ignore[misc]
        """The cube is another one, as of another robot."""

        down = States(FOLDER / "states/lift_above.npz", 0.5, "states_down")

    with pytest.raises(
        TaskError, match=r"has states of another model: .*robokit states .*Fewer -o .*lift_above"
    ):
        Env(Fewer(), 2, training=True)
    Env(Fewer(), 2)  # an evaluation needs no file


@pytest.mark.parametrize("rate", [0.0, -10.0, (0.0, 30.0), float("nan")])
def test_a_tracker_without_readings_is_refused(rate: Any):
    with pytest.raises(TaskError, match=r"Sense\.rate must be Hz > 0"):
        Sense(noise=0.002, rate=rate)


def test_a_gripper_without_a_map_is_refused_by_its_name():
    task = task_of("arm_lift", action={"joint*": Delta(0.06, leash=0.15)})
    with pytest.raises(TaskError, match=r"control 'gripper' must match one pattern of .* got none"):
        Env(task)


def test_reset_states_out_of_reach_are_told():
    task = load_task("arm_lift")
    task.robot = replace(task.robot, place=(1.3, 0.0))  # pyright: ignore
    env = Env(task, 1)
    with pytest.raises(
        TaskError, match=r"of 50 places of hand and cube only 0 can be reached and stay, at tip"
    ):
        task.states_around(env.sim, env.rng)  # pyright: ignore


def test_a_file_elsewhere_is_made_by_the_method_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    made = ["states", str(FOLDER / "arm_lift.py"), "--number", "2", "-o"]
    assert main([*made, str(tmp_path / "lift_around.npz")]) == 0
    assert "2 states of the method states_around" in capsys.readouterr().out
    assert main([*made, str(tmp_path / "mine.npz")]) == 2
    assert "or name one of its files, lift_above.npz, lift_around.npz" in capsys.readouterr().err
