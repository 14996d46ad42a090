"""A task that breaks the contract raises an error before anything runs: function, term, rule and value."""

import functools
from collections.abc import Callable
from typing import Any

import cart
import pytest
import torch
from cart import Cart, but, refusal
from torch import Tensor

from robokit.env.env import Env
from robokit.errors import ModelError, OptionError, TaskError
from robokit.networks.belief import make_belief
from robokit.sim.base import Sim
from robokit.task.command import Command
from robokit.task.rules import check_history
from robokit.task.task import Task, Terms


def observe(change: Callable[[Sim], Any]) -> Task:
    return but(observe=lambda self, sim: {**Cart.observe(self, sim), "mine": change(sim)})


# -- constants -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"control_dt": 0.015}, "control_dt (0.015 s) must be a multiple of the timestep (0.01 s)"),
        ({"control_dt": 0.004}, "must be a multiple of the timestep"),
        ({"control_dt": 0.0}, "must be a multiple of the timestep"),
        ({"control_dt": -0.02}, "must be a multiple of the timestep"),
        ({"control_dt": float("nan")}, "But.control_dt must be a finite number, got nan"),
        ({"control_dt": "0.02"}, "But.control_dt must be a finite number, got '0.02'"),
        ({"time_limit": 0.01}, "time_limit (0.01 s) must be at least control_dt (0.02 s)"),
        ({"time_limit": float("inf")}, "But.time_limit must be a finite number, got inf"),
        ({"weights": {"near": 1.0, "rate": float("nan")}}, "But.weights['rate'] must be a finite number"),
        ({"weights": {"near": 1.0}}, "rewards returns 'rate', which has no weight"),
        ({"weights": {"near": 1.0, "rate": 1.0, "rat": 1.0}}, "weights name 'rat', which rewards does not"),
        ({"weights": ["near"]}, "But.weights must be {term: number}, got ['near']"),
        ({"commands": [Command((0.0,), (1.0,))]}, "But.commands must be {name: Command}, got [Command("),
        ({"memory": 2}, "But.memory must be {name: width}, got 2"),
        ({"sensing": "gyro"}, "But.sensing must be {observation: Sense}, got 'gyro'"),
        ({"mirror": (1, -1)}, "But.mirror must be {observation: Mirror}, got (1, -1)"),
        ({"recipes": "ppo"}, "But.recipes must be {algorithm: {option: value}}, got 'ppo'"),
        ({"clock": "2"}, "But.clock must be a finite number, got '2'"),
        ({"time_limit": None}, "But.time_limit must be a finite number, got None"),
        (
            {"action": "home"},
            "But.action must be Ctrl(), Around(...), Delta(...) or Hold(...), or {pattern: one of",
        ),
        ({"commands": {"goal": (-1, 1)}}, "But.commands['goal'] must be a Command, got (-1, 1)"),
        ({"memory": {"x": 0, "sum": 2}}, "But.memory['x'] must be a width >= 1, got 0"),
        ({"memory": {"x": 1, "sum": 2, "age": 1}}, "['age']: these names are taken"),
        ({"memory": {"x": 1, "sum": 2, "goal": 1}}, "['goal']: these names are taken"),
        ({"memory": {"x": 1, "sum": 2, "qpos": 1}}, "['qpos']: these names are taken"),
        ({"memory": {"x": 1, "sum": 2, "body_mass": 1}}, "['body_mass']: these names are taken"),
        ({"memory": {"x": 1, "sum": 2, "opt.timestep": 1}}, "['opt.timestep']: these names are taken"),
        ({"commands": {**Cart.commands, "action": Command((0.0,), (1.0,))}}, "['action']: these names are"),
    ],
)
def test_a_constant_that_cannot_be_is_refused(attributes: dict[str, Any], words: str):
    assert words in refusal(but(**attributes))


@pytest.mark.parametrize(
    ("name", "meant"), [("terminate", "terminated"), ("time_limt", "time_limit"), ("remembr", "remember")]
)
def test_a_misspelt_part_of_a_task_is_answered_with_the_one_it_is_like(name: str, meant: str):
    assert refusal(but(**{name: 1.0})).startswith(f"But.{name} is no part of a Task; did you mean {meant!r}?")


def test_an_author_may_have_names_of_his_own():
    Env(but(joint_speed=lambda self, sim: sim.qvel, _terminate=1.0, gear=6), 3)


def test_what_a_task_must_define_is_listed():
    class Empty(Task):
        control_dt = 0.02

    assert refusal(Empty()) == "Empty must define model, time_limit, weights, observe, rewards"


def _broken(self: Task) -> Any:
    return self.control_dtt  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("kind", [property, functools.cached_property])
@pytest.mark.parametrize("name", ["model", "control_dt", "time_limit", "weights", "clock"])
def test_what_a_constant_that_is_a_property_raises_is_told_with_its_line(name: str, kind: Any):
    line = _broken.__code__.co_firstlineno + 1
    said = f"But.{name} (test_rules.py, line {line}) raised AttributeError: 'But' object has no attribute"
    assert refusal(but(**{name: kind(_broken)})).startswith(said)


def test_a_constant_may_be_an_instances_own():
    class Own(Cart):
        def __init__(self) -> None:
            self.time_limit = 1.0
            self.model = cart.spec()

    assert Env(Own(), 1).max_age == 50


def test_a_model_without_actuators_is_refused():
    spec = cart.spec()
    for actuator in list(spec.actuators):
        spec.delete(actuator)
    spec.delete(spec.keys[0])
    assert refusal(but(model=spec)) == "the model of But has no actuator with a control"


@pytest.mark.parametrize("timestep", [0.0, float("nan")])
def test_an_impossible_model_is_refused(timestep: float):
    spec = cart.spec()
    spec.option.timestep = timestep
    assert "timestep must be in" in refusal(but(model=spec), ModelError)


# -- what functions return -----------------------------------------------------------------------


def test_an_observation_has_one_row_a_simulation():
    said = refusal(observe(lambda sim: sim.qpos[:, 0]))
    assert said == "But.observe 'mine' must be a tensor of shape (3, d), got (3,)"
    assert "got (1, 9)" in refusal(observe(lambda sim: sim.qpos[:1]))
    assert "got float" in refusal(observe(lambda sim: 1.0))
    assert "observe returns no term" in refusal(but(observe=lambda self, sim: {}))


@pytest.mark.parametrize("function", ["rewards", "costs", "metrics"])
def test_a_term_is_one_number_a_simulation(function: str):
    def change(self: Cart, sim: Sim, *action: Tensor) -> Terms:
        values = getattr(Cart, function)(self, sim, *action)
        return {name: value[:, None] for name, value in values.items()}

    first = {"rewards": "near", "costs": "away", "metrics": "success"}[function]
    expected = f"But.{function} {first!r} must be a tensor of shape (3,), got (3, 1)"
    assert refusal(but(**{function: change})) == expected


def test_terminated_is_true_or_false():
    assert "terminated must be bool, got torch.float64" in refusal(
        but(terminated=lambda self, sim: sim.qpos[:, 0])
    )
    assert "terminated must return a Tensor, got bool" in refusal(but(terminated=lambda self, sim: False))
    assert "shape (3,), got (3, 9)" in refusal(but(terminated=lambda self, sim: sim.qpos > 0))


def test_terms_come_by_name():
    assert refusal(but(observe=lambda self, sim: sim.qpos)) == "But.observe must return a dict, got Tensor"


@pytest.mark.parametrize(
    ("function", "name", "value", "words"),
    [
        ("reset", "qpos", torch.zeros(9), "But.reset 'qpos' must be a tensor of shape (3, 9), got (9,)"),
        ("reset", "sum", torch.zeros(3, 1), "But.reset 'sum' must be a tensor of shape (3, 2), got (3, 1)"),
        ("disturb", "ctrl", torch.zeros(3, 2), "But.disturb 'ctrl' would be overwritten by the action"),
        ("disturb", "qvel", torch.zeros(1, 8), "But.disturb 'qvel' must be a tensor of shape (3, 8)"),
        (
            "randomize",
            "body_mass",
            torch.ones(4),
            "But.randomize 'body_mass' must be a tensor of shape (3, 4)",
        ),
        ("remember", "x", torch.zeros(3), "But.remember 'x' must be a tensor of shape (3, 1), got (3,)"),
        ("remember", "summ", torch.zeros(3, 2), "writes 'summ', which is not in memory; did you mean 'sum'?"),
    ],
)
def test_what_is_written_has_the_shape_of_where_it_goes(function: str, name: str, value: Tensor, words: str):
    task = but(**{function: lambda self, sim, given: {name: value}})
    assert words in refusal(task)


@pytest.mark.parametrize(
    ("function", "name", "words"),
    [
        ("reset", "qpoz", "no state or memory 'qpoz' to write; did you mean 'qpos'?"),
        ("disturb", "goa", "no state or memory 'goa' to write; did you mean 'goal'?"),
        ("randomize", "body_masses", "no model field 'body_masses'; did you mean 'body_mass'?"),
    ],
)
def test_an_unknown_name_to_write_is_answered_with_the_nearest(function: str, name: str, words: str):
    task = but(**{function: lambda self, sim, rng: {name: torch.zeros(3, 1)}})
    assert words in refusal(task, ModelError)


def test_an_unknown_name_to_read_is_answered_with_the_nearest():
    assert "did you mean 'slide'" in refusal(observe(lambda sim: sim.sensor("slid")), ModelError)
    assert "no joint 'hing'" in refusal(observe(lambda sim: sim.joint("hing").qpos), ModelError)


def test_an_unknown_name_is_told_with_its_line():
    def rewards(self: Cart, sim: Sim, action: Tensor) -> Terms:
        return {"near": sim.sensor("slid")[:, 0], "rate": action[:, 0]}

    line = rewards.__code__.co_firstlineno + 1
    said = refusal(but(rewards=rewards), ModelError)
    assert said.startswith(f"But.rewards (test_rules.py, line {line}): no sensor 'slid'")


def test_what_a_function_raises_is_told_with_its_line():
    def rewards(self: Cart, sim: Sim, action: Tensor) -> Terms:
        return {"near": sim.qpos[:, 99], "rate": action[:, 0]}

    line = rewards.__code__.co_firstlineno + 1
    said = refusal(but(rewards=rewards))
    assert said.startswith(f"But.rewards (test_rules.py, line {line}) raised IndexError: ")


@pytest.mark.parametrize(
    ("function", "value"),
    [(f, torch.nan) for f in ("observe", "privileged", "rewards", "costs")] + [("metrics", torch.inf)],
)
def test_a_term_that_is_not_finite_right_after_a_reset_is_the_authors_mistake(function: str, value: float):
    def change(self: Cart, sim: Sim, *action: Tensor) -> Terms:
        values = getattr(Cart, function)(self, sim, *action)
        return {name: torch.full_like(term.float(), value) for name, term in values.items()}

    assert f"But.{function} " in refusal(but(**{function: change}))
    assert "is not finite right after a reset" in refusal(but(**{function: change}))


def test_an_observation_with_the_name_of_a_command_is_that_command():
    def observe(self: Cart, sim: Sim) -> Terms:
        return {**Cart.observe(self, sim), "turn": sim.memory["turn"] / 2}

    said = "But.observe 'turn' must equal sim.memory['turn'], the command; give another term another name"
    assert refusal(but(observe=observe)) == said


@pytest.mark.parametrize("change", [lambda x: x + 1.0, torch.zeros_like, lambda x: x[:, :1], lambda x: -x])
@pytest.mark.parametrize(("name", "what"), [("action", "the previous action"), ("clock", "the task's clock")])
def test_an_observation_that_the_exported_file_keeps_is_what_it_keeps(
    name: str, what: str, change: Callable[[Tensor], Tensor]
):
    def observe(self: Cart, sim: Sim) -> Terms:
        return {**Cart.observe(self, sim), name: change(sim.memory[name])}

    said = f"But.observe '{name}' must equal sim.memory['{name}'], {what}; give another term another name"
    assert refusal(but(observe=observe, clock=1.0)) == said
    kept = Env(
        but(observe=lambda self, sim: {**Cart.observe(self, sim), name: sim.memory[name]}, clock=1.0), 3
    )
    assert not kept.sim.memory["action"].any()  # as the reset left it


def test_a_clock_is_observed_only_where_there_is_one():
    said = "But.observe has a 'clock', so But.clock must be a rate above 0 Hz, got 0"
    own = {"observe": lambda self, sim: {"clock": sim.memory["clock"]}, "memory": {**Cart.memory, "clock": 2}}
    assert refusal(but(**own)) == said


@pytest.mark.parametrize("name", ["ctrl", "carry", "carry_next", "reset"])
def test_an_observation_has_no_name_of_an_exported_files_ends(name: str):
    task = but(observe=lambda self, sim: {name: sim.qpos})
    assert refusal(task).startswith(f"But.observe may not call terms [{name!r}]: ")


@pytest.mark.parametrize(
    ("function", "name", "width"),
    [("reset", "qvel", 8), ("disturb", "qpos", 9), ("randomize", "body_mass", 4)],
)
def test_what_is_written_is_finite(function: str, name: str, width: int):
    task = but(**{function: lambda self, sim, rng: {name: torch.full((3, width), torch.nan)}})
    assert refusal(task) == f"But.{function} {name!r} is not finite"


def test_what_cannot_be_negative_is_not_randomized_below_zero():
    task = but(randomize=lambda self, sim, rng: {"body_mass": sim.nominal("body_mass") * -torch.ones(3, 1)})
    assert refusal(task).startswith("But.randomize 'body_mass' must not be negative, got -")


def test_names_that_change_under_way_are_refused():
    def late(self: Cart, sim: Sim) -> Terms:
        extra = {"late": sim.qpos} if sim.memory["age"][0, 0] > 1 else {}
        return {**Cart.observe(self, sim), **extra}

    env = Env(but(observe=late), 3)
    env.step(torch.zeros(3, 2))
    with pytest.raises(TaskError, match=r"observe changed its names from .* to .*'late'"):
        env.step(torch.zeros(3, 2))


@pytest.mark.parametrize("history", [0, -1, 2.5, "5", None, {"a": 0}, {"a": 2.5}])
def test_a_history_that_is_no_number_of_frames_is_refused(history: object):
    with pytest.raises(
        OptionError, match=r"history( of 'a')? must be a whole number of frames from 1 on, got"
    ):
        check_history(history)  # pyright: ignore[reportArgumentType]


def test_a_history_of_a_term_that_is_not_there_is_refused_and_of_a_hidden_one_is_not():
    with pytest.raises(OptionError, match=r"history must name terms, got 'gyr'; did you mean 'gyro'\?"):
        check_history({"gyr": 3}, ["gyro", "angle"])
    check_history({"gyro": 3}, ["gyro", "angle"])
    assert make_belief("stack", {"angle": 1}, {"gyro": 3}).size == 1  # it sees the angle alone
