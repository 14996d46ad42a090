"""Foreign policies in files of ours.

foreign/*.onnx were made by benchmarks/foreign_policies.py: weights of our own training, of robokit's licence,
written by the exporters of mjlab 1.6.0 (Apache-2.0) and rsl_rl 5.4.2 (BSD-3-Clause), of whose code they hold
nothing."""

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robokit.cli.command import main
from robokit.controller import Controller, ort
from robokit.env.env import Env
from robokit.errors import DataError, ExportError, OptionError
from robokit.export.file import Exported
from robokit.export.gate import record
from robokit.export.write import export
from robokit.interop import adapted
from robokit.interop.foreign import adopt
from robokit.interop.foreign.adopt import Fit, adopt_policy
from robokit.interop.foreign.graph import read_foreign
from robokit.interop.foreign.template import draft, read_template
from robokit.task.lookup.find import load_task

FILES = Path(__file__).parent / "foreign"
PAGE = Path(__file__).parents[2] / "docs/adopt.md"
PARTS = {"hip": (0.12345, 0.12345), "thigh": (0.25, 0.9), "calf": (0.31416, -1.8)}  # scale and default, exact
LEGS = {"ours": ("FR", "FL", "RR", "RL"), "theirs": ("FL", "FR", "RL", "RR")}
T, RESET_EVERY = 1000, 97


def joints(legs: str) -> list[str]:
    return [f"{leg}_{part}" for leg in LEGS[legs] for part in PARTS]


def scale_of(joint: str) -> float:
    return PARTS[joint[3:]][0]


def default_of(joint: str) -> float:
    return PARTS[joint[3:]][1] * (-1 if joint in ("FR_hip", "RR_hip") else 1)


def told(legs: str = "ours", **changes: Any) -> dict[str, Any]:
    """A filled in template. Of `theirs` the joints have a suffix, as in Unitree's own models."""
    order = joints(legs)
    own = {
        "obs": "obs",
        "action": "actions",
        "joints": [f"{joint}_joint" * (legs == "theirs") or joint for joint in order],
        "default": [default_of(joint) for joint in order],
        "scale": [scale_of(joint) for joint in order],
        "control_dt": 0.02,
        "kp": 40.0,
        "kd": [1.0] * 12,
        "terms": [
            {"name": "base_ang_vel", "term": "gyro", "scale": 0.25, "clip": [-10.0, 10.0]},
            {"name": "projected_gravity", "term": "up", "times": -1.0, "history": 2},
            {"name": "command", "term": "velocity", "scale": [2.0, 2.0, 0.25]},
            {"name": "joint_pos", "term": "joint_pos", "minus_default": True, "history": 3},
            {"name": "joint_vel", "term": "joint_vel", "scale": 0.05, "clip": [-4.0, 4.0]},
            {"name": "actions", "term": "last_action"},
        ],
    }
    return own | changes


def states(kind: str) -> dict[str, str]:
    return {
        name: name.replace("in", "out") for name in {"lstm": ("h_in", "c_in"), "gru": ("h_in",)}.get(kind, ())
    }


def written(folder: Path, template: dict[str, Any]) -> Path:
    path = folder / "template.json"
    path.write_text(json.dumps(template))
    return path


@pytest.fixture(scope="module")
def env() -> Env:
    return Env(load_task("go2_walk"), 4, nominal=True, threads=1)


def exported(kind: str, legs: str, env: Env, folder: Path) -> Path:
    graph = read_foreign(FILES / f"{kind}.onnx")
    template = read_template(written(folder, told(legs, state=states(kind))), graph)
    policy = Fit(graph, template, env).policy()
    return export(policy, env, folder / "new.onnx", recording=record(policy, env, 200)).path


# -- what the file does --------------------------------------------------------------------------------


def readings(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Raw terms of go2_walk, (T, d) each, wide enough that the clips act."""
    home = np.array([0.0, 0.9, -1.8] * 4)
    rows = {
        "gyro": 4 * rng.standard_normal((T, 3)),
        "up": rng.standard_normal((T, 3)),
        "joint_pos": home + 0.3 * rng.standard_normal((T, 12)),
        "joint_vel": 3 * rng.standard_normal((T, 12)),
        "velocity": rng.uniform(-0.5, 0.5, (T, 3)),
        "base_lin_vel": rng.standard_normal((T, 3)),
    }
    return {name: row.astype(np.float32) for name, row in rows.items()}


def pipeline(kind: str, legs: str, rows: dict[str, np.ndarray], resets: np.ndarray) -> np.ndarray:
    """The foreign controller, plainly: targets (T, 12) in the order of our actuators."""
    session: Any = ort.InferenceSession(FILES / f"{kind}.onnx")
    order = [joints("ours").index(joint) for joint in joints(legs)]
    default = np.array([default_of(joint) for joint in joints(legs)], np.float32)
    scale = np.array([scale_of(joint) for joint in joints(legs)])
    state, last, ups, places = {}, np.zeros(12), [], []
    targets = np.zeros((T, 12))
    for t in range(T):
        if resets[t]:
            state = {name: np.zeros((1, 1, 16), np.float32) for name in states(kind)}
            last = np.zeros(12, np.float32)
        up, place = -rows["up"][t], rows["joint_pos"][t][order] - default
        ups = [up] * 2 if resets[t] else [*ups[1:], up]
        places = [place] * 3 if resets[t] else [*places[1:], place]
        obs = [
            0.25 * np.clip(rows["gyro"][t], -10, 10),
            *ups,
            rows["velocity"][t] * np.array([2.0, 2.0, 0.25]),
            *places,
            0.05 * np.clip(rows["joint_vel"][t][order], -4, 4),
            last,
        ]
        feed = {"obs": np.concatenate(obs)[None].astype(np.float32), **state}
        actions, *after = session.run(["actions", *states(kind).values()], feed)
        last, state = actions[0], dict(zip(state, after, strict=True))
        targets[t, order] = default + scale * actions[0]
    return targets


def check(file: Path, kind: str, legs: str, env: Env, least: float = 0.9) -> None:
    """Equal over T control periods with resets; least: share of the targets within reach."""
    controller, rows = Controller(file, robot="go2"), readings(np.random.default_rng(0))
    resets = np.arange(T) % RESET_EVERY == 0
    found, seen = np.zeros((T, 12)), {n: row for n, row in rows.items() if n in controller.inputs}
    for t in range(T):
        if resets[t]:
            controller.reset()
        found[t] = controller.step({name: row[t] for name, row in seen.items()})
    expected = pipeline(kind, legs, rows, resets)
    low, high = env.map.lowest.numpy(), env.map.highest.numpy()
    assert ((low <= expected) & (expected <= high)).mean() >= least
    assert expected.std(0).min() > 0.005 and resets.sum() > 10
    assert np.abs(found - expected.clip(low, high)).max() <= 1e-6


@pytest.mark.parametrize(
    ("kind", "legs"),
    [
        pytest.param("lstm", "theirs", marks=pytest.mark.medium),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("mlp", "ours"), ("gru", "theirs"))),
    ],
)
def test_a_controller_equals_the_foreign_pipeline_over_1000_periods_with_resets(
    kind: str, legs: str, env: Env, tmp_path: Path
):
    check(exported(kind, legs, env, tmp_path), kind, legs, env)


@pytest.mark.medium
def test_a_template_is_begun_filled_in_and_the_file_is_like_our_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adapted, "ENVS", 4)
    monkeypatch.setattr(adopt, "record", partial(record, steps=100))
    (tmp_path / "walk.onnx").write_bytes((FILES / "mlp.onnx").read_bytes())
    command = ["adopt", "walk.onnx", "--task", "go2_walk"]
    assert main(command) == 0
    template = json.loads(Path("walk.template.json").read_text())
    assert template["scale"][:3] == [0.123, 0.25, 0.314]  # 3 decimals
    assert main(command) == 2
    assert "fill in terms[0].term, terms[1].term, terms[2].term" in capsys.readouterr().err
    [block] = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    Path("walk.template.json").write_text(block)
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out.startswith("policies/walk.onnx: equal within ")
    assert "FR_hip -0.123, not 0" in err and "the task's reach" in err
    contract = Exported.open("policies/walk.onnx").contract
    assert contract["origin"]["package"] == "adopted" and contract["origin"]["file"] == "walk.onnx"
    assert [(a["kp"], a["kd"]) for a in contract["actuators"]] == [(40.0, 1.0)] * 12
    assert main(["check", "policies/walk.onnx"]) == 0
    assert main(["evaluate", "policies/walk.onnx", "--episodes", "2"]) == 0
    Path("numbers.json").write_text('{"slew": 8.0}')
    assert main(["filter", "policies/walk.onnx", "numbers.json"]) == 0


@pytest.mark.medium
def test_in_the_task_of_the_page_a_file_equals_the_pipeline_and_mjlab_itself(tmp_path: Path):
    [block] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    exec(block, names)
    wide = Env(names["Wide"](), 4, nominal=True, threads=1)
    file = exported("mlp", "ours", wide, tmp_path)
    check(file, "mlp", "ours", wide, least=0.98)  # the rest is beyond ctrlrange
    with np.load(FILES / "mlp.npz") as recorded:
        rows = {name: recorded[name] for name in recorded}
    assert rows["first"].sum() >= 3 and len(rows["first"]) == 220
    controller, low, high = Controller(file), wide.map.lowest.numpy(), wide.map.highest.numpy()
    for t, first in enumerate(rows["first"]):
        if first:
            controller.reset()
        obs = {name: rows[name][t] for name in controller.inputs if name != "base_lin_vel"}
        found = controller.step({**obs, "base_lin_vel": np.zeros(3)})  # which this policy does not see
        assert np.abs(found - rows["targets"][t].clip(low, high)).max() < 1e-5


# -- what is refused, and what is named ----------------------------------------------------------------


def refused(env: Env, tmp_path: Path, kind: str = "gru", legs: str = "ours", **changes: Any) -> str:
    """What is said of a template with changes, before any file is written."""
    graph, whole = read_foreign(FILES / f"{kind}.onnx"), told(legs, **{"state": states(kind), **changes})
    with pytest.raises((DataError, ExportError)) as error:
        Fit(graph, read_template(written(tmp_path, whole), graph), env).policy()
    return str(error.value)


def noted(env: Env, tmp_path: Path, **changes: Any) -> list[str]:
    graph, whole = read_foreign(FILES / "gru.onnx"), told(**{"state": states("gru"), **changes})
    fit = Fit(graph, read_template(written(tmp_path, whole), graph), env)
    fit.policy()
    return fit.notes


def terms(**changes: dict[str, Any]) -> dict[str, Any]:
    """Terms with changes, by their foreign names."""
    return {"terms": [term | changes.get(term["name"], {}) for term in told()["terms"]]}


def swapped(key: str, i: int, j: int) -> dict[str, Any]:
    values = [*told()[key]]
    values[i], values[j] = values[j], values[i]
    return {key: values}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"joint": []}, "unknown key 'joint'; did you mean 'joints'?"),
        (terms(command={"tems": 1}), "terms[2] has an unknown key 'tems'"),
        ({"joints": None, "scale": None}, "fill in joints, scale"),
        (terms(command={"term": None}), "fill in terms[2].term"),
        ({"scale": "much"}, "scale must be of the type"),
        ({"scale": [0.25] * 11}, "scale must be one number, or 12, got 11"),
        ({"scale": 0}, "scale must not be 0"),
        (terms(command={"history": 0}), "history must be from 1 to 1000, got 0"),
        (terms(command={"clip": [1, -1]}), "clip must be [low, high]"),
        (terms(command={"scale": [1, 2]}), "must be one number, or 3, got 2"),
        (terms(command={"columns": [0, 1, 3]}), "'velocity' has 3 columns, not [0, 1, 3]"),
        (terms(joint_vel={"minus_default": True}), "`minus_default` is for joint positions"),
        (terms(joint_vel={"columns": [0]}), "`columns` for what are no joints' readings"),
        (terms(base_ang_vel={"term": "gyros"}), "no observation 'gyros'; did you mean 'gyro'?"),
        (
            terms(command={"columns": [0, 1], "scale": 1.0}),
            "takes 72 numbers, the terms have 71: base_ang_vel 3 x 1",
        ),
        ({"state": {}}, "named are ['obs'], the graph has ['obs', 'h_in']"),
        ({"state": {"h_in": "actions"}, "action": "actions"}, "must be outputs of the graph, each once"),
        (
            {"action": "h_out", "state": {"h_in": "actions"}},
            "`obs` and `action` must be rows, and a state of the shape of its next value",
        ),
        (swapped("joints", 1, 2), "are `default` and `joints` in one order?"),
        (
            swapped("default", 1, 2),
            "the default of 'FR_thigh', -1.8, is beyond its range, -1.5708 to 3.4907",
        ),
        ({"joints": [*joints("ours")[:11], "FR_hip"]}, "must be joints of the model"),
        ({"joints": [*joints("ours")[:11], "RL_clf"]}, "did you mean 'RL_calf'?"),
        ({"joints": joints("ours")[:11], "default": [0.0] * 11}, "is beyond its range"),
        ({"default": [0.0] * 12}, "the default of 'FR_calf', 0, is beyond its range"),
        ({"control_dt": 0.05}, "control_dt is 0.05 s for the foreign policy, 0.02 s in go2_walk"),
        ({"kp": 20.0}, "kp of 'FR_hip' is 20 for the foreign policy, 40 in the model"),
        ({"kd": [1.0] * 11 + [3.0]}, "kd of 'RL_calf' is 3 for the foreign policy, 1"),
    ],
)
def test_a_template_that_does_not_fit_is_refused_before_work(
    env: Env, tmp_path: Path, changes: dict[str, Any], words: str
):
    assert words in refused(env, tmp_path, **changes)


def test_eleven_joints_for_twelve_actions_are_refused(env: Env, tmp_path: Path):
    changes = {key: told()[key][:11] for key in ("joints", "default")}
    assert "has 12 actions; of its joints the model drives" in refused(env, tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (swapped("joints", 0, 3), "joints[0] is 'FL_hip'; the metadata of mlp.onnx says 'FR_hip'"),
        ({"scale": [0.124] * 12}, "scale[0] is 0.124; the metadata of mlp.onnx says 0.123"),
        (swapped("default", 0, 3), "default[0] is 0.12345; the metadata of mlp.onnx says -0.123"),
        ({"kp": [41.0] * 12}, "kp[0] is 41.0; the metadata of mlp.onnx says 40.0"),
        (terms(joint_pos={"history": 2}), "terms[3].history is 2; the metadata of mlp.onnx says 3"),
        (terms(base_ang_vel={"clip": None}), "terms[0].clip[0] is None; the metadata of mlp.onnx says -10.0"),
        ({"terms": told()["terms"][:5]}, "terms is [{"),
    ],
)
def test_a_template_that_contradicts_the_metadata_is_refused(
    env: Env, tmp_path: Path, changes: dict[str, Any], words: str
):
    assert words in refused(env, tmp_path, kind="mlp", **changes)


def test_other_poses_unknown_gains_and_unchecked_orders_are_named(env: Env, tmp_path: Path):
    mirrored = noted(env, tmp_path, **swapped("default", 0, 3))
    assert "FR_hip 0.12345, not 0; FL_hip -0.12345, not 0" in mirrored[0]
    assert noted(env, tmp_path, default=[0.0, 0.9, -1.8] * 4) == []
    assert noted(env, tmp_path, kp=None)[1].startswith("kp of the foreign policy is not known")
    other = noted(env, tmp_path, **terms(joint_vel={"term": "action"}))  # of 12 columns too
    assert "the order of 'action' is not checked" in other[-1]


def test_a_scale_in_degrees_is_refused_by_its_targets(env: Env, tmp_path: Path):
    def reach(scale: float) -> list[str]:
        graph, whole = read_foreign(FILES / "gru.onnx"), told(scale=scale, state=states("gru"))
        fit = Fit(graph, read_template(written(tmp_path, whole), graph), env)
        policy = fit.policy()
        record(policy, env, 30)
        fit.check_reach(policy)
        return fit.notes[1:]  # after the pose's

    [line] = reach(0.25)
    assert 0.0 < float(line.split()[4]) < 1.0
    assert "beyond the reach" in reach(0.8)[0]
    with pytest.raises(ExportError, match=r"control periods: a wrong scale, default or order\?"):
        reach(14.3)


# -- foreign files -------------------------------------------------------------------------------------


def graph_of(
    nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], opset: int = 18, weights: Any = ()
) -> bytes:
    """A file of an ONNX graph of these nodes."""
    takes, gives = (
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in of.items()]
        for of in (inputs, outputs)
    )
    graph = helper.make_graph(nodes, "foreign", takes, gives, weights)
    of = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=of, ir_version=8).SerializeToString()


F, ROW = TensorProto.FLOAT, (TensorProto.FLOAT, [1, 4])
IDENTITY = [helper.make_node("Identity", ["obs"], ["actions"])]


def one_row_alone() -> bytes:
    """As of a batch's mean: rows are not independent."""
    nodes = [
        helper.make_node("ReduceMean", ["obs", "axes"], ["m"]),
        helper.make_node("Sub", ["obs", "m"], ["actions"]),
    ]
    return graph_of(
        nodes, {"obs": ROW}, {"actions": ROW}, weights=[numpy_helper.from_array(np.array([0]), "axes")]
    )


def looped() -> bytes:
    body = helper.make_graph([], "b", [], [])
    return graph_of(
        [helper.make_node("If", ["c"], ["actions"], then_branch=body, else_branch=body)],
        {"obs": ROW, "c": (TensorProto.BOOL, [])},
        {"actions": ROW},
    )


def random() -> bytes:
    return graph_of(
        [helper.make_node("RandomNormalLike", ["obs"], ["actions"])], {"obs": ROW}, {"actions": ROW}
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: b"", "cannot be read as ONNX"),
        (lambda: b"no onnx", "cannot be read as ONNX"),
        (lambda: (FILES / "mlp.onnx").read_bytes()[:-500], "cannot be read as ONNX"),
        (lambda: (FILES / "lstm.onnx").read_bytes(), "lstm.onnx.data"),
        (one_row_alone, "differs from each row's"),
        (random, "operator ::RandomNormalLike"),
        (
            lambda: graph_of(IDENTITY, {"obs": (F, [1, 4, 4, 4])}, {"actions": (F, [1, 4, 4, 4])}),
            "must be rows of float32",
        ),
        (
            lambda: graph_of(
                IDENTITY, {"obs": (TensorProto.INT64, [1, 4])}, {"actions": (TensorProto.INT64, [1, 4])}
            ),
            "it is INT64 [1, 4]",
        ),
        (
            lambda: graph_of(IDENTITY, {"obs": (F, [1, "n"])}, {"actions": (F, [1, "n"])}),
            "it is FLOAT [1, 0]",
        ),
    ],
)
def test_a_foreign_file_that_is_not_fit_is_refused(tmp_path: Path, content: Callable[[], bytes], words: str):
    (tmp_path / "foreign.onnx").write_bytes(content())
    with pytest.raises(DataError) as error:
        read_foreign(tmp_path / "foreign.onnx")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_file_or_a_file_of_ours_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match=str(path)):
            read_foreign(path)
    with pytest.raises(OptionError, match="is a file of robokit already"):
        read_foreign(Path(__file__).parents[2] / "policies/hopper.onnx")


def test_weights_in_another_folder_are_refused(tmp_path: Path):
    model = onnx.load(FILES / "gru.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../gru.onnx.data" if entry.key == "location" else entry.value
    (tmp_path / "inner").mkdir()
    (tmp_path / "gru.onnx.data").write_bytes((FILES / "gru.onnx.data").read_bytes())
    (tmp_path / "inner/gru.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match="must lie beside it"):
        read_foreign(tmp_path / "inner/gru.onnx")


def test_a_second_input_that_nobody_named_is_refused(env: Env, tmp_path: Path):
    """As of mjlab's tracking policies, which take a time step."""
    nodes = [helper.make_node("Add", ["obs", "time_step"], ["actions"])]
    content = graph_of(nodes, {"obs": ROW, "time_step": (F, [1, 1])}, {"actions": ROW})
    (tmp_path / "foreign.onnx").write_bytes(content)
    graph = read_foreign(tmp_path / "foreign.onnx")
    assert draft(graph, env)["obs"] is None
    with pytest.raises(DataError, match=r"named are \['obs'\], the graph has \['obs', 'time_step'\]"):
        read_template(written(tmp_path, told()), graph)


def test_older_operators_are_converted_and_two_layers_have_two_states(tmp_path: Path):
    weights = [numpy_helper.from_array(np.array([0]), "axes")]
    nodes = [
        helper.make_node("Unsqueeze", ["obs"], ["m"], axes=[0]),
        helper.make_node("Squeeze", ["m"], ["actions"], axes=[0]),
    ]
    content = graph_of(nodes, {"obs": ROW}, {"actions": ROW}, opset=11, weights=weights[:0])
    (tmp_path / "foreign.onnx").write_bytes(content)
    graph = read_foreign(tmp_path / "foreign.onnx")
    assert (graph.inputs, graph.outputs) == ({"obs": (4,)}, {"actions": (4,)})
    assert read_foreign(FILES / "lstm.onnx").inputs == {"obs": (72,), "h_in": (1, 16), "c_in": (1, 16)}


def test_the_foreign_file_is_not_overwritten(env: Env, tmp_path: Path):
    path = tmp_path / "gru.onnx"
    for name in ("gru.onnx", "gru.onnx.data"):
        (tmp_path / name).write_bytes((FILES / name).read_bytes())
    template = written(tmp_path, told(state=states("gru")))
    with pytest.raises(OptionError, match="is the foreign file itself"):
        adopt_policy(path, "go2_walk", template, path)
