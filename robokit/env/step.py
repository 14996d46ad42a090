"""The result of one control period."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Step:
    """The result of one control period of N simulations; float32 or bool, on the environment's device."""

    obs: Tensor  # (N, O) for the next action: of the new episode where one ended
    state: Tensor  # (N, S) the critic's input: exact values of all observation terms, and the privileged ones
    reward: Tensor  # (N,)
    cost: Tensor  # (N, K)
    terminated: Tensor  # (N,) bool: ended in a terminal state
    truncated: Tensor  # (N,) bool: ended by the time limit
    done: Tensor  # (N,) bool: ended, either way
    own: Tensor  # (N,) bool: the episode began from the task's own start, not from one of its States
    steps_left: Tensor  # (N,) control steps left until the time limit; 0 if the simulation broke
    final_obs: Tensor  # (N, O) before any restart
    final_state: Tensor  # (N, S) before any restart
    bad: Tensor  # (N,) bool: the simulation broke; terminated, reward and cost 0, final_obs the last good one
    terms: Tensor  # (N, R) weight * term each; the reward is their sum
    metrics: Tensor  # (N, M) NaN: not counted; NaN if the simulation broke, boolean ones 0
    logged: Tensor  # (N, L): terms, cost, metrics, levels, bad side by side, named by `Env.labels`


@dataclass
class Outcome:
    """What a control period led to in N simulations, without sensing and restarts: as in Step."""

    reward: Tensor  # (N,)
    cost: Tensor  # (N, K)
    terminated: Tensor  # (N,) bool, also where it broke
    steps_left: Tensor  # (N,)
    bad: Tensor  # (N,) bool
    terms: Tensor  # (N, R)
