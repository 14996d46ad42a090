"""Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018, arXiv:1802.09477).

    learner = Learner(robokit.make("hopper"), Config())
    while ...: print(learner.iterate()["episode/return"])

A deterministic policy maximises the first of two Q. Against overestimation the paper adds to DDPG (Lillicrap
et al. 2016, arXiv:1509.02971) a second critic, delayed policy updates and target policy smoothing; DDPG is
`--critics 1 --delay 1 --smoothing 0`. Windows, beliefs and limits: see robokit.learning.offpolicy (agent.py,
loop.py, options.py).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robokit.env.env import Env
from robokit.learning.adam import Losses, make_step
from robokit.learning.constrained import Constrained
from robokit.learning.networks import make_policy
from robokit.learning.offpolicy.agent import Agent
from robokit.learning.offpolicy.loop import OffPolicy
from robokit.learning.offpolicy.options import OffPolicyOptions, check_off_policy
from robokit.learning.options import check_not_negative, check_positive
from robokit.learning.returns import average
from robokit.learning.rollout import Batch
from robokit.learning.schedule import Scheduled, first
from robokit.networks.belief import Belief
from robokit.networks.policy import Deterministic


@dataclass(frozen=True)
class Config(OffPolicyOptions):
    """Options of TD3; defaults of the authors' code, except learning_starts and the initial weights."""

    delay: int = 2  # d, updates of the critics per update of the policy and the target networks
    smoothing: float = 0.2  # sigma~, standard deviation of the noise on the target policy's action
    smoothing_clip: float = 0.5  # c, bound of that noise
    # sigma, standard deviation of the exploration noise; START,END: linear from step 0 to `steps`
    exploration: Scheduled = 0.1


# -- the paper's equations ---------------------------------------------------------------------------


def smooth(action: Tensor, noise: Tensor, deviation: float, clip: float) -> Tensor:
    """Target policy smoothing, eq. 14: action + clip(deviation * noise, -clip, clip), clipped to [-1, 1]."""
    return (action + (deviation * noise).clamp(-clip, clip)).clamp(-1.0, 1.0)


# -- the algorithm -----------------------------------------------------------------------------------


def make_actor(env: Env, config: Config, belief: Belief | None = None) -> Deterministic:
    """A policy on the CPU, with random weights from torch's global generator; belief None: a new one."""
    return make_policy(Deterministic, env, config, belief, noise=first(config.exploration))


class TD3(Agent):
    """Networks and one gradient step of the paper's algorithm 1; target networks move only if `act`."""

    critic_coef = 1.0
    policy: Deterministic
    config: Config

    def __init__(self, env: Env, config: Config, constrained: Constrained, graph: bool) -> None:
        super().__init__(env, config, constrained, make_actor, graph)
        self.actor_step = make_step(self._actor_loss, self.actor, graph)
        self.actor_target = self._target(self.policy)
        self.targets += [(self.actor_target, self.actor)]

    def update(
        self, act: bool, lr: Tensor, batch: Batch, noise: Tensor, price: Tensor, weight: Tensor
    ) -> Losses:
        policy, sums, config = self.actor_target.bound(self.graph), self.sums(batch), self.config
        action = policy.mode(self.policy_next(policy, batch, sums.last))
        action = smooth(action, noise[1], config.smoothing, config.smoothing_clip)
        q = self.q_next(batch, sums, action)
        target = self.target(sums, self.reduced(q), q)  # clipped double Q, eq. 10
        parts = self.fit_critics(lr, batch, target, sums.share)
        if act:
            parts |= self.actor_step(lr, batch, sums.share, price, weight)
            self.move_targets()
        return parts

    def _actor_loss(
        self, policy: Any, batch: Batch, share: Tensor, price: Tensor, weight: Tensor
    ) -> tuple[Tensor, Losses]:
        action = policy.mode(self.policy_now(policy, batch))
        critic = self.critics.bound(self.graph)
        q = critic.decode(self.critic_now(critic, batch).detach(), action, None if self.limits else 1)
        loss = -average(self.lagrangian(q[0, ..., 0], q, price, weight), share)  # first critic only
        return loss, {"policy": loss.detach()}


class Learner(OffPolicy):
    """TD3 on one Env; `policy` is exported."""

    kind = TD3
    policy: Deterministic

    def __init__(self, env: Env, config: Config, seed: int = 0) -> None:
        config = config.on(env.num_envs)
        check(config)
        self.delay = config.delay
        super().__init__(env, config, seed)
        self.policy.noise = self.schedules.values["exploration"]


def check(config: Config) -> None:
    """Raise OptionError for an invalid option."""
    check_off_policy(config)
    check_positive(config, "delay", "smoothing_clip")
    check_not_negative(config, "smoothing", "exploration")
