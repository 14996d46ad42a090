"""The optimiser of a learned model: Adam with decoupled weight decay (Loshchilov & Hutter 2019, AdamW)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from robokit.dynamics.ensemble import Dynamics, fold
from robokit.learning.adam import Adam, Losses, make_step
from robokit.learning.offpolicy.replay import Replay

EPS, CLIP = 1e-8, 100.0  # of Adam; largest norm of the gradient
BATCH = 256  # transitions of each member in a gradient step
RESCALE, SCALED = 1000, 16_384  # gradient steps between two fits of the units; transitions of one
LOGGED = 100  # the last gradient steps whose means are logged
DECAY = 1e-3  # of the members' weights, times the learning rate in each step
END_RATE = (
    3.0  # learning rate of the ends' classifier, times the model's: ends are rare, its weights get large
)


class Fit:
    """Gradient steps of a `Dynamics`; graph: traceable by torch.compile. See Dynamics.loss for a batch."""

    def __init__(self, net: Dynamics, lr: float, graph: bool = False) -> None:
        self.adam = Adam(net, EPS, CLIP, lambda name: END_RATE if name.startswith("end.") else 1.0)
        self.step = make_step(lambda net, *batch: net.loss(*batch), self.adam, graph)
        self.lr = torch.tensor(lr, device=self.adam.flat.device)
        shapes = self.adam.shapes.items()
        decays = [torch.full((shape.numel(),), float(".weights." in name)) for name, shape in shapes]
        self.decay = DECAY * torch.cat(decays).to(self.adam.flat.device)

    def update(self, x: Tensor, y: Tensor, valid: Tensor, seen: Tensor, ended: Tensor) -> Losses:
        """One gradient step; returns {name: 0-d tensor} to log."""
        parts = self.step(self.lr, x, y, valid, seen, ended)
        self.adam.flat.mul_(1 - self.lr * self.decay)
        parts.pop("grad_norm")
        return parts


class Upkeep:
    """Gradient steps of a model from a replay that grows; each member leaves out its folds.

    data: rows (1, M, C), beliefs (M, B) -> x (M, I), y (M, D), x' (M, O), ended, sound (M,) bool. update: the
    same and allowed (E, M) bool -> losses.
    """

    def __init__(
        self, net: Dynamics, data: Callable[..., tuple[Tensor, ...]], update: Callable[..., Losses]
    ) -> None:
        self.net, self.data, self.update, self.steps = net, data, update, 0
        self.own = torch.arange(net.members, device=net.low.device)[:, None]

    def catch_up(self, due: int, replay: Replay, rng: torch.Generator) -> Losses:
        """Gradient steps until there were `due` in all; returns the last ones' means, {} for none."""
        history = list[Losses]()
        while self.steps < due:
            if self.steps % RESCALE == 0:
                x, y, seen, _, sound = self.data(*replay.sample(SCALED, 1, rng))
                self.net.fit_scales(x[sound], y[sound], seen[sound])
            picked, simulations = replay.pick(self.net.members * BATCH, 1, rng), replay.rows.shape[1]
            left_out = fold(picked // simulations, picked % simulations, self.net.members)
            allowed = left_out.view(-1, BATCH) != self.own
            history.append(self.update(*replay.take(picked), allowed))
            self.steps += 1
        last = history[-LOGGED:]
        return {name: torch.stack([parts[name] for parts in last]).mean() for name in (last or [{}])[0]}

    def state_dict(self) -> dict[str, Tensor]:
        return {"steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.steps = int(state["steps"])
