"""The temporal distance d(s, s'): control steps that the recorded motions need at least from s to s'.

    distance = fit_distance(frames, valid, rng)      # (T, M, P) pieces of episodes
    distance(s, goal)                                # (M,)

A quasimetric: d(s, s) = 0, never negative, d(s, u) <= d(s, t) + d(t, u), not symmetric; by construction, as
the interval quasimetric embedding (Wang & Isola 2022, arXiv:2211.15120, eq. 8). It is as large as it can be
for pairs of states, but no larger than the time that the recording took (Wang et al. 2023, arXiv:2304.01203,
eq. 10, with times up to a piece's length in place of one step).
"""

import torch
from torch import Tensor, nn

from robokit.learning.adam import Adam, Losses, make_update
from robokit.networks.mlp import mlp

HIDDEN, PARTS, INTERVALS = (128, 128), 8, 8  # units; of the embedding
STEPS, BATCH, LR, PRICE_LR = 2000, 256, 1e-3, 0.03
SLACK = 0.05  # allowed mean excess over the recorded time, as a share of it
NEAREST = 64  # states at a goal, at most
OFFSET, SHARPNESS = 15.0, 0.1  # of the push, in pieces; the paper's, in steps


class Distance(nn.Module):
    """d (M,) from states (M, P) to states (M, P), in control steps; `span` of them is its unit."""

    def __init__(self, size: int, span: float) -> None:
        super().__init__()
        self.span = span
        self.encode = mlp((size, *HIDDEN, PARTS * INTERVALS), "silu")
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def forward(self, here: Tensor, there: Tensor) -> Tensor:
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        u, v = (self.encode((x - mean) / std).unflatten(-1, (PARTS, INTERVALS)) for x in (here, there))
        return self.span * union(u, torch.maximum(u, v)).mean(-1)


def union(low: Tensor, high: Tensor) -> Tensor:
    """Length (...) of the union of the intervals [low, high] (..., L)."""
    low, order = low.sort(-1)
    high = high.gather(-1, order)
    reached = torch.cat((low[..., :1], high.cummax(-1).values[..., :-1]), -1)  # by the intervals before
    return (high - torch.maximum(low, reached)).clamp(min=0).sum(-1)


def fit_distance(states: Tensor, valid: Tensor, rng: torch.Generator) -> Distance:
    """Learn it from M pieces of T control steps, states (T, M, P); valid (T, M): of the first one's episode.

    Weights from torch's global generator.
    """
    flat, last = states[valid], (valid.sum(0) - 1).clamp(min=1)  # a piece's last valid step
    able = (valid.sum(0) > 1).nonzero()[:, 0]
    net = Distance(states.shape[-1], float(len(valid) - 1)).to(states.device)
    std = flat.std(0)
    net.get_buffer("mean").copy_(flat.mean(0))
    net.get_buffer("std").copy_(torch.where(std < 1e-6, 1.0, std))
    price, lr = states.new_zeros(()), torch.tensor(LR, device=states.device)  # log multiplier of the excess

    def loss(net: Distance, pair: Tensor, steps: Tensor, apart: Tensor) -> tuple[Tensor, Losses]:
        excess = (net(*pair) / steps - 1).clamp(min=0).square().mean()
        push = nn.functional.softplus(OFFSET - net(*apart) / net.span, beta=SHARPNESS).mean()
        return (push + price.exp() * excess) / (1 + price.exp()), {"excess": excess.detach()}

    update = make_update(loss, Adam(net, max_grad_norm=torch.inf))

    def uniform(most: Tensor | int) -> Tensor:
        return (torch.rand(BATCH, generator=rng, device=states.device) * most).long()

    for step in range(STEPS):
        lr.fill_(LR * min(1.0, 2 - 2 * step / STEPS))
        piece = able[uniform(len(able))]
        begin = uniform(last[piece])
        end = begin + 1 + uniform(last[piece] - begin)
        apart = torch.stack((flat[uniform(len(flat))], flat[uniform(len(flat))]))
        parts = update(lr, torch.stack((states[begin, piece], states[end, piece])), end - begin, apart)
        price.add_(PRICE_LR * (parts["excess"].sqrt() / SLACK).log().clamp(-1, 1))
    return net


@torch.no_grad()
def goals_by_distance(
    distance: Distance, starts: Tensor, states: Tensor, achieved: Tensor, goals: Tensor, within: float
) -> list[float | None]:
    """Steps to each of the goals (G, d); None: no recorded state is at it.

    The mean over starts (S, P) of the distance to the nearest of the states (M, P) whose achieved (M, d) is
    `within` of the goal.
    """
    steps = list[float | None]()
    for goal in goals:
        there = states[(achieved - goal).norm(dim=-1) <= within][:NEAREST]
        found = [distance(start.expand_as(there), there).min() for start in starts if len(there)]
        steps.append(float(torch.stack(found).mean()) if found else None)
    return steps
