"""A training: its folder, loop and learner, and the selection of the exported policy.

May import: evaluation and below.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.training.loop import Outcome as Outcome, train as train
    from robokit.training.run import Run as Run
    from robokit.training.selection import Selection as Selection
    from robokit.training.setup.build import Setup as Setup
    from robokit.training.setup.restore import exported as exported

__getattr__, __dir__ = face(__name__, __file__)
