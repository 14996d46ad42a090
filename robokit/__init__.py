"""From one task file over a MuJoCo model to one checked ONNX controller.

    import robokit

    env = robokit.make("hopper", num_envs=64, seed=0)
    obs = env.reset()  # (N, O)
    step = env.step(action)  # action (N, A) in [-1, 1]

Names are imported when first used: `import robokit.controller` on a robot loads neither torch nor MuJoCo.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robokit.controller import Controller
    from robokit.env.env import Env, Step, make
    from robokit.task.task import Task

__all__ = ["Controller", "Env", "Step", "Task", "make"]
__version__ = "0.1.0"

_HOME = {
    "Controller": "robokit.controller",
    "Env": "robokit.env.env",
    "Step": "robokit.env.env",
    "Task": "robokit.task.task",
    "make": "robokit.env.env",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'robokit' has no attribute {name!r}; it has {__all__}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
