"""`robokit demo`: the shipped quadruped, in a window or as a film."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import slide

from robokit.cli.command import main
from robokit.env.env import Env
from robokit.export.file import Exported
from robokit.sim.render import RenderError

Shown = list[tuple[str, Any]]
WALK = ("Go2Walk", "Go2Walk")
TASKS = {"go2_walk": WALK, "a": WALK, "arm_lift": ("arm_lift:Clean", "Clean")}  # file and task of a film


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What is shown in an empty folder without a screen: ("window", seconds) or ("film", its path)."""
    seen: Shown = []

    def film(file: Exported, env: Env, path: Path, *_: Any) -> None:
        env.reset()
        assert (file.contract["task"], type(env.task).__name__) == TASKS[path.stem]
        if path.stem != "arm_lift":
            assert env.sim.memory["velocity"][0].tolist() == pytest.approx([0.8, 0.0, 0.0])
        seen.append(("film", path))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robokit.calls.policies.write_film", film)
    monkeypatch.setattr(
        "robokit.calls.policies.watch", lambda file, env, seconds, own: seen.append(("window", seconds))
    )
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return seen


def test_without_a_screen_it_is_a_film(shown: Shown, capsys: pytest.CaptureFixture[str]):
    slide.write(Path("tasks")).rename("tasks/go2_walk.py")  # an own task of that name is not what is shown
    assert main(["demo"]) == 0
    assert shown == [("film", Path("go2_walk.mp4"))]
    out, err = capsys.readouterr()
    assert out == "go2_walk.mp4\n"
    assert err == "filming go2_walk.onnx, told to walk forward at 0.8 m/s, to go2_walk.mp4\n"


def test_another_robot_is_named(shown: Shown, capsys: pytest.CaptureFixture[str]):
    assert main(["demo", "arm_lift"]) == 0
    assert shown == [("film", Path("arm_lift.mp4"))]
    assert capsys.readouterr().err == "filming arm_lift-Clean.onnx to arm_lift.mp4\n"


def test_with_a_screen_it_is_a_window_unless_a_film_is_asked_for_or_the_window_fails(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("DISPLAY", ":0")
    assert main(["demo", "--seconds", "3"]) == main(["demo", "--film", "-o", "a.gif"]) == 0
    assert shown == [("window", 3.0), ("film", Path("a.gif"))]

    def fail(*_: Any) -> None:
        raise RenderError("no window today")

    monkeypatch.setattr("robokit.calls.policies.watch", fail)
    capsys.readouterr()
    assert main(["demo"]) == 0
    assert shown[2:] == [("film", Path("go2_walk.mp4"))]
    assert capsys.readouterr().err.startswith("no window today; a film instead\n")


def test_a_renderer_that_mujoco_cannot_load_is_one_line():
    run = [sys.executable, "-m", "robokit", "check", "hopper"]
    done = subprocess.run(run, env={**os.environ, "MUJOCO_GL": "nowhere"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("robokit: MuJoCo cannot load the renderer of MUJOCO_GL=nowhere: unset it")
    assert done.stderr.count("\n") == 1
