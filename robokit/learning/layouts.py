"""Layouts of a policy and of critics on an Env: the names that their weights are stored and moved by."""

from typing import Any, Protocol

from torch import nn

from robokit.env.env import Env
from robokit.learning.constrained import Constrained
from robokit.limits.limit import Limit
from robokit.networks.belief import RECURRENT, Memoryless, Recurrent, Stack, frames_of
from robokit.networks.layout import REWARD, Layout
from robokit.networks.mlp import ACTIVATIONS
from robokit.networks.policy import Policy
from robokit.sim.facts.readings import actuators

_BELIEFS = {Memoryless: "memoryless", Stack: "stack", **{kind: name for name, kind in RECURRENT.items()}}
_ACTIVATIONS = {repr(module()): name for name, module in ACTIVATIONS.items()}


class Networks(Protocol):
    """What has a policy, and critics as its options say: a learner."""

    env: Env
    config: Any
    constrained: Constrained

    @property
    def policy(self) -> Policy: ...


def layouts_of(learner: Networks) -> dict[str, Layout]:
    """The layouts of a learner's policy and critics: "policy", "critic"."""
    critics = critic_layout(learner.env, learner.config, learner.constrained)
    return {"policy": policy_layout(learner.policy, learner.env), "critic": critics}


def policy_layout(policy: Policy, env: Env) -> Layout:
    """The layout of a policy of the Env's task, from the modules it is made of; see Layout.named."""
    belief, (hidden, activation) = policy.belief, _head(policy.head)
    return Layout(
        kind=type(policy).__name__,
        terms=dict(env.names.obs),
        actuators=_actuators(env),
        belief=_BELIEFS.get(type(belief), type(belief).__name__),
        hidden=hidden,
        activation=activation,
        normalize_obs=policy.normalizer.active,
        belief_size=belief.units if isinstance(belief, Recurrent) else 0,
        history=dict(belief.lengths) if isinstance(belief, Stack) else {},
        mirror=policy.mirror is not None,
        control_dt=float(env.task.control_dt),
    )


def _head(head: nn.Module) -> tuple[tuple[int, ...], str]:
    """(hidden, activation) of an `mlp`; of any other module (), and the classes of its layers."""
    layers = [*head] if isinstance(head, nn.Sequential) else []
    sizes = [layer.out_features for layer in layers[::2] if type(layer) is nn.Linear]
    between = {_ACTIVATIONS.get(repr(layer), "") for layer in layers[1::2]}
    if len(sizes) != len(layers) // 2 + 1 or len(between) > 1 or "" in between:
        return (), "-".join(type(layer).__name__ for layer in head.modules() if not [*layer.children()])
    return tuple(sizes[:-1]), "".join(between)


def critic_layout(env: Env, config: Any, constrained: Constrained) -> Layout:
    """The layout of the critics that an algorithm's options ask for: its V, or its `critics` Q off-policy."""
    members: int | None = getattr(config, "critics", None)
    widths, limits = dict(constrained.widths), tuple(constrained.limits)
    reward = {} if members else {REWARD: "scaled" if getattr(config, "scale_reward", False) else "not scaled"}
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
        targets=reward | {name: _target(limit) for name, limit in constrained.limits.items()},
        gamma=config.gamma,
        members=members or 1,
        layer_norm=bool(members) and config.layer_norm,
    )


def _target(limit: Limit) -> str:
    """What a critic of a limit learns: charges of its measure, with `absorb`, in units of `largest`."""
    return f"{limit.measure}, largest {float(limit.largest)}, absorb {float(limit.absorb)}"


def _actuators(env: Env) -> dict[str, tuple[float, float]]:
    """(center, half) of each number of the action; a Delta's are (0, scale), under a name of its own."""
    center, half = (x.float().nan_to_num(0.0).tolist() for x in (env.map.center, env.map.half))
    rows = zip(actuators(env.sim), env.map.kinds, zip(center, half, strict=True), strict=True)
    return {f["name"] + " (delta)" * (k == "delta"): pair for f, k, pair in rows if k != "hold"}
