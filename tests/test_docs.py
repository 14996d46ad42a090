"""The task files in the documentation keep the task contract."""

import re
from pathlib import Path

import pytest
import torch

import robokit
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
