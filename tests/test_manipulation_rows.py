"""benchmarks/manipulation.py: its rows, its record, and the loop without robokit."""

import ast
import json
import sys
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import torch

import robokit
from robokit.task.lookup.find import load_task

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
bench: Any = __import__("manipulation")
plain_lift: Any = __import__("plain_lift")


def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *more: str) -> int:
    monkeypatch.chdir(ROOT)
    own = ["--record", str(tmp_path / "rows.jsonl"), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["manipulation.py", *own, *more])
    return bench.main()


def test_rows_have_names_of_their_own_and_the_first_ones_are_a_seed_of_each_cell():
    rows = bench.rows()
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    cells = {f"{t}-{k}-0" for t in ("reach", "push", "lift", "stack") for k in ("clean", "real")}
    assert set(names[:10]) == cells | {"so101_reach-real-0", "so101_lift-real-0"}
    assert all(name.rsplit("-", 1)[1] in "12" for name in names[-30:])


@pytest.mark.parametrize("name", [n for n, (task, _) in bench.WITHOUT.items() if ":" in task])
def test_a_lift_without_a_piece_is_a_task_that_steps(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    env = robokit.make(bench.WITHOUT[name][0], num_envs=2, training=True, threads=1)
    env.reset()
    assert torch.isfinite(env.step(torch.full((2, env.act_dim), 0.1)).reward).all()
    assert env.sim.memory["target"].shape == (2, 8)


def test_a_finished_row_is_not_run_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "rows.jsonl").write_text('{"row": "lift-clean-0"}\n')
    assert start(monkeypatch, tmp_path, "--row", "lift-clean-0", "--set", "--steps", "none") == 0
    assert "lift-clean-0 is done" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_what_is_missing_is_listed_with_its_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "rows.jsonl").write_text('{"row": "lift-clean-0"}\n')
    start(monkeypatch, tmp_path, "--list")
    lines = capsys.readouterr().out.splitlines()
    assert "done     lift-clean-0" in lines
    assert "not run  python benchmarks/manipulation.py --row lift-real-0" in lines
    assert len(lines) == len(bench.rows())


@pytest.mark.parametrize("tail", ['{"row": "lift-real-0", "success": [0.', '{"row": "lift-real-0"}', "[]\n"])
def test_a_record_whose_last_line_is_not_whole_is_refused(tmp_path: Path, tail: str):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"row": "lift-clean-0"}\n' + tail)
    with pytest.raises(SystemExit, match=r"rows\.jsonl, line 2 is no whole row"):
        bench.recorded(file)


def test_the_plain_loop_knows_nothing_of_robokit():
    tree = ast.parse((ROOT / "benchmarks/plain_lift.py").read_text())
    modules = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    assert modules == {"argparse", "json", "math", "os", "mujoco", "numpy", "onnxruntime"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))


def test_the_plain_loop_reads_what_the_task_observes():
    task: Any = load_task("arm_lift")
    env = robokit.make(task, num_envs=1, nominal=True, threads=1)
    env.reset()
    env.step(torch.full((1, env.act_dim), 0.5))
    model = task.model.compile()
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = env.sim.qpos[0].numpy(), env.sim.qvel[0].numpy()
    mujoco.mj_forward(model, data)
    found = plain_lift.readings(data, env.sim.memory["goal"][0].numpy())
    terms = env.terms()
    for name, value in found.items():
        np.testing.assert_allclose(value, terms[name][0].numpy(), atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_row_is_trained_evaluated_and_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    sizes = {"steps": 128, "num-envs": 8, "horizon": 8, "minibatch": 64, "hidden": 8, "compile": False}
    small = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    more = ["--threads", "1", "--episodes", "4", "--row", "lift-real-0", "--set", *small]
    assert start(monkeypatch, tmp_path, *more) == 0
    [row] = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert (row["row"], row["steps"], row["episodes"], row["threads"]) == ("lift-real-0", 128, 4, [1, 1])
    assert row["curve"][-1][0] == 128
    assert (
        {*row["limits"]} == {*row["filtered"]["limits"]} == {"joint_speed", "torque", "table_force", "tilt"}
    )
    assert start(monkeypatch, tmp_path, "--episodes", "4", "--row", "plain") == 0
    plain = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[1])
    assert plain["same"]["episodes"] == plain["elliptic, impratio 10, 2 ms"]["episodes"] == 4
