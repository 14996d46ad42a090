"""Units and frames in the contract: from the task's Sense or Command, else from the model."""

from typing import Any

import torch
from arm import Arm, make_policy

import robokit
from robokit.controller import describe
from robokit.export.fields import write_contract
from robokit.export.file import gaps
from robokit.export.gate import Recording
from robokit.sim.facts.readings import readings
from robokit.task.command import Command
from robokit.task.goal import Goal
from robokit.task.region import Points
from robokit.task.sense import Sense


def contract(task: type[Arm], periods: int = 20) -> dict[str, Any]:
    """Of a task, from a short recording."""
    env, rows = robokit.make(task, num_envs=4, threads=1), []
    for _ in range(periods):
        step = env.step(torch.rand(4, 2) * 2 - 1)
        rows.append((env.sensors.visible(step.state), step.done, readings(env.sim)))
    return write_contract(make_policy(env), env, Recording(*map(torch.stack, zip(*rows, strict=True))), "abc")


def inputs(told: dict[str, Any]) -> dict[str, Any]:
    return {i["name"]: i for i in told["inputs"]}


class Told(Arm):
    sensing = {
        "gyro": Sense(noise=0.1, unit="rad/s", max_age=0.04),  # the model knows the one axis that moves
        "angle": Sense(unit="deg", frame="shoulder"),  # and these, but the author says otherwise
        "product": Sense(unit="m rad/s", frame="none", max_age=0.1),  # the model does not
        "rail": Sense(frame="joint axis"),  # it knows one number of two
    }


def test_what_a_sense_says_stands_in_the_contract_and_the_rest_is_the_models():
    said = inputs(contract(Told))
    facts = {name: (i["unit"], i["frame"], i["max_age"]) for name, i in said.items()}
    assert facts == {
        "speed": (None, None, None),  # a command
        "gyro": ("rad/s", [None, "site imu", None], 0.04),
        "angle": ("deg", "shoulder", None),
        "rail": (["m", "m/s"], "joint axis", None),
        "product": ("m rad/s", "none", 0.1),
    }
    assert said["angle"]["source"] == "angle"  # what it was read from is not the author's to say


class Ordered(Arm):
    commands = {"speed": Command((-0.1,), (0.3,), unit="m/s", frame="world")}
    sensing = {"rail": Sense(source="a laser")}


def test_a_command_s_unit_and_frame_stand_beside_its_range_and_as_those_of_its_input():
    told = contract(Ordered)
    assert told["commands"] == {"speed": {"low": [-0.1], "high": [0.3], "unit": "m/s", "frame": "world"}}
    assert (inputs(told)["speed"]["unit"], inputs(told)["speed"]["frame"]) == ("m/s", "world")
    assert contract(Arm)["commands"] == {"speed": {"low": [-0.1], "high": [0.3]}}


def test_units_of_each_number_are_a_list():
    class Two(Arm):
        commands = {"speed": Command((-0.1,), (0.3,), unit=("m/s",))}

    assert contract(Two)["commands"]["speed"]["unit"] == ["m/s"]


def test_the_source_that_a_sense_names_stands_beside_the_model_s_and_in_what_a_robot_prints():
    told = contract(Ordered)
    assert inputs(told)["rail"]["measured_by"] == "a laser"
    assert inputs(told)["rail"]["source"] == ["rail", "rail velocity"]
    assert [i["name"] for i in told["inputs"] if "measured_by" in i] == ["rail"]
    assert "source ['rail', 'rail velocity'], measured_by a laser" in describe(told)


def test_a_source_that_a_sense_names_is_no_gap():
    class Measured(Arm):
        sensing = {"product": Sense(source="a scale"), "gyro": Sense(source="an IMU")}

    filled = {"inputs.product.source", "inputs.gyro.source.0", "inputs.gyro.source.2"}
    assert set(gaps(contract(Arm))) - set(gaps(contract(Measured))) == filled


def test_what_a_sense_says_is_no_gap():
    told, untold = gaps(contract(Told)), gaps(contract(Arm))
    filled = {
        "gyro.unit.0",
        "gyro.unit.2",
        "product.unit",
        "product.frame",
    }
    assert set(untold) - set(told) == {f"inputs.{name}" for name in filled}


def test_a_hidden_term_is_no_input():
    class Half(Arm):
        sensing = {"gyro": Sense(hidden=True), "angle": Sense(unit="rad", max_age=0.02)}

    said = inputs(contract(Half))
    assert list(said) == ["speed", "angle", "rail", "product"]
    assert said["angle"]["source"] == "angle"
    assert said["angle"]["max_age"] == 0.02


def test_the_delay_of_commands_stands_beside_that_of_the_actuators():
    late = type("Late", (Arm,), {"action_delay": (0.01, 0.02)})
    told = contract(late)
    assert told["action_delay"] == [0.01, 0.02] and "delay" not in told["actuators"][0]
    assert contract(Arm)["action_delay"] == [0.0, 0.0]


def test_the_age_of_a_slow_sensor_s_readings_stands_in_the_contract():
    """10 Hz and late by 30 ms: 0.1 s + 0.03 s, and a control period as for every reading."""
    slow = Sense(rate=(10.0, 30.0), delay=(0.0, 0.03))
    task = type("Camera", (Arm,), {"sensing": {"angle": slow, "gyro": Sense(rate=10.0, max_age=0.5)}})
    said = inputs(contract(task))
    assert said["angle"]["max_age"] == 1 / 10 + 0.03 + Arm.control_dt
    assert said["gyro"]["max_age"] == 0.5
    assert said["rail"]["max_age"] is None


class Aimed(Arm):
    commands = {"speed": Command(region=Points(((-0.1,), (0.3,))), unit="m/s")}
    goal = Goal("speed", "angle", within=0.05, hold=0.2, marker="sphere")


def test_a_goal_stands_in_the_contract_and_its_region_is_the_range_of_the_command():
    told = contract(Aimed)
    facts = {"command": "speed", "achieved": "angle", "within": 0.05, "hold": 0.2, "marker": "sphere"}
    assert told["goal"] == facts
    assert told["commands"] == {"speed": {"low": [-0.1], "high": [0.3], "unit": "m/s"}}
    assert "goal" not in contract(Told)
