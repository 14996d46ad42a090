"""Every scene of Menagerie at hand, in MENAGERIE_ROOT or the package's cache, is a model of a task."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robokit.env.checks.laws import check_task
from robokit.env.env import Env
from robokit.errors import Error, ModelError
from robokit.sim.menagerie import menagerie
from robokit.sim.model import compile_model, load
from robokit.task.task import Task

package = pytest.importorskip("mujoco_menagerie", reason="needs robokit[menagerie]")
pytestmark = pytest.mark.slow
REFUSED: dict[str, str] = {}  # "robot/scene" -> the reason, in words of the error; docs/ground-and-robots.md


def at_hand() -> list[Any]:
    """The scenes that are here; one case that is skipped, if there are none."""
    found = []
    for robot in package.names():
        for entry in package.get(robot).entry_names:
            try:
                found.append(pytest.param(menagerie(robot, entry), id=f"{robot}/{entry}"))
            except ModelError:
                continue
    where = "no robot of Menagerie here: MENAGERIE_ROOT, or mujoco-menagerie prefetch"
    return found or [pytest.param(Path(), marks=pytest.mark.skip(reason=where), id="none")]


class Held(Task):
    """Every actuator at the middle of its range."""

    time_limit = 1000.0
    weights = {"alive": 1.0}

    def __init__(self, file: Path) -> None:
        self.model, self.control_dt = file, float(compile_model(load(file)).opt.timestep)

    def observe(self, sim: Any) -> dict[str, Tensor]:
        return {"qpos": sim.qpos, "qvel": sim.qvel}

    def rewards(self, sim: Any, action: Tensor) -> dict[str, Tensor]:
        return {"alive": torch.ones(sim.num_envs, device=sim.device)}


@pytest.mark.parametrize("file", at_hand())
def test_a_scene_is_checked_and_stepped_or_refused_with_its_reason(
    file: Path, request: pytest.FixtureRequest
):
    reason = REFUSED.get(request.node.callspec.id, "")
    if reason:
        with pytest.raises(Error, match=reason):
            Env(Held(file))
        return
    assert [law for law in check_task(Held(file), steps=10) if not law.ok] == []
    env = Env(Held(file), 2)
    for _ in range(100):
        assert not env.step(torch.zeros(2, env.act_dim)).bad.any()
    assert env.sim.qpos.isfinite().all()
