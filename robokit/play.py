"""An exported file at work in one simulation, as a film or in MuJoCo's window.

    film("hopper.onnx", robokit.make("hopper"), "hopper.mp4", seconds=10.0)

What is seen is what the robot would do: the file runs behind Controller, with its checks.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import torch

from robokit.controller import Controller
from robokit.env import Env, Step
from robokit.errors import OptionError, RunError
from robokit.sim.facts import model_name
from robokit.sim.render import Camera, window

SUFFIXES = (".mp4", ".gif")
MAX_FPS = {".mp4": 30.0, ".gif": 25.0}
SECONDS = 20.0  # of a film nobody gave a length to, at most


def steps(controller: Controller, env: Env) -> Iterator[Step]:
    """Control periods of the file in `env`'s one simulation, one episode after the other, without end."""
    env.reset()
    controller.reset()
    while True:
        terms = {name: term[0].cpu().numpy() for name, term in env.terms().items()}
        ctrl = torch.from_numpy(controller.step({name: terms[name] for name in controller.inputs}))
        step = env.step((ctrl.to(env.action_center) - env.action_center)[None] / env.action_half)
        if bool(step.done):
            controller.reset()
        yield step


def film(
    policy: str | Path,
    env: Env,
    path: str | Path,
    seconds: float | None = None,
    width: int = 640,
    height: int = 480,
) -> float:
    """Write an mp4 or gif of `seconds` of simulated time, whole or not at all; the sum of rewards in it.

    The length is that of an episode, at most 20 s, where none is given.

    Raises OptionError for another kind of file, RenderError where nothing can be drawn, ContractError for a
    file of another robot or rate, RunError when the disk is full or may not be written.
    """
    path, controller = Path(path), _controller(policy, env)
    if path.suffix not in SUFFIXES:
        raise OptionError(f"a film is one of {SUFFIXES}, got {path.name!r}")
    seconds = min(env.task.time_limit, SECONDS) if seconds is None else seconds
    if not seconds > 0:
        raise OptionError(f"seconds must be > 0, got {seconds}")
    every = max(1, round(1 / (env.task.control_dt * MAX_FPS[path.suffix])))  # control periods a frame
    total, count = 0.0, max(1, round(seconds / env.task.control_dt))
    with Camera(env.sim, width, height) as camera, _writer(path, every * env.task.control_dt) as writer:
        for n, step in zip(range(count), steps(controller, env), strict=False):
            total += float(step.reward)
            if n % every == 0:
                writer.append_data(camera.frame())
    return total


def watch(policy: str | Path, env: Env, seconds: float | None = None) -> float:
    """Show the file at work, in real time, until the window is closed or `seconds` are over; as `film`."""
    controller, total, began = _controller(policy, env), 0.0, time.monotonic()
    with window(env.sim) as show:
        for n, step in enumerate(steps(controller, env), 1):
            total += float(step.reward)
            now = n * env.task.control_dt
            if not show() or (seconds is not None and now >= seconds):
                return total
            time.sleep(max(0.0, began + now - time.monotonic()))
    raise AssertionError


def _controller(policy: str | Path, env: Env) -> Controller:
    if env.num_envs != 1:
        raise OptionError(f"play shows one simulation, got an environment of {env.num_envs}")
    return Controller(policy, robot=model_name(env.sim), control_dt=env.task.control_dt)


@contextlib.contextmanager
def _writer(path: Path, frame_seconds: float) -> Iterator[Any]:
    """Writes beside `path` and renames at the end."""
    temporary = path.with_name(f".{path.stem}.{os.urandom(4).hex()}.tmp{path.suffix}")
    timing: dict[str, Any] = {"fps": 1 / frame_seconds, "codec": "libx264", "macro_block_size": 2}
    if path.suffix == ".gif":
        timing = {"duration": 1000 * frame_seconds, "loop": 0}  # ms; for ever
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with imageio.get_writer(temporary, **timing) as writer:
            yield writer
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
