"""Return and length of finished episodes, kept on the device without a host round trip."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from robokit.compute import processes


class EpisodeTotals:
    """Sums of the running episodes of N simulations, and means over those finished since the last summary."""

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self._running = torch.zeros(2, num_envs, device=device, dtype=torch.float64)  # return, length
        self._finished = torch.zeros(3, device=device, dtype=torch.float64)  # sums of both, count

    def add(self, reward: Tensor, done: Tensor) -> None:
        """Add T control steps: reward (T, N), done (T, N) bool, where an episode ends with this step."""
        reward = reward.double()
        # sums since the start of the episode that was running before the T steps
        sums = torch.stack((reward, torch.ones_like(reward))).cumsum(1) + self._running[:, None]
        last = len(done) - 1 - done.flip(0).int().argmax(0)  # the last end of each simulation, if any
        ended = sums.gather(1, last.expand(2, 1, -1))[:, 0] * done.any(0)
        self._finished[:2].add_(ended.sum(1))
        self._finished[2].add_(done.sum())
        self._running.copy_(sums[:, -1] - ended)

    def summary(self) -> dict[str, float]:
        """Means "episode/return", "episode/length", and the number "episode/count"; {} if it is 0.

        Of the episodes finished since the last call, in all processes.
        """
        returns, length, count = processes.total(self._finished).tolist()
        self._finished.zero_()
        if not count:
            return {}
        return {"episode/return": returns / count, "episode/length": length / count, "episode/count": count}

    def state_dict(self) -> dict[str, Tensor]:
        return {"running": self._running.clone(), "finished": self._finished.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._running.copy_(state["running"])
        self._finished.copy_(state["finished"])


def iteration_metrics(
    episodes: EpisodeTotals,
    losses: Mapping[str, Tensor],
    terms: Mapping[str, Tensor],
    more: Mapping[str, Tensor],
) -> dict[str, float]:
    """Metrics of one iteration: `episodes.summary()`, "loss/NAME", terms (means by Env.labels) and `more`."""
    named = {f"loss/{name}": value for name, value in losses.items()}
    return {**episodes.summary(), **numbers({**named, **terms, **more})}


def numbers(logged: Mapping[str, Tensor]) -> dict[str, float]:
    """0-d tensors as numbers, in one transfer; the mean over the processes where they are not NaN.

    NaN in every process: a key "metric/..." or "limit/..." was not counted and is left out, another stays.
    """
    values = torch.stack([value.detach().double() for value in logged.values()])
    known = ~values.isnan()
    summed, count = processes.total(torch.stack((torch.where(known, values, 0.0), known.double())))
    named = zip(logged, (summed / count).tolist(), strict=True)
    return {k: v for k, v in named if not (k.startswith(("metric/", "limit/")) and math.isnan(v))}
