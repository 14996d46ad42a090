"""J_k, each cost in its limit's measure, computed from the control steps of a training."""

from collections.abc import Mapping

import torch
from torch import Tensor

from robokit.compute.processes import total
from robokit.limits.charges import Charges
from robokit.limits.limit import Limit
from robokit.limits.measures import RECENT, EpisodeCosts
from robokit.state import Saved


def episode_sums(x: Tensor, done: Tensor, running: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (T, N, C) of x >= 0 from each episode's start to each step, inclusive, and the carry (N, C).

    running: the carry before. The carry is the last sum, or 0 where the last step is done (T, N). Without a
    loop over T: cumulative sums never fall, so their maximum over episode ends is the latest one.
    """
    total = running + x.cumsum(0)
    before = torch.where(done[..., None], total, 0.0).cummax(0).values
    ended = torch.cat((torch.zeros_like(before[:1]), before[:-1]))
    return total - ended, total[-1] - before[-1]


class Meter(Saved):
    """J_k of each limit in its own measure, from the control steps of N simulations per process.

    A rate is the mean over the T steps of one `measure`. An episode's sum is that rate times the mean length
    of recent episodes, so that it follows the present policy. All others are means over about the last RECENT
    whole episodes. steps: control steps of the longest episode, the mean length until a whole one has ended.
    Only episodes from the task's own start count: in those an evaluation judges the policy.
    """

    def __init__(
        self,
        limits: Mapping[str, Limit],
        num_envs: int,
        steps: int,
        gamma: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        k, kwargs = len(limits), {"dtype": torch.float64, "device": device}
        self.charges = Charges(limits, **kwargs)
        self.steps, self.gamma = float(steps), gamma
        # total, span and discounted cost of the running episodes, and their length
        self.running = torch.zeros(num_envs, 3 * k + 1, **kwargs)
        self.whole = torch.zeros(num_envs, dtype=torch.bool, device=device)  # episode seen from its start
        self.recent = torch.zeros(k, 4, **kwargs)  # sums over episodes: their number, span, x and weight
        self.count = torch.zeros((), **kwargs)

    def measure(
        self, cost: Tensor, terminated: Tensor, done: Tensor, steps_left: Tensor, own: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """J_k (K,), and whether each is known (K,) bool, after T more control steps, of all processes.

        cost: (T, N, K), for a `peak` limit the rise from charges.Maxima; the others: (T, N). own: bool, the
        steps of episodes that count; None: all. Known: if any does, after `Measure.wait` whole episodes.
        """
        spent, span, discounted = self.charges.of(cost, terminated, steps_left.double(), self.gamma)
        one = torch.ones_like(spent[..., :1])
        length, ended = episode_sums(one, done, self.running[:, -1:])
        discounted = self.gamma ** (length - 1) * discounted
        sums, carry = episode_sums(torch.cat((spent, span, discounted), -1), done, self.running[:, :-1])
        self.running = torch.cat((carry, ended), -1)
        before = torch.cat((self.whole[None], done[:-1])).cummax(0).values
        self.whole = self.whole | done.any(0)
        own = torch.ones_like(done) if own is None else own
        self._remember(sums.unflatten(-1, (3, len(self.charges.measures))), done & before & own)
        spent, span = total((torch.stack((spent, span)) * own[..., None]).sum((1, 2)))
        episodes, spans, x, weight = self.recent.unbind(-1)
        length = torch.where(episodes > 0, spans / episodes.clamp(min=1.0), self.steps)
        columns = (spent / span, length, x / weight.clamp(min=1.0))
        each = zip(self.charges.measures, *(column.unbind() for column in columns), strict=True)
        known = torch.stack([self.count >= measure.wait for measure in self.charges.measures]) & (span > 0)
        return torch.stack([measure.measured(*numbers) for measure, *numbers in each]), known

    def _remember(self, sums: Tensor, ended: Tensor) -> None:
        """Add to `recent` the sums (T, N, 3, K) where ended (T, N) bool; older episodes decay to ~ RECENT."""
        number, (spent, span, discounted) = ended.sum(), sums.unbind(-2)
        costs = EpisodeCosts(spent, span, discounted, (spent > 0).double(), spent)  # peak: the sum of rises
        each = zip(self.charges.measures, *(column.unbind(-1) for column in costs), strict=True)
        x, weight = zip(*(measure.per_episode(EpisodeCosts(*of)) for measure, *of in each), strict=True)
        one = torch.ones_like(spent)
        weight = [one[..., 0] if w is None else w for w in weight]
        rows = torch.stack((one, span, torch.stack(x, -1), torch.stack(weight, -1)), -1)
        new, number = total((rows * ended[..., None, None]).sum((0, 1))), total(number.double())
        self.recent = (1 - number / RECENT).clamp(min=0.0) * self.recent + new
        self.count = self.count + number

    def _parts(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("running", "whole", "recent", "count")}
