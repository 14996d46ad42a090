"""The exported file equals the policy, holds a correct contract, and is complete or absent."""

import contextlib
import dataclasses
import hashlib
import json
import os
import resource
import signal
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from arm import Arm, Blind, make_policy
from safetensors.torch import save

import robokit
from robokit.controller import ContractError, Controller, ObservationError
from robokit.env.env import Env
from robokit.errors import ExportError, OptionError
from robokit.export.card import write_card
from robokit.export.file import Exported, gaps
from robokit.export.gate import TOLERANCE
from robokit.export.weights import read_weights, weights_bytes, weights_path
from robokit.export.write import Written, _staged, _swap, export, install
from robokit.networks.policy import Policy

PARENT = {"name": "arm/1", "sha256": "ab", "steps": 3}


@dataclasses.dataclass
class Made:
    """One export of Arm, and what it was made of."""

    env: Env
    policy: Policy
    report: Written
    contract: dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    env = robokit.make(Arm, num_envs=4, threads=1)
    policy = make_policy(env)
    path = tmp_path_factory.mktemp("export") / "arm.onnx"
    report = export(policy, env, path, commit="abc", parent=PARENT)
    return Made(env, policy, report, Exported.open(report.path).contract)


def closed_loop(path: Path, policy: Policy, env: Env, steps: int) -> tuple[float, int]:
    """The worst difference from the policy, of the actuator range, and how many episodes ended."""
    controller = Controller(path, robot="arm", control_dt=0.02)
    obs, first, ends, worst = env.reset(), torch.ones(1, dtype=torch.bool), 0, 0.0
    belief = torch.zeros(1, policy.belief_size)
    for _ in range(steps):
        given = {name: value[0].numpy() for name, value in env.terms().items() if name != "action"}
        ctrl = controller.step(given)
        with torch.no_grad():
            action, belief = policy(obs, belief, first)
        expected = (env.map.center + env.map.half * action[0]).clamp(env.map.low, env.map.high)
        worst = max(worst, float(((expected - torch.from_numpy(ctrl)).abs() / (2 * env.map.half)).max()))
        step = env.step(action)
        obs, first = step.obs, step.done
        if first:
            controller.reset()
            ends += 1
    return worst, ends


@pytest.mark.medium
def test_a_policy_that_uses_no_carry_has_the_same_signature(tmp_path: Path) -> None:
    env = robokit.make(Blind, num_envs=2, threads=1)
    policy = make_policy(env, "memoryless")
    report = export(policy, env, tmp_path / "arm.onnx")
    worst, ends = closed_loop(report.path, policy, robokit.make(Blind, threads=1), 200)
    assert worst <= TOLERANCE
    assert ends >= 5


def test_the_controller_equals_the_policy_across_episodes_with_stack_and_previous_action(made: Made) -> None:
    worst, ends = closed_loop(made.report.path, made.policy, robokit.make(Arm, threads=1, seed=3), 400)
    assert worst <= TOLERANCE
    assert ends >= 10


class Named(Blind):
    """Its terms are called like what is within a graph, and like a name made to differ from that."""

    names = ("linear", "tanh", "policy.head.0.weight", "/sub", "terms_0", "val_1")

    def observe(self, sim: Any) -> dict[str, torch.Tensor]:
        return {name: sim.sensor("gyro") + i for i, name in enumerate(self.names)}


@pytest.mark.medium
def test_a_term_may_be_called_like_anything_within_the_graph(tmp_path: Path) -> None:
    env = robokit.make(Named, num_envs=2, threads=1)
    policy = make_policy(env, "memoryless")
    path = export(policy, env, tmp_path / "arm.onnx").path
    assert [*Controller(path).inputs] == [*Named.names]
    graph = onnx.load(path).graph
    within = {*(t.name for t in graph.initializer), *(name for node in graph.node for name in node.output)}
    assert within & {"ctrl", "carry_next", *Named.names} == {"ctrl", "carry_next"}


def test_the_parent_and_the_figures_of_the_gate_stand_in_the_contract(made: Made) -> None:
    assert made.contract["parent"] == PARENT
    assert made.contract["parity"] == [dataclasses.asdict(p) for p in made.report.parity]


def test_nan_does_not_pass_the_exported_file(made: Made) -> None:
    controller = Controller(made.report.path)
    good = {name: np.zeros(size) for name, size in controller.inputs.items()}
    before = controller.step(good)
    for name, size in controller.inputs.items():
        with pytest.raises(ObservationError, match=name):
            controller.step({**good, name: np.full(size, np.nan)})
    controller.reset()
    assert np.array_equal(controller.step(good), before)


def test_the_contract_says_what_the_robot_must_know(made: Made) -> None:
    contract = made.contract
    assert (contract["task"], contract["robot"], contract["control_dt"]) == ("Arm", "arm", 0.02)
    assert [(i["name"], i["size"]) for i in contract["inputs"]] == [
        ("speed", 1), ("gyro", 3), ("angle", 1), ("rail", 2), ("product", 1)
    ]  # fmt: skip
    assert contract["carried"] == [
        {"name": "action", "size": 2, "start": [0.0] * 2},
        {"name": "belief", "size": 3 * made.env.obs_dim, "start": [0.0] * 3 * made.env.obs_dim},
    ]
    assert (contract["schema"], contract["kind"]) == (2, "policy")
    assert contract["least"] == {"onnxruntime": "1.15", "ir": 8, "opset": 18}
    assert contract["commands"] == {"speed": {"low": [-0.1], "high": [0.3]}}
    assert contract["versions"]["torch"] == version("torch")  # of PyPI's CUDA build without its +cu130
    assert contract["hashes"]["commit"] == "abc"


def test_units_frames_and_sources_come_from_the_model(made: Made) -> None:
    facts = {i["name"]: (i["source"], i["unit"], i["frame"]) for i in made.contract["inputs"]}
    assert facts["angle"] == ("angle", "rad", "joint axis")
    assert facts["rail"] == (["rail", "rail velocity"], ["m", "m/s"], "joint axis")
    assert facts["product"] == (None, None, None)  # computed: the model does not say
    # only the gyro's y axis ever moves in a plane
    assert facts["gyro"] == ([None, "gyro[1]", None], [None, "rad/s", None], [None, "site imu", None])


def test_actuators_carry_range_unit_gains_and_default_at_full_precision(made: Made) -> None:
    motor, servo = made.contract["actuators"]
    assert motor == {
        "name": "rail",
        "unit": "3.0 N",
        "joint": "rail",
        "joint_range": None,
        "force_range": None,
        "low": -1.0,
        "high": 1.0,
        "default": 0.125,
        "map": "around",
        "scale": 0.3,
    }
    assert servo == {
        "name": "servo", "unit": "rad", "kp": 0.1, "kd": 0.0004, "joint": "shoulder", "joint_range": None,
        "force_range": None, "low": -1.0, "high": 1.0, "default": 0.875, "map": "around", "scale": 0.3,
    }  # fmt: skip


def test_gaps_are_named(made: Made) -> None:
    assert set(made.report.gaps) == set(gaps(made.contract))
    assert {"inputs.product.unit", "inputs.gyro.unit.0"} <= set(made.report.gaps)
    assert not {"actuators.servo.kp", "evaluation"} & set(made.report.gaps)  # the card has the evaluation
    assert gaps({"a": None, "b": [{"name": "c", "d": None}, 1], "e": {"f": [None]}}) == (
        "a",
        "b.c.d",
        "e.f.0",
    )


def test_the_file_does_not_tell_where_it_was_made(made: Made) -> None:
    assert str(Path(__file__).parents[2]).encode() not in made.report.path.read_bytes()


def test_the_sha256_stands_beside_in_the_form_that_sha256sum_checks(made: Made) -> None:
    path = made.report.path
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert Path(f"{path}.sha256").read_text() == f"{digest}  arm.onnx\n"
    assert made.report.sha256 == digest
    names = ["arm.onnx", "arm.onnx.sha256", "arm.safetensors"]
    assert sorted(p.name for p in path.parent.iterdir()) == names


def test_the_weights_stand_beside_by_the_names_of_the_contract_and_are_the_policy_s(made: Made) -> None:
    file = Exported.open(made.report.path)
    state, layout = read_weights(file)
    own = made.policy.state_dict()
    assert state.keys() == own.keys() and all(torch.equal(state[key], own[key]) for key in own)
    assert {k: n for k, n in layout.terms.items() if k != "action"} == Controller(file).inputs
    assert [*layout.actuators] == Controller(file).actuators
    assert (layout.kind, layout.belief, layout.hidden, layout.activation) == (
        "Gaussian", "stack", (16,), "tanh"
    )  # fmt: skip
    assert layout.history == dict.fromkeys(made.env.names.obs, 3)
    content = weights_path(file.path).read_bytes()
    assert made.contract["hashes"]["weights"] == hashlib.sha256(content).hexdigest()
    assert weights_bytes(state, layout) == content  # one policy, one hash


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Path:
    """The export, in a folder of its own."""
    for path in made.report.path.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / "arm.onnx"


def test_weights_that_are_missing_damaged_or_of_another_export_are_refused(made: Made, copied: Path) -> None:
    file, weights = Exported.open(copied), weights_path(copied)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ContractError, match=r"arm\.safetensors has sha256 .*the contract of arm\.onnx says"):
        read_weights(file)
    weights.unlink()
    with pytest.raises(OptionError, match=r"there is no .*arm\.safetensors: export its run again"):
        read_weights(file)
    older = file._replace(contract={**file.contract, "hashes": {"model": {}, "commit": None}})
    with pytest.raises(
        OptionError, match=r"arm\.onnx was exported without its weights: export its run again"
    ):
        read_weights(Exported(*older))


@pytest.mark.parametrize(
    "about", [None, "{", "[]", "{}", '{"schema": 9}', '{"schema": 1, "terms": {}}', '{"schema": 1}']
)
def test_numbers_that_are_no_policy_are_refused(copied: Path, about: str | None) -> None:
    file, weights = Exported.open(copied), weights_path(copied)
    content = save({"x": torch.zeros(1)}, None if about is None else {"robokit.policy": about})
    weights.write_bytes(content)
    hashes = {"weights": hashlib.sha256(content).hexdigest()}
    with pytest.raises(ContractError, match=r"arm\.safetensors holds no policy that is known here"):
        read_weights(Exported(*file._replace(contract={**file.contract, "hashes": hashes})))


def test_reading_weights_runs_no_code(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle in their place is no safetensors file, even under the right hash."""
    monkeypatch.chdir(copied.parent)
    content = b"cos\nmkdir\n(S'sprung'\ntR."
    weights_path(copied).write_bytes(content)
    hashes = {"weights": hashlib.sha256(content).hexdigest()}
    file = Exported.open(copied)
    with pytest.raises(ContractError, match="holds no policy"):
        read_weights(Exported(*file._replace(contract={**file.contract, "hashes": hashes})))
    assert not Path("sprung").exists()


def test_a_card_tells_what_the_file_is_worth(made: Made, tmp_path: Path) -> None:
    for name in ("arm.onnx", "arm.onnx.sha256"):
        (tmp_path / name).write_bytes((made.report.path.parent / name).read_bytes())
    card = json.loads(
        write_card(Exported.open(tmp_path / "arm.onnx"), {"return": 12.5, "costs": {}}).read_text()
    )
    assert card == {
        "task": "Arm", "robot": "arm", "commit": "abc", "sha256": made.report.sha256, "return": 12.5,
        "parent": PARENT,
        "costs": {}, "parity_error": max(p.ctrl_error for p in made.report.parity),
    }  # fmt: skip


class Killed(BaseException):
    """Runs no `except OSError`, like a kill."""


@pytest.fixture
def old(made: Made, tmp_path: Path) -> Path:
    """An export that must survive."""
    install(made.report.path.read_bytes(), tmp_path / "arm.onnx", b"its weights")
    return tmp_path / "arm.onnx"


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 4 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def newer(old: Path) -> bytes:
    """Another valid export."""
    model = onnx.load(old)
    model.producer_version = "later"
    return model.SerializeToString()


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@contextlib.contextmanager
def broken_rename(number: int, error: BaseException) -> Iterator[None]:
    """The `number`th rename in here raises."""
    rename, calls = Path.replace, iter(range(1, 100))

    def replace(self: Path, target: Path) -> Path:
        if next(calls) == number:
            raise error
        return rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        yield


def test_a_full_disk_leaves_the_older_export_and_nothing_else(old: Path, full_disk: None) -> None:
    before = contents(old.parent)
    with pytest.raises(ExportError, match=r"cannot write .*arm\.onnx"):
        install(newer(old), old, b"others")
    assert contents(old.parent) == before


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("name", ["arm.onnx", "fresh.onnx"])
def test_a_failed_rename_leaves_everything_as_it_was(old: Path, number: int, name: str) -> None:
    before, data = contents(old.parent), newer(old)
    with broken_rename(number, OSError("no space")), pytest.raises(ExportError, match="no space"):
        install(data, old.with_name(name), b"others")
    assert contents(old.parent) == before


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_kill_at_any_rename_leaves_a_whole_export(old: Path, number: int) -> None:
    first, second = old.read_bytes(), newer(old)
    with broken_rename(number, Killed()), pytest.raises(Killed):
        install(second, old, b"others")
    Controller(old)
    assert old.read_bytes() == (second if number == 4 else first)
    assert weights_path(old).read_bytes() == (b"its weights" if number < 3 else b"others")
    install(second, old, b"others")  # and the next one tidies up
    assert len(Path(f"{old}.sha256").read_text().splitlines()) == 1


def test_a_folder_that_cannot_be_made_is_an_export_error(old: Path) -> None:
    with pytest.raises(ExportError, match="cannot write"):
        install(old.read_bytes(), old / "inside a file" / "arm.onnx")


def test_an_export_computes_with_one_torch_thread_and_the_callers_number_returns(tmp_path: Path) -> None:
    env, seen = Env(Arm(), 2, threads=1), set[int]()
    policy = make_policy(env, "memoryless")
    policy.register_forward_pre_hook(lambda *_: seen.add(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        export(policy, env, tmp_path / "arm.onnx")
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("suffix", [".onnx.sha256", ".safetensors"])
def test_a_pipe_beside_an_export_is_replaced_and_never_read(tmp_path: Path, suffix: str):
    """To read it would wait for ever."""

    def stop(*_: object) -> None:
        raise TimeoutError("it was read")

    path, staged = tmp_path / "p.onnx", tmp_path / "staged" / "p.onnx"
    staged.parent.mkdir()
    path.write_bytes(b"old")
    odd = tmp_path / f"p{suffix}"
    os.mkfifo(odd)
    file, listing, _, weights = _staged(staged)
    for new, content in ((file, b"new"), (listing, b"sums"), (weights, b"weights")):
        new.write_bytes(content)
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(5)
    try:
        _swap(staged, path)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert path.read_bytes() == b"new"
    assert odd.is_file()
