"""A heteroscedastic Gaussian ensemble of a task's dynamics (Chua et al. 2018, arXiv:1805.12114), and ends.

    p_e(dx, r, c | b, a) = N(mu_e, sigma_e^2),  dx: change of the predicted columns,  e = 1..E

Trained by beta-NLL (Seitzer et al. 2022, arXiv:2203.09168). On hopper, plain likelihood had half as much
one-step error again, and two and a half times the drift after 20 steps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robokit.compute.processes import total
from robokit.errors import TaskError
from robokit.learning.returns import average, shares
from robokit.networks.mlp import Ensemble

BOUNDS = -6.0, 0.5  # initial bounds of log sigma^2, in normalised units
BOUND_COST = 0.01  # pulls the learned bounds together, as in PETS' code
END_HIDDEN = (128, 128)
BLOCK = 64  # control steps
TINY = 1e-6  # a column with a smaller deviation is not scaled


class Scale(nn.Module):
    """Mean and standard deviation of each column (D,), from `fit`."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) in normalised units."""
        return (x - self.mean) / self.std

    def back(self, x: Tensor) -> Tensor:
        """x (..., D) in its own units, from normalised ones."""
        return x * self.std + self.mean

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and deviation of the rows x (M, D) of all processes."""
        rows = total(x.new_tensor(len(x), dtype=torch.float64))
        mean = total(x.double().sum(0)) / rows
        std = (total((x - mean).square().sum(0)) / rows).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std < TINY, 1.0, std))


class Dynamics(nn.Module):
    """E members p_e(dx, r, c | b, a), each with a classifier P_e(end | x') of the next observation.

    inputs: columns of [frame | belief | action]. seen: columns of x'. changes: P, predicted columns. costs:
    K. The outputs (E, M, D) are [changes, reward, costs].
    """

    beta = 0.5  # of beta-NLL, the paper's default; 0: plain likelihood

    def __init__(
        self, inputs: int, seen: int, changes: int, costs: int, members: int, hidden: Sequence[int]
    ) -> None:
        super().__init__()
        self.members, self.changes, self.outputs = members, changes, changes + 1 + costs
        self.net = Ensemble(members, (inputs, *hidden, 2 * self.outputs), "silu", layer_norm=True)
        self.end = Ensemble(members, (seen, *END_HIDDEN, 1), "silu")
        with torch.no_grad():
            self.net.weights[-1].mul_(0.1)
        self.inp, self.out, self.seen = Scale(inputs), Scale(self.outputs), Scale(seen)
        self.low, self.high = (nn.Parameter(torch.full((self.outputs,), bound)) for bound in BOUNDS)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sigma (E, M, D), normalised, for inputs (M, I), or (E, M, I): each member's own."""
        mean, log_var = self.net(self.inp(x)).chunk(2, -1)
        log_var = self.high - nn.functional.softplus(self.high - log_var)
        return mean, 0.5 * (self.low + nn.functional.softplus(log_var - self.low))

    def logit(self, seen: Tensor) -> Tensor:
        """Log-odds (E, M) that an episode ends at the observations x' (M, O), or (E, M, O)."""
        return self.end(self.seen(seen))[..., 0]

    def draw(self, x: Tensor, noise: Tensor, deal: Tensor, spread: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs (M, D) in their own units for inputs (M, I), each row by one member, as dealt by `deal`.

        The changes are drawn with standard normal noise (M, P); reward and costs are the member's means. With
        `spread` all members are computed, for the disagreement u (M,), see `disagreement`, and the deviation
        (M, K) of the costs; else both are 0.
        """
        order, back = deal.split((len(deal) - len(x), len(x)))
        if spread:
            mean, log_std = self(x)
            doubt = self.disagreement(mean)
            costs = deviation(mean[..., self.changes + 1 :]) * self.out.std[self.changes + 1 :]
            own = (back // (len(order) // self.members))[None, :, None].expand(1, *mean.shape[1:])
            mean, log_std = mean.gather(0, own)[0], log_std.gather(0, own)[0]
        else:
            both = self(x.index_select(0, order).unflatten(0, (self.members, -1)))
            mean, log_std = (part.flatten(0, 1).index_select(0, back) for part in both)
            doubt, costs = torch.zeros_like(mean[:, 0]), torch.zeros_like(mean[:, self.changes + 1 :])
        wide = log_std[:, : self.changes].exp() * noise
        y = torch.cat((mean[:, : self.changes] + wide, mean[:, self.changes :]), -1)
        return self.out.back(y), doubt, costs

    def ends(self, seen: Tensor, deal: Tensor) -> Tensor:
        """(M,) bool: whether an episode ends at observations (M, O), each row by one member."""
        order, back = deal.split((len(deal) - len(seen), len(seen)))
        logit = self.logit(seen.index_select(0, order).unflatten(0, (self.members, -1)))
        return logit.flatten().index_select(0, back) > 0

    def disagreement(self, mean: Tensor) -> Tensor:
        """u (M,): deviation over the members of mu (E, M, D), as a share of the changes' own, mean over P."""
        return deviation(mean[..., : self.changes]).mean(-1)

    def loss(
        self, x: Tensor, y: Tensor, valid: Tensor, seen: Tensor, ended: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Beta-NLL of outputs y (E, M, D) in their own units, plus the cross entropy of the ends.

            sg(sigma^(2 beta)) [((y - mu) / sigma)^2 / 2 + log sigma], summed over D

        x (E, M, I). valid (E, M) bool: rows that a member may learn from; of others nothing counts, NaN too.
        seen (E, M, O), ended (E, M) bool: the next observations, and whether an episode ended there.
        """
        rows = valid[..., None]
        mean, log_std = self(torch.where(rows, x, 0.0))
        error = torch.where(rows, self.out(y), 0.0) - mean
        nll = 0.5 * (error * torch.exp(-log_std)).square() + log_std
        weighted = nll * torch.exp(2 * self.beta * log_std).detach()
        share = shares(valid, (1,))
        fit = average(weighted.sum(-1), share)
        logit = self.logit(torch.where(rows, seen, 0.0))
        wrong = nn.functional.binary_cross_entropy_with_logits(logit, ended.float(), reduction="none")
        end = average(wrong, share)
        loss = fit + end + BOUND_COST * (self.high - self.low).sum()
        each = share / self.members
        parts = {"model_nll": average(nll.mean(-1), each), "model_end": end}
        parts["model_error"] = average(error.square().mean(-1), each).sqrt()
        return loss, {name: value.detach() for name, value in parts.items()}

    def fit_scales(self, x: Tensor, y: Tensor, seen: Tensor) -> None:
        """Take the units of inputs (M, I), outputs (M, D) and observations (M, O) from these rows.

        Raises TaskError for a number that is not finite.
        """
        for name, scale, values in (
            ("inputs", self.inp, x),
            ("outputs", self.out, y),
            ("ends", self.seen, seen),
        ):
            scale.fit(values)
            if not bool((scale.mean.isfinite() & scale.std.isfinite()).all()):
                wrong = (~(scale.mean.isfinite() & scale.std.isfinite())).nonzero().flatten().tolist()
                raise TaskError(f"the model's {name} must be finite in the replay; columns {wrong} are not")


def deviation(x: Tensor) -> Tensor:
    """Population deviation (...) over the members of x (E, ...), with a finite gradient."""
    return x.var(0, correction=0).clamp(min=1e-12).sqrt() if x.numel() else x[0]


def deal(rows: int, members: int, turn: int, device: torch.device | str = "cpu") -> Tensor:
    """(order, back) as one tensor: M rows dealt to E members in equal parts, each `turn` to another member.

    order (M',), M' the next multiple of E: the row of each place, the first rows again in the last places.
    back (M,): each row's place. Place p is of member p // (M' / E).
    """
    part = -(-rows // members)
    place = (torch.arange(rows) + turn * part) % (part * members)
    order = torch.arange(part * members)
    order = (order - turn * part) % (part * members)
    return torch.cat((order % rows, place)).to(device)


def fold(step: Tensor, simulation: Tensor, members: int) -> Tensor:
    """The member (M,) that never trains on control steps `step` (M,) of `simulation` (M,): by hash(block).

    Blocks are BLOCK consecutive control steps of one simulation. Nothing is stored: the same for the same
    numbers, in every process and after a resume.
    """
    block = (step // BLOCK) * 65_537 + simulation
    mixed = (block * 2_654_435_761) & 0xFFFFFFFF  # Knuth's multiplicative hash
    mixed = ((mixed ^ (mixed >> 15)) * 2_246_822_519) & 0xFFFFFFFF  # a prime of xxHash
    return (mixed ^ (mixed >> 13)) % members
