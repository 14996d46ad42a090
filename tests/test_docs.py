"""The task files in the documentation keep the task contract."""

import re
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
import torch
from reach import but

import robokit
from robokit.cli.command import main
from robokit.env.checks.laws import check_task
from robokit.env.checks.notes import find_notes
from robokit.errors import ModelError
from robokit.task.lookup.find import load_task

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["README.md", "docs/tasks.md"])
def test_the_task_file_of_this_page_runs(page: str, tmp_path: Path):
    [code] = re.findall(r'```python\n("""hop\.py""".*?)```', (ROOT / page).read_text(), re.DOTALL)
    file = tmp_path / "hop.py"
    file.write_text(code)
    env = robokit.make(file, num_envs=2)
    env.reset()
    step = env.step(torch.zeros(2, env.act_dim))
    assert step.obs.shape == (2, 11)
    assert torch.isfinite(step.reward).all()
    assert (step.reward > 0).all()


@pytest.mark.parametrize("name", ["stairs", "stand"])
def test_the_task_files_of_the_page_on_ground_and_robots_keep_the_contract(name: str, tmp_path: Path):
    page = (ROOT / "docs/ground-and-robots.md").read_text()
    [code] = re.findall(rf'```python\n("""{name}\.py""".*?)```', page, re.DOTALL)
    (tmp_path / f"{name}.py").write_text(code)
    task = load_task(tmp_path / f"{name}.py")
    try:
        _ = task.model
    except ModelError as error:
        pytest.skip(f"{name}: {error}")
    assert [law for law in check_task(task, steps=20) if not law.ok] == []


def test_the_action_maps_of_the_page_fit_an_arm_with_a_finger_and_a_wheel():
    [code] = re.findall(
        r"```python\n(from robokit.task import Ctrl, Delta.*?)```",
        (ROOT / "docs/tasks.md").read_text(),
        re.DOTALL,
    )
    found: dict[str, Any] = {}
    exec(code, found)
    env = robokit.make(but(action=found["action"]))
    assert (env.act_dim, env.map.kinds) == (3, ("ctrl", "delta", "hold", "delta"))


def test_the_goal_of_the_task_page_runs_and_keeps_the_contract_without_a_note(tmp_path: Path):
    text = (ROOT / "docs/tasks.md").read_text()
    [code] = re.findall(r'```python\n("""point\.py""".*?)```', text, re.DOTALL)
    (tmp_path / "point.py").write_text(code)
    task = load_task(tmp_path / "point.py")
    assert [law for law in check_task(task, steps=20) if not law.ok] == []
    assert find_notes(task) == []
    env = robokit.make(task, num_envs=4, threads=1)
    env.reset()
    target = env.sim.memory["place"][:, :2].norm(dim=-1)
    assert (target >= 0.05).all()
    assert (target <= 0.18).all()
    assert env.task.headline == "success"


def test_the_task_with_reset_states_and_levels_runs(tmp_path: Path):
    page = (ROOT / "docs/tasks.md").read_text()
    [hop] = re.findall(r'```python\n("""hop\.py""".*?)```', page, re.DOTALL)
    [landing] = re.findall(r"```python\n([^`]*class Landing.*?)```", page, re.DOTALL)
    file = tmp_path / "hop.py"
    file.write_text(f"{hop}\n{landing}")
    assert main(["states", f"{file}:Landing", "-o", str(tmp_path / "poses.npz"), "--number", "50"]) == 0
    env = robokit.make(f"{file}:Landing", num_envs=20, training=True, threads=1)
    begun = env.sim.memory["source"][:, 0] == 1
    assert 0 < begun.sum() < 20 and torch.equal(begun, env.sim.qpos[:, 1] > 1.3)
    assert all(law.ok for law in check_task(env.task, steps=20))


@pytest.fixture(scope="module")
def pup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task file of docs/your-robot.md, with the URDF beside it."""
    [code] = re.findall(
        r'```python\n("""pup\.py""".*?)```', (ROOT / "docs/your-robot.md").read_text(), re.DOTALL
    )
    folder = tmp_path_factory.mktemp("pup")
    copy(ROOT / "docs/your-robot/pup.urdf", folder)
    (folder / "pup.py").write_text(code)
    return folder / "pup.py"


def test_the_robot_from_a_urdf_keeps_the_contract_without_a_note(pup: Path):
    task = load_task(pup)
    assert [law for law in check_task(task, steps=20) if not law.ok] == []
    assert find_notes(task) == []


def test_the_robot_from_a_urdf_stands_with_zero_actions(pup: Path):
    env = robokit.make(pup, num_envs=8, nominal=True, threads=1)
    for _ in range(100):  # 2 s
        step = env.step(torch.zeros(8, env.act_dim))
        assert not step.done.any()
    assert (env.sim.body("base").xpos[:, 2] > 0.19).all()
    assert (env.sim.sensor("up")[:, 2] > 0.99).all()


def test_mujoco_takes_from_a_urdf_what_the_page_says(pup: Path):
    model = robokit.make(pup).sim.model
    joint, body = model.joint("FR_knee").id, [model.body(i).name for i in range(model.nbody)]
    dof = int(model.jnt_dofadr[joint])
    assert model.jnt_range[joint].tolist() == [-2.6, -0.2]
    assert model.jnt_actfrcrange[joint].tolist() == [-6, 6]
    assert (model.dof_damping[dof], model.dof_frictionloss[dof]) == (0.05, 0.05)
    assert model.body_mass.sum() == pytest.approx(5.8)
    assert "base" in body  # thanks to its free joint
    assert "imu_link" not in body
    assert model.ngeom == 1 + 1 + 2 * 4  # the floor and the collisions, no visual


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]
)
def test_every_link_leads_somewhere(page: str):
    file = ROOT / page if (ROOT / page).exists() else ROOT / "docs" / page
    links = re.findall(r"\]\((?!http)([^)#]+)\)", file.read_text())
    assert [link for link in links if not (file.parent / link).exists()] == []


def test_the_reward_table_of_the_first_robot_is_the_task_s():
    rows = re.findall(
        r"^\| `(\w+)` \| (-?[\d.]+) \|", (ROOT / "docs/first-robot.md").read_text(), re.MULTILINE
    )
    assert {name: float(weight) for name, weight in rows} == load_task("go2_walk").weights


def blocks_of_the_first_arm() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs/first-arm.md").read_text(), re.DOTALL)


def test_the_reward_table_of_the_first_arm_is_the_task_s():
    page = (ROOT / "docs/first-arm.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (-?[\d.]+) \|", page, re.MULTILINE)
    assert {name: float(weight) for name, weight in rows} == load_task("arm_lift").weights


def test_goal_action_and_reset_states_of_the_first_arm_are_the_task_s():
    found: dict[str, Any] = {}
    exec("from robokit.task import *\n" + "".join(blocks_of_the_first_arm()[:3]), found)
    task: Any = load_task("arm_lift")
    assert {name: found[name] for name in ("commands", "goal", "action")} == {
        "commands": dict(task.commands),
        "goal": task.goal,
        "action": task.action,
    }
    for name in task.starts:
        own, shown = getattr(type(task), name), found[name]
        assert (shown.file, shown.share, shown.method) == (own.file, own.share, own.method)


def test_the_tracker_of_the_first_arm_is_python():
    [tracker] = [block for block in blocks_of_the_first_arm() if "apriltags" in block]
    compile(tracker, "docs/first-arm.md", "exec")
    assert len(tracker.splitlines()) <= 35


@pytest.mark.slow
def test_every_block_of_the_python_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert len(blocks) == 8
    assert names["report"].returns.mean > 0
    assert names["longer"].steps == 12_000
    assert (tmp_path / "mine/own.onnx").is_file()
    assert names["episodes"]["obs"].shape == (100, 8, 4)


@pytest.mark.medium
def test_the_first_block_of_the_python_page_runs_with_fewer_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    [block, *_] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(block.replace("20_000", "2_048").replace("episodes=50", "episodes=4"), names)
    assert names["run"].steps == 2048
    assert names["report"].returns.mean > 0


def test_the_block_of_the_planning_page_runs():
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/planning.md").read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(block.replace("seconds=2.0", "seconds=0.2, threads=1"), found)
    assert found["planned"].steps == 4


@pytest.mark.medium
@pytest.mark.parametrize("page", ["from-gymnasium", "from-sb3", "from-mjlab"])
def test_the_blocks_of_the_pages_on_others_loops_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In an empty folder; a training of fewer steps."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        short = re.sub(r"\d+0_000\b", "500", block).replace("n_steps=128", "n_steps=8")
        short = short.replace("learning_starts=1_000", "learning_starts=480")
        exec(compile(short, f"docs/{page}.md", "exec"), names)
    made = {"from-gymnasium": "found", "from-sb3": "written", "from-mjlab": "step"}
    assert made[page] in names
