"""Policies: normaliser -> belief -> head. One module serves collection, training and the ONNX graph."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robokit.networks.belief import Belief
from robokit.networks.distributions import squashed_log_prob
from robokit.networks.mirror import Reflections
from robokit.networks.mlp import mlp
from robokit.networks.normalizer import Normalizer

LOG_STD = (-20.0, 2.0)  # bounds for SquashedGaussian, before tanh


class Policy(nn.Module, ABC):
    """A normaliser, a belief and a head with the distribution parameters of A actions.

    `forward` is the deterministic controller for the export, `sample` the stochastic policy of training. With
    a `mirror`, the head's output is averaged with the reflected output for the reflected observation, so that
    the policy commutes with the mirror exactly; reflected observations have a belief of their own.
    """

    state_dependent_std: bool = False  # whether the head gives a log std of each action too
    gain: float = 1.0  # of the head's last layer, see networks.mlp

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        belief: Belief,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        normalize: bool = True,
        mirror: Reflections | None = None,
    ) -> None:
        super().__init__()
        self.mirror = None if mirror is None else nn.ModuleList(mirror)
        self.obs_dim, self.act_dim = obs_dim, act_dim
        self.normalizer = Normalizer(obs_dim, active=normalize)
        self.belief = belief
        params = act_dim * (2 if self.state_dependent_std else 1)
        self.head = mlp((belief.out_dim, *hidden, params), activation, self.gain)

    @property
    def belief_size(self) -> int:
        """B, the belief's size; twice that with a mirror."""
        return self.belief.size * (1 if self.mirror is None else 2)

    def encode(self, obs: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, F), next belief (N, B) from raw obs (N, O); belief is cleared where is_first (N,)."""
        return self._encode(self.belief, obs, belief, is_first)

    def unroll(self, obs: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """L steps of `encode`, obs (L, M, O), belief (M, B) before: features (L, M, F), beliefs (L, M, B)."""
        return self._encode(self.belief.unroll, obs, belief, is_first)

    def _encode(
        self, step: Callable[..., tuple[Tensor, Tensor]], obs: Tensor, belief: Tensor, is_first: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.mirror is None:
            return step(obs, belief, is_first, self.normalizer)
        half = self.belief_size // 2
        plain, ours = step(obs, belief[:, :half], is_first, self.normalizer)
        mirrored, theirs = step(self.mirror[0](obs), belief[:, half:], is_first, self.normalizer)
        return torch.cat((plain, mirrored), -1), torch.cat((ours, theirs), -1)

    def decode(self, features: Tensor) -> Tensor:
        """Parameters, before clip or tanh, from features (..., F): means (..., A), or [means, log stds]."""
        if self.mirror is None:
            return self.head(features)
        plain, mirrored = (self.head(half) for half in features.chunk(2, -1))
        mean, *log_stds = mirrored.split(self.act_dim, -1)
        reflect = self.mirror[1]
        back = [reflect(mean), *(log_std.index_select(-1, reflect.order) for log_std in log_stds)]
        return (plain + torch.cat(back, -1)) / 2

    def forward(self, obs: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """The deterministic action in [-1, 1], (N, A), and the next belief (N, B)."""
        features, belief = self.encode(obs, belief, is_first)
        return self.mode(self.decode(features)), belief

    def sample(self, obs: Tensor, belief: Tensor, is_first: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A random action (N, A) by `sample_from`, from standard normal noise (N, A); next belief (N, B)."""
        features, belief = self.encode(obs, belief, is_first)
        return self.sample_from(self.decode(features), noise), belief

    @abstractmethod
    def mode(self, params: Tensor) -> Tensor:
        """The deterministic action (..., A) in [-1, 1] for distribution parameters from `decode`."""

    @abstractmethod
    def sample_from(self, params: Tensor, noise: Tensor) -> Tensor:
        """A random action (..., A) for params, from standard normal noise (..., A); Gaussian: unclipped."""


class Gaussian(Policy):
    """N(mean, std^2) with one standard deviation per action, independent of obs; Env clips the samples."""

    gain = 0.01

    def __init__(self, *of_policy: Any, init_std: float = 1.0, **more: Any) -> None:
        """of_policy, more: the arguments of Policy."""
        super().__init__(*of_policy, **more)
        self.log_std = nn.Parameter(torch.full((self.act_dim,), math.log(init_std)))

    def act(
        self, obs: Tensor, belief: Tensor, is_first: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `sample`, with the mean: action (N, A), mean (N, A), both unclipped; next belief (N, B)."""
        features, belief = self.encode(obs, belief, is_first)
        mean = self.decode(features)
        return self.sample_from(mean, noise), mean, belief

    def mode(self, params: Tensor) -> Tensor:
        return params.clamp(-1.0, 1.0)

    def sample_from(self, params: Tensor, noise: Tensor) -> Tensor:
        return params + self.log_std.exp() * noise


class SquashedGaussian(Policy):
    """tanh(u), u ~ N(mean, std^2), both from the head (Haarnoja et al. 2018, arXiv:1812.05905, app. C)."""

    state_dependent_std = True

    def mode(self, params: Tensor) -> Tensor:
        return torch.tanh(params[..., : self.act_dim])

    def sample_from(self, params: Tensor, noise: Tensor) -> Tensor:
        return self.draw(params, noise)[0]

    def draw(self, params: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A random action (..., A) in [-1, 1] from params (..., 2 A) and noise, and its log-density (...)."""
        mean, log_std = params.chunk(2, -1)
        log_std = log_std.clamp(*LOG_STD)
        u = mean + log_std.exp() * noise
        return torch.tanh(u), squashed_log_prob(u, noise, log_std)


class Deterministic(Policy):
    """tanh of the head; noise: deviation of the noise that `sample` adds to it before clipping to [-1, 1]."""

    noise: Tensor  # 0-d

    def __init__(self, *of_policy: Any, noise: float = 0.1, **more: Any) -> None:
        """of_policy, more: the arguments of Policy."""
        super().__init__(*of_policy, **more)
        self.register_buffer("noise", torch.tensor(noise), persistent=False)

    def mode(self, params: Tensor) -> Tensor:
        return torch.tanh(params)

    def sample_from(self, params: Tensor, noise: Tensor) -> Tensor:
        return (self.mode(params) + self.noise * noise).clamp(-1.0, 1.0)
