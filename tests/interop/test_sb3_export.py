"""Models of Stable-Baselines3 in files of ours."""

import base64
import json
import pickle  # noqa: TID251
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cart import Cart
from gymnasium.spaces import Box
from point import Point, but
from sb3_models import KINDS, changed, difference, plain_model, saved, small, trained
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

import robokit
from robokit.cli.command import main
from robokit.controller import Controller
from robokit.errors import DataError
from robokit.evaluation.measure import evaluate as measure
from robokit.export.file import Exported
from robokit.export.weights import weights_path
from robokit.interop.adapted import Adapted, Model, gate_env, write
from robokit.interop.sb3 import TaskVecEnv, adapted, export_model
from robokit.interop.sb3_zip import export_zip, read_zip
from robokit.task.lookup.find import load_task


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_model(tmp_path_factory.mktemp("plain"))


def cases() -> list[Any]:
    """One of PPO and one of hindsight in the default suite."""
    every = [(name, normalized) for name in KINDS for normalized in (True, False)]
    soon = {("ppo", True): [pytest.mark.medium], ("her-sac", True): [pytest.mark.medium]}
    return [pytest.param(*case, marks=soon.get(case, [pytest.mark.slow])) for case in every]


@pytest.mark.parametrize(("name", "normalized"), cases())
def test_a_model_s_file_acts_as_the_model_does(name: str, normalized: bool, tmp_path: Path):
    kind, soon = KINDS[name], name in ("ppo", "her-sac") and normalized
    model = trained(kind, normalized, steps=300 if soon else 1000)
    path, statistics = saved(model, tmp_path)
    written = export_zip(path, load_task(kind.task), tmp_path / "closed.onnx", statistics or "none")
    worst, restarts = difference(written.path, model, kind)
    assert worst < 1e-6 and restarts >= 2
    assert max(p.ctrl_error for p in written.parity) < 1e-6
    if not soon:
        live = export_model(model, kind.task, tmp_path / "live.onnx")
        assert difference(live.path, model, kind, steps=100)[0] < 1e-6


@pytest.mark.medium
def test_the_contract_says_where_a_file_comes_from_and_evaluate_takes_it(plain: Path, tmp_path: Path):
    written = export_zip(plain, Cart(), tmp_path / "cart.onnx")
    contract = Controller(written.path).contract
    assert contract["origin"]["package"] == "stable-baselines3"
    assert contract["origin"]["policy"] == "stable_baselines3.common.policies"
    assert len(contract["origin"]["sha256"]) == 64 and not contract["origin"]["normalized"]
    assert not weights_path(written.path).exists() and "weights" not in contract["hashes"]
    report = measure(Exported.open(written.path), Cart(), 4, threads=1)
    assert report.limits["away"].verdict in ("PASS", "FAIL", "UNDECIDED")


@pytest.mark.medium
def test_the_state_of_an_lstm_goes_through_the_gate(tmp_path: Path):
    """As of RecurrentPPO, which sb3-contrib has: at both batch sizes, over resets."""
    torch.manual_seed(0)
    env, box = gate_env(Cart()), (-np.ones(2, np.float32), np.ones(2, np.float32))
    lstm = nn.LSTM(env.obs_dim, 4, 2)
    policy = Adapted(nn.Identity(), nn.Linear(4, 2), box, False, lstm).eval()
    written = write(Model(policy, {"": env.obs_dim}, {}), env, tmp_path / "lstm.onnx")
    assert max(p.carry_error for p in written.parity) < 1e-6
    assert Controller(written.path).contract["carried"][-1]["size"] == 16


def test_another_task_s_spaces_are_named_beside_the_model_s(plain: Path, tmp_path: Path):
    with pytest.raises(
        DataError, match=r"takes 10 numbers and gives 2; the task hopper takes 11 .*'position'"
    ):
        export_zip(plain, load_task("hopper"), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


@pytest.fixture(scope="module")
def of_goal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of Point's goal form, with a VecNormalize."""
    env = VecNormalize(TaskVecEnv(Point(), 8, "goal", threads=1))
    model = PPO("MultiInputPolicy", env, n_steps=64, seed=0, **small())
    model.learn(512)
    return saved(model, tmp_path_factory.mktemp("goal"))[0]


def test_a_goal_s_model_in_memory_is_that_of_its_zip(of_goal: Path):
    model, read = PPO.load(of_goal), read_zip(of_goal)
    live, obs = adapted(model.policy), torch.randn(8, 15, generator=torch.Generator().manual_seed(0))
    none, first = torch.zeros(8, 0), torch.ones(8, dtype=torch.bool)
    assert read.takes == {"achieved_goal": 3, "desired_goal": 3, "observation": 9}
    parts = {"achieved_goal": obs[:, :3], "desired_goal": obs[:, 3:6], "observation": obs[:, 6:]}
    expected, _ = model.predict({key: x.numpy() for key, x in parts.items()}, deterministic=True)
    for policy in (live, read.policy):
        assert np.abs(policy(obs, none, first)[0].detach().numpy() - expected).max() < 1e-6


def test_a_goal_that_no_robot_measures_is_not_exported(of_goal: Path, tmp_path: Path):
    blind = but(
        observe=lambda task, sim: {"speed": sim.qvel, "way": sim.qpos, "place": sim.memory["place"]},
        privileged=lambda task, sim: {"tip": sim.site("tip").xpos},
    )
    with pytest.raises(DataError, match=r"'achieved_goal', the term 'tip' of .*, which no robot supplies"):
        export_zip(of_goal, blind, tmp_path / "x.onnx", "none")
    with pytest.raises(
        DataError, match=r"takes \{'achieved_goal': 3, 'desired_goal': 3, 'observation': 9\} and"
    ):
        export_zip(of_goal, load_task("hopper"), tmp_path / "x.onnx", "none")


def test_a_goal_form_s_missing_statistics_are_told(of_goal: Path, tmp_path: Path):
    with pytest.raises(DataError, match="are those of a VecNormalize"):
        export_zip(of_goal, Point(), tmp_path / "x.onnx")


def test_a_box_of_ctrl_is_the_task_s_and_another_is_refused(plain: Path, tmp_path: Path):
    def boxed(low: list[float], high: list[float]) -> Any:
        space = base64.b64encode(
            pickle.dumps(Box(np.array(low, np.float32), np.array(high, np.float32)))
        ).decode()
        return lambda data: data["action_space"].update({":serialized:": space})

    with pytest.raises(DataError, match=r"actions lie in .*3.0.* in \[-1, 1\], or as ctrl in \[\[-2.0"):
        export_zip(changed(plain, tmp_path, told=boxed([-3, -3], [3, 3])), Cart(), tmp_path / "x.onnx")
    env = robokit.make(Cart(), num_envs=2, threads=1)
    obs, none, first = env.obs, torch.zeros(2, 0), torch.ones(2, dtype=torch.bool)
    ours = read_zip(plain).policy
    ctrl = read_zip(changed(plain, tmp_path, told=boxed([-2, -0.5], [6, 0.5]))).policy
    mean = ours.head(obs)
    expected = env.map.target(ctrl(obs, none, first)[0].double())  # ctrl of the action is the box's number
    torch.testing.assert_close(expected, mean.double().clamp(env.map.low, env.map.high), rtol=0, atol=1e-6)


@pytest.mark.medium
def test_the_command_exports_a_model_and_says_what_it_needs(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(plain)]) == 2
    assert "does not name its task: give it, --task TASK" in capsys.readouterr().err
    assert main(["export", "hopper", "--normalize", "vec.pkl"]) == 2
    assert "--normalize is of a model.zip" in capsys.readouterr().err
    model = PPO("MlpPolicy", TaskVecEnv("inverted_pendulum", 4, threads=1), n_steps=16, seed=0, **small())
    path, _ = saved(model, tmp_path)
    assert main(["export", str(path), "--task", "inverted_pendulum", "--episodes", "2"]) == 0
    card = json.loads((tmp_path / "policies/inverted_pendulum.json").read_text())
    assert card["model"] == "model.zip" and card["evaluation"]["episodes"] == 2
