"""Rollouts of T control steps of N simulations, and minibatches of chunks of L steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Rollout:
    """T control steps of N simulations: PPO's training data."""

    obs: Tensor  # (T, N, O)
    state: Tensor  # (T, N, S) the critic's input
    belief: Tensor  # (T, N, B) before obs[t]
    is_first: Tensor  # (T, N) bool: obs[t] begins an episode
    action: Tensor  # (T, N, A) the unclipped sample
    mean: Tensor  # (T, N, A) of the policy that acted
    log_std: Tensor  # (A,) of the policy that acted
    log_prob: Tensor  # (T, N)
    reward: Tensor  # (T, N)
    cost: Tensor  # (T, N, K)
    terminated: Tensor  # (T, N) bool
    done: Tensor  # (T, N) bool
    own: Tensor  # (T, N) bool: of an episode from the task's own start
    steps_left: Tensor  # (T, N) control steps to the time limit
    bad: Tensor  # (T, N) bool: the simulation broke; weight 0 in the losses
    final_state: Tensor  # (T, N, S) before any reset
    logged: Tensor  # (len(Env.labels),) means, without NaN


OF_STEP = ("reward", "terminated", "done", "own", "steps_left", "bad", "logged")  # stored fields of Step
Batch = Mapping[str, Tensor]
NUMBERS = ("is_first", "share", "log_prob", "advantage")  # one number per transition


def pack(parts: Sequence[Tensor], chunk: int) -> Tensor:
    """Columns (T, N, ...) side by side as float, cut into chunks of L steps: rows (T N / L, L, C).

    Row i is chunk i // N of simulation i % N.
    """
    steps, simulations = parts[0].shape[:2]
    rows = torch.cat([part.reshape(steps, simulations, -1).float() for part in parts], -1)
    return rows.unflatten(0, (-1, chunk)).transpose(1, 2).flatten(0, 1)


def unpack(rows: Tensor, widths: Mapping[str, int]) -> Batch:
    """The columns of chunks (M, L, C) by name: (L, M, width), or (L, M) for NUMBERS; is_first is bool."""
    return columns(rows.transpose(0, 1), widths, NUMBERS, ("is_first",))


def columns(rows: Tensor, widths: Mapping[str, int], numbers: Sequence[str], flags: Sequence[str]) -> Batch:
    """Columns of rows (..., C), in the order of `widths`: (..., width), (...) for `numbers`; bool `flags`."""
    named = zip(widths, rows.split(list(widths.values()), -1), strict=True)
    batch = {name: part.squeeze(-1) if name in numbers else part for name, part in named}
    return batch | {flag: batch[flag] != 0 for flag in flags}
