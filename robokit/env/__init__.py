"""N simulations of a task, stepped together one control period at a time.

May import: task and below.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.env.checks.laws import Finding as Finding, check_task as check_task
    from robokit.env.checks.notes import find_notes as find_notes
    from robokit.env.env import Env as Env, make as make
    from robokit.env.sensing import Sensors as Sensors
    from robokit.env.step import Step as Step

__getattr__, __dir__ = face(__name__, __file__)
