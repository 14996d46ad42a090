"""T control steps of N simulations, and the chunks of L of them that a policy with a memory learns from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Rollout:
    """T control steps of N simulations; what PPO learns from."""

    obs: Tensor  # (T, N, O)
    state: Tensor  # (T, N, S) what the critic sees
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
    steps_left: Tensor  # (T, N) control steps to the time limit
    bad: Tensor  # (T, N) bool: kept out of the losses
    final_state: Tensor  # (T, N, S) before any reset
    logged: Tensor  # (L,) means over the steps at which each of `Env.labels` counts


OF_STEP = ("reward", "terminated", "done", "steps_left", "bad", "logged")  # of each Step
Batch = Mapping[str, Tensor]
NUMBERS = ("is_first", "share", "log_prob", "advantage")  # one for each transition


def pack(parts: Sequence[Tensor], chunk: int) -> Tensor:
    """(T N / L, L, C): columns (T, N, ...) side by side, cut into chunks of L steps; shuffled as a whole."""
    steps, simulations = parts[0].shape[:2]
    rows = torch.cat([part.reshape(steps, simulations, -1).float() for part in parts], -1)
    return rows.unflatten(0, (-1, chunk)).transpose(1, 2).flatten(0, 1)


def unpack(rows: Tensor, widths: Mapping[str, int]) -> Batch:
    """The columns of (M, L, C) chunks by name: (L, M, width), or (L, M) for NUMBERS."""
    return columns(rows.transpose(0, 1), widths, NUMBERS, ("is_first",))


def columns(rows: Tensor, widths: Mapping[str, int], numbers: Sequence[str], flags: Sequence[str]) -> Batch:
    """The columns of rows (..., C) by name: (..., width), (...) for `numbers`, of which `flags` are bool."""
    named = zip(widths, rows.split(list(widths.values()), -1), strict=True)
    batch = {name: part.squeeze(-1) if name in numbers else part for name, part in named}
    return batch | {flag: batch[flag] != 0 for flag in flags}
