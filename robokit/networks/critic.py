"""Critics: expected returns of the reward and of K costs, from separate networks."""

from abc import ABC
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from robokit.networks.belief import Belief
from robokit.networks.mlp import Ensemble, mlp
from robokit.networks.normalizer import Normalizer
from robokit.networks.policy import Gaussian


class Encoders(nn.Module, ABC):
    """The beliefs of a critic's networks, side by side in one tensor (N, B), with one shared normaliser."""

    def __init__(self, beliefs: Sequence[Belief], state_dim: int, normalize: bool) -> None:
        super().__init__()
        self.normalizer = Normalizer(state_dim, active=normalize)
        self.beliefs = nn.ModuleList(beliefs)
        self.sizes = [belief.size for belief in beliefs]
        self.out_dims = [belief.out_dim for belief in beliefs]

    @property
    def belief_size(self) -> int:
        """B, summed over the networks."""
        return sum(self.sizes)

    def encode(self, state: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, F) of all networks, side by side; the next belief (N, B), from raw state (N, S)."""
        return self._encode([b.forward for b in self._each()], state, belief, is_first)

    def unroll(self, state: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """L steps of `encode`, from belief (M, B): features (L, M, F) and the belief (L, M, B) after each."""
        return self._encode([b.unroll for b in self._each()], state, belief, is_first)

    def _each(self) -> list[Belief]:
        return cast("list[Belief]", list(self.beliefs))

    def _encode(
        self,
        remember: list[Callable[..., tuple[Tensor, Tensor]]],
        state: Tensor,
        belief: Tensor,
        is_first: Tensor,
    ) -> tuple[Tensor, Tensor]:
        parts = belief.split(self.sizes, -1)
        seen = [f(state, part, is_first, self.normalizer) for f, part in zip(remember, parts, strict=True)]
        features, beliefs = zip(*seen, strict=True)
        return torch.cat(features, -1), torch.cat(beliefs, -1)


class Critic(Encoders):
    """V(s), (..., 1 + K): expected returns, one network for the reward, one for all costs (outputs 1, K)."""

    def __init__(
        self,
        beliefs: Sequence[Belief],
        outputs: Sequence[int],
        state_dim: int,
        hidden: Sequence[int],
        activation: str,
        normalize: bool = True,
    ) -> None:
        super().__init__(beliefs, state_dim, normalize)
        ends = zip(self.out_dims, outputs, strict=True)
        self.heads = nn.ModuleList(mlp((width, *hidden, n), activation) for width, n in ends)

    def forward(self, state: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """Values (M, 1 + K) and the next belief (M, B), from raw state (M, S)."""
        features, belief = self.encode(state, belief, is_first)
        return self.decode(features), belief

    def decode(self, features: Tensor) -> Tensor:
        """Values (..., 1 + K), reward first, for features (..., F) of `encode` or `unroll`."""
        parts = features.split(self.out_dims, -1)
        return torch.cat([head(part) for head, part in zip(self.heads, parts, strict=True)], -1)


class ActionCritic(Encoders):
    """Q_e(s, a), (E, ..., 1 + K): E = `members` estimates of the returns of reward and costs."""

    def __init__(
        self,
        beliefs: Sequence[Belief],
        outputs: Sequence[int],
        state_dim: int,
        act_dim: int,
        members: int,
        hidden: Sequence[int],
        activation: str,
        layer_norm: bool = False,
        bf16: bool = False,
        normalize: bool = False,
    ) -> None:
        super().__init__(beliefs, state_dim, normalize)
        self.ensembles = nn.ModuleList(
            Ensemble(members, (belief.out_dim + act_dim, *hidden, n), activation, layer_norm, bf16)
            for belief, n in zip(beliefs, outputs, strict=True)
        )

    def decode(self, features: Tensor, action: Tensor, members: int | None = None) -> Tensor:
        """Q (E, ..., 1 + K) for features (..., F), actions (..., A); members: of the first so many only."""
        parts, shape = features.split(self.out_dims, -1), features.shape[:-1]
        seen = (torch.cat((part, action), -1).flatten(0, -2) for part in parts)
        values = [net(x, members).unflatten(1, shape) for net, x in zip(self.ensembles, seen, strict=True)]
        return torch.cat(values, -1)


class ActorCritic(nn.Module):
    """PPO's policy and critic in one call, for its loss."""

    def __init__(self, policy: Gaussian, critic: Critic) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic

    def forward(
        self, obs: Tensor, state: Tensor, is_first: Tensor, belief: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Unclipped mean (L, M, A), log_std (A,), values (L, M, 1 + K); belief before: [policy | critic]."""
        ours, theirs = belief.split((self.policy.belief_size, self.critic.belief_size), -1)
        mean = self.policy.decode(self.policy.unroll(obs, ours, is_first)[0])
        values = self.critic.decode(self.critic.unroll(state, theirs, is_first)[0])
        return mean, self.policy.log_std, values
