"""What one control period of N simulations led to."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Step:
    """What one control period of N simulations led to; float32 on the environment's device."""

    obs: Tensor  # (N, O) to act on next: of the new episode where one ended
    state: Tensor  # (N, S) what the critic may see: all that is observed, exact, and the privileged terms
    reward: Tensor  # (N,)
    cost: Tensor  # (N, K)
    terminated: Tensor  # (N,) bool: ended for good
    truncated: Tensor  # (N,) bool: the time limit came first
    left: Tensor  # (N,) control steps that the time limit would still have let the episode go on
    final_obs: Tensor  # (N, O) before any restart
    final_state: Tensor  # (N, S) before any restart
    bad: Tensor  # (N,) bool: the simulation broke; terminated, reward and cost 0, final_obs the last good one
    terms: Tensor  # (N, R) weight * term each; the reward is their sum
    metrics: Tensor  # (N, M) NaN: not counted, as of what broke (where true or false: false)

    @property
    def done(self) -> Tensor:
        return self.terminated | self.truncated

    @property
    def logged(self) -> Tensor:
        """(N, L): what `Env.labels` names; a metric that is NaN is not counted."""
        return torch.cat((self.terms, self.cost, self.metrics, self.bad[:, None].float()), -1)
