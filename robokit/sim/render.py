"""Pictures of one simulation: off screen through EGL or OSMesa, or in MuJoCo's own window.

    with Camera(sim) as camera:
        frame = camera.frame()  # (H, W, 3) uint8

Nothing here is needed to train, export or evaluate.
"""

import contextlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import mujoco
import numpy as np
import numpy.typing as npt

from robokit.errors import Error
from robokit.sim.base import STATE, Sim

BACKENDS = ("egl", "osmesa")  # in the order they are tried
PACKAGES = (
    "On Debian or Ubuntu one of these helps: apt install libegl1 libgl1-mesa-dri, or apt install libosmesa6"
)
PROBE = "import mujoco.{0}; mujoco.{0}.GLContext(16, 16).make_current()"
WINDOW = (  # MuJoCo's viewer would wait for ever for a window that its thread cannot open
    "import sys, glfw; sys.exit(not (glfw.init() and "
    "(glfw.window_hint(glfw.VISIBLE, 0) or glfw.create_window(16, 16, '', None, None))))"
)
PROBE_SECONDS = 60.0
ARROW = 0.02  # m, its width
MARK = np.array([0.9, 0.1, 0.6, 0.45], np.float32)  # RGBA of a goal, magenta: no robot or object is so


@dataclass(frozen=True)
class Mark:
    """What is drawn beside the model: a goal at `place`, m, in the world."""

    kind: Literal["sphere", "box", "arrow"]
    place: npt.NDArray[np.float64]  # (3,)
    size: float  # m: radius, or half the box's side
    start: npt.NDArray[np.float64]  # (3,) of an arrow to `place`

    def draw(self, scene: mujoco.MjvScene) -> None:
        """Append it to the geoms of a scene."""
        geom, kind = scene.geoms[scene.ngeom], getattr(mujoco.mjtGeom, f"mjGEOM_{self.kind.upper()}")
        size, axes = np.full(3, self.size), np.eye(3).ravel()
        mujoco.mjv_initGeom(geom, kind, size, self.place, axes, MARK)
        if self.kind == "arrow":
            mujoco.mjv_connector(geom, kind, ARROW, self.start, self.place)
        scene.ngeom += 1


class RenderError(Error):
    """No renderer works here, or there is no screen for a window."""


def choose_backend() -> str:
    """The first of BACKENDS that renders off screen here; MUJOCO_GL may name the only one of them to try.

    Each is tried in a process of its own, because a process can load only one.

    Raises RenderError naming packages to install.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    for name in (wanted,) if wanted in BACKENDS else BACKENDS:
        if _works(PROBE.format(name), MUJOCO_GL=name, PYOPENGL_PLATFORM=name):
            return name
    named = f"MUJOCO_GL={wanted} does not work here, and no other is tried"
    rule = named if wanted in BACKENDS else "neither EGL nor OSMesa works here"
    raise RenderError(f"cannot render: {rule}. {PACKAGES}")


def has_screen() -> bool:
    """Whether there is a screen to open a window on, as far as the environment says."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _works(code: str, **environment: str) -> bool:
    """Whether a Python program ends without an error; False for one that hangs, as a driver may."""
    command = [sys.executable, "-c", code]
    with contextlib.suppress(subprocess.TimeoutExpired):
        variables = {**os.environ, **environment}
        return not subprocess.run(
            command, env=variables, capture_output=True, timeout=PROBE_SECONDS
        ).returncode
    return False


class Camera:
    """Renders simulation 0: from the camera "track", else the first, else one that tracks the first body.

    Call `frame` inside `with`. Raises RenderError if nothing renders here.
    """

    def __init__(self, sim: Sim, width: int = 640, height: int = 480) -> None:
        self._backend = choose_backend()
        self._sim, self._data = sim, mujoco.MjData(sim.model)
        self._view = _view(sim.model)
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._pixels: npt.NDArray[np.uint8] = np.zeros((height, width, 3), np.uint8)

    def __enter__(self) -> "Camera":
        os.environ["PYOPENGL_PLATFORM"] = self._backend
        backend = importlib.import_module(f"mujoco.{self._backend}")
        self._gl: Any = backend.GLContext(self._rect.width, self._rect.height)
        self._gl.make_current()
        self._context = _context(self._sim.model, self._rect)
        self._scene = mujoco.MjvScene(self._sim.model, maxgeom=10_000)
        for costly in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[costly] = 0  # without a graphics card they take most of the time
        return self

    def __exit__(self, *error: object) -> None:
        self._context.free()
        self._gl.free()

    def frame(self, mark: Mark | None = None) -> npt.NDArray[np.uint8]:
        """Render the current state of simulation 0: a new array (H, W, 3) uint8, RGB, top row first."""
        copy_state(self._sim, self._data)
        everything, option, own = int(mujoco.mjtCatBit.mjCAT_ALL), mujoco.MjvOption(), self._sim.model
        mujoco.mjv_updateScene(own, self._data, option, None, self._view, everything, self._scene)
        if mark is not None:
            mark.draw(self._scene)
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._rect, self._context)
        return self._pixels[::-1].copy()  # OpenGL's first row is the lowest


@contextlib.contextmanager
def window(sim: Sim) -> Iterator[Callable[[Mark | None], bool]]:
    """Open MuJoCo's viewer; yields a function that draws simulation 0 with a mark and tells if it is open.

    Raises RenderError if there is no screen, or none that a window can be opened on.
    """
    if not has_screen():
        rule = "no screen to open a window on: DISPLAY is not set"
        raise RenderError(f"{rule}; without --viewer a film is made")
    if not _works(WINDOW):
        raise RenderError("no window can be opened on the screen here")
    viewer: Any = importlib.import_module("mujoco.viewer")
    data = mujoco.MjData(sim.model)
    try:
        opened = viewer.launch_passive(sim.model, data)
    except RuntimeError as error:  # on macOS, where mjpython has to start Python
        raise RenderError(f"no window: {error}") from error
    with opened as handle:
        if sim.model.nbody > 1:  # the mouse still rotates the view
            handle.cam.type, handle.cam.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, 1

        def show(mark: Mark | None = None) -> bool:
            with handle.lock():
                copy_state(sim, data)
                handle.user_scn.ngeom = 0
                if mark is not None:
                    mark.draw(handle.user_scn)
            handle.sync()
            return bool(handle.is_running())

        yield show


def copy_state(sim: Sim, data: mujoco.MjData) -> None:
    """Copy the state of simulation 0 into an MjData, and compute its derived fields."""
    for name in STATE:
        setattr(data, name, sim.field(name)[0].cpu().numpy())
    mujoco.mj_forward(sim.model, data)


def _view(model: mujoco.MjModel) -> mujoco.MjvCamera:
    """The camera "track", else the model's first, else one that tracks body 1, else a free one."""
    view = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, view)
    if model.ncam:
        named = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, max(named, 0)
    elif model.nbody > 1:
        view.type, view.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, 1
    return view


def _context(model: mujoco.MjModel, rect: mujoco.MjrRect) -> mujoco.MjrContext:
    """A context of `rect`'s size without antialiasing; the model's own values are restored afterwards."""
    size, quality = model.vis.global_, model.vis.quality
    before = size.offwidth, size.offheight, quality.offsamples
    size.offwidth, size.offheight, quality.offsamples = rect.width, rect.height, 0
    context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    size.offwidth, size.offheight, quality.offsamples = before
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
    return context
