"""Parity with gymnasium's environments: faults put into a task are named; and a file's second opinion."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from robokit.cli.command import main
from robokit.controller import Controller
from robokit.errors import OptionError
from robokit.evaluation.reports.report import Report
from robokit.export.file import Exported
from robokit.interop import parity
from robokit.interop.peers.second_opinion import evaluate_in_gymnasium
from robokit.seeds import seed
from robokit.task.lookup.find import load_task
from robokit.task.sense import Sense

Hopper: Any = type(load_task("hopper"))
POLICIES = Path(__file__).parent.parent.parent / "policies"


def faulty(**attributes: Any) -> Any:
    return type("Faulty", (Hopper,), attributes)()


def named(task: Any, **options: Any) -> list[str]:
    return [found.name for found in parity(task, "Hopper-v5", 40, seed=3, **options).differences]


def test_hopper_is_gymnasium_s_and_its_terms_are_paired_by_name():
    found = parity("hopper", "Hopper-v5", 60)
    assert found.equal and found.ended > 4 and found.unpaired == ()
    pairs = {"forward": "forward", "healthy": "survive", "ctrl": "ctrl"}
    assert found.names == {f"reward/{ours}": f"reward_{theirs}" for ours, theirs in pairs.items()}
    assert str(found).startswith("hopper and Hopper-v5: equal in 60 steps of 4 simulations")


def test_a_wrong_weight_is_named_by_its_term_and_its_first_step():
    wrong = faulty(weights={"forward": 1.0, "healthy": 1.0, "ctrl": -1.002e-3})
    found = parity(wrong, "Hopper-v5", 40)
    sites = [(x.name, x.step, x.simulation) for x in found.differences]
    assert sites == [("reward/ctrl", 1, 0), ("reward", 1, 0)]
    assert found.differences[0].steps == 160
    assert found.differences[0].ours == pytest.approx(1.002 * found.differences[0].theirs, rel=1e-6)
    assert "reward/ctrl[0] first in step 1 of simulation 0" in str(found)


def test_a_shifted_observation_is_named_by_term_and_column():
    def observe(self: Any, sim: Any) -> Any:
        terms = Hopper.observe(self, sim)
        return {**terms, "velocity": terms["velocity"].roll(1, -1)}

    found = parity(faulty(observe=observe), "Hopper-v5", 5).differences
    assert [(x.name, x.step) for x in found] == [("start/velocity", 1), ("obs/velocity", 1)]


def test_an_end_that_is_late_is_named_by_the_step_it_was_due():
    """Nothing but the end is wrong: the rest goes on equal after it."""
    found = parity(faulty(terminated=lambda self, sim: sim.qpos[:, 1] < 0.0), "Hopper-v5", 60).differences
    assert [x.name for x in found] == ["terminated"]
    assert found[0].step > 5 and (found[0].ours, found[0].theirs) == (0.0, 1.0)


def test_another_time_limit_is_told_even_if_no_episode_is_as_long():
    [found] = parity(faulty(time_limit=4.0), "Hopper-v5", 5).differences
    assert (found.name, found.ours, found.theirs) == ("time limit", 500, 1000)


def test_other_physics_is_told_by_qpos_first_and_a_tolerance_may_allow_it():
    heavy: Any = gymnasium.make("Hopper-v5")
    heavy.unwrapped.model.opt.gravity[2] *= 1 + 1e-9
    found = parity("hopper", heavy, 10)
    assert {"qpos", "qvel"} <= {x.name for x in found.differences} and found.differences[0].step == 1
    assert found.differences[0].name == "qpos"
    near = {x.name for x in parity("hopper", heavy, 10, tolerance=1e-4).differences}
    assert not near & {"qpos", "qvel", "obs/position", "obs/velocity"}


def test_hidden_terms_are_compared_and_ignored_ones_are_not():
    assert named("hopper:Positions") == []
    wrong = faulty(weights={"forward": 1.0, "healthy": 1.0, "ctrl": -1.0})
    assert named(wrong) == ["reward/ctrl", "reward"] and named(wrong, ignore=("ctrl",)) == []


@pytest.mark.parametrize(
    ("task", "env", "options", "says"),
    [
        ("hopper", "Hoper-v5", {}, "no 'Hoper-v5' here: .*Did you mean: `Hopper`"),
        ("hopper", "nowhere:Hopper-v5", {}, "No module named 'nowhere'"),
        ("hopper", "Walker2d-v5", {}, "11 numbers of hopper, .*'velocity': 6.*17 numbers of Walker"),
        ("half_cheetah", "Walker2d-v5", {}, "control period: 0.05 s of half_cheetah, and 0.008 s"),
        ("hopper", "CartPole-v1", {}, r"Discrete\(2\) of CartPole-v1"),
        ("hopper", "robokit.interop:robokit/hopper-v0", {}, "it is no MujocoEnv"),
        ("hopper", "Hopper-v5", {"names": {"reward/ctl": "reward_ctrl"}}, "did you mean 'reward/ctrl'"),
        ("hopper", "Hopper-v5", {"names": {"reward/ctrl": "reward_ctl"}}, "did you mean 'reward_ctrl'"),
        ("hopper", "Hopper-v5", {"ignore": ("positon",)}, "did you mean 'position'"),
        ("hopper", "Hopper-v5", {"steps": 0}, "must be at least 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(task: str, env: str, options: dict[str, Any], says: str):
    with pytest.raises(OptionError, match=says):
        parity(task, env, **options)


# -- a second opinion on a file ------------------------------------------------------------------------


def test_a_second_opinion_is_a_plain_loop_over_gymnasium_s_episodes():
    file = Exported.open(POLICIES / "hopper.onnx")
    report = evaluate_in_gymnasium(file, load_task("hopper"), "Hopper-v5", 2, seed=4)
    env, driver, returns = gymnasium.make("Hopper-v5"), Controller(file), []
    env.reset(seed=seed("evaluation", 4))
    for _ in range(2):
        obs, _ = env.reset()
        driver.reset()
        total, done = 0.0, False
        while not done:
            ctrl = driver.step({"position": obs[:5], "velocity": obs[5:]})
            obs, reward, terminated, truncated, _ = env.step(ctrl)
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    assert report.per_episode["return"] == returns
    assert report.returns.mean > 2000  # as in our own episodes: its card says 3266
    assert sum(x.mean for x in report.terms.values()) == pytest.approx(report.returns.mean, rel=1e-9)
    assert report.terms.keys() == {"ctrl", "forward", "survive"}
    assert report.variant == f"Hopper-v5 of gymnasium {gymnasium.__version__}, exported for Hopper"
    assert "on a variant: Hopper-v5 of gymnasium" in report.text() and not report.failed


class Wider(gymnasium.ObservationWrapper[Any, Any, Any]):
    """A number between positions and velocities, which no robot of the task has."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.observation_space = Box(-np.inf, np.inf, (12,), np.float64)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.insert(observation, 5, 7.0)


def test_a_file_that_sees_less_gets_its_columns_by_name():
    def observe(self: Any, sim: Any) -> Any:
        position, velocity = Hopper.observe(self, sim).values()
        return {"position": position, "height": position[:, :1], "velocity": velocity}

    task = faulty(observe=observe, sensing={"height": Sense(hidden=True)})
    file = Exported.open(POLICIES / "hopper.onnx")
    gymnasium.register("Wider-v0", lambda **_: Wider(gymnasium.make("Hopper-v5")), max_episode_steps=300)
    try:
        wider = evaluate_in_gymnasium(file, task, "Wider-v0", 2)
    finally:
        del gymnasium.registry["Wider-v0"]
    plain = evaluate_in_gymnasium(file, faulty(time_limit=2.4), "Hopper-v5", 2)
    assert wider.per_episode == plain.per_episode and wider.length.max == 300
    assert wider.notes == ["episodes last at most 300 control steps there, and 1000 in the task"]


class Legs(gymnasium.Env[Any, Any]):
    """What a Go2 senses, without the command that its policy was told."""

    dt = 0.02
    observation_space = Box(-np.inf, np.inf, (30,))

    def __init__(self) -> None:
        joints = Exported.open(POLICIES / "go2_walk.onnx").contract["actuators"]
        low, high = (np.array([x[key] for x in joints], np.float32) for key in ("low", "high"))
        self.action_space = Box(low, high)


def test_inputs_that_gymnasium_does_not_give_are_named():
    gymnasium.register("Legs-v0", lambda **_: Legs())
    file = Exported.open(POLICIES / "go2_walk.onnx")
    try:
        with pytest.raises(OptionError, match=r"Legs-v0 gives \['gyro', .* takes \['velocity'\] too"):
            evaluate_in_gymnasium(file, load_task("go2_walk"), "Legs-v0", 2)
    finally:
        del gymnasium.registry["Legs-v0"]


def test_the_command_prints_the_same_json_and_refuses_before_it_runs(capsys: pytest.CaptureFixture[str]):
    command = ["evaluate", str(POLICIES / "hopper.onnx"), "--episodes", "2", "--gymnasium"]
    assert main([*command, "Hopper-v5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [*found] == [field.name for field in fields(Report)] and found["length"]["mean"] == 1000
    for more, says in (
        (["Hoper-v5"], "Did you mean: `Hopper`"),
        (["Hopper-v5", "--gamma", "0.9"], "runs the exported file alone, without --gamma"),
        (["Walker2d-v5"], "does not fit hopper; observations"),
    ):
        assert main([*command, *more]) == 2
        assert says in capsys.readouterr().err
