"""The task language: a task is one class in one file, with its actions, commands, sensors and mirror.

May import: limits, networks and sim.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.limits.limit import Limit as Limit
    from robokit.sim.menagerie import menagerie as menagerie
    from robokit.sim.quantities.draw import Add as Add, Scale as Scale
    from robokit.sim.terrain import Terrain as Terrain
    from robokit.task.action import Around as Around, Ctrl as Ctrl, Delta as Delta, Hold as Hold
    from robokit.task.command import Command as Command
    from robokit.task.goal import Goal as Goal
    from robokit.task.level import Level as Level
    from robokit.task.mirror import Mirror as Mirror
    from robokit.task.region import Ball as Ball, Points as Points, Ring as Ring
    from robokit.task.sense import Range as Range, Sense as Sense
    from robokit.task.states import States as States
    from robokit.task.task import (
        Task as Task,
        Terms as Terms,
        normal as normal,
        packaged as packaged,
        uniform as uniform,
    )

__getattr__, __dir__ = face(__name__, __file__)
