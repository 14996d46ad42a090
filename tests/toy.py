"""The smallest learner whose resuming can fail: weights, momentum, and a generator of its own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robokit.learning.offpolicy.replay import Replay


class Toy:
    """A linear map that follows noise; every number it shows depends on all that came before."""

    steps_per_iteration = 8
    replay: Any = None
    env: Any = None
    config: Any = None

    def __init__(self, seed: int = 0, size: int = 4, nan_at: int = -1) -> None:
        self.rng = torch.Generator().manual_seed(seed)
        self.policy: Any = nn.Linear(size, size)
        self.weight = self.policy.get_parameter("weight").detach().zero_()
        self.policy.get_parameter("bias").detach().zero_()
        self.momentum = torch.zeros_like(self.weight)
        self.iterations = torch.tensor(0)
        self.nan_at = nan_at  # iteration after which a weight is NaN

    def iterate(self) -> dict[str, float]:
        noise = torch.randn(self.weight.shape, generator=self.rng)
        self.momentum.mul_(0.9).add_(noise - self.weight)
        self.weight.add_(0.1 * self.momentum)
        self.iterations += 1
        metrics = {"episode/return": float(self.weight.sum()), "loss/policy": float(self.momentum.norm())}
        if self.iterations == self.nan_at:
            self.weight[0, 0] = torch.nan  # after the metrics, which are still finite
        return metrics

    def state_dict(self) -> dict[str, Tensor]:
        state = {"momentum": self.momentum, "iterations": self.iterations, **self.policy.state_dict()}
        return {"rng": self.rng.get_state(), **{name: value.clone() for name, value in state.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.rng.set_state(state["rng"])
        self.momentum.copy_(state["momentum"])
        self.iterations.copy_(state["iterations"])
        self.policy.load_state_dict({name: state[name] for name in ("weight", "bias")})


class Remembering(Toy):
    """Follows what it draws from a replay: two simulations, 65 segments of two control steps at most."""

    replay: Replay

    def __init__(self, seed: int = 0, capacity: int = 260) -> None:
        super().__init__(seed)
        self.replay = Replay({"number": 3}, belief_size=1, num_envs=2, capacity=capacity)

    def iterate(self) -> dict[str, float]:
        for _ in range(4):
            number = torch.randn(2, 3, generator=self.rng)
            self.replay.add({"number": number}, number[:, :1])
        rows, belief = self.replay.sample(8, 4, self.rng)
        self.momentum.add_(rows.mean() + belief.sum())
        return super().iterate()

    def state_dict(self) -> dict[str, Tensor]:
        remembered = {f"replay.{name}": value for name, value in self.replay.state_dict().items()}
        return {**super().state_dict(), **remembered}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        remembered = ((name.removeprefix("replay."), value) for name, value in state.items())
        self.replay.load_state_dict(dict(remembered))
