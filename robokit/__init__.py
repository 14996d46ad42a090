"""From one task file over a MuJoCo model to one checked ONNX controller.

    import robokit

    env = robokit.make("hopper", num_envs=64, seed=0)
    obs = env.reset()  # (N, O)
    step = env.step(action)  # action (N, A) in [-1, 1]

Names are imported when first used: `import robokit.controller` on a robot loads neither torch nor MuJoCo.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.controller import Controller as Controller
    from robokit.env.env import Env as Env, make as make
    from robokit.env.step import Step as Step
    from robokit.task.task import Task as Task

__version__ = "0.1.0"

__getattr__, __dir__ = face(
    __name__,
    {
        "robokit.controller": "Controller",
        "robokit.env.env": "Env make",
        "robokit.env.step": "Step",
        "robokit.task.task": "Task",
    },
)
