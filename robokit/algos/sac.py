"""Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905): its second version, with a learned temperature.

    learner = Learner(robokit.make("hopper"), Config())
    while ...: print(learner.iterate()["episode/return"])

A tanh-squashed Gaussian policy maximises the smaller of two Q plus alpha times its entropy. Windows, beliefs
and limits: see robokit.learning.offpolicy (agent.py, loop.py, options.py).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.learning.adam import Adam, Losses, make_step
from robokit.learning.constrained import Constrained
from robokit.learning.networks import make_policy
from robokit.learning.offpolicy.agent import EPS, Agent
from robokit.learning.offpolicy.loop import OffPolicy
from robokit.learning.offpolicy.options import OffPolicyOptions, check_off_policy
from robokit.learning.options import check_not_negative, check_positive
from robokit.learning.returns import average
from robokit.learning.rollout import Batch
from robokit.learning.schedule import Scheduled, first
from robokit.networks.belief import Belief
from robokit.networks.policy import SquashedGaussian


@dataclass(frozen=True)
class Config(OffPolicyOptions):
    """Options of SAC; defaults from the paper's table 1."""

    # alpha; START,END: linear from step 0 to `steps`; None: learned, with the entropy as target_entropy
    temperature: Scheduled | None = None
    target_entropy: float | None = None  # nats; None: minus the number of actions
    init_temperature: float = 1.0  # initial alpha of a learned temperature


# -- the paper's equations ---------------------------------------------------------------------------


def soft_value(q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
    """V(s), eq. 3, from one action of the policy: Q(s, a) - alpha log pi(a|s).

    The critics' target bootstraps from it at the next state (eq. 5); the policy maximises its mean (eq. 9).
    """
    return q - alpha * log_prob


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """J(alpha), eq. 18, but -log alpha (log pi + H); log_prob: a batch's mean log pi. H: target_entropy."""
    return -log_alpha * (log_prob + target_entropy)


# -- the algorithm -----------------------------------------------------------------------------------


def make_actor(env: Env, config: Config, belief: Belief | None = None) -> SquashedGaussian:
    """A policy on the CPU, with random weights from torch's global generator; belief None: a new one."""
    return make_policy(SquashedGaussian, env, config, belief)


class Temperature(nn.Module):
    """log alpha as a scalar parameter, so that alpha > 0; `forward` returns log alpha."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(alpha).log())

    def forward(self) -> Tensor:
        return self.log_alpha


class SAC(Agent):
    """Networks and one gradient step of the paper's algorithm 1; `update` ignores `act`, as if True."""

    critic_coef = 0.5  # eq. 5
    policy: SquashedGaussian

    def __init__(self, env: Env, config: Config, constrained: Constrained, graph: bool) -> None:
        super().__init__(env, config, constrained, make_actor, graph)
        self.actor_step = make_step(self._actor_loss, self.actor, graph)
        given = config.temperature
        self.fixed = None if given is None else torch.tensor(float(first(given)), device=env.device)
        self.temperature = Temperature(config.init_temperature).to(env.device)
        self.temperature_adam = Adam(self.temperature, EPS, torch.inf)
        self.temperature_step = make_step(self._temperature_loss, self.temperature_adam, graph)
        self.target_entropy = float(-env.act_dim if config.target_entropy is None else config.target_entropy)

    def update(
        self, act: bool, lr: Tensor, batch: Batch, noise: Tensor, price: Tensor, weight: Tensor
    ) -> Losses:
        log_alpha = self.temperature_adam.bound(self.graph)
        alpha = log_alpha().detach().exp() if self.fixed is None else self.fixed
        policy, sums = self.actor.bound(self.graph), self.sums(batch)
        action, log_prob = policy.draw(self.policy_next(policy, batch, sums.last), noise[1])
        q = self.q_next(batch, sums, action)
        target = self.target(sums, soft_value(self.reduced(q), log_prob, alpha), q)
        parts = self.fit_critics(lr, batch, target, sums.share)
        parts |= self.actor_step(lr, batch, sums.share, noise[0], price, weight, alpha)
        if self.fixed is None:
            parts["temperature"] = self.temperature_step(lr, parts["log_prob"])["temperature"]
        self.move_targets()
        return parts | {"alpha": alpha.clone()}

    def _actor_loss(
        self,
        policy: Any,
        batch: Batch,
        share: Tensor,
        noise: Tensor,
        price: Tensor,
        weight: Tensor,
        alpha: Tensor,
    ) -> tuple[Tensor, Losses]:
        action, log_prob = policy.draw(self.policy_now(policy, batch), noise)
        critic = self.critics.bound(self.graph)
        q = critic.decode(self.critic_now(critic, batch).detach(), action)
        gain = soft_value(self.reduced(q), log_prob, alpha)
        loss = -average(self.lagrangian(gain, q, price, weight), share)
        return loss, {"policy": loss.detach(), "log_prob": average(log_prob, share).detach()}

    def _temperature_loss(self, log_alpha: Any, log_prob: Tensor) -> tuple[Tensor, Losses]:
        loss = temperature_loss(log_alpha(), log_prob, self.target_entropy)
        return loss, {"temperature": loss.detach()}

    def parts(self) -> dict[str, Any]:
        return super().parts() | {"temperature": self.temperature, "temperature_adam": self.temperature_adam}


class Learner(OffPolicy):
    """SAC on one Env; `policy` is exported."""

    kind = SAC
    agent: SAC

    def __init__(self, env: Env, config: Config, seed: int = 0) -> None:
        config = config.on(env.num_envs)
        check(config)
        super().__init__(env, config, seed)
        if config.temperature is not None:
            self.agent.fixed = self.schedules.values["temperature"]


def check(config: Config) -> None:
    """Raise OptionError for an invalid option or combination of options."""
    check_off_policy(config)
    check_not_negative(config, "temperature")
    check_positive(config, "init_temperature")
    if config.temperature is not None and config.init_temperature != type(config).init_temperature:
        got = f"temperature {config.temperature} and init_temperature {config.init_temperature}"
        raise OptionError(f"init_temperature is for a learned temperature, not for a fixed one; got {got}")
    if config.target_entropy is not None and not abs(config.target_entropy) < torch.inf:
        raise OptionError(f"target_entropy must be finite, got {config.target_entropy}")
    if config.target_entropy is not None and config.temperature is not None:
        got = f"target_entropy {config.target_entropy} and temperature {config.temperature}"
        raise OptionError(f"target_entropy is for a learned temperature, not for a fixed one; got {got}")
