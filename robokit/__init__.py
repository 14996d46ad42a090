"""From one task file over a MuJoCo model to one checked ONNX controller.

    import robokit

    run = robokit.train("hopper", steps=500_000)
    print(robokit.evaluate(run).text())

    env = robokit.make("hopper", num_envs=64, seed=0)
    obs = env.reset()  # (N, O)
    step = env.step(action)  # action (N, A) in [-1, 1]

Names are imported when first used: `import robokit.controller` on a robot loads neither torch nor MuJoCo.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.calls.planning import plan as plan
    from robokit.calls.policies import evaluate as evaluate, export_policy as export_policy, play as play
    from robokit.calls.training import train as train
    from robokit.controller import Controller as Controller
    from robokit.env.env import Env as Env, make as make
    from robokit.env.step import Step as Step
    from robokit.task.task import Task as Task
    from robokit.training.hooks import Event as Event, Hook as Hook
    from robokit.training.run import Run as Run

__version__ = "0.1.0"

__getattr__, __dir__ = face(__name__, __file__)
