"""Construction of policies and beliefs from an algorithm's options."""

from typing import Any, TypeVar

from robokit.env.env import Env
from robokit.learning.constrained import Constrained
from robokit.learning.options import Options
from robokit.networks.belief import Belief, make_belief
from robokit.networks.mirror import reflections
from robokit.networks.policy import Policy

P = TypeVar("P", bound=Policy)


def make_actor_belief(env: Env, config: Options) -> Belief:
    return make_belief(config.belief, env.names.obs, env.task.history, config.belief_size)


def make_critic_beliefs(env: Env, config: Options, constrained: Constrained) -> list[Belief]:
    """New beliefs, one per network of the critic: [reward's], under limits [reward's, that of all costs]."""
    memory = env.task.history, config.belief_size
    return [make_belief(config.critic_belief, constrained.widths, *memory) for _ in constrained.outputs]


def make_policy(kind: type[P], env: Env, config: Options, belief: Belief | None, **own: Any) -> P:
    """A policy of class `kind` on the CPU, with random weights from torch's global generator.

    belief None: a new one from `config`. own: further arguments of the class. Raises OptionError if
    config.mirror is set and the task has no mirror.
    """
    belief = make_actor_belief(env, config) if belief is None else belief
    mirror = reflections(env.task.mirror, env.names.obs) if config.mirror else None
    sizes = config.hidden, config.activation, config.normalize_obs
    return kind(env.obs_dim, env.act_dim, belief, *sizes, mirror, **own)
