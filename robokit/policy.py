"""The networks: normaliser -> belief -> head. One module serves collection, training and the ONNX graph."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from robokit.belief import Belief, Normalizer
from robokit.errors import OptionError

ACTIVATIONS = {"tanh": nn.Tanh, "elu": nn.ELU, "relu": nn.ReLU, "silu": nn.SiLU}


def mlp(sizes: Sequence[int], activation: str, last_gain: float) -> nn.Sequential:
    """Linear layers of `sizes`, orthogonal weights (gain sqrt(2), `last_gain` at the end), zero biases.

    The initialisation of Engstrom et al. 2020, "Implementation Matters in Deep RL", section 3.
    """
    if activation not in ACTIVATIONS:
        raise OptionError(f"activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}")
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        linear, last = nn.Linear(fan_in, fan_out), i == len(sizes) - 2
        nn.init.orthogonal_(linear.weight, last_gain if last else math.sqrt(2))
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


class Reflection(nn.Module):
    """x (..., D) -> sign * x[..., order]: what a mirror shows, and its own inverse."""

    order: Tensor
    sign: Tensor

    def __init__(self, order: Sequence[int], sign: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("sign", torch.tensor(sign), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(-1, self.order) * self.sign


class Policy(nn.Module):
    """A Gaussian policy with one standard deviation per action, around a mean that depends on the belief.

    `forward` is the deterministic controller that is exported; `mean` is what PPO explores around. With a
    `mirror` (of obs, of actions) the mean is averaged with that of the mirrored observation, mirrored back,
    and so commutes with the mirror exactly; mirrored observations have a belief of their own.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        belief: Belief,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        normalize: bool = True,
        init_std: float = 1.0,
        mirror: tuple[Reflection, Reflection] | None = None,
    ) -> None:
        super().__init__()
        self.mirror = None if mirror is None else nn.ModuleList(mirror)
        self.obs_dim, self.act_dim = obs_dim, act_dim
        self.normalizer = Normalizer(obs_dim, active=normalize)
        self.belief = belief
        self.head = mlp((belief.out_dim, *hidden, act_dim), activation, last_gain=0.01)
        self.log_std = nn.Parameter(torch.full((act_dim,), math.log(init_std)))

    @property
    def belief_size(self) -> int:
        """B."""
        return self.belief.size * (1 if self.mirror is None else 2)

    def mean(self, obs: Tensor, belief: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Unclipped mean action (N, A) and the next belief, from a raw obs (N, O); first (N,) bool."""
        return self._mean(self.belief, obs, belief, first)

    def unroll(self, obs: Tensor, belief: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """L steps of `mean`, from belief (M, B): means (L, M, A) and the belief (L, M, B) after each."""
        return self._mean(self.belief.unroll, obs, belief, first)

    def _mean(
        self, remember: Callable[..., tuple[Tensor, Tensor]], obs: Tensor, belief: Tensor, first: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.mirror is None:
            features, belief = remember(obs, belief, first, self.normalizer)
            return self.head(features), belief
        of_obs, of_action = self.mirror
        half = self.belief_size // 2
        features, ours = remember(obs, belief[:, :half], first, self.normalizer)
        reflected, theirs = remember(of_obs(obs), belief[:, half:], first, self.normalizer)
        mean = (self.head(features) + of_action(self.head(reflected))) / 2
        return mean, torch.cat((ours, theirs), -1)

    def forward(self, obs: Tensor, belief: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """The deterministic action in [-1, 1], (N, A), and the next belief (N, B)."""
        mean, belief = self.mean(obs, belief, first)
        return mean.clamp(-1.0, 1.0), belief


class Critic(nn.Module):
    """Expected returns of what the critic has seen: of the reward, and of K costs by a network of their own.

    Each network has its own `beliefs` of the state, side by side in one tensor, and all share the normaliser.
    """

    def __init__(
        self,
        beliefs: Sequence[Belief],
        outputs: Sequence[int],
        state_dim: int,
        hidden: Sequence[int],
        activation: str,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.normalizer = Normalizer(state_dim, active=normalize)
        self.beliefs = nn.ModuleList(beliefs)
        self.sizes = [belief.size for belief in beliefs]
        self.heads = nn.ModuleList(
            mlp((belief.out_dim, *hidden, n), activation, last_gain=1.0)
            for belief, n in zip(beliefs, outputs, strict=True)
        )

    @property
    def belief_size(self) -> int:
        """B of all networks."""
        return sum(self.sizes)

    def forward(self, state: Tensor, belief: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """values (M, 1 + K) and the next belief (M, B)."""
        return self._value([b.forward for b in self._each()], state, belief, first)

    def unroll(self, state: Tensor, belief: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """L steps of `forward`, from belief (M, B): values (L, M, 1 + K) and the belief after each."""
        return self._value([b.unroll for b in self._each()], state, belief, first)

    def _each(self) -> list[Belief]:
        return cast("list[Belief]", list(self.beliefs))

    def _value(
        self,
        remember: list[Callable[..., tuple[Tensor, Tensor]]],
        state: Tensor,
        belief: Tensor,
        first: Tensor,
    ) -> tuple[Tensor, Tensor]:
        parts = belief.split(self.sizes, -1)
        seen = [f(state, part, first, self.normalizer) for f, part in zip(remember, parts, strict=True)]
        values = [head(features) for head, (features, _) in zip(self.heads, seen, strict=True)]
        return torch.cat(values, -1), torch.cat([after for _, after in seen], -1)


class ActorCritic(nn.Module):
    """Both networks in one call, as the loss needs them."""

    def __init__(self, policy: Policy, critic: Critic) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic

    def forward(
        self, obs: Tensor, state: Tensor, first: Tensor, belief: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """mean (L, M, A), log_std (A,), values (L, M, 1 + K), from [policy's | critic's] belief (M, B)."""
        ours, theirs = belief.split((self.policy.belief_size, self.critic.belief_size), -1)
        mean = self.policy.unroll(obs, ours, first)[0]
        return mean, self.policy.log_std, self.critic.unroll(state, theirs, first)[0]


def log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(action; mean, exp(log_std)^2), summed over the last dimension."""
    z = (action - mean) * torch.exp(-log_std)
    return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def entropy(log_std: Tensor) -> Tensor:
    """Of a diagonal Gaussian, summed over the last dimension, in nats."""
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def kl(mean0: Tensor, log_std0: Tensor, mean1: Tensor, log_std1: Tensor) -> Tensor:
    """KL[N0 || N1] of diagonal Gaussians, summed over the last dimension, in nats."""
    ratio = torch.exp(2 * (log_std0 - log_std1))
    distance = (mean0 - mean1).square() * torch.exp(-2 * log_std1)
    return (log_std1 - log_std0 + 0.5 * (ratio + distance - 1)).sum(-1)
