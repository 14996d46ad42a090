"""Stable-Baselines3 on a batch of ours; its models in files of ours."""

import base64
import contextlib
import importlib
import json
import os
import pickle  # noqa: TID251
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import point
import pytest
import torch
from cart import Cart, Still, but
from gymnasium.spaces import Box
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from test_packaging import python
from torch import nn

import robokit
from robokit.cli.command import main
from robokit.controller import Controller
from robokit.errors import ExportError, OptionError
from robokit.evaluation.measure import evaluate as measure
from robokit.export.file import Exported
from robokit.export.weights import weights_path
from robokit.interop.adapted import Adapted, Model, gate_env, write
from robokit.interop.closed import Stub, read_normalize, unpickle
from robokit.interop.gymnasium import TaskEnv
from robokit.interop.sb3 import TaskVecEnv, export_model
from robokit.interop.sb3_zip import NotClosed, export_zip, read_zip
from robokit.task.lookup.find import load_task


def small() -> dict[str, Any]:
    return {"policy_kwargs": {"net_arch": [16, 16]}}  # SB3 writes into it


INFINITE = ".*(min|max)imum value is -?infinity.*"


# -- the batch -----------------------------------------------------------------------------------------


def test_sb3_s_check_env_passes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(TaskEnv("hopper"), skip_render_check=True)
        check_env(TaskEnv("hopper", observations="dict"), skip_render_check=True)
        check_env(TaskEnv(point.Point(), observations="goal"), skip_render_check=True)


def test_an_option_that_a_batch_has_fixed_is_refused():
    with pytest.raises(OptionError, match="TaskVecEnv takes no 'autoreset'"):
        TaskVecEnv(Still(), 2, autoreset=False)


def test_a_batch_is_env_s_bit_for_bit_with_what_sb3_reads_of_an_episode():
    falls = but(terminated=lambda task, sim: sim.qpos[:, 0].abs() > 0.15)
    env, batch = robokit.Env(falls, 3, seed=2, threads=1), TaskVecEnv(falls, 3, seed=2, threads=1)
    assert np.array_equal(batch.reset(), env.reset().numpy())
    totals, ends = np.zeros(3), [0, 0]  # terminated, truncated
    for action in np.random.default_rng(0).uniform(-1, 1, (50, 3, 2)).astype(np.float32):
        step = env.step(torch.from_numpy(action))
        found: Any = batch.step(action)
        obs, reward, done, infos = found
        assert np.array_equal(obs, step.obs.numpy()) and np.array_equal(done, step.done.numpy())
        totals += reward
        for i, info in enumerate(infos):
            assert info["reward/near"] == step.terms[i, 0].item() and info["cost"] == step.cost[i].item()
            assert ("episode" in info) == bool(done[i])
            if done[i]:
                ends[int(step.truncated[i])] += 1
                assert np.array_equal(info["terminal_observation"], step.final_obs[i].numpy())
                assert info["TimeLimit.truncated"] == step.truncated[i].item()
                assert info["episode"]["r"] == totals[i] and 0 < info["episode"]["l"] <= 20
                totals[i] = 0
    assert min(ends) >= 1


@pytest.mark.medium
@pytest.mark.parametrize("kind", [PPO, SAC])
def test_two_trainings_of_one_seed_are_bit_equal(kind: Any):
    def weights() -> list[torch.Tensor]:
        n = {"n_steps": 16} if kind is PPO else {"learning_starts": 64}
        model = kind("MlpPolicy", TaskVecEnv("hopper", 16, threads=1), seed=3, **n, **small())
        model.learn(512)
        return [*model.policy.state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(weights(), weights(), strict=True))


@pytest.mark.medium
def test_sb3_s_own_evaluation_takes_the_batch_for_monitored():
    batch = TaskVecEnv(Still(), 4, threads=1)
    model = PPO("MlpPolicy", batch, n_steps=64, **small())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found: Any = evaluate_policy(model, batch, 8, return_episode_rewards=True)
    assert len(found[0]) == 8 and all(1 < length <= 20 for length in found[1])


def test_methods_and_attributes_of_the_batch():
    batch = TaskVecEnv(Cart(), 3, threads=1)
    assert batch.get_attr("nstep", [0, 2]) == [2, 2]
    batch.env_method("hold", {"goal": [0.25]})
    batch.reset()
    assert batch.inner.sim.memory["goal"][:, 0].tolist() == [0.25] * 3
    assert not batch.has_attr("nothing")
    with pytest.raises(OptionError, match="no simulation of its own"):
        batch.set_attr("nstep", 3)


def test_hindsight_relabels_with_the_rewards_of_the_goal_form():
    from stable_baselines3 import HerReplayBuffer

    batch = TaskVecEnv(point.Point(), 4, observations="goal", threads=1)
    options = {"n_sampled_goal": 4, "goal_selection_strategy": "future", "copy_info_dict": True}
    model = SAC(
        "MultiInputPolicy",
        batch,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs=options,
        learning_starts=400,
        seed=0,
        **small(),
    )
    model.learn(401)
    replay: Any = model.replay_buffer
    drawn = replay.sample(200)
    off = drawn.next_observations["achieved_goal"] - drawn.observations["desired_goal"]
    speed = drawn.next_observations["observation"][:, :3]  # with the reward's other term
    expected = -2.0 * off.norm(dim=-1) - 0.5 * speed.square().sum(-1)
    torch.testing.assert_close(drawn.rewards[:, 0], expected, rtol=1e-5, atol=1e-5)


# -- models -> files -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A model of SB3 or sb3-contrib."""

    name: str
    policy: str = "MlpPolicy"
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, env: Any) -> Any:
        home = importlib.import_module("stable_baselines3")
        if not hasattr(home, self.name):
            home = pytest.importorskip("sb3_contrib", reason="needs robokit[sb3]")
        return getattr(home, self.name)(self.policy, env, seed=0, **self.options)


SOON = {"learning_starts": 200, "train_freq": 10}  # off-policy
ROLL = {"n_steps": 16}
KINDS = {
    "ppo": Kind("PPO", options=ROLL),
    "ppo-gsde-squashed": Kind(
        "PPO", options={**ROLL, "use_sde": True, "policy_kwargs": {"squash_output": True}}
    ),
    "ppo-elu": Kind("PPO", options={**ROLL, "policy_kwargs": {"activation_fn": nn.ELU, "net_arch": [8]}}),
    "a2c": Kind("A2C"),
    "sac": Kind("SAC", options=SOON),
    "sac-gsde": Kind("SAC", options={**SOON, "use_sde": True}),
    "td3": Kind("TD3", options=SOON),
    "ddpg": Kind("DDPG", options=SOON),
    "trpo": Kind("TRPO", options=ROLL),
    "tqc": Kind("TQC", options=SOON),
    "crossq": Kind("CrossQ", options=SOON),
    "recurrent-ppo": Kind("RecurrentPPO", "MlpLstmPolicy", ROLL),
    "ars": Kind("ARS", options={"n_delta": 2}),
    "ars-linear": Kind("ARS", "LinearPolicy", {"n_delta": 2}),
}


def trained(kind: Kind, normalized: bool, task: Any = "hopper", steps: int = 1000) -> Any:
    env: Any = TaskVecEnv(task, 1 if kind.name == "ARS" else 4, threads=1)
    model = kind.make(VecNormalize(env) if normalized else env)
    model.learn(steps)
    return model


def saved(model: Any, folder: Path) -> tuple[Path, Path | None]:
    """model.zip, and vec.pkl if it has one."""
    model.save(folder / "model.zip")
    if (normalize := model.get_vec_normalize_env()) is None:
        return folder / "model.zip", None
    normalize.save(str(folder / "vec.pkl"))
    return folder / "model.zip", folder / "vec.pkl"


def difference(file: Path, model: Any, task: str = "hopper", steps: int = 200) -> tuple[float, int]:
    """Largest difference of the file's action from SB3's `predict` in closed loop, and the restarts in it."""
    env, controller, normalize = TaskEnv(task), Controller(file), model.get_vec_normalize_env()
    (obs, _), state, first, worst, restarts = env.reset(seed=1), None, True, 0.0, 0
    controller.reset()
    for t in range(steps):
        seen = normalize.normalize_obs(obs[None]) if normalize else obs[None]
        action, state = model.predict(seen, state, np.array([first]), deterministic=True)
        terms = env.inner.terms()
        ctrl = controller.step({name: terms[name][0].numpy() for name in controller.inputs})
        worst = max(worst, float(np.abs(env.inner.targets(torch.from_numpy(action))[0].numpy() - ctrl).max()))
        obs, _, terminated, truncated, _ = env.step(action[0])
        first = terminated or truncated or t % 80 == 79
        if first:
            obs, _ = env.reset()
            controller.reset()
            restarts += 1
    return worst, restarts


def cases() -> list[Any]:
    """One of PPO in the default suite."""
    every = [(name, normalized) for name in KINDS for normalized in (True, False)]
    soon = {("ppo", True): [pytest.mark.medium]}
    return [pytest.param(*case, marks=soon.get(case, [pytest.mark.slow])) for case in every]


@pytest.mark.parametrize(("name", "normalized"), cases())
def test_a_model_s_file_acts_as_the_model_does(name: str, normalized: bool, tmp_path: Path):
    model = trained(KINDS[name], normalized)
    path, statistics = saved(model, tmp_path)
    written = export_zip(path, load_task("hopper"), tmp_path / "closed.onnx", statistics)
    worst, restarts = difference(written.path, model)
    assert worst < 1e-6 and restarts >= 2
    assert max(p.ctrl_error for p in written.parity) < 1e-6
    if (name, normalized) != ("ppo", True):
        live = export_model(model, "hopper", tmp_path / "live.onnx")
        assert difference(live.path, model, steps=100)[0] < 1e-6


# -- one model, small --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of Still that has learned nothing yet, and saw it as it is."""
    folder = tmp_path_factory.mktemp("plain")
    model = PPO("MlpPolicy", TaskVecEnv(Cart(), 4, threads=1), n_steps=16, seed=0, **small())
    model.learn(64)
    return saved(model, folder)[0]


def changed(path: Path, folder: Path, told: Any = None, **parts: bytes) -> Path:
    """A copy of a model.zip with parts in place of its own; told: changes its JSON."""
    copy = folder / "changed.zip"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            content = parts.get(name.partition(".")[0], old.read(name))
            if name == "data" and told:
                data = json.loads(content)
                told(data)
                content = json.dumps(data).encode()
            new.writestr(name, content)
    return copy


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
    written = write(Model(policy, env.obs_dim, {}), env, tmp_path / "lstm.onnx")
    assert max(p.carry_error for p in written.parity) < 1e-6
    assert Controller(written.path).contract["carried"][-1]["size"] == 16


class Marker:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_a_model_or_statistics_runs_nothing(plain: Path, tmp_path: Path):
    mark = tmp_path / "ran"
    evil = pickle.dumps(Marker(mark), 2)
    text = {":type:": "<class 'gymnasium.spaces.box.Box'>", ":serialized:": base64.b64encode(evil).decode()}
    for key in ("action_space", "observation_space", "_last_obs", "clip_range"):
        copy = changed(plain, tmp_path, told=lambda data, key=key: data.update({key: text}))
        with contextlib.suppress(ExportError):
            read_zip(copy)
    with pytest.raises(ExportError, match="is no whole model"):
        read_zip(changed(plain, tmp_path, policy=evil))
    (tmp_path / "vec.pkl").write_bytes(evil)
    with pytest.raises(ExportError, match="is no VecNormalize"):
        read_normalize(tmp_path / "vec.pkl")
    assert not mark.exists()
    assert pickle.loads(evil) is None and mark.exists()  # as it would have


def test_statistics_come_out_exact_and_the_rest_as_stubs(tmp_path: Path):
    env = VecNormalize(TaskVecEnv(Cart(), 4, threads=1), clip_obs=5.0)
    env.reset()
    env.step(np.ones((4, 2), np.float32))
    env.save(str(tmp_path / "vec.pkl"))
    found: Any = read_normalize(tmp_path / "vec.pkl")
    rms: Any = env.obs_rms
    assert np.array_equal(found.mean, rms.mean)
    assert np.array_equal(found.std, np.sqrt(rms.var + env.epsilon)) and found.clip == 5.0
    assert type(unpickle(pickle.dumps(Path("x")), "it")) is Stub
    scalars = {"a": np.float64(1.5), "b": np.int64(3), "c": np.arange(6.0).reshape(2, 3).T}
    for protocol in (4, 5):
        again = unpickle(pickle.dumps(scalars, protocol), "it")
        assert all(np.array_equal(again[name], value) for name, value in scalars.items())


def test_the_closed_reader_needs_no_sb3(plain: Path, tmp_path: Path):
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "from robokit.interop.sb3_zip import read_zip\n"
        f"print(read_zip({str(plain)!r}).obs_dim)"
    )
    assert python(code, tmp_path) == str(robokit.make(Cart()).obs_dim)


# -- bad input -----------------------------------------------------------------------------------------------


class Own(ActorCriticPolicy):
    """A policy class of one's own."""


@pytest.mark.medium
def test_an_own_policy_class_needs_trust_and_is_exported_with_it(tmp_path: Path):
    model = PPO(Own, TaskVecEnv(Cart(), 4, threads=1), n_steps=16, seed=0, **small())
    path, _ = saved(model, tmp_path)
    with pytest.raises(NotClosed, match="policy class is of 'test_sb3', whose code would have to run"):
        read_zip(path)
    with pytest.raises(ExportError, match="--trust loads it with Stable-Baselines3, with all your rights"):
        export_zip(path, Cart(), tmp_path / "own.onnx")
    written = export_zip(path, Cart(), tmp_path / "own.onnx", trust=True)
    assert Controller(written.path).contract["origin"]["policy"] == "test_sb3"


class Otherwise(ActorCriticPolicy):
    """Acts with the half of what its networks say."""

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return super()._predict(observation, deterministic) / 2


def test_a_class_that_acts_otherwise_than_its_networks_is_refused(tmp_path: Path):
    model = PPO(Otherwise, TaskVecEnv(Cart(), 4, threads=1), n_steps=16, seed=0, **small())
    with pytest.raises(ExportError, match="Otherwise does not act as its own networks do"):
        export_model(model, Cart(), tmp_path / "own.onnx")


def custom(data: Any) -> None:
    data["policy_kwargs"]["features_extractor_class"] = "<class 'mine.Net'>"


def activated(data: Any) -> None:
    data["policy_kwargs"]["activation_fn"] = "<class 'mine.ReLU'>"


def pictured(data: Any) -> None:
    data["observation_space"] |= {
        ":serialized:": base64.b64encode(pickle.dumps(Box(0, 255, (8, 8, 3)))).decode()
    }


def discrete(data: Any) -> None:
    data["action_space"][":type:"] = "<class 'gymnasium.spaces.discrete.Discrete'>"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (custom, "option 'features_extractor_class', whose code"),
        (activated, "activation \"<class 'mine.ReLU'>\" is not known"),
        (pictured, r"takes a row of numbers and gives one; this takes Box\(8, 8, 3\) and gives Box\(2,\)"),
        (discrete, "and gives Discrete"),
        (lambda data: data.pop("action_space"), "no whole model of Stable-Baselines3: 'action_space'"),
    ],
)
def test_what_a_model_cannot_be_is_said(change: Any, says: str, plain: Path, tmp_path: Path):
    with pytest.raises(ExportError, match=says):
        read_zip(changed(plain, tmp_path, told=change))


def test_a_cut_or_foreign_file_is_refused_by_name(plain: Path, tmp_path: Path):
    cut = tmp_path / "cut.zip"
    cut.write_bytes(plain.read_bytes()[:-500])
    with pytest.raises(ExportError, match=r"cut\.zip is no whole model of Stable-Baselines3"):
        read_zip(cut)
    with pytest.raises(ExportError, match="no whole model"):
        read_zip(changed(plain, tmp_path, policy=b"PK"))
    with pytest.raises(ExportError, match=r"cannot read .*none\.zip: No such file"):
        read_zip(tmp_path / "none.zip")


def test_another_task_s_spaces_are_named_beside_the_model_s(plain: Path, tmp_path: Path):
    with pytest.raises(
        ExportError, match=r"takes 10 numbers and gives 2; the task hopper takes 11 .*'position'"
    ):
        export_zip(plain, load_task("hopper"), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_a_box_of_ctrl_is_the_task_s_and_another_is_refused(plain: Path, tmp_path: Path):
    def boxed(low: list[float], high: list[float]) -> Any:
        space = base64.b64encode(
            pickle.dumps(Box(np.array(low, np.float32), np.array(high, np.float32)))
        ).decode()
        return lambda data: data["action_space"].update({":serialized:": space})

    with pytest.raises(ExportError, match=r"actions lie in .*3.0.* in \[-1, 1\], or as ctrl in \[\[-2.0"):
        export_zip(changed(plain, tmp_path, told=boxed([-3, -3], [3, 3])), Cart(), tmp_path / "x.onnx")
    env = robokit.make(Cart(), num_envs=2, threads=1)
    obs, none, first = env.obs, torch.zeros(2, 0), torch.ones(2, dtype=torch.bool)
    ours = read_zip(plain).policy
    ctrl = read_zip(changed(plain, tmp_path, told=boxed([-2, -0.5], [6, 0.5]))).policy
    mean = ours.head(obs)
    expected = env.map.target(ctrl(obs, none, first)[0].double())  # ctrl of the action is the box's number
    torch.testing.assert_close(expected, mean.double().clamp(env.map.low, env.map.high), rtol=0, atol=1e-6)


@pytest.mark.medium
@pytest.mark.parametrize("task", ["hopper", "half_cheetah"])
def test_a_normalized_run_without_its_statistics_is_told(task: str, tmp_path: Path):
    model = PPO("MlpPolicy", VecNormalize(TaskVecEnv(task, 8, threads=1)), n_steps=64, seed=0, **small())
    model.learn(512)
    path, _ = saved(model, tmp_path)
    with pytest.raises(ExportError, match=r"are those of a VecNormalize .*: give its file with --normalize"):
        export_zip(path, load_task(task), tmp_path / "x.onnx")


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
