"""Planning: an action is found by rolling samples of the next second forward, in the simulator or a model.

May import: learning and below.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.planning.planner import Config as Config, Planner as Planner
    from robokit.planning.rollout import Model as Model, TrueModel as TrueModel

__getattr__, __dir__ = face(__name__, __file__)
