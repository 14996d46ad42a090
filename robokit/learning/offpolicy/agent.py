"""The networks and the gradient step of an off-policy algorithm.

A gradient step learns from windows of consecutive control steps of one simulation, starting from the belief
stored before them. L = 1 without a recurrent belief.

    rows of a window:   burn_in | L in the losses | n - 1 for n-step sums only;   R in all
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robokit.compute.processes import mean
from robokit.env.env import Env
from robokit.learning.adam import Adam, Flat, Losses, make_step
from robokit.learning.constrained import Constrained
from robokit.learning.networks import make_actor_belief, make_critic_beliefs
from robokit.learning.offpolicy.options import OffPolicyOptions
from robokit.learning.returns import average, n_step, shares
from robokit.learning.rollout import Batch, columns
from robokit.networks.belief import Belief
from robokit.networks.critic import ActionCritic
from robokit.networks.policy import Policy

FLAGS = ("is_first", "done", "terminated", "bad")
NUMBERS = (*FLAGS, "reward", "steps_left")  # one number per transition
EPS = 1e-8  # of Adam
MakeActor = Callable[[Env, Any, Belief], Policy]  # an algorithm's `make_actor`


class Sums(NamedTuple):
    """n-step sums of reward and costs; costs are divided by Limit.largest."""

    total: Tensor  # (L, M, 1 + K)
    discount: Tensor  # (L, M, 1 + K) of the value after the n steps; 0: no bootstrap
    last: Tensor  # (L, M) index of the last of the n steps; 0: the first step in the losses
    share: Tensor  # (L, M) weights from returns.shares; 0 if a simulation broke within the n steps


class Agent(ABC):
    """The networks of an algorithm and its gradient step; graph: traceable by torch.compile."""

    critic_coef: float  # factor on the critics' squared errors

    def __init__(
        self, env: Env, config: OffPolicyOptions, constrained: Constrained, make_actor: MakeActor, graph: bool
    ) -> None:
        self.config, self.constrained, self.graph, device = config, constrained, graph, env.device
        self.limits, self.largest = constrained.limits, constrained.largest
        # critics with exactly the policy's input share its columns in the replay
        self.sees = "obs" if constrained.sees == "obs" and not constrained.extra else "state"
        belief, beliefs = make_actor_belief(env, config), make_critic_beliefs(env, config, constrained)
        self.policy, width = make_actor(env, config, belief).to(device), sum(constrained.widths.values())
        sizes = env.act_dim, config.critics, config.hidden, config.activation
        more = config.layer_norm, config.bf16, config.normalize_obs
        self.critic = ActionCritic(beliefs, constrained.outputs, width, *sizes, *more).to(device)
        trained = belief.trained or beliefs[0].trained
        self.window, self.burn_in = (config.window, config.burn_in) if trained else (1, 0)  # L
        self.widths = {"obs": env.obs_dim, "final_obs": env.obs_dim, "action": env.act_dim}
        if self.sees == "state":
            self.widths |= {"state": width, "final_state": width}
        self.widths |= dict.fromkeys(NUMBERS, 1) | {"cost": len(self.limits)}
        clip = torch.inf if config.max_grad_norm is None else config.max_grad_norm
        self.actor = Adam(self.policy, EPS, clip, self._rate)
        self.critics = Adam(self.critic, EPS, clip, self._rate)
        self.critic_target = self._target(self.critic)
        self.targets = [(self.critic_target, self.critics)]  # pairs (target, online)
        self.critic_step = make_step(self._critic_loss, self.critics, graph)

    @abstractmethod
    def update(
        self, act: bool, lr: Tensor, batch: Batch, noise: Tensor, price: Tensor, weight: Tensor
    ) -> Losses:
        """One gradient step of the critics and, if `act`, of the policy; returns {name: 0-d tensor} to log.

        Moves the target networks too (TD3: only if `act`). noise (2, L, M, A): standard normal, [0] for
        actions at the sampled states, [1] n steps later. price (K,): lambda, reward per unit of cost.
        weight (K,): see multipliers.combine.
        """

    # -- columns and features of a window ----------------------------------------------------------

    def batch(self, rows: Tensor, belief: Tensor) -> Batch:
        """Columns (R, M, ...) of rows (R, M, C) by name; "belief", "critic_belief" (M, B) before them."""
        sizes = self.policy.belief_size, self.critic.belief_size
        named = columns(rows, self.widths, NUMBERS, FLAGS)
        return {**named, **dict(zip(("belief", "critic_belief"), belief.split(sizes, -1), strict=True))}

    def now(self, x: Tensor) -> Tensor:
        """The L control steps of x (R, ...) that are in the losses: those after the burn-in."""
        return x[self.burn_in : self.burn_in + self.window]

    def policy_now(self, policy: Any, batch: Batch) -> Tensor:
        """`policy.decode` at the L steps in the losses: distribution parameters (L, M, A or 2 A)."""
        features = self._along(policy, batch["obs"], batch["belief"], batch)[0][: self.window]
        return policy.decode(features)

    def policy_next(self, policy: Any, batch: Batch, last: Tensor) -> Tensor:
        """Distribution parameters (L, M, A or 2 A) at the states n steps later; last: Sums.last."""
        return policy.decode(self._ahead(policy, "obs", "belief", batch, last))

    def critic_now(self, critic: Any, batch: Batch) -> Tensor:
        """Critic features (L, M, F), before any action, at the L steps in the losses."""
        return self._along(critic, batch[self.sees], batch["critic_belief"], batch)[0][: self.window]

    def critic_next(self, critic: Any, batch: Batch, last: Tensor) -> Tensor:
        """Critic features (L, M, F) at the states n steps later; last: Sums.last."""
        return self._ahead(critic, self.sees, "critic_belief", batch, last)

    def _along(self, net: Any, frames: Tensor, belief: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features and beliefs (R - burn_in, M, ...) after each step; no gradient through the burn-in."""
        is_first, start = batch["is_first"], self.burn_in
        if start:
            belief = net.unroll(frames[:start], belief, is_first[:start])[1][-1].detach()
        return net.unroll(frames[start:], belief, is_first[start:])

    def _ahead(self, net: Any, frames: str, belief: str, batch: Batch, last: Tensor) -> Tensor:
        """Features (L, M, F) at the final observation of the last of n steps, before any restart.

        Computed from the belief after that step; the belief after the final observation is discarded.
        frames, belief: keys of `batch`. last: Sums.last.
        """
        after = self._along(net, batch[frames], batch[belief], batch)[1]
        final = batch[f"final_{frames}"][self.burn_in :]
        if self.config.n_step > 1:
            index = last[..., None]
            after, final = (x.gather(0, index.expand(*last.shape, x.shape[-1])) for x in (after, final))
        is_first = torch.zeros(last.numel(), dtype=torch.bool, device=last.device)
        features = net.encode(final.flatten(0, 1), after.flatten(0, 1), is_first)[0]
        return features.unflatten(0, last.shape)

    # -- critics -----------------------------------------------------------------------------------

    def sums(self, batch: Batch) -> Sums:
        """`Sums` from each of the L steps in the losses; `share` 0 if a simulation broke within n steps."""
        config, start = self.config, self.burn_in
        flags = batch["terminated"], batch["steps_left"]
        cost, over = self.constrained.charged(batch["cost"], *flags)
        ends, bad = batch["terminated"][..., None], batch["bad"][..., None].float()
        signal = torch.cat((batch["reward"][..., None], cost / self.largest, bad), -1)[start:]
        over = torch.cat((ends, over, ends), -1)[start:]
        total, discount, last = n_step(signal, over, batch["done"][start:], config.n_step, config.gamma)
        return Sums(total[..., :-1], discount[..., :-1], last, shares(total[..., -1] == 0))

    def q_next(self, batch: Batch, sums: Sums, action: Tensor) -> Tensor:
        """The target critics' Q (E, L, M, 1 + K) for `action` (L, M, A) at the states n steps later."""
        critic = self.critic_target.bound(self.graph)
        return critic.decode(self.critic_next(critic, batch, sums.last), action)

    def target(self, sums: Sums, value: Tensor, q: Tensor) -> Tensor:
        """The critics' targets (E, L, M, 1 + K) from the target critics' q (E, L, M, 1 + K) n steps later.

        The reward's target is the same for all critics, from `value` (L, M). For costs each critic bootstraps
        from its own q, so that the critics disagree where data are scarce.
        """
        ahead = torch.cat((value.expand(q.shape[:-1])[..., None], q[..., 1:]), -1)
        return sums.total + sums.discount * ahead

    def reduced(self, q: Tensor) -> Tensor:
        """The reward's Q (L, M): minimum or mean over the E critics of q (E, L, M, 1 + K)."""
        return q[..., 0].amin(0) if self.config.reduce == "min" else q[..., 0].mean(0)

    def fit_critics(self, lr: Tensor, batch: Batch, target: Tensor, share: Tensor) -> Losses:
        """One gradient step to target (E, L, M, 1 + K); returns "critic" (loss), "q", "critic_grad_norm"."""
        parts = self.critic_step(lr, batch, target, share)
        return {f"critic_{name}" if name == "grad_norm" else name: value for name, value in parts.items()}

    def _critic_loss(self, critic: Any, batch: Batch, target: Tensor, share: Tensor) -> tuple[Tensor, Losses]:
        q = critic.decode(self.critic_now(critic, batch), self.now(batch["action"]))
        loss = self.critic_coef * average((q - target).square().sum((0, -1)), share)
        return loss, {"critic": loss.detach(), "q": average(q[..., 0].mean(0), share).detach()}

    def slopes(self, batch: Batch) -> Tensor:
        """RMS of |dQ/da| of reward and costs, (1 + K,), at the sampled actions, in the units of the task.

        Q: mean of the E critics. |.|: norm over A. RMS: over the batch of all processes. They scale the
        multipliers: a cost of weight 1 then has as large a gradient as the reward.
        """
        action, share = self.now(batch["action"]).detach(), self.sums(batch).share
        with torch.enable_grad():
            features = self.critic_now(self.critic, batch).detach()
            q = self.critic.decode(features, action.requires_grad_()).mean(0)
            each = [torch.autograd.grad(x.sum(), action, retain_graph=True)[0] for x in q.unbind(-1)]
        squares = mean(torch.stack([average(slope.square().sum(-1), share) for slope in each]))
        units = torch.cat((self.largest.new_ones(1), self.largest))
        return squares.sqrt() * units

    # -- policy ------------------------------------------------------------------------------------

    def lagrangian(self, gain: Tensor, q: Tensor, price: Tensor, weight: Tensor) -> Tensor:
        """The policy's objective (L, M): (gain - sum_k price_k upper_k) / (1 + sum_k weight_k); K = 0: gain.

        upper: `upper` of the costs in q (E, L, M, 1 + K), back in the task's units. The division, as in
        multipliers.combine, keeps the objective's scale independent of the weights.
        """
        if not self.limits:
            return gain
        cost = upper(q[..., 1:], self.config.pessimism)
        return (gain - cost @ (price * self.largest)) / (1 + weight.sum())

    # -- after a gradient step ---------------------------------------------------------------------

    def move_targets(self) -> None:
        """Polyak averaging of all pairs in `targets`, in place: target <- (1 - tau) target + tau online."""
        for target, online in self.targets:
            target.flat.lerp_(online.flat, self.config.tau)

    def _target(self, net: nn.Module) -> Flat:
        target = copy.deepcopy(net)
        target.normalizer = net.normalizer
        return Flat(target)

    def _rate(self, name: str) -> float:
        """Factor on lr for a parameter by its name: belief_lr / largest lr for those of beliefs, else 1."""
        lr = self.config.lr
        largest = max(lr) if isinstance(lr, tuple) else lr
        return self.config.belief_lr / largest if name.startswith("belief") else 1.0

    def parts(self) -> dict[str, Any]:
        """{name: object with a state_dict} for a checkpoint: the networks, their targets and each Adam."""
        targets = {f"target{i}": target.module for i, (target, _) in enumerate(self.targets)}
        networks = {"policy": self.policy, "critic": self.critic, **targets}
        return {**networks, "actor_adam": self.actor, "critic_adam": self.critics}


def upper(q: Tensor, k: float) -> Tensor:
    """Upper bound (...) of costs q (E, ...): mean + k population standard deviations of the E critics."""
    return q.mean(0) + k * q.var(0, correction=0).clamp(min=1e-12).sqrt()
