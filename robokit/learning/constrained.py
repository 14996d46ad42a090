"""What all learners share under limits: which are in force, what they charge, measure and weigh."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from robokit.env.env import Env
from robokit.env.step import Step
from robokit.learning.options import Options
from robokit.limits.charges import Charges, Maxima
from robokit.limits.meter import Meter
from robokit.limits.multipliers import Multipliers


class Constrained:
    """The K limits in force on one Env, none with the limit rule off, and what the critics see."""

    def __init__(self, env: Env, config: Options) -> None:
        device, self.gamma = env.device, config.gamma
        self.limits = {} if config.limit_rule == "off" else dict(env.task.limits)
        self.charges = Charges(self.limits, device)
        self.largest = torch.tensor([limit.largest for limit in self.limits.values()], device=device)  # (K,)
        self.meter = Meter(self.limits, env.num_envs, env.max_age, config.gamma, device)
        moves = config.limit_rule, config.margin, config.gains, config.dual_lr, config.penalty
        self.multipliers = Multipliers(self.limits, env.max_age, config.gamma, *moves, device)
        self.maxima = Maxima(self.limits, env.num_envs, device)
        self.extra = len(
            self.maxima.widths
        )  # columns that the limits' own state adds to what the critics see
        same = env.names.state == env.names.obs and not env.task.sensing
        self.sees = "obs" if config.critic == "obs" or same else "state"  # of Env, by the critics
        self.widths = {
            **getattr(env.names, self.sees),
            **self.maxima.widths,
        }  # of the terms that the critics see, S in all
        self.outputs = [1, len(self.limits)] if self.limits else [1]  # of the critic's networks

    # -- at every control step -----------------------------------------------------------------------

    def state(self, state: Tensor) -> Tensor:
        """What the critics see, (N, S), where Env gives them `state`, before an action."""
        return self.maxima.append(state)

    def step(self, step: Step) -> tuple[Tensor, Tensor]:
        """Costs (N, K) of a control step, of a `peak` limit as its rise, and what the critics see after it.

        The latter is (N, S), from before any restart. Once for each control step: the maxima move on.
        """
        cost = step.cost[:, : len(self.limits)]
        return self.maxima.step(cost, step.done, getattr(step, f"final_{self.sees}"))

    # -- once an iteration ---------------------------------------------------------------------------

    def update(self, cost: Tensor, terminated: Tensor, done: Tensor, steps_left: Tensor) -> None:
        """Move the multipliers by the costs (T, N, K) of T control steps."""
        if self.limits:
            self.multipliers.update(*self.meter.measure(cost, terminated, done, steps_left))

    # -- where a critic learns -----------------------------------------------------------------------

    def charged(self, cost: Tensor, terminated: Tensor, steps_left: Tensor) -> tuple[Tensor, Tensor]:
        """Costs (..., K) as a critic learns them, and where nothing comes after, (..., K) bool."""
        return self.charges.learned(cost, terminated, steps_left, self.gamma)

    def advantage(self, advantages: Tensor, valid: Tensor) -> Tensor:
        """(T, N) that a policy ascends, from those of reward and costs (T, N, 1 + K) in their own units."""
        return self.multipliers.advantage(advantages, valid) if self.limits else advantages[..., 0]

    @property
    def metrics(self) -> Mapping[str, Tensor]:
        """What to log of each limit."""
        return self.multipliers.metrics

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"meter": self.meter, "multipliers": self.multipliers, "maxima": self.maxima}
