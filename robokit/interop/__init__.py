"""Other people's loops on robokit's tasks, their models in robokit's files. May import `show` and below.

Its import registers the known tasks with gymnasium: `gymnasium.make("robokit.interop:robokit/hopper-v0")`.
"""

from typing import TYPE_CHECKING

from robokit.faces import face
from robokit.interop.ids import register

if TYPE_CHECKING:
    from robokit.interop.foreign.adopt import adopt_policy as adopt_policy
    from robokit.interop.gymnasium import TaskEnv as TaskEnv, TaskVectorEnv as TaskVectorEnv
    from robokit.interop.peers.comparison import Difference as Difference, Parity as Parity, parity as parity
    from robokit.interop.sb3 import TaskVecEnv as TaskVecEnv, export_model as export_model
    from robokit.interop.trackers import tracker as tracker

__getattr__, __dir__ = face(__name__, __file__)
register()
