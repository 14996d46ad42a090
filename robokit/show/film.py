"""Films of an exported file in one simulation.

    write_film("hopper.onnx", robokit.make("hopper"), "hopper.mp4", seconds=10.0)

The file runs in a Controller with all its checks, as on the robot.
"""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import numpy.typing as npt
import torch

from robokit.console import say
from robokit.controller import Controller, Loaded
from robokit.disk.write import staging
from robokit.env.env import Env
from robokit.env.step import Step
from robokit.errors import OptionError, RunError, require
from robokit.export.card import check_ctrl, clip_note, variant
from robokit.sim.render import Camera, Mark
from robokit.task.goal import origin

ENCODING = {  # ffmpeg's options for each kind of film
    ".mp4": ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "23", "-movflags", "+faststart"],
    ".gif": ["-vf", "split[a][b];[a]palettegen[c];[b][c]paletteuse=dither=none", "-loop", "0"],
}
MAX_FPS = {".mp4": 30.0, ".gif": 25.0}
SECONDS = 20.0  # longest film without a given length


def control_steps(controller: Controller, env: Env) -> Iterator[Step]:
    """Begin an episode in `env`'s one simulation; then each item is what an env.step returns, for ever.

    The actions are an exported file's.
    """
    env.reset()
    controller.reset()
    return _steps(controller, env)


def _steps(controller: Controller, env: Env) -> Iterator[Step]:
    while True:
        terms = {name: term[0].cpu().numpy() for name, term in env.terms().items()}
        ctrl = torch.from_numpy(controller.step({name: terms[name] for name in controller.inputs}))
        action = torch.from_numpy(controller.action)[None]
        check_ctrl(env, action, ctrl[None])
        step = env.step(action)
        if note := env.broken.note():
            say(f"note: {note}")
        if bool(step.done):
            controller.reset()
        yield step


def write_film(
    policy: str | Path | Loaded,
    env: Env,
    path: str | Path,
    seconds: float | None = None,
    width: int = 640,
    height: int = 480,
    own: bool | None = None,
) -> float:
    """Write an mp4 or gif of `seconds` of simulated time, atomically; returns the sum of rewards in it.

    seconds: by default one episode, at most 20 s; width, height: pixels, even numbers.
    own: see `card.variant`.

    Raises OptionError for an impossible path, length or size, RenderError without a renderer, ContractError
    for a damaged policy, TaskError for one that does not fit the task, and RunError if the film cannot be
    written.
    """
    path, controller = Path(path), one_controller(policy, env, own)
    check_film(path, seconds, width, height)
    seconds = min(env.task.time_limit, SECONDS) if seconds is None else seconds
    total, count = 0.0, max(1, round(seconds / env.task.control_dt))
    with filming(env, path, width, height) as shoot:
        steps = control_steps(controller, env)
        for n in range(count):
            shoot(n)  # before the step, whose end may be the next episode's start
            total += float(next(steps).reward)
    say_clipped(controller, env)
    return total


def check_film(path: Path, seconds: float | None, width: int, height: int) -> None:
    """Raise OptionError for an impossible path, length or size of a film, and without imageio-ffmpeg."""
    require("imageio_ffmpeg", "show")
    if path.suffix not in ENCODING:
        raise OptionError(f"a film is one of {sorted(ENCODING)}, got {path.name!r}")
    if seconds is not None and not seconds > 0:
        raise OptionError(f"seconds must be > 0, got {seconds}")
    if min(width, height) < 2 or width % 2 or height % 2:
        raise OptionError(f"width and height must be even numbers of pixels, got {width} x {height}")


@contextlib.contextmanager
def filming(env: Env, path: Path, width: int, height: int) -> Iterator[Callable[[int], None]]:
    """A function to call before control step n, from 0 on; at the end there is a film of simulation 0."""
    every = periods_per_frame(env.task.control_dt, path.suffix)
    frame_seconds = every * env.task.control_dt
    with Camera(env.sim, width, height) as camera, _encoder(path, frame_seconds, width, height) as write:

        def shoot(n: int) -> None:
            if n % every == 0:
                write(camera.frame(goal_mark(env)))

        yield shoot


def goal_mark(env: Env) -> Mark | None:
    """The marker of simulation 0's goal, which names one, in the world.

    The place is given by the command's first numbers of one unit, up to three; the others are 0.
    """
    goal = env.task.goal
    if goal is None or goal.marker is None:
        return None
    command = env.task.commands[goal.command]
    units = command.unit if isinstance(command.unit, tuple) else ("m",) * len(command.low)
    count = len([*takewhile(lambda unit: unit == units[0], units[:3])])
    place = np.zeros(3)
    place[:count] = env.sim.memory[goal.command][0, :count].cpu().numpy()
    start, axes = (x.double().cpu().numpy() for x in origin(command, env.sim))
    return Mark(goal.marker, start + axes @ place, goal.within, start)


def periods_per_frame(control_dt: float, suffix: str) -> int:
    """Number of control periods (of `control_dt` s) per frame, for about MAX_FPS."""
    return max(1, round(1 / (control_dt * MAX_FPS[suffix])))


def one_controller(policy: str | Path | Loaded, env: Env, own: bool | None = None) -> Controller:
    """A Controller of a file that fits `env`; a line says if its task is another than the file's.

    Raises OptionError unless num_envs is 1, TaskError if the file does not fit.
    """
    if env.num_envs != 1:
        raise OptionError(f"play shows one simulation, got an environment of {env.num_envs}")
    controller = Controller(policy)
    if other := variant(controller.contract, env, own):
        say(f"on a variant: {other}")
    return controller


def say_clipped(controller: Controller, env: Env) -> None:
    for name, count in controller.clipped.items():
        if count:
            say(clip_note(controller.contract, name, env.sim.memory[name][0].tolist(), count))


Write = Callable[[npt.NDArray[np.uint8]], object]


@contextlib.contextmanager
def _encoder(path: Path, frame_seconds: float, width: int, height: int) -> Iterator[Write]:
    """A function that takes frames (H, W, 3) uint8; `path` is made whole at the end. Raises RunError."""
    from imageio_ffmpeg import get_ffmpeg_exe  # not its write_frames, which ignores a full disk

    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(1 / frame_seconds)]
    command = [get_ffmpeg_exe(), "-v", "error", *raw, "-i", "-", *ENCODING[path.suffix]]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging(path, [path.name]) as folder, TemporaryFile() as stderr:
            command.append(str(temporary := folder / path.name))
            with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=stderr, process_group=0) as ffmpeg:
                assert ffmpeg.stdin is not None
                with contextlib.suppress(BrokenPipeError), ffmpeg.stdin as stdin:  # the reason is in stderr
                    yield lambda frame: stdin.write(frame.tobytes())
            stderr.seek(0)
            if ffmpeg.returncode:
                reason = stderr.read().decode(errors="replace").strip() or f"signal {-ffmpeg.returncode}"
                raise RunError(f"cannot write {path}: ffmpeg: {reason.splitlines()[-1]}")
            temporary.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
