"""What the costs of a policy come to, as its steps come in: the J_k that multipliers follow."""

from collections.abc import Mapping

import torch
from torch import Tensor

from robokit.compute.processes import total
from robokit.limits.charges import cut_off
from robokit.limits.limit import Limit
from robokit.state import gather, scatter

RECENT = 64  # episodes that lengths and probabilities are taken from


def episode_sums(x: Tensor, done: Tensor, running: Tensor) -> tuple[Tensor, Tensor]:
    """Sums so far (T, N, C) of x >= 0 in each running episode, and the carry (N, C) after the last step.

    Without a loop over T: a cumulative sum never falls, so the greatest at an episode's end is the latest.
    """
    total = running + x.cumsum(0)
    before = torch.where(done[..., None], total, 0.0).cummax(0).values
    ended = torch.cat((torch.zeros_like(before[:1]), before[:-1]))
    return total - ended, total[-1] - before[-1]


class Meter:
    """J_k of each limit, by its own measure, from the steps of N simulations, and of other processes' too.

    A rate is the mean of the steps at hand, an episode's sum that rate times the mean length of recent
    episodes: it follows the policy of now, not of a hundred episodes ago. Discounted sums and probabilities
    are of the last RECENT whole episodes or so; a probability is known from the first RECENT on.
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
        self.absorb = torch.tensor([limit.absorb for limit in limits.values()], **kwargs)
        self.kinds = [limit.measure for limit in limits.values()]
        self.steps, self.gamma = float(steps), gamma
        # cost, span and discounted cost of the running episodes, and their length
        self.running = torch.zeros(num_envs, 3 * k + 1, **kwargs)
        self.whole = torch.zeros(num_envs, dtype=torch.bool, device=device)  # seen from its start
        self.recent = torch.zeros(k, 4, **kwargs)  # episodes, spans, discounted sums, those with any cost
        self.count = torch.zeros((), **kwargs)

    def measure(self, cost: Tensor, terminated: Tensor, done: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """J_k (K,) and which of them are known (K,) bool, after T steps of costs (T, N, K)."""
        cut = cut_off(terminated, left.double())[..., None]
        spent, span = cost + cut * self.absorb, 1 + cut * (self.absorb > 0)
        one, k = torch.ones_like(spent[..., :1]), len(self.kinds)
        length, ended = episode_sums(one, done, self.running[:, -1:])
        later = cut_off(terminated, left.double(), self.gamma)[..., None] * self.absorb
        discounted = self.gamma ** (length - 1) * (cost + later)
        sums, carry = episode_sums(torch.cat((spent, span, discounted), -1), done, self.running[:, :-1])
        self.running = torch.cat((carry, ended), -1)
        before = torch.cat((self.whole[None], done[:-1])).cummax(0).values
        self.whole = self.whole | done.any(0)
        self._remember(sums.unflatten(-1, (3, k)), done & before)
        spent, span = total(torch.stack((spent.sum((0, 1)), span.sum((0, 1)))))
        rate = spent / span
        episodes, spans, discounts, violated = self.recent.unbind(-1)
        length = torch.where(episodes > 0, spans / episodes.clamp(min=1.0), self.steps)
        found = {
            "rate": rate,
            "episode": rate * length,
            "discounted": discounts / episodes.clamp(min=1.0),
            "probability": violated / episodes.clamp(min=1.0),
        }
        measured = torch.stack([found[kind][k] for k, kind in enumerate(self.kinds)])
        least = {"probability": RECENT, "discounted": 1}
        return measured, torch.stack([self.count >= least.get(kind, 0) for kind in self.kinds])

    def _remember(self, sums: Tensor, ended: Tensor) -> None:
        """Add the episodes that ended (T, N), sums (T, N, 3, K), and forget as many of the RECENT before."""
        number, (spent, span, discounted) = ended.sum(), sums.unbind(-2)
        each = torch.stack((torch.ones_like(spent), span, discounted, (spent > 0).double()), -1)
        new, number = total((each * ended[..., None, None]).sum((0, 1))), total(number.double())
        self.recent = (1 - number / RECENT).clamp(min=0.0) * self.recent + new
        self.count = self.count + number

    def _parts(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("running", "whole", "recent", "count")}

    def state_dict(self) -> dict[str, Tensor]:
        return gather(self._parts())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        scatter(self._parts(), state)
