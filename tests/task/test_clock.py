"""The gait clock that Env keeps for a task, and commands to stand still."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from arm import Arm, make_policy
from cart import Cart, Still, but, constant, new, refusal
from torch import Tensor

import robokit
from robokit.controller import Controller, load
from robokit.errors import ExportError
from robokit.export.gate import TOLERANCE
from robokit.export.write import export
from robokit.task.clock import tick
from robokit.task.command import Command

# -- the clock -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"clock": -1.0}, "clock must be at least 0 and below 25 Hz, half the control rate, got -1.0"),
        ({"clock": 25.0}, "below 25 Hz"),
        ({"clock": math.nan}, "got nan"),
        ({"clock": 1.0, "memory": {"x": 1, "sum": 2, "clock": 1}}, "['clock']: these names are taken"),
    ],
)
def test_a_clock_that_cannot_be_is_refused(attributes: dict[str, Any], words: str):
    assert words in refusal(but(**attributes))


def test_a_clock_ticks_by_a_turn_and_forgets_its_rounding():
    clock = torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    assert tick(clock, 0.25).tolist() == [pytest.approx([1.0, 0.0], abs=1e-6), pytest.approx([0.8, -0.6])]
    assert tick(1.01 * clock, 1.0).tolist() == [pytest.approx(row, abs=1e-6) for row in clock.tolist()]


class Clocked(Still):
    clock = 5.0  # Hz, a tenth of a turn a control period of 0.02 s

    def observe(self, sim: Any) -> dict[str, Tensor]:
        return {**super().observe(sim), "clock": sim.memory["clock"]}

    def terminated(self, sim: Any) -> Tensor:
        return sim.memory["age"][:, 0] == 2  # the third period is an episode's last


def test_the_clock_starts_at_noon_and_every_episode_starts_it_again():
    env = new(Clocked, 2)
    seen = [env.obs[:, -2:]] + [env.step(constant(0.0, 0.0)).obs[:, -2:] for _ in range(4)]
    turns = [0.0, 0.1, 0.2, 0.0, 0.1]
    expected = [[math.sin(2 * math.pi * t), math.cos(2 * math.pi * t)] for t in turns]
    for row, wanted in zip(seen, expected, strict=True):
        assert row.tolist() == [pytest.approx(wanted, abs=1e-6)] * 2


def test_the_clock_has_no_phase_while_every_command_is_zero_and_begins_at_noon_after_it():
    class Marching(Clocked):
        commands = {
            "goal": Command((0.0,), (0.0,)),
            "turn": Command((0.0, 0.0), (0.0, 0.0), every=(0.04, 0.04)),
        }
        memory = {"x": 1, "sum": 2}

    env = new(Marching, 2)
    assert env.obs[:, -2:].tolist() == [[0.0, 0.0]] * 2
    env.sim.memory["turn"][1, 0] = 0.5
    ticked = [math.sin(0.2 * math.pi), math.cos(0.2 * math.pi)]
    seen = env.step(constant(0.0, 0.0)).obs[:, -2:].tolist()
    assert seen == [[0.0, 0.0], [0.0, 1.0]]
    step = env.step(constant(0.0, 0.0))  # the command is redrawn: zero from now on
    assert step.final_obs[1, -2:].tolist() == pytest.approx(ticked)
    assert step.obs[:, -2:].tolist() == [[0.0, 0.0]] * 2


def test_who_observes_a_clock_observes_the_commands_that_stop_it():
    observe = lambda self, sim: {"clock": sim.memory["clock"], "goal": sim.memory["goal"]}  # noqa: E731
    assert "the clock stands while they are zero; not so: ['turn']" in refusal(
        but(clock=1.0, observe=observe)
    )


class Rhythm(Arm):
    clock = 3.0
    commands = {"speed": Command(low=(-0.1,), high=(0.3,), every=(0.1, 0.2), still=0.5)}

    def observe(self, sim: Any) -> dict[str, Tensor]:
        return {"clock": sim.memory["clock"], **super().observe(sim)}


def test_the_exported_file_keeps_the_clock_itself(tmp_path: Path):
    env = robokit.make(Rhythm, 4, threads=1)
    policy = make_policy(env)
    path = export(policy, env, tmp_path / "arm.onnx").path
    carried = {part["name"]: part["start"] for part in load(path).contract["carried"]}
    assert carried == {"action": [0.0, 0.0], "clock": [0.0, 1.0], "belief": [0.0] * policy.belief_size}
    controller, one = Controller(path), robokit.make(Rhythm, threads=1)
    assert "clock" not in controller.inputs
    belief, first, ends = torch.zeros(1, policy.belief_size), torch.ones(1, dtype=torch.bool), 0
    for _ in range(100):
        ctrl = controller.step({k: v[0].numpy() for k, v in one.terms().items() if k in controller.inputs})
        with torch.no_grad():
            action, belief = policy(one.obs, belief, first)
        wanted = (one.map.center + one.map.half * action[0]).clamp(one.map.low, one.map.high)
        assert float(((wanted - torch.from_numpy(ctrl)) / (2 * one.map.half)).abs().max()) <= TOLERANCE
        first = one.step(action).done
        if first:
            controller.reset()
            ends += 1
    assert ends >= 3


class Slow(Rhythm):
    """Calls something else `clock`, after a while."""

    def observe(self, sim: Any) -> dict[str, Tensor]:
        sign = torch.where(sim.memory["age"] > 9, -1.0, 1.0)
        return {**super().observe(sim), "clock": sign * sim.memory["clock"]}


def test_a_term_called_clock_that_is_not_the_clock_is_refused(tmp_path: Path):
    env = robokit.make(Slow, 2, threads=1)
    with pytest.raises(ExportError, match="'clock' is not the task's clock"):
        export(make_policy(env), env, tmp_path / "arm.onnx")


# -- commands ------------------------------------------------------------------------------------


def test_a_command_stands_still_as_often_as_asked():
    class Idle(Cart):
        commands = {"goal": Command((-0.1,), (0.5,), still=0.25), "turn": Command((1.0, 2.0), (1.0, 3.0))}

    goal, turn = (new(Idle, 4000).sim.memory[name] for name in ("goal", "turn"))
    assert (goal == 0).double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (turn > 0).all()
