"""Samples that react: linear policies, found along with the plan, hold what falls within a plan without them.

    a_t = clip(G_k obs_t + noise_t),   G_k ~ N(mean, std^2),   mean, std <- those of the samples by weight

Of a plan that does not react an unstable body amplifies each early step's noise by e^(rate x horizon): no
sample stands at its end. One that reacts has the noise of its gains alone (cross-entropy search of a linear
policy: Mannor, Rubinstein & Gat 2003; random search: Mania, Guy & Recht 2018).
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

LEAST = 0.025  # smallest deviation of the gains, as a share of the largest
WIDER = 1.3  # times as wide as those of the samples by weight: these alone shrink before good gains are found
FIRST = 48  # iterations, at least, of the plan that begins without gains


class Feedback:
    """Gains (M, A, O) of M played simulations, zero at the start of an episode; a guide of all samples.

    most: largest standard deviation of the gains, and the first one.
    """

    value: Callable[[Tensor, Tensor], Tensor] | None = None

    def __init__(self, shape: tuple[int, int, int], most: float, rng: Generator) -> None:
        self.most, self.rng = most, rng
        self.mean, self.std = torch.zeros(shape), torch.full(shape, most)

    def begin(self, rows: Tensor) -> None:
        """Draw the gains of n samples, sample by sample; the last one's are the mean."""
        noise = torch.randn(len(rows) // len(self.mean), *self.mean.shape, generator=self.rng)
        noise[-1] = 0.0
        self._gains = self.mean + self.std * noise  # (K, M, A, O)

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Actions for obs (n, O), in [-1, 1], with noise (n, A)."""
        return ((self._gains.flatten(0, 1) @ obs[..., None])[..., 0] + noise).clamp(-1.0, 1.0)

    def improve(self, weight: Tensor) -> None:
        """Take mean and deviations, these WIDER times, of the samples by weight (K, M), of sum 1."""
        self.mean = torch.einsum("km,kmao->mao", weight, self._gains)
        std = torch.einsum("km,kmao->mao", weight, (self._gains - self.mean).square()).sqrt()
        self.std = (WIDER * std).clamp(LEAST * self.most, self.most)

    def follow(self, obs: Tensor, done: Tensor) -> None:
        """After a played control step: begin anew where done (M,)."""
        self.mean[done], self.std[done] = 0.0, self.most
