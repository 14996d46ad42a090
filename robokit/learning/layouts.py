"""Layouts of a policy and of critics on an Env: the names that their weights are stored and moved by."""

from typing import Any

from torch import nn

from robokit.env.env import Env
from robokit.learning.constrained import Constrained
from robokit.networks.belief import RECURRENT, Memoryless, Recurrent, Stack, frames_of
from robokit.networks.layout import REWARD, Layout
from robokit.networks.mlp import ACTIVATIONS
from robokit.networks.policy import Policy
from robokit.sim.facts import actuators

_BELIEFS = {Memoryless: "memoryless", Stack: "stack", **{kind: name for name, kind in RECURRENT.items()}}
_ACTIVATIONS = {module: name for name, module in ACTIVATIONS.items()}


def policy_layout(policy: Policy, env: Env) -> Layout:
    """The layout of a policy of the Env's task, from the modules it is made of."""
    belief, layers = policy.belief, list(policy.head.modules())
    sizes = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)]
    between = [_ACTIVATIONS[type(layer)] for layer in layers if type(layer) in _ACTIVATIONS]
    return Layout(
        kind=type(policy).__name__,
        terms=dict(env.names.obs),
        actuators=_actuators(env),
        belief=_BELIEFS.get(type(belief), type(belief).__name__),
        hidden=tuple(sizes[:-1]),
        activation=between[0] if between else "",
        normalize_obs=policy.normalizer.active,
        belief_size=belief.units if isinstance(belief, Recurrent) else 0,
        history=dict(belief.lengths) if isinstance(belief, Stack) else {},
        mirror=policy.mirror is not None,
        control_dt=float(env.task.control_dt),
    )


def critic_layout(env: Env, config: Any, constrained: Constrained) -> Layout:
    """The layout of the critics that an algorithm's options ask for: its V, or its `critics` Q off-policy."""
    members: int | None = getattr(config, "critics", None)
    widths, limits = dict(constrained.widths), tuple(constrained.limits)
    return Layout(
        kind="ActionCritic" if members else "Critic",
        terms=widths,
        actuators=_actuators(env),
        belief=config.critic_belief,
        hidden=tuple(config.hidden),
        activation=config.activation if config.hidden else "",
        normalize_obs=config.normalize_obs,
        belief_size=config.belief_size if config.critic_belief in RECURRENT else 0,
        history=frames_of(widths, env.task.history) if config.critic_belief == "stack" else {},
        outputs=((REWARD,), limits) if limits else ((REWARD,),),
        members=members or 1,
        layer_norm=bool(members) and config.layer_norm,
    )


def _actuators(env: Env) -> dict[str, tuple[float, float]]:
    center, half = (x.float().tolist() for x in (env.action_center, env.action_half))
    named = [fact["name"] for fact in actuators(env.sim)]
    return dict(zip(named, zip(center, half, strict=True), strict=True))
