"""Models of Stable-Baselines3 are read closed; what cannot be read so, or is not whole, is refused."""

import base64
import contextlib
import os
import pickle  # noqa: TID251
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cart import Cart
from gymnasium.spaces import Box, Dict
from sb3_models import changed, plain_model, saved, small
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from test_packaging import python

import robokit
from robokit.cli.command import main
from robokit.controller import Controller
from robokit.errors import DataError
from robokit.interop.closed import Normalize, Stub, read_normalize, unpickle
from robokit.interop.sb3 import TaskVecEnv, export_model
from robokit.interop.sb3_zip import NotClosed, export_zip, read_zip
from robokit.task.lookup.find import load_task


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_model(tmp_path_factory.mktemp("plain"))


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
        with contextlib.suppress(DataError):
            read_zip(copy)
    with pytest.raises(DataError, match="is no whole model"):
        read_zip(changed(plain, tmp_path, policy=evil))
    (tmp_path / "vec.pkl").write_bytes(evil)
    with pytest.raises(DataError, match="is no VecNormalize"):
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
    mean, std, clip = found.row({"": env.observation_space.shape[0]})  # pyright: ignore[reportOptionalSubscript]
    assert np.array_equal(mean, rms.mean)
    assert np.array_equal(std, np.sqrt(rms.var + env.epsilon)) and (clip == 5.0).all()
    assert type(unpickle(pickle.dumps(Path("x")), "it")) is Stub
    scalars = {"a": np.float64(1.5), "b": np.int64(3), "c": np.arange(6.0).reshape(2, 3).T}
    for protocol in (4, 5):
        again = unpickle(pickle.dumps(OrderedDict(scalars), protocol), "it")
        assert [*again] == [*scalars]
        assert all(np.array_equal(again[name], value) for name, value in scalars.items())


def test_statistics_of_a_goal_s_keys_leave_the_other_keys_alone():
    normalize = Normalize({"b": (np.array([1.0, 2.0]), np.array([3.0, 4.0]))}, clip=10.0)
    mean, std, clip = normalize.row({"a": 1, "b": 2})
    assert mean.tolist() == [0, 1, 2] and std.tolist() == [1, 3, 4]
    assert clip.tolist() == [np.finfo(np.float32).max, 10, 10]
    with pytest.raises(DataError, match=r"has \{'b': 2\}, the model takes \{'b': 3\}: it is of another run"):
        normalize.row({"b": 3})
    with pytest.raises(DataError, match=r"has \{'b': 2\}, the model takes 2 numbers"):
        normalize.row({"": 2})


def test_the_closed_reader_needs_no_sb3(plain: Path, tmp_path: Path):
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "from robokit.interop.sb3_zip import read_zip\n"
        f"print(read_zip({str(plain)!r}).takes[''])"
    )
    assert python(code, tmp_path) == str(robokit.make(Cart()).obs_dim)


# -- bad input -----------------------------------------------------------------------------------------------


class Own(ActorCriticPolicy):
    """A policy class of one's own."""


@pytest.mark.medium
def test_an_own_policy_class_needs_trust_and_is_exported_with_it(tmp_path: Path):
    model = PPO(Own, TaskVecEnv(Cart(), 4, threads=1), n_steps=16, seed=0, **small())
    path, _ = saved(model, tmp_path)
    with pytest.raises(NotClosed, match="policy class is of 'test_sb3_closed', whose code would have to run"):
        read_zip(path)
    with pytest.raises(DataError, match="--trust loads it with Stable-Baselines3, with all your rights"):
        export_zip(path, Cart(), tmp_path / "own.onnx")
    written = export_zip(path, Cart(), tmp_path / "own.onnx", trust=True)
    assert Controller(written.path).contract["origin"]["policy"] == "test_sb3_closed"


class Otherwise(ActorCriticPolicy):
    """Acts with the half of what its networks say."""

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return super()._predict(observation, deterministic) / 2


def test_a_class_that_acts_otherwise_than_its_networks_is_refused(tmp_path: Path):
    model = PPO(Otherwise, TaskVecEnv(Cart(), 4, threads=1), n_steps=16, seed=0, **small())
    with pytest.raises(DataError, match="Otherwise does not act as its own networks do"):
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
        (pictured, r"takes rows of numbers and gives one; this takes Box\(8, 8, 3\) and gives Box\(2,\)"),
        (discrete, "and gives Discrete"),
        (lambda data: data.pop("action_space"), "no whole model of Stable-Baselines3: 'action_space'"),
    ],
)
def test_what_a_model_cannot_be_is_said(change: Any, says: str, plain: Path, tmp_path: Path):
    with pytest.raises(DataError, match=says):
        read_zip(changed(plain, tmp_path, told=change))


def test_a_cut_or_foreign_file_is_refused_by_name(plain: Path, tmp_path: Path):
    cut = tmp_path / "cut.zip"
    cut.write_bytes(plain.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"cut\.zip is no whole model of Stable-Baselines3"):
        read_zip(cut)
    with pytest.raises(DataError, match="no whole model"):
        read_zip(changed(plain, tmp_path, policy=b"PK"))
    with pytest.raises(DataError, match=r"cannot read .*none\.zip: No such file"):
        read_zip(tmp_path / "none.zip")


@pytest.mark.medium
@pytest.mark.parametrize("task", ["hopper", "half_cheetah"])
def test_a_normalized_run_without_its_statistics_is_told(task: str, tmp_path: Path):
    model = PPO("MlpPolicy", VecNormalize(TaskVecEnv(task, 8, threads=1)), n_steps=64, seed=0, **small())
    model.learn(512)
    path, _ = saved(model, tmp_path)
    with pytest.raises(DataError, match=r"are those of a VecNormalize .*: give its file with --normalize"):
        export_zip(path, load_task(task), tmp_path / "x.onnx")


def cameras(data: Any) -> None:
    space = Dict({"camera": Box(0, 255, (8, 8, 3)), "place": Box(-1, 1, (3,))})
    text = base64.b64encode(pickle.dumps(space)).decode()
    data["observation_space"] = {":type:": "<class 'gymnasium.spaces.dict.Dict'>", ":serialized:": text}


WRONG: dict[str, tuple[Any, list[str], str]] = {
    "cut": (lambda path, folder: cut(path, folder), [], "is no whole model of Stable-Baselines3"),
    "absent": (lambda path, folder: folder / "none.zip", [], "cannot read .*none.zip: No such file"),
    "statistics": (lambda path, folder: path, ["--normalize", "no.pkl"], "cannot read no.pkl: No such file"),
    "pictures": (lambda path, folder: changed(path, folder, told=pictured), [], "this takes Box(8, 8, 3)"),
    "cameras": (lambda path, folder: changed(path, folder, told=cameras), [], "this takes Dict{'camera': (8"),
    "own": (lambda path, folder: changed(path, folder, told=custom), [], "with all your rights"),
    "lost": (lambda path, folder: changed(path, folder, told=lost), ["--trust"], "No module named 'mine'"),
    "task": (lambda path, folder: path, [], "takes 10 numbers and gives 2; the task hopper takes 11"),
}


def cut(path: Path, folder: Path) -> Path:
    (folder / "cut.zip").write_bytes(path.read_bytes()[:-500])
    return folder / "cut.zip"


def lost(data: Any) -> None:
    data["policy_class"]["__module__"] = "mine"
    text = base64.b64encode(b"cmine\nPolicy\n.").decode()
    data["policy_class"] |= {":type:": "<class 'abc.ABCMeta'>", ":serialized:": text}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_model_is_wrong_input_told_in_one_line_before_work_begins(
    case: str,
    plain: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    make, more, says = WRONG[case]
    assert main(["export", str(make(plain, tmp_path)), "--task", "hopper", *more]) == 2
    told = capsys.readouterr().err
    lines = [line for line in told.splitlines() if not line.startswith("trusted: ")]
    assert len(lines) == 1 and says.replace(".*none.zip", f"{tmp_path}/none.zip") in lines[0]
    assert not (tmp_path / "policies").exists()


def test_a_zip_damaged_anywhere_is_read_or_refused_and_never_breaks_the_reader(plain: Path, tmp_path: Path):
    content, rng, refused = plain.read_bytes(), np.random.default_rng(0), 0
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    packed = (tmp_path / "d.zip").read_bytes()
    wholes = [content[:n] for n in rng.integers(0, len(content), 20)]
    for whole in (content, packed):
        places = rng.integers(0, len(whole), 40)
        wholes += [whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :] for at in places]
    for number, damaged in enumerate(wholes):
        (tmp_path / "x.zip").write_bytes(damaged)
        try:
            read_zip(tmp_path / "x.zip")
        except DataError:
            refused += 1
        assert (
            refused == number + 1 or number >= 20
        )  # whatever is cut; a flipped bit may be in what is not read
    assert refused >= 40


def test_a_model_of_ars_must_be_told_whether_it_was_normalized(plain: Path, tmp_path: Path):
    def ars(data: Any, name: str = "ARSLinearPolicy") -> None:
        data["policy_class"] |= {"__module__": "sb3_contrib.ars.policies", "__init__": f"<{name}>"}

    torch.save({"action_net.0.weight": torch.zeros(2, 10)}, stored := BytesIO())  # noqa: TID251
    path = changed(plain, tmp_path, told=ars, policy=stored.getvalue())
    assert read_zip(path).takes == {"": 10}
    with pytest.raises(DataError, match="ARS does not tell whether it had a VecNormalize: give its file"):
        export_zip(path, Cart(), tmp_path / "x.onnx")
    torch.save({"other": torch.zeros(2)}, none := BytesIO())  # noqa: TID251
    with pytest.raises(DataError, match="its layers do not end in its box of 2 actions"):
        read_zip(changed(plain, tmp_path, told=lambda data: ars(data, "ARSPolicy"), policy=none.getvalue()))
