"""What the export gate would refuse after a training is refused before its first step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import pytest
import torch
from shipped import cases
from torch import Tensor

import robokit.training.setup.rehearse
from robokit.algos.ppo import Config, make_actor
from robokit.errors import ExportError, ParityError
from robokit.evaluation.measure import evaluate
from robokit.export.file import Exported
from robokit.export.weights import read_weights
from robokit.export.write import export
from robokit.task.action import Around
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import known_tasks, shipped_folder
from robokit.task.task import Task
from robokit.training.setup.build import Setup, algorithm, build_learner, options
from robokit.training.setup.rehearse import rehearse
from robokit.training.setup.restore import export_env

MODEL = """
<mujoco model="reach">
  <option timestep="0.01"/>
  <worldbody><body><joint name="elbow" axis="0 1 0" damping="1"/><geom size=".1" mass="1"/></body></worldbody>
  <actuator><position name="elbow" joint="elbow" kp="1" ctrlrange="{low} {high}"/></actuator>
  <keyframe><key name="home" ctrl="{at}"/></keyframe>
</mujoco>
"""
SMALL = Config(num_envs=2, horizon=16, minibatch=16, epochs=1, hidden=(8,), steps=64)


def reach(scale: float, at: float = 1.5, size: float = 1.0, dt: float = 0.02) -> Task:
    """Targets of `at` +- `scale`; observations of about `size`; a control period of `dt` s."""

    class Reach(Task):
        model = mujoco.MjSpec.from_string(MODEL.format(low=at - 2 * abs(at), high=at + 2 * abs(at), at=at))
        control_dt = dt
        time_limit = 10 * dt
        action = Around("home", scale=scale)
        weights = {"near": 1.0}

        def observe(self, sim: Any) -> dict[str, Tensor]:
            return {"elbow": size * (sim.qpos + 0.1), "speed": sim.qvel}

        def reset(self, sim: Any, rng: torch.Generator) -> dict[str, Tensor]:
            return {"qpos": torch.rand(sim.num_envs, 1, generator=rng, dtype=sim.qpos.dtype)}

        def rewards(self, sim: Any, action: Tensor) -> dict[str, Tensor]:
            return {"near": -sim.qpos[:, 0].abs()}

    return Reach()


@pytest.mark.medium
def test_a_scale_of_a_ten_thousandth_passes_is_trained_exported_and_evaluated(tmp_path: Path):
    task = reach(1e-4)
    learner = build_learner(task, Setup(threads=1), SMALL)
    env = export_env(task, Setup(threads=1))
    rehearse(learner.policy, env)
    for _ in range(2):
        learner.iterate()
    written = export(learner.policy, env, tmp_path / "reach.onnx")
    assert max(p.ctrl_error for p in written.parity) > 1e-5  # of the span; the ulp of ctrl is what allows it
    assert evaluate(written.path, task, 2, threads=1).returns.mean < 0


@pytest.mark.parametrize("sign", [1, -1])
def test_targets_that_float32_cannot_tell_apart_are_refused_with_the_actuator(sign: int):
    task = reach(1e-6, at=sign * 1.5)
    env = export_env(task, Setup(threads=1))
    with pytest.raises(ExportError, match=r"actuator 'elbow': .* around -?1\.5 and span 2e-06.*larger scale"):
        rehearse(make_actor(env, SMALL), env)


@pytest.mark.medium
def test_a_rehearsal_changes_neither_policy_nor_random_numbers(tmp_path: Path):
    task = reach(0.5)
    env = export_env(task, Setup(threads=1))
    policy = make_actor(env, SMALL)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    drawn = torch.get_rng_state()
    rehearse(policy, env)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.medium
def test_large_observations_pass_as_they_do_once_the_normaliser_has_seen_them():
    task = reach(0.5, size=1e6)
    env = export_env(task, Setup(threads=1))
    rehearse(make_actor(env, SMALL), env)


def test_a_difference_near_the_tolerance_is_noted_and_a_larger_one_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    env = export_env(reach(0.5), Setup(threads=1))
    policy = make_actor(env, SMALL)
    for excess, refused in ((9.0, ""), (11.0, "off"), (float("nan"), "off")):

        def differs(*_: Any, excess: float = excess, **__: Any) -> None:
            raise ParityError("off", excess)

        monkeypatch.setattr("robokit.training.setup.rehearse.export", differs)
        assert refusal(lambda: rehearse(policy, env)) == refused
        assert ("note: an export may be refused" in capsys.readouterr().err) == (not refused)


@pytest.mark.medium
def test_the_quadruped_passes():
    """It observes its own action: where those were tiny, normalising them amplified rounding."""
    task, setup = load_task("go2_walk"), Setup(threads=1)
    env = export_env(task, setup)
    rehearse(make_actor(env, options(task, "ppo")), env)


@pytest.mark.medium
def test_a_trained_policy_passes_as_where_a_training_starts_from_one():
    task, setup = load_task("go2_walk"), Setup(threads=1)
    env = export_env(task, setup)
    policy = make_actor(env, options(task, "ppo"))
    state, _ = read_weights(Exported.open(shipped_folder("policies") / "go2_walk.onnx"))
    policy.load_state_dict(state)
    rehearse(policy, env)


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ppo", "sac", "td3"])
@pytest.mark.parametrize("name", cases(sorted(known_tasks())))
def test_every_shipped_task_passes(name: str, algo: str):
    task, setup = load_task(name), Setup(threads=1)
    env = export_env(task, setup)
    rehearse(algorithm(algo).make_actor(env, options(task, algo)), env)


ODD = [  # scale, center, size of observations, control period
    *((scale, 1.5, 1.0, 0.02) for scale in (1e-7, 1e-6, 1e-5, 1e-4, 1e-2, 1.0, 100.0)),
    *((scale, 1e3, 1.0, 0.02) for scale in (1e-3, 1e-2, 0.1, 1.0)),
    *((0.5, 1.5, size, 0.02) for size in (1e-8, 1e-4, 1e4, 1e8)),
    *((0.5, 1.5, 1.0, dt) for dt in (0.01, 0.5)),
    (1e6, 0.5, 1.0, 0.02),
    (1e-4, -1e-4, 1e5, 0.01),
    (3.0, 1e6, 1e-3, 0.04),
]


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "at", "size", "dt"), ODD)
def test_the_rehearsal_refuses_what_the_export_would_and_nothing_else(
    scale: float, at: float, size: float, dt: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    task = reach(scale, at, size, dt)
    setup = Setup(threads=1)
    learner, env = build_learner(task, setup, SMALL), export_env(task, setup)
    path = tmp_path / "reach.onnx"
    capsys.readouterr()
    refused = refusal(lambda: rehearse(learner.policy, env))
    noted = "note: an export may be refused" in capsys.readouterr().err
    for _ in range(2):
        learner.iterate()
    exported = refusal(lambda: export(learner.policy, env, path))
    assert noted or bool(refused) == bool(exported), (refused, exported)
    assert not refused or "actuator 'elbow'" in refused


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except ExportError as error:
        return str(error)
    return ""


def test_a_rehearsal_writes_into_memory_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(robokit.training.setup.rehearse, "MEMORY", str(tmp_path))
    assert robokit.training.setup.rehearse._memory() == str(tmp_path)
    monkeypatch.setattr(robokit.training.setup.rehearse, "ROOM", 1 << 80)
    assert robokit.training.setup.rehearse._memory() is None
    monkeypatch.setattr(robokit.training.setup.rehearse, "MEMORY", str(tmp_path / "none"))
    assert robokit.training.setup.rehearse._memory() is None
