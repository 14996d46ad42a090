"""Sensors without a simulation: true values in, readings out, called in Env's order."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from robokit.env.sensing import Sensors
from robokit.task.sense import Sense

CPU, DT = torch.device("cpu"), 0.02  # s


def hits(steps: int, num_envs: int, restarts: Mapping[int, slice]) -> Tensor:
    """(T, N) bool: who begins an episode when; at first all."""
    begins = torch.zeros(steps, num_envs, dtype=torch.bool)
    begins[0] = True
    for t, whom in restarts.items():
        begins[t, whom] = True
    return begins


def play(
    widths: Mapping[str, int],
    truth: Tensor,
    begins: Tensor | None = None,
    *,
    also: Collection[int] = (),
    reads: int = 1,
    seed: int = 0,
    **sensing: Sense,
) -> Tensor:
    """Readings (T, N, O) of truths (T, N, E), all of terms with these widths.

    begins (T, N): whose episode begins at t; the last truth of the one before it is NaN. also: when `restart`
    is called though nobody begins. reads: how often each is read.
    """
    steps, n = truth.shape[:2]
    begins = hits(steps, n, {}) if begins is None else begins
    sensors = Sensors(sensing, widths, DT, n, CPU)
    rng, seen = torch.Generator().manual_seed(seed), []
    for t in range(steps):
        if t:
            sensors.advance(rng)
            sensors.read(torch.where(begins[t, :, None], torch.nan, truth[t]))
        if begins[t].any() or t in also:
            sensors.restart(begins[t], rng)
        if not t:
            sensors.draw(rng)
        seen += [[sensors.read(truth[t]) for _ in range(reads)][-1]]
    return torch.stack(seen)
