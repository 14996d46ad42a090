"""Action maps in the exported file: its targets are Env's, and they go on from what was sent."""

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from arm import ARM, Arm, make_policy
from reach import Reach, Seen
from torch import Tensor, nn

from robokit.controller import Controller, describe, load
from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.evaluation.episodes import onnx_actor, run_episodes
from robokit.evaluation.filtered import FilteredActor
from robokit.evaluation.measure import evaluate
from robokit.export.bounds import resolve
from robokit.export.card import variant
from robokit.export.file import Exported
from robokit.export.gate import TOLERANCE, record
from robokit.export.write import export
from robokit.filter import Filter, Filtered
from robokit.networks.policy import Policy
from robokit.show.film import control_steps
from robokit.sim.base import Sim
from robokit.task.action import Around, Ctrl, Delta, Hold
from robokit.task.sense import Sense
from robokit.task.task import Task, Terms

ROOT = Path(__file__).parents[2]


class Robot:
    """What the loop of docs/deploy.md calls: an Env that acts on the policy itself, and compares."""

    def __init__(self, env: Env, policy: Policy, steps: int) -> None:
        self.env, self.policy, self.left, self.worst, self.ends = env, policy, steps, 0.0, 0
        self.belief, self.first = torch.zeros(1, policy.belief_size), torch.ones(1, dtype=torch.bool)

    @torch.no_grad()
    def running(self) -> bool:
        if self.left == 0:
            return False
        self.action, self.belief = self.policy(self.env.obs, self.belief, self.first)
        self.left -= 1
        return True

    def begins(self) -> bool:
        return bool(self.first)

    def read(self, name: str) -> Any:
        return self.env.terms()[name][0].numpy()

    def write(self, sent: Any) -> None:
        off = (self.env.targets(self.action)[0] - torch.from_numpy(sent)).abs() / self.env.map.span
        self.worst = max(self.worst, float(off.max()))
        self.first = self.env.step(self.action).done
        self.ends += int(self.first)


def plain_loop(path: Path, robot: Any) -> None:
    """The code of docs/deploy.md itself."""
    page = (ROOT / "docs/deploy.md").read_text()
    [code] = re.findall(r"```python\n(import json.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) <= 25
    names = {name: getattr(robot, name) for name in ("running", "begins", "read", "write")}
    exec(code.replace('"policy.onnx"', repr(str(path))), names)


class Sensed(Arm):
    sensing = {"angle": Sense(noise=0.02, delay=(0.0, 0.05), dropout=0.2)}


RAIL = ('<motor joint="rail" gear="3"', '<position joint="rail" kp="9"')


class Whole(Arm):
    """Two servos, and one input that is both joints."""

    model = mujoco.MjSpec.from_string(ARM.replace(*RAIL))
    action = Delta(0.02, leash=(0.1, 0.2))

    def observe(self, sim: Sim) -> Terms:
        return {"joints": sim.qpos, "speed": sim.memory["speed"]}


KEY = {"servo": Delta(0.05, keyframe="home"), "rail": Hold("home")}
MAPS: dict[str, tuple[type[Task], Any]] = {
    "ctrl": (Sensed, Ctrl()),
    "around": (Sensed, Around("home", (0.3, 0.4))),
    "groups": (Sensed, {"servo": Around("home", (0.3,)), "rail": Ctrl(-0.5, 0.25)}),
    "hold": (Sensed, {"rail": Hold("home"), "servo": Ctrl()}),
    "delta": (Sensed, {"rail": Ctrl(), "servo": Delta(0.05, leash=0.1)}),
    "delta from a keyframe": (type("Blind", (Sensed,), {"sensing": {"angle": Sense(hidden=True)}}), KEY),
    "all delta": (Whole, Whole.action),
    "every map": (Reach, Reach.action),
    "seen": (Seen, Seen.action),
}
QUICK = ("seen",)
SLOW = ("around", "hold", "delta")  # what each tells is in "groups" or "every map" too


def marks(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.medium] * (name not in QUICK) + [pytest.mark.slow] * (name in SLOW)


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in MAPS])
def test_the_plain_loop_of_the_page_sends_what_env_does_across_episodes(name: str, tmp_path: Path):
    base, action = MAPS[name]
    task = type("Mapped", (base,), {"action": action})
    env = Env(task(), 4, threads=1)
    policy = make_policy(env)
    report = export(policy, env, tmp_path / "policy.onnx", recording=record(policy, env, 100))
    robot = Robot(Env(task(), 1, seed=3, threads=1), policy, 150)
    plain_loop(report.path, robot)
    assert 0 < robot.worst <= TOLERANCE
    assert robot.ends >= 5


@pytest.mark.medium
def test_a_file_with_every_map_is_evaluated_and_shown_as_the_policy(tmp_path: Path):
    env, path = Env(Seen(), 4, threads=1), tmp_path / "policy.onnx"
    policy = make_policy(env)
    export(policy, env, path, recording=record(policy, env, 100))
    report = evaluate(path, Seen, 8, threads=1, policy=policy)
    assert report.versus_torch is not None
    assert report.returns.std > 0.01 and abs(report.versus_torch.mean) < 1e-4 * report.returns.std
    act, first = onnx_actor(load(path)), torch.ones(1).bool()
    one, shown = (Env(Seen(), 1, seed=5, threads=1) for _ in range(2))
    one.reset()
    for step in islice(control_steps(Controller(path), shown), 30):
        expected = one.step(act(one, first))
        assert torch.allclose(step.obs, expected.obs, atol=1e-5)
        first = expected.done


# -- against a wall, and behind a filter ---------------------------------------------------------

WALL = """
<mujoco model="push">
  <option timestep="0.005"/>
  <worldbody>
    <body><joint name="x" type="slide" axis="1 0 0" damping="30"/><geom size=".05" mass="1"/></body>
    <body name="wall" mocap="true" pos=".4 0 0"><geom type="box" size=".1 .5 .5"/></body>
  </worldbody>
  <actuator><position name="x" joint="x" kp="300" ctrlrange="-2 2"/></actuator>
</mujoco>
"""
SCALE, LEASH, HELD = 0.02, 0.15, 100  # m a control period, m, control periods of .02 s


class Push(Task):
    """Moves on, always; a wall is in the way for two seconds, or from the start far off."""

    model = mujoco.MjSpec.from_string(WALL)
    control_dt = 0.02
    time_limit = 10.0
    action = Delta(SCALE, leash=LEASH)
    weights = {"far": 1.0}
    held = HELD

    def disturb(self, sim: Sim, rng: torch.Generator) -> Terms:
        away = (sim.memory["age"] >= self.held)[:, :1] * sim.constant(5.0, 0.0, 0.0)
        return {"mocap_pos": sim.constant(0.4, 0.0, 0.0) + away[:, None]}

    def observe(self, sim: Sim) -> Terms:
        return {"x": sim.qpos, "speed": sim.qvel}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"far": sim.qpos[:, 0]}


class Free(Push):
    held = 0


@pytest.fixture(scope="module")
def pusher(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A policy whose action is 1, whatever it sees."""
    env = Env(Push(), 2, threads=1)
    policy = make_policy(env, "memoryless")
    last = policy.head[-1]
    assert isinstance(last, nn.Linear)
    last.weight.data.zero_()
    last.bias.data.fill_(5.0)
    path = tmp_path_factory.mktemp("push") / "policy.onnx"
    export(policy, env, path, recording=record(policy, env, 100))
    return Exported.open(path)


def bounded(file: Exported, **numbers: Any) -> Filter:
    return resolve(numbers, file.contract, file.sha256)


def driven(env: Env, step: Callable[[Any, int], Any], periods: int) -> tuple[Tensor, Tensor]:
    """(T,) what was sent and the joint as it was then, with `step` between Env's terms and its ctrl."""
    env.reset()
    sent, q = [], []
    for t in range(periods):
        terms = {name: value[0].numpy() for name, value in env.terms().items()}
        q.append(env.sim.qpos[0, 0].item())
        sent.append(float(step(terms, t)[0]))
        env.send(torch.tensor([[sent[-1]]]))
        env.step(torch.ones(1, 1))
    return torch.tensor(sent), torch.tensor(q)


@pytest.mark.medium
def test_a_target_held_against_a_wall_stays_on_the_leash_and_makes_no_leap_when_it_is_gone(pusher: Exported):
    policy = Controller(pusher)
    sent, q = driven(Env(Push(), 1, threads=1), lambda terms, t: policy.step(terms), HELD + 60)
    assert 0.2 < q[HELD] < 0.27 and q[-1] > 0.8  # held by the wall, then gone on
    assert float((sent - q).max()) <= LEASH + 1e-6
    assert float(sent[HELD] - q[HELD]) == pytest.approx(LEASH, abs=1e-3)  # as far as it may, not further
    assert float(sent.diff().abs().max()) <= SCALE + 1e-6


@pytest.mark.medium
@pytest.mark.parametrize("task", [Push, Free])
def test_a_target_behind_a_filter_of_half_its_speed_goes_on_from_what_was_sent(
    pusher: Exported, task: type[Task]
):
    slow = Filtered(Controller(pusher), bounded(pusher, slew=0.5 * SCALE / 0.02))

    def step(terms: Any, t: int) -> Any:
        return slow.step(terms) if t < HELD else slow.policy.step(terms)

    sent, _ = driven(Env(task(), 1, threads=1), step, HELD + 40)
    assert slow.acted["slew"] > 30
    assert float(sent[:HELD].diff().abs().max()) <= 0.5 * SCALE + 1e-6
    assert float(sent[HELD:].diff().abs().max()) > 0.9 * SCALE  # released, it is as fast as ever
    assert float(sent[HELD - 1 :].diff().abs().max()) <= SCALE + 1e-6


@pytest.mark.medium
def test_in_simulation_a_filter_does_the_same_as_on_the_robot(pusher: Exported):
    numbers = bounded(pusher, slew=0.5 * SCALE / 0.02)
    env, policy = Env(Push(), 2, threads=1), onnx_actor(pusher)
    env.reset()
    slow, first, sent = FilteredActor(policy, numbers, 2), torch.ones(2, dtype=torch.bool), []
    for t in range(HELD + 40):
        action = slow(env, first) if t < HELD else policy(env, first)
        assert action.tolist() == [[1.0], [1.0]]  # the network's, also for the rewards
        first = env.step(action).done
        sent.append(env.sim.ctrl[:, 0].clone())
        assert torch.equal(env.sim.memory["action"], torch.ones(2, 1, dtype=torch.float64))
    robot = Filtered(Controller(pusher), numbers)
    same, _ = driven(
        Env(Push(), 1, threads=1), lambda o, t: (robot if t < HELD else robot.policy).step(o), HELD + 40
    )
    assert torch.allclose(torch.stack(sent)[:, 0].float(), same, atol=1e-6)
    assert torch.equal(*torch.stack(sent).unbind(1))


@pytest.mark.medium
def test_what_a_bad_reading_held_is_what_the_target_goes_on_from(pusher: Exported):
    robot = Filtered(Controller(pusher), bounded(pusher, grace=1000))

    def step(terms: Any, t: int) -> Any:
        return robot.step(terms if not 20 <= t < 40 else {**terms, "x": np.array([np.nan])})

    sent, _ = driven(Env(Free(), 1, threads=1), step, 60)
    assert robot.acted["held"] == 20
    assert float(sent[19:40].diff().abs().max()) == 0
    assert float(sent.diff().abs().max()) <= SCALE + 1e-6


@pytest.mark.medium
def test_an_episode_in_the_fallback_sends_no_action_and_counts(pusher: Exported):
    task = Push()
    task.time_limit = 0.4
    actor = FilteredActor(lambda env, first: torch.full((2, 1), torch.nan), bounded(pusher, grace=0), 2)
    ran = run_episodes(Env(task, 2, threads=1), actor)
    assert actor.latched == 2 and not np.isnan(ran.returns).any()


@pytest.mark.medium
def test_the_contract_tells_each_map_and_another_map_is_named(pusher: Exported):
    [row] = pusher.contract["actuators"]
    assert {key: row[key] for key in ("map", "scale", "leash", "sensed")} == {
        "map": "delta", "scale": SCALE, "leash": LEASH, "sensed": {"input": "x", "column": 0}
    }  # fmt: skip
    assert "default" not in row  # it has no ctrl at action 0
    assert pusher.contract["carried"][1] == {"name": "target", "size": 1, "start": "x"}
    assert pusher.contract["needs"] == ["actuators[].map"]
    assert "map delta, scale 0.02, leash 0.15" in describe(pusher.contract)
    assert variant(pusher.contract, Env(Push(), 1)) is None
    for action, words in (
        (Ctrl(), "action map of 'x': delta in the file, ctrl in the task"),
        (Delta(0.03, leash=LEASH), "ctrl of an action of 1 of 'x': 0.02 in the file, 0.03 in the task"),
        (Delta(0.0201, leash=LEASH), "ctrl of an action of 1 of 'x': 0.02 in the file, 0.0201 in the task"),
        (Delta(SCALE, leash=0.2), "leash of 'x': 0.15 in the file, 0.2 in the task"),
    ):
        with pytest.raises(TaskError) as error:
            variant(pusher.contract, Env(type("Push", (Push,), {"action": action})(), 1), own=False)
        assert words in str(error.value)
