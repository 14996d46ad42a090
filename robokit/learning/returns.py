"""Returns, advantages, and means over the joint batch of all processes, as pure functions of tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from robokit.compute.processes import total, world


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Generalized advantage estimates, (T, N, ...) (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

        d_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t)
        A_t = d_t + gamma lam (1 - done_t) A_{t+1},    A_T = 0

    value: V(s_t). next_value: V(s'_t), of the next state before any reset: a truncated episode bootstraps
    from it, a terminated one does not. terminated, done: bool. lam = 1 gives Monte-Carlo advantages,
    bootstrapped at truncations and at the rollout's end.
    """
    delta = reward + gamma * next_value * ~terminated - value
    advantage, tail = torch.empty_like(delta), torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        tail = delta[t] + gamma * lam * tail * ~done[t]
        advantage[t] = tail
    return advantage


def discounted_sums(reward: Tensor, done: Tensor, start: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Sums over the past R_t = r_t + gamma (1 - done_{t-1}) R_{t-1}, (T, N, ...), and the carry (N, ...).

    start: the previous rollout's carry. The carry is the last R, or 0 where the last step is done (bool).
    """
    sums, running = torch.empty_like(reward), start
    for t in range(len(reward)):
        sums[t] = running = reward[t] + gamma * running
        running = running * ~done[t]
    return sums, running


def shares(valid: Tensor, batch: Sequence[int] | None = None) -> Tensor:
    """Equal weights of the valid (M, ...) bool entries in means over dimensions `batch`, or all; others 0.

    They add up to P over all P processes, not to 1: the processes' mean gradient is that of the joint batch.
    """
    dims = tuple(range(valid.ndim)) if batch is None else tuple(batch)
    weight = valid.float()
    return weight * (world() / total(weight.sum(dims, keepdim=True)).clamp(min=1))


def average(x: Tensor, share: Tensor) -> Tensor:
    """Sum of x * share over all entries, 0-d: a mean with `shares`. Weight 0: ignored, even if x is NaN."""
    return (torch.where(share > 0, x, 0.0) * share).sum()


def standardize(x: Tensor, valid: Tensor, batch: Sequence[int] | None = None) -> Tensor:
    """x (M, ...) less the mean, divided by the deviation (n - 1), over the dimensions `batch`, or all.

    Both are of the entries valid (M, ...) bool, in all processes; the other entries are transformed too.
    """
    dims = tuple(range(x.ndim)) if batch is None else tuple(batch)

    def summed(y: Tensor) -> Tensor:
        return total(torch.where(valid, y, 0.0).sum(dims, keepdim=True))

    count = summed(torch.ones_like(x))
    centered = x - summed(x) / count.clamp(min=1)
    var = summed(centered.square()) / (count - 1).clamp(min=1)
    return centered / (var.sqrt() + 1e-8)


def n_step(reward: Tensor, over: Tensor, done: Tensor, n: int, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """n-step returns (Sutton & Barto 2018, eq. 7.1): sums, discounts of the value after them, last steps.

        G_t = sum_{k < m} gamma^k r_{t+k},   m = n, or fewer if the episode ends first
        Q_target = G_t + discount_t V(s'_{t+m-1}),   discount_t = gamma^m, 0 if any of the m steps is `over`

    reward, over (L + n - 1, M, C); over bool: this column's return ends here, so that later rewards
    of the n steps are left out. done (L + n - 1, M) bool: the episode ends. Returns G and discount (L, M, C),
    and t + m - 1 (L, M).
    """
    length = len(reward) - n + 1
    start = torch.arange(length, device=reward.device)[:, None]
    total, discount = torch.zeros_like(reward[:length]), torch.ones_like(reward[:length])
    last, going = start.expand(done[:length].shape), torch.ones_like(done[:length])
    for k in range(n):
        now = slice(k, k + length)
        total = total + torch.where(going[..., None], discount * reward[now], 0.0)
        discount = torch.where(going[..., None], gamma * discount * ~over[now], discount)
        last = torch.where(going, start + k, last)
        going = going & ~done[now]
    return total, discount, last
