"""Films show the exported file itself; only films need a renderer."""

import os
import resource
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from arm import Arm, make_policy
from imageio_ffmpeg import get_ffmpeg_exe
from point import but

from robokit.algos.ppo import Config, Learner
from robokit.controller import Controller, load
from robokit.env.env import Env, make
from robokit.errors import OptionError, RunError, TaskError
from robokit.evaluation.episodes import onnx_actor
from robokit.export.write import export
from robokit.show.film import check_film, control_steps, goal_mark, periods_per_frame, write_film
from robokit.show.window import watch
from robokit.sim import render
from robokit.sim.engines import make_sim
from robokit.sim.model import load as load_model
from robokit.sim.render import MARK, Camera, Mark, RenderError, choose_backend, window
from robokit.task.command import Command
from robokit.task.goal import Goal
from robokit.task.lookup.find import load_task

TASK = "inverted_pendulum"


def can_draw() -> bool:
    try:
        return bool(choose_backend())
    except RenderError:
        return False


draws = pytest.mark.skipif(not can_draw(), reason="needs EGL or OSMesa")


def test_without_ffmpeg_a_film_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(OptionError, match=r"imageio_ffmpeg is not installed: pip install 'robokit\[show\]'"):
        check_film(Path("a.mp4"), None, 640, 480)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported file of a policy that has learned nothing yet."""
    task, path = load_task(TASK), tmp_path_factory.mktemp("policy") / "policy.onnx"
    task.history = 3
    env = Env(task, 8, threads=1)
    config = Config(num_envs=8, horizon=8, minibatch=64, hidden=(4,), belief="stack")
    export(Learner(env, config).policy, env, path)
    return path


@pytest.mark.medium
def test_what_is_shown_is_what_evaluate_measures(policy: Path):
    env, act = make(TASK, 1, seed=5), onnx_actor(load(policy))
    first, ends = torch.ones(1, dtype=torch.bool), 0
    env.reset()
    for shown in islice(control_steps(Controller(policy), make(TASK, 1, seed=5)), 100):
        step = env.step(act(env, first))
        assert torch.equal(shown.obs, step.obs)
        first, ends = step.done, ends + int(step.done)
    assert ends >= 2  # a history that a new episode kept would show


def test_a_file_whose_ctrl_the_tasks_actions_no_longer_stand_for_is_refused(policy: Path):
    env = make(TASK, 1)
    env.map = replace(env.map, half=env.map.half * 1e-3)
    with pytest.raises(TaskError, match=r"ctrl of 'slide' differs from .*\.action by .* the file another"):
        list(islice(control_steps(Controller(policy), env), 20))


@draws
@pytest.mark.medium
def test_a_command_is_held_through_the_film_and_said_to_be_clipped_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    env = Env(Arm(), 8, threads=1)
    export(make_policy(env), env, tmp_path / "arm.onnx")
    for command, said in (
        (0.3, ""),
        (3.0, "speed 3 clipped to 0.3 (trained range -0.1 to 0.3), 50 steps\n"),
    ):
        env = Env(Arm(), threads=1)
        env.hold({"speed": (command,)})
        write_film(tmp_path / "arm.onnx", env, tmp_path / "a.mp4", 1.0, width=64, height=48)
        assert capsys.readouterr().err == said
        assert env.terms()["speed"].item() == pytest.approx(command)


@draws
@pytest.mark.medium
@pytest.mark.parametrize(("suffix", "frames"), [("mp4", 25), ("gif", 25)])
def test_a_film_has_a_frame_for_every_control_period_that_a_screen_can_show(
    policy: Path, tmp_path: Path, suffix: str, frames: int
):
    env = make(TASK, 1, seed=1)
    assert env.task.control_dt == 0.04  # s: 25 Hz, below both limits
    write_film(policy, env, tmp_path / f"a.{suffix}", 1.0, width=64, height=48)
    decode = [get_ffmpeg_exe(), "-v", "error", "-i", str(tmp_path / f"a.{suffix}"), "-f", "rawvideo"]
    done = subprocess.run([*decode, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, 48, 64, 3)
    assert len(pictures) == frames
    assert (pictures[0] != pictures[-1]).any()
    assert [p.name for p in tmp_path.iterdir()] == [f"a.{suffix}"]


@draws
def test_a_film_of_an_episode_begins_at_its_start_and_does_not_show_the_next_one(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    task, ages, frame = load_task(TASK), list[float](), Camera.frame
    task.time_limit = 0.24  # s, six control periods
    env = Env(task, 1, seed=1, threads=1)
    env.step(torch.zeros(1, env.act_dim))

    def noted(camera: Camera, mark: Mark | None = None) -> Any:
        ages.append(float(env.sim.memory["age"]))
        return frame(camera, mark)

    monkeypatch.setattr(Camera, "frame", noted)
    write_film(policy, env, tmp_path / "a.mp4", width=64, height=48)
    assert ages == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "name", ["arm_lift", "arm_push", "arm_reach", "arm_stack", "arm_lift:So101", "go2_walk"]
)
def test_a_goal_s_colour_is_that_of_no_robot_or_object(name: str):
    spec = load_model(load_task(name).model)
    colours = [geom.rgba[:3] for geom in spec.geoms]
    assert min(np.linalg.norm(MARK[:3] - colour) for colour in colours) > 0.5


def test_a_fast_task_is_thinned_to_what_a_screen_can_show():
    assert [periods_per_frame(dt, ".mp4") for dt in (0.04, 0.02, 0.01, 0.008)] == [1, 2, 3, 4]
    assert [periods_per_frame(dt, ".gif") for dt in (0.04, 0.02, 0.01, 0.008)] == [1, 2, 4, 5]


@draws
@pytest.mark.medium
def test_the_picture_follows_the_simulation_and_leaves_it_alone():
    env = make(TASK, 1)
    before = {name: value.clone() for name, value in env.state_dict().items()}
    size = env.sim.model.vis.global_.offwidth, env.sim.model.vis.quality.offsamples
    with Camera(env.sim, 64, 48) as camera:
        first, same = camera.frame(), camera.frame()
        assert all(bool((value == env.state_dict()[name]).all()) for name, value in before.items())
        env.sim.qpos[:, 1] = 0.8  # rad
        tilted = camera.frame()
    assert first.std() > 5
    assert np.array_equal(first, same)
    assert (first != tilted).any(-1).mean() > 0.01
    assert (env.sim.model.vis.global_.offwidth, env.sim.model.vis.quality.offsamples) == size


WALKER = """
<mujoco>
  <worldbody>
    <camera name="side" pos="0 -1 0" xyaxes="1 0 0 0 0 1"/>
    <body>
      <joint type="slide" axis="1 0 0"/><geom type="box" size=".2 .1 .1" mass="1"/>
      CAMERA
    </body>
  </worldbody>
</mujoco>
"""


@draws
@pytest.mark.medium
def test_the_camera_called_track_is_taken_and_goes_with_the_robot():
    follows = '<camera name="track" mode="trackcom" pos="0 -1 0" xyaxes="1 0 0 0 0 1"/>'
    seen = {}
    for camera in (follows, ""):
        sim = make_sim("mujoco", mujoco.MjSpec.from_string(WALKER.replace("CAMERA", camera)), 1, {})
        with Camera(sim, 64, 48) as drawn:
            near = drawn.frame()
            sim.qpos[:] = 8.0  # m
            seen[camera] = near, drawn.frame()
    assert np.array_equal(*seen[follows])
    assert seen[follows][0].std() > 5
    assert not np.array_equal(*seen[""])  # the camera at the side stays there


@draws
@pytest.mark.medium
def test_a_film_larger_than_the_models_own_canvas_is_drawn_whole():
    env = make(TASK, 1)
    assert env.sim.model.vis.global_.offwidth < 1280
    with Camera(env.sim, 1280, 960) as camera:
        right = camera.frame()[:, 1000:]
    assert right.std() > 0 or right.max() > 0


@pytest.mark.medium
def test_what_cannot_be_filmed_is_refused_and_nothing_is_written(policy: Path, tmp_path: Path):
    with pytest.raises(OptionError, match=r"a film is one of .*, got 'a\.avi'"):
        write_film(policy, make(TASK, 1), tmp_path / "a.avi")
    with pytest.raises(OptionError, match="seconds must be > 0, got 0"):
        write_film(policy, make(TASK, 1), tmp_path / "a.mp4", seconds=0.0)
    with pytest.raises(OptionError, match="even numbers of pixels, got 63 x 48"):
        write_film(policy, make(TASK, 1), tmp_path / "a.mp4", width=63, height=48)
    with pytest.raises(OptionError, match="shows one simulation, got an environment of 2"):
        write_film(policy, make(TASK, 2), tmp_path / "a.mp4")
    with pytest.raises(TaskError, match=r"for InvertedPendulum does not fit Hopper; .* control_dt: "):
        write_film(policy, make("hopper", 1), tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


@draws
@pytest.mark.medium
@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_a_film_that_does_not_fit_on_the_disk_leaves_the_old_one(policy: Path, tmp_path: Path, suffix: str):
    (tmp_path / f"a.{suffix}").write_bytes(b"the old one")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(RunError, match="cannot write"):
            write_film(policy, make(TASK, 1), tmp_path / f"a.{suffix}", 0.4, width=64, height=48)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(f"a.{suffix}", b"the old one")]


def test_without_anything_to_draw_with_the_packages_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(render, "BACKENDS", ("nowhere",))
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(RenderError, match="apt install libegl1 libgl1-mesa-dri"):
        choose_backend()
    monkeypatch.setattr(render, "BACKENDS", ("egl", "nowhere"))
    monkeypatch.setenv("MUJOCO_GL", "nowhere")
    with pytest.raises(RenderError, match="MUJOCO_GL=nowhere does not work here, and no other is tried"):
        choose_backend()


@pytest.mark.medium
def test_without_a_screen_the_window_says_so(policy: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RenderError, match="no screen"):
        watch(policy, make(TASK, 1))


def test_a_screen_that_is_not_there_is_an_error_and_no_wait(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":77")
    with pytest.raises(RenderError, match="no window can be opened"), window(make(TASK, 1).sim):
        pass


def test_nothing_but_a_film_needs_something_to_draw_with():
    code = "import robokit.cli.train, sys; print('OpenGL' in sys.modules, 'mujoco.egl' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr


def marked(command: Command, marker: Any, place: tuple[float, ...]) -> Env:
    env = Env(but(commands={"place": command}, goal=Goal("place", "tip", 0.2, marker=marker)), 1, threads=1)
    env.sim.memory["place"][:] = torch.tensor(place)
    return env


BOUNDS = (-1.0,) * 3, (1.0,) * 3


def test_a_goal_is_marked_in_the_frame_of_its_command():
    assert goal_mark(Env(but(), 1, threads=1)) is None
    at = goal_mark(marked(Command(*BOUNDS), "sphere", (0.1, 0.2, 0.3)))
    assert at is not None
    assert (at.kind, at.size) == ("sphere", 0.2)
    assert at.place.tolist() == pytest.approx([0.1, 0.2, 0.3])
    # the mast stands at x = .5 and is turned about z by 90 degrees: its x is the world's y
    turned = goal_mark(marked(Command(*BOUNDS, unit="m", frame="site mast"), "arrow", (0.1, 0.2, 0.3)))
    assert turned is not None
    assert turned.start.tolist() == pytest.approx([0.5, 0.0, 0.0])
    assert turned.place.tolist() == pytest.approx([0.5 - 0.2, 0.1, 0.3])
    # the third number is an angle, and no height
    units = Command(*BOUNDS, unit=("m", "m", "rad"))
    flat = goal_mark(marked(units, "box", (0.1, 0.2, 0.3)))
    assert flat is not None
    assert flat.place.tolist() == pytest.approx([0.1, 0.2, 0.0])


@draws
@pytest.mark.medium
@pytest.mark.parametrize("marker", ["sphere", "box", "arrow"])
def test_the_marker_is_drawn_where_the_goal_is_and_leaves_the_simulation_alone(marker: str):
    env = marked(Command(*BOUNDS), marker, (0.6, 0.0, 0.6))
    before = {name: value.clone() for name, value in env.state_dict().items()}
    with Camera(env.sim, 96, 96) as camera:
        plain, shown, after = camera.frame(), camera.frame(goal_mark(env)), camera.frame()
    changed = (plain != shown).any(-1)
    assert np.array_equal(plain, after)
    rows, columns = np.nonzero(changed)
    assert changed.any()
    assert columns.min() > 40  # to the right of the middle, x > 0
    assert rows.max() < 56  # and above it, z > 0
    assert all(bool((value == env.state_dict()[name]).all()) for name, value in before.items())
