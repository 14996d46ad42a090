"""What an arm task cannot be trained with is refused before a training, or noted by `robokit check`."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Generator

from robokit.cli.command import main
from robokit.env.checks.laws import _rollout
from robokit.env.checks.notes import _region, _starts
from robokit.env.checks.start import check_start
from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.sim.base import Sim
from robokit.task import Ball, Command, Delta, Sense, States
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import shipped_folder
from robokit.task.task import Task, Terms
from robokit.training.setup.build import Setup, build_learner, options

FOLDER = shipped_folder() / "manipulation"


def task_of(name: str, **attributes: Any) -> Task:
    return type("But", (type(load_task(name)),), attributes)()


def noted(find: Callable[[Env, int], Iterable[tuple[str, str]]], task: Task) -> dict[str, str]:
    return dict(find(Env(task, 32), 0))


def begun(task: Task) -> None:
    """What a training does before there is a run."""
    build_learner(task, Setup(), options(task, "ppo"))


def deep(self: Task, sim: Sim, rng: Generator) -> Terms:
    start = type(load_task("arm_push:Clean")).reset(self, sim, rng)
    start["qpos"][:, 11] = 0.01  # m: half of the cube is in the table
    return start


def test_a_cube_in_the_table_is_noted_with_both_geoms_and_the_depth():
    note = noted(_starts, task_of("arm_push:Clean", reset=deep))["penetration"]
    assert "'table' and 'cube' by 10 mm" in note
    assert "penetration" not in noted(_starts, load_task("arm_push:Clean"))


def test_a_cube_in_the_table_is_refused_before_a_training_with_its_depth_and_share():
    with pytest.raises(
        TaskError, match=r"But\.reset puts a body inside .* in 32 of 32 starts, .* by 10 mm: start"
    ):
        begun(task_of("arm_push:Clean", reset=deep))
    with pytest.raises(TaskError, match=r"But\.reset puts a body inside"):  # the same law of `robokit check`
        _rollout(Env(task_of("arm_push:Clean", reset=deep), 2), 1, 0)


def test_a_goal_partly_out_of_reach_is_noted_with_a_point_and_how_far_it_stays():
    far = {"goal": Command(region=Ball((0.9, 0.0, 0.3), 0.2), unit="m", frame="world")}
    note = noted(_region, task_of("arm_reach:Clean", commands=far))["goal"]
    assert "'gripper' comes within 0.02 m of" in note
    assert "a smaller region in But.commands" in note
    assert noted(_region, load_task("arm_reach")) == {}


FAR = {"goal": Command((1.5, -0.1, 0.3), (1.6, 0.1, 0.5), unit="m", frame="world")}


@pytest.mark.parametrize(("name", "what"), [("arm_reach:Clean", "gripper"), ("arm_lift:Clean", "cube")])
def test_a_goal_out_of_reach_is_refused_of_a_hand_and_of_a_cube_in_the_air(name: str, what: str):
    says = rf"But\.goal is out of reach: '{what}' stays 0\.\d+ m and more from all 32 places of 'goal'"
    with pytest.raises(TaskError, match=says):
        begun(task_of(name, commands=FAR))


def test_a_cube_may_slide_to_a_place_on_the_table_that_the_hand_does_not_reach():
    """As in Gymnasium Robotics' FetchSlide: so it is a note, which the shipped tasks have not."""
    goal = Command((1.5, -0.1, 0.02), (1.6, 0.1, 0.02), unit="m", frame="world")
    slides = task_of("arm_lift:Clean", commands={"goal": goal})
    check_start(slides)
    assert "'cube' comes within 0.02 m of 0 of 100 points" in noted(_region, slides)["goal"]


@pytest.mark.parametrize(
    "name", ["arm_lift", "arm_lift:So101", "arm_push", "arm_peg", "arm_stack", "arm_reach:So101"]
)
def test_the_shipped_tasks_start_well_and_their_goals_can_be_reached(name: str):
    check_start(load_task(name))
    assert not noted(_region, load_task(name))


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
