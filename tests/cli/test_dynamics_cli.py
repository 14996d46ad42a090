"""`robokit dynamics` and `robokit export --part dynamics`, on short runs of a known and of a goal's task."""

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch
from point import Point
from test_svg import SMALL, _short as _short, learner_of

import robokit
from robokit.calls.dynamics import _goals
from robokit.cli.command import main
from robokit.dynamics import distance, inverse
from robokit.dynamics.calibration import pieces
from robokit.dynamics.imagine import Model
from robokit.env.env import Env
from robokit.training.run import Run

pytestmark = pytest.mark.medium
OPTIONS: dict[str, Any] = SMALL | {
    "ends": "learned",
    "num_envs": 2,
    "learning_starts": 300,
    "replay": 1000,
    "steps": 600,
}


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (distance, inverse):
        monkeypatch.setattr(module, "STEPS", 20)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return robokit.train("inverted_pendulum", "svg", runs=tmp_path, **OPTIONS)


def test_a_run_is_judged_as_text_json_and_picture_and_its_model_exported(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    where = str(run.path)
    assert main(["dynamics", where, "-o", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    found = json.loads((tmp_path / "out/dynamics.json").read_text())
    for line in ("likelihood: ", "disagreement and error: ", "ends, by the classifier: ", "found: "):
        assert f"\n{line}" in text
    assert "as the task tells them" not in text  # --ends learned
    assert found["steps"] == found["transitions"] >= 600 and found["goals"] is None
    assert [*found["outputs"]] == ["position", "velocity", "reward"]
    assert found["rows"]["1"] > 300 and 0 <= found["stopped"] <= 1 and len(found["delays"]) == 5
    assert 0 < found["ends"]["learned"]["ends"] < 300
    loop = found["open_loop"]["1"]["position"]
    assert all(value > 0 for value in loop.values())
    picture = matplotlib.image.imread(tmp_path / "out/dynamics.png")
    assert picture.shape[0] > 300 and picture[..., :3].std() > 0.05
    assert main(["dynamics", where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found  # one seed, one report
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert main(["export", where, "--part", "dynamics", "--json", "-o", str(tmp_path / "files")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["parity_error"] <= 1e-5
    names = ["inverted_pendulum.dynamics.onnx", "inverted_pendulum.dynamics.onnx.sha256"]
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == names
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    for verb in ("check", "play", "evaluate"):
        assert main([verb, said["file"]]) == (1 if verb == "check" else 2)
        out, err = capsys.readouterr()
        assert "holds a 'dynamics', and a Controller runs a 'policy'" in out + err


def test_goals_of_a_task_are_listed_near_to_far():
    learner, rng = learner_of(Point), torch.Generator().manual_seed(0)  # type: ignore[arg-type]
    for _ in range(25):
        learner.iterate()
    windows = pieces(learner.agent, learner.replay, 100, 20, rng)
    goals = _goals(learner.env, learner.agent.model, windows, rng)
    assert goals is not None
    steps = [row["steps"] for part in ("near", "far") for row in goals[part]]
    assert steps == sorted(steps) and 0 < len(steps) <= 6 and 0 <= goals["unseen"] < goals["number"]
    assert {len(row["goal"]) for row in (*goals["near"], *goals["far"])} == {3}
    unseen = type(
        "Unseen", (Point,), {"observe": lambda self, sim: {"speed": sim.qvel, "place": sim.memory["place"]}}
    )
    blind = Env(
        type("Blind", (unseen,), {"privileged": lambda self, sim: {"tip": sim.site("tip").xpos}})(),
        1,
        threads=1,
    )
    assert _goals(blind, Model(blind, 0, 0, 2, ()), windows, rng) is None


def test_runs_without_a_model_and_impossible_places_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    own: dict[str, Any] = {"steps": 40, "learning_starts": 20, "batch": 8}
    run = robokit.train("inverted_pendulum", "sac", runs=tmp_path, **own)
    for words in (["dynamics"], ["export", "--part", "dynamics"]):
        assert main([words[0], str(run.path), *words[1:]]) == 2
        assert "is a run of sac, which learns no model: train with --algo svg" in capsys.readouterr().err
    assert main(["dynamics", str(tmp_path)]) == 2
    assert main(["export", str(run.path), "--part", "dynamics", "-o", "x.onnx"]) == 2
    assert "the output must be a folder, for <task>.dynamics.onnx, got x.onnx" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["dynamics", str(run.path), "-o", str(tmp_path / "file")]) == 2
