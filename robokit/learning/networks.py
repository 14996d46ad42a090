"""The networks that an algorithm's options ask for."""

from typing import Any, TypeVar

from robokit.env.env import Env
from robokit.learning.constrained import Constrained
from robokit.learning.options import Options
from robokit.networks.belief import Belief, make_belief
from robokit.networks.mirror import reflections
from robokit.networks.policy import Policy

P = TypeVar("P", bound=Policy)


def make_policy(kind: type[P], env: Env, config: Options, **own: Any) -> P:
    """A policy of this kind on the CPU, with weights from torch's global generator; `own`: the kind's options.

    Raises OptionError where the task has no mirror to average the policy with.
    """
    belief = make_belief(config.belief, env.names.obs, env.task.history, config.belief_size)
    mirror = reflections(env.task.mirror, env.names.obs) if config.mirror else None
    sizes = config.hidden, config.activation, config.normalize_obs
    return kind(env.obs_dim, env.act_dim, belief, *sizes, mirror, **own)


def make_critic_beliefs(env: Env, config: Options, constrained: Constrained) -> list[Belief]:
    """One for each of the critic's networks: of the reward, and of all costs together."""
    memory = env.task.history, config.belief_size
    return [make_belief(config.critic_belief, constrained.widths, *memory) for _ in constrained.outputs]
