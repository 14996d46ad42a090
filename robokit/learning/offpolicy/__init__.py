"""What SAC, TD3 and their kin share: replay, agent, loop, options.

May import: robokit.learning.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.learning.offpolicy.agent import Agent as Agent
    from robokit.learning.offpolicy.options import OffPolicyOptions as OffPolicyOptions
    from robokit.learning.offpolicy.replay import Replay as Replay

__getattr__, __dir__ = face(
    __name__,
    {
        "robokit.learning.offpolicy.replay": "Replay",
        "robokit.learning.offpolicy.agent": "Agent",
        "robokit.learning.offpolicy.options": "OffPolicyOptions",
    },
)
