"""Networks: normaliser, beliefs, policies and critics.

May import: errors, state and compute.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.networks.belief import Belief as Belief, make_belief as make_belief
    from robokit.networks.critic import (
        ActionCritic as ActionCritic,
        ActorCritic as ActorCritic,
        Critic as Critic,
    )
    from robokit.networks.mlp import Ensemble as Ensemble
    from robokit.networks.normalizer import Normalizer as Normalizer
    from robokit.networks.policy import (
        Deterministic as Deterministic,
        Gaussian as Gaussian,
        Policy as Policy,
        SquashedGaussian as SquashedGaussian,
    )

__getattr__, __dir__ = face(__name__, __file__)
