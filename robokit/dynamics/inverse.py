"""An inverse model (s, s') -> a: how late the actions of a recording act.

    scores = delay_scores(before, after, actions, held, rng)      # R^2 by assumed delay
    delay_of(scores)                                              # control steps

What s alone tells of an action, by the policy that chose it, does not count: R^2 is the share of the squared
error of a -> s alone that the next state takes away. It peaks at the delay, as an action that has not acted
yet leaves no trace in s', and of one that acted before s the trace is in s.
"""

import torch
from torch import Tensor

from robokit.learning.adam import Adam, Losses, make_update
from robokit.networks.mlp import Ensemble

LONGEST = 4  # control steps, assumed delay
HIDDEN, STEPS, BATCH, LR = (128, 128), 1500, 256, 1e-3
LEAST = 0.05  # R^2 of a delay that is found


def delay_scores(
    before: Tensor, after: Tensor, actions: Tensor, held: Tensor, rng: torch.Generator
) -> list[float]:
    """R^2 by assumed delay k = 0..K, on the rows `held` (M,) bool, which are not learned from.

    before, after (M, P): s and s'. actions (M, K + 1, A): the action k control steps before s'. Networks from
    torch's global generator.
    """
    units = [_unit(x[~held]) for x in (before, after - before, actions.flatten(1))]
    s, change, a = (
        (x - mean) / std
        for x, (mean, std) in zip((before, after - before, actions.flatten(1)), units, strict=True)
    )
    both = torch.stack((torch.cat((s, change), -1), torch.cat((s, torch.zeros_like(s)), -1)))  # (2, M, 2 P)
    net = Ensemble(2, (both.shape[-1], *HIDDEN, a.shape[-1]), "silu", layer_norm=True).to(a.device)
    update, lr = make_update(_error, Adam(net, max_grad_norm=torch.inf)), torch.tensor(LR, device=a.device)
    learned = (~held).nonzero()[:, 0]
    for step in range(STEPS):
        lr.fill_(LR * min(1.0, 2 - 2 * step / STEPS))
        rows = learned[torch.randint(len(learned), (BATCH,), generator=rng, device=a.device)]
        update(lr, both[:, rows], a[rows])
    with torch.no_grad():
        squares = (net(both[:, held]) - a[held]).square().sum(1).unflatten(-1, actions.shape[1:]).sum(-1)
    return (1 - squares[0] / squares[1].clamp(min=1e-12)).tolist()


def delay_of(scores: list[float]) -> int | None:
    """The delay of the highest score, in control steps; None: below LEAST."""
    best = max(scores)
    return scores.index(best) if best >= LEAST else None


def _error(net: Ensemble, x: Tensor, a: Tensor) -> tuple[Tensor, Losses]:
    return (net(x) - a).square().mean((1, 2)).sum(), {}


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    std = x.std(0)
    return x.mean(0), torch.where(std < 1e-6, 1.0, std)
