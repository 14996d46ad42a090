"""Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905): its second version, with a learned temperature.

    learner = Learner(robokit.make("hopper"), Config())
    while ...: print(learner.iterate()["episode/return"])

A Gaussian squashed by tanh ascends the lower of two Q and its own entropy. Windows, beliefs, limits and the
loop are robokit.offpolicy's.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robokit import offpolicy
from robokit.env import Env
from robokit.errors import OptionError
from robokit.offpolicy import EPS
from robokit.optim import Adam, Parts, make_step
from robokit.policy import Policy, SquashedGaussian
from robokit.returns import average
from robokit.rollout import Batch


@dataclass(frozen=True)
class Config(offpolicy.Options):
    """Options of SAC; the defaults are those of the paper's table 1."""

    temperature: float | None = None  # alpha; None: learned, so that the entropy comes to target_entropy
    target_entropy: float | None = None  # nats; None: minus the number of actions


# -- the paper's equations ---------------------------------------------------------------------------


def actor_loss(gain: Tensor, valid: Tensor) -> Tensor:
    """J_pi, eq. 9: the mean of alpha log pi(a|s) - Q(s, a), of which `gain` is the negative."""
    return -average(gain, valid)


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """J(alpha), eq. 18, in log alpha: - log alpha (log pi + H), log_prob the mean over a batch."""
    return -log_alpha * (log_prob + target_entropy)


# -- the algorithm -----------------------------------------------------------------------------------


class Temperature(nn.Module):
    """alpha > 0, by its logarithm."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(alpha).log())

    def forward(self) -> Tensor:
        return self.log_alpha


class SAC(offpolicy.Agent):
    """Algorithm 1 of the paper, one gradient step of it."""

    fit = 0.5  # eq. 5
    policy: SquashedGaussian

    def __init__(self, env: Env, config: Config, graph: bool) -> None:
        super().__init__(env, config, graph)
        self.temperature = Temperature(config.temperature or 1.0).to(env.device)
        self.heat = Adam(self.temperature, EPS, torch.inf)
        self.learned = config.temperature is None
        self.fixed = None if self.learned else torch.tensor(config.temperature, device=env.device)
        self.entropy = float(-env.act_dim if config.target_entropy is None else config.target_entropy)
        self.actor_step = make_step(self._actor_loss, self.actor, graph)
        self.temperature_step = make_step(self._temperature_loss, self.heat, graph)

    def make_policy(self, *shape: Any) -> Policy:
        return SquashedGaussian(*shape)

    def update(
        self, act: bool, lr: Tensor, batch: Batch, noise: Tensor, price: Tensor, weight: Tensor
    ) -> Parts:
        alpha = self.heat.bound(self.graph)().detach().exp() if self.fixed is None else self.fixed
        policy, sums = self.actor.bound(self.graph), self.sums(batch)
        action, log_prob = policy.draw(self.acting(policy, batch, sums.last), noise[1])
        target = self.target(batch, sums, action, bonus=-alpha * log_prob)  # eq. 3, without entropy in costs
        parts = self.fit_critics(lr, batch, target, sums.valid)
        parts |= self.actor_step(lr, batch, sums.valid, noise[0], alpha, price, weight)
        if self.learned:
            self.temperature_step(lr, parts["log_prob"])
        self.follow()
        return parts | {"alpha": alpha.clone()}

    def _actor_loss(
        self,
        policy: Any,
        batch: Batch,
        valid: Tensor,
        noise: Tensor,
        alpha: Tensor,
        price: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, Parts]:
        action, log_prob = policy.draw(self.acted(policy, batch), noise)
        critic = self.critics.bound(self.graph)
        features = self.seen(critic, batch).detach()
        q = critic.decode(features, action)
        gain = self.reduced(q) - alpha * log_prob
        loss = actor_loss(self.lagrangian(gain, q, price, weight), valid)
        parts = {"policy": loss.detach(), "log_prob": average(log_prob, valid).detach()}
        return loss, parts | self.spread(critic, features, batch, q, valid)

    def _temperature_loss(self, temperature: Any, log_prob: Tensor) -> tuple[Tensor, Parts]:
        loss = temperature_loss(temperature(), log_prob, self.entropy)
        return loss, {"temperature": loss.detach()}

    def parts(self) -> dict[str, Any]:
        return super().parts() | {"temperature": self.temperature, "temperature_adam": self.heat}


class Learner(offpolicy.Learner):
    """SAC on one Env; `policy` is what gets exported."""

    agent = SAC


def check(config: Config) -> None:
    """Raise OptionError for a value that cannot work."""
    offpolicy.check(config)
    if config.temperature is not None and not 0 <= config.temperature < torch.inf:
        raise OptionError(f"temperature must be finite and at least 0, got {config.temperature}")
    if config.target_entropy is not None and not abs(config.target_entropy) < torch.inf:
        raise OptionError(f"target_entropy must be finite, got {config.target_entropy}")
