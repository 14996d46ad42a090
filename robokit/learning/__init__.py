"""What every learning algorithm shares: returns, rollouts, optimiser, options.

May import: env and below.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.learning.adam import Adam as Adam, make_update as make_update
    from robokit.learning.episodes import EpisodeTotals as EpisodeTotals
    from robokit.learning.returns import discounted_sums as discounted_sums, gae as gae, n_step as n_step
    from robokit.learning.rollout import Rollout as Rollout

__getattr__, __dir__ = face(
    __name__,
    {
        "robokit.learning.returns": "discounted_sums gae n_step",
        "robokit.learning.rollout": "Rollout",
        "robokit.learning.adam": "Adam make_update",
        "robokit.learning.episodes": "EpisodeTotals",
    },
)
