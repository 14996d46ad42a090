"""Interfaces of an algorithm to training, evaluation and export.

Each file of robokit.algos defines `Config` with `sizes`, `Learner`, `check(config)`, and
`make_actor(env, config)`, which builds the policy alone, for evaluation and export.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from robokit.disk.checkpoint import Segmented
from robokit.env.env import Env
from robokit.networks.policy import Policy


class Actor(Protocol):
    """A policy: observations (N, O) and beliefs (N, B) -> actions (N, A) in [-1, 1] and next beliefs."""

    act_dim: int  # A

    @property
    def belief_size(self) -> int: ...  # B

    def __call__(self, obs: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """The deterministic action, the next belief; is_first (N,) bool: an episode begins, belief unused."""
        ...

    def sample(self, obs: Tensor, belief: Tensor, is_first: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A random action, maybe beyond [-1, 1], from standard normal noise (N, A), and the next belief."""
        ...


class Foreign(nn.Module):
    """An Actor that was trained elsewhere, of which the deterministic action is known."""

    act_dim: int
    belief_size: int

    def sample(self, obs: Tensor, belief: Tensor, is_first: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        action, belief = self(obs, belief, is_first)
        return action + noise, belief

    def placed(self, model: Any) -> Any:
        """The exported graph, an onnx.ModelProto, after what torch cannot trace was put in its place."""
        return model


class Exploring:
    """A policy that samples its actions, as an actor: what it observes is like what a training does."""

    def __init__(self, policy: Policy | Foreign) -> None:
        self.policy, self.act_dim, self.belief_size = policy, policy.act_dim, policy.belief_size
        self.rng = torch.Generator().manual_seed(0)

    def __call__(self, obs: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(len(obs), self.act_dim, generator=self.rng)
        action, belief = self.sample(obs, belief, is_first, noise)
        return action.clamp(-1.0, 1.0), belief

    def sample(self, obs: Tensor, belief: Tensor, is_first: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy.sample(obs, belief, is_first, noise)


class Learner(Protocol):
    """An algorithm training on its Env: the interface to the training loop."""

    env: Env
    config: Any  # of the algorithm's Config

    @property
    def steps_per_iteration(self) -> int: ...  # environment steps, over all processes

    @property
    def policy(self) -> Policy: ...  # validated and exported

    @property
    def replay(self) -> Segmented | None: ...  # whole segments, not in state_dict

    def iterate(self) -> dict[str, float]:
        """Take `steps_per_iteration` environment steps, learn, and return {metric name: number} to log."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the training and Env states: with the replay's whole segments they resume bit for bit."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...
