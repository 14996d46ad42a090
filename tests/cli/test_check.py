"""`robokit check TASK`: what fails on the way hides nothing else, and it draws from no one's generator."""

import json
from pathlib import Path
from typing import Any

import mujoco
import pytest
import torch
from slide import MODEL, OWN, write
from torch import Tensor

import robokit.sim.model
from robokit.cli.command import main
from robokit.env.env import Env
from robokit.networks.policy import Policy

BALL = '<body name="ball" pos="1 0 1"><freejoint/><geom size=".1"/></body></worldbody>'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test in an empty folder with ./tasks/slide.py."""
    monkeypatch.chdir(tmp_path)
    write(Path("tasks"))


def rows(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code and findings by name."""
    capsys.readouterr()
    code = main(["check", "slide", "--json", *options])
    return code, {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_an_observation_that_raises_far_away_is_a_note_beside_the_laws(capsys: pytest.CaptureFixture[str]):
    Path("tasks/slide.xml").write_text(MODEL.replace("</worldbody>", BALL))
    table = "torch.ones(500, 1, device=sim.device)[(10 * sim.qpos[:, 1].nan_to_num(0)).long()]"
    near = f'{{"slide": sim.qpos[:, :1], "near": {table}}}'
    Path("tasks/slide.py").write_text("import torch" + OWN.replace('{"slide": sim.qpos}', near))
    code, found = rows(capsys)
    assert code == 0, [row for row in found.values() if not row["ok"]]
    assert {"contract", "pure", "rollout", "recipe ppo", "export"} < found.keys()
    said = found["observation"]["detail"]
    assert said.startswith("Slide.observe (slide.py, line 15) raised IndexError: ")
    assert ", with " in said and "shifted by 100 or -100: clamp" in said


def test_the_model_of_a_task_is_compiled_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    compiled: list[mujoco.MjModel] = []
    plain = robokit.sim.model._compile

    def counted(spec: mujoco.MjSpec) -> mujoco.MjModel:
        compiled.append(plain(spec))
        return compiled[-1]

    monkeypatch.setattr(robokit.sim.model, "_compile", counted)
    code, found = rows(capsys)
    assert code == 0 and "export" in found
    assert len(compiled) == 1


def test_a_task_that_breaks_in_the_rehearsal_keeps_its_laws(capsys: pytest.CaptureFixture[str]):
    broken = '{"slide": sim.qpos / (len(sim.qpos) != 64 or [])}'  # where the export rehearses
    Path("tasks/slide.py").write_text(OWN.replace('{"slide": sim.qpos}', broken))
    code, found = rows(capsys)
    assert code == 1 and found["rollout"]["ok"] and not found["export"]["ok"]
    assert "Slide.observe (slide.py, line" in found["export"]["detail"]


def test_the_rehearsed_policy_depends_on_no_ones_generator_and_on_the_algorithm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    seen: list[dict[str, Tensor]] = []

    def rehearse(policy: Policy, env: Env) -> None:
        seen.append(policy.state_dict())

    monkeypatch.setattr("robokit.cli.check.rehearse", rehearse)
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        assert rows(capsys)[1]["export"]["detail"] == "an untrained policy of ppo passes the gate"
        assert torch.equal(torch.random.get_rng_state(), before)
    one, other = seen
    assert all(torch.equal(x, other[name]) for name, x in one.items())
    said = rows(capsys, "--algo", "sac")[1]["export"]["detail"]
    assert said == "an untrained policy of sac passes the gate"
    assert main(["check", "slide", "--algo", "ppa"]) == 2
    assert "no algorithm 'ppa'; did you mean 'ppo'?" in capsys.readouterr().err
    assert main(["check", "a.onnx", "--algo", "sac"]) == 2
    assert "--algo goes with a task: a.onnx is none" in capsys.readouterr().err
