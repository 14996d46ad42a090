"""A learner's limits: charged costs, measured values, multipliers, and the critics' input."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from robokit.env.env import Env
from robokit.env.step import Step
from robokit.errors import TaskError
from robokit.learning.options import Options
from robokit.limits.charges import Charges, Maxima
from robokit.limits.meter import Meter
from robokit.limits.multipliers import Multipliers
from robokit.task.states import libraries

MEASURED = "cost", "terminated", "done", "steps_left", "own"  # of the control steps, for `Constrained.update`


class Constrained:
    """The K limits in force on one Env (K = 0 with `limit_rule` off), and the critics' input (N, S)."""

    def __init__(self, env: Env, config: Options) -> None:
        device, self.gamma = env.device, config.gamma
        self.limits = {} if config.limit_rule == "off" else dict(env.task.limits)
        if self.limits and (all_of := [n for n, x in libraries(env.task).items() if x.share == 1]):
            rule = "limits are measured in episodes from the task's own start"
            raise TaskError(f"{rule}, of which {all_of[0]} = States(..., share=1) leaves none")
        self.charges = Charges(self.limits, device)
        self.largest = torch.tensor([limit.largest for limit in self.limits.values()], device=device)  # (K,)
        self.meter = Meter(self.limits, env.num_envs, env.max_age, config.gamma, device)
        moves = config.limit_rule, config.margin, config.gains, config.dual_lr, config.penalty
        self.multipliers = Multipliers(self.limits, env.max_age, config.gamma, *moves, device)
        self.maxima = Maxima(self.limits, env.num_envs, device)
        self.extra = len(self.maxima.widths)  # columns of the critics' input that Env does not have
        same = env.names.state == env.names.obs and not env.task.sensing
        self.sees = "obs" if config.critic == "obs" or same else "state"  # the critics' input from Env
        self.widths = {**getattr(env.names, self.sees), **self.maxima.widths}  # critics' terms, S in all
        self.outputs = [1, len(self.limits)] if self.limits else [1]  # of each of the critic's networks

    # -- at every control step -----------------------------------------------------------------------

    def state(self, state: Tensor) -> Tensor:
        """The critics' input (N, S) before an action: Env's `state` or `obs`, then the `peak` maxima."""
        return self.maxima.append(state)

    def step(self, step: Step) -> tuple[Tensor, Tensor]:
        """Costs (N, K) of a control step and the critics' input (N, S) after it, before any restart.

        A `peak` limit's cost is the rise of the episode's maximum. Call once per control step: it updates the
        maxima.
        """
        cost = step.cost[:, : len(self.limits)]
        return self.maxima.step(cost, step.done, getattr(step, f"final_{self.sees}"))

    # -- once an iteration ---------------------------------------------------------------------------

    def update(self, cost: Tensor, terminated: Tensor, done: Tensor, steps_left: Tensor, own: Tensor) -> None:
        """Update the multipliers from the costs (T, N, K) that `step` returned; the rest is (T, N)."""
        if self.limits:
            self.multipliers.update(*self.meter.measure(cost, terminated, done, steps_left, own))

    # -- at every update of critics and policy -------------------------------------------------------

    def charged(self, cost: Tensor, terminated: Tensor, steps_left: Tensor) -> tuple[Tensor, Tensor]:
        """Costs (..., K) for the critics, `absorb` added, and (..., K) bool: none follows, no bootstrap."""
        return self.charges.learned(cost, terminated, steps_left, self.gamma)

    def advantage(self, advantages: Tensor, valid: Tensor) -> Tensor:
        """One advantage (T, N) from unnormalised ones of reward and costs (T, N, 1 + K); K = 0: reward's."""
        return self.multipliers.advantage(advantages, valid) if self.limits else advantages[..., 0]

    @property
    def metrics(self) -> Mapping[str, Tensor]:
        """{"limit/NAME/measured", "limit/NAME/lambda"} of each limit, 0-d; measured is NaN until known."""
        return self.multipliers.metrics

    def parts(self) -> dict[str, Any]:
        """The objects with a state_dict for a checkpoint: "meter", "multipliers" and "maxima"."""
        return {"meter": self.meter, "multipliers": self.multipliers, "maxima": self.maxima}
