"""What training, evaluation and export ask of an algorithm.

Each file of robokit.algos has a `Config` with its `sizes`, a class `Learner`, `check(config)`, and
`make_actor(env, config)`, the policy alone, for evaluation and export.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from robokit.disk.checkpoint import Segmented
from robokit.env.env import Env
from robokit.networks.policy import Policy


class Actor(Protocol):
    """A policy that acts: observations (N, O) and its belief (N, B) to actions in [-1, 1], (N, A)."""

    act_dim: int  # A

    @property
    def belief_size(self) -> int: ...  # B

    def __call__(self, obs: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """The deterministic action and the next belief; is_first (N,) bool begins an episode."""
        ...

    def sample(self, obs: Tensor, belief: Tensor, is_first: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """An action as training draws it, from normal noise (N, A), and the next belief."""
        ...


class Learner(Protocol):
    """An algorithm at work on its Env: what the loop of a training calls, saves and validates."""

    env: Env
    config: Any  # of the algorithm's Config

    @property
    def steps_per_iteration(self) -> int: ...  # environment steps, over all processes

    @property
    def policy(self) -> Policy: ...  # what is validated and exported

    @property
    def replay(self) -> Segmented | None: ...  # saved in segments, but for what `state_dict` has of it

    def iterate(self) -> dict[str, float]:
        """Collect, learn, and return the metrics to log."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of everything a bit-equal continuation needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...
