"""Model-predictive control by sampling: in every control step a plan is sampled, improved, and begun.

    planner = Planner(TrueModel(env, config.samples), config, env)
    action = planner.plan()                     # (M, A)
    planner.follow(env.obs, env.step(action))   # before the next plan

    x_k = clip(mean + W (std * C eps_k)),  eps_k ~ N(0, 1),  k = 1..K             noise.py
    mean <- sum_k w_k x_k,   w = softmax of the returns of all, or of the elites

`softmax` is MPPI (Williams et al. 2017, eq. 12, with temperature in deviations of the returns), `elites` CEM
with the pink noise, kept elites and carried mean of iCEM (Pinneri et al. 2020), but weighted. The mean acts.
Under limits a plan within the budget comes before any that is not.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from robokit.env.env import Env
from robokit.env.step import Step
from robokit.errors import OptionError
from robokit.learning.options import check_choices, check_not_negative, check_positive, check_unit
from robokit.planning.budget import Budget
from robokit.planning.feedback import FIRST, Feedback
from robokit.planning.noise import between, coloured
from robokit.planning.rollout import Guide, Model, rollout


@dataclass(frozen=True)
class Config:
    """Options of a planner; a task's own are its attribute `planner`."""

    rule: Literal["softmax", "elites"] = "softmax"  # the mean is that of all samples (MPPI), or of the best
    samples: int = 64  # K, plans rolled forward at once
    horizon: float = 0.5  # s that a plan is long
    iterations: int = 1  # times that samples are drawn and weighed in every control step
    sigma: float = 0.5  # largest standard deviation of the noise; actions reach from -1 to 1
    knots: int = 0  # the noise is linear between so many; 0: each control step has its own
    colour: float = 2.0  # power of the noise is frequency^-colour; 0: white, 1: pink, 2: red
    elites: int = 8  # best samples, of which rule `elites` takes mean and deviations
    kept: int = 1  # of them those that are samples again in the next iteration and plan
    temperature: float = 0.3  # of the weights, in standard deviations of the returns
    # deviations begin at so many times those of the last plan (rule `elites`); 0: at sigma
    carried: float = 0.0
    least: float = 0.02  # smallest standard deviation
    # largest standard deviation of the gains of linear policies, one a sample, that act with the noise;
    feedback: float = 0.0  # 0, and beside a trained policy: none. See feedback.py
    gamma: float = 1.0  # discount per control step
    margin: float = 0.1  # plans aim at (1 - margin) of each limit


def check(config: Config) -> None:
    """Raise OptionError for an impossible option."""
    check_choices(config)
    check_positive(config, "samples", "horizon", "iterations", "sigma", "elites", "temperature", "least")
    check_not_negative(config, "knots", "colour", "kept", "carried", "feedback")
    check_unit(config, "gamma", "margin")
    weighed = (("elites", "samples"), ("kept", "elites")) if config.rule == "elites" else ()
    for low, high in (*weighed, ("least", "sigma")):
        if (a := getattr(config, low)) > (b := getattr(config, high)):
            raise OptionError(f"{low} must be at most {high} ({b}), got {a}")


def steps_of(config: Config, control_dt: float) -> int:
    """H, control steps of a plan. Raises OptionError for none, or for fewer than knots."""
    steps = round(config.horizon / control_dt)
    if steps < 1 or config.horizon < control_dt * (1 - 1e-9):
        raise OptionError(f"horizon must be at least a control step ({control_dt} s), got {config.horizon} s")
    if config.knots > steps:
        rule = f"knots must be at most the {steps} control steps of the horizon ({config.horizon} s)"
        raise OptionError(f"{rule}, got {config.knots}")
    return steps


class Planner:
    """Plans for the M simulations of `env`, over a model with K x M rows, sample by sample.

    guide: a policy whose actions are among the samples. limit_gamma: of discounted limits. Raises OptionError
    for an impossible option and for a limit that no plan is held to.
    """

    def __init__(
        self,
        model: Model,
        config: Config,
        env: Env | Any,
        seed: int = 0,
        guide: Guide | Feedback | None = None,
        limit_gamma: float = 0.99,
    ) -> None:
        check(config)
        self.model, self.config, self.guide = model, config, guide
        self.steps, task = steps_of(config, env.task.control_dt), env.task
        self.budget = Budget(task.limits, env.num_envs, env.max_age, limit_gamma, config.margin)
        knots = config.knots or self.steps
        self._colours, self._between = coloured(knots, config.colour), between(self.steps, knots)
        self._at = torch.linspace(0, self.steps - 1, knots).round().long()  # control step of each knot
        self.rng = torch.Generator().manual_seed(seed)
        self.feedback = None
        if config.feedback and guide is None:
            gains = env.num_envs, env.act_dim, env.obs_dim
            self.guide = self.feedback = Feedback(gains, config.feedback, self.rng)
        if self.guide is not None and not getattr(model, "look", True):
            raise OptionError("plans that react to observations need a TrueModel(..., look=True)")
        self.rows = torch.arange(env.num_envs).repeat(config.samples)
        shape = self.steps, env.num_envs, env.act_dim
        self.mean, self.std = torch.zeros(shape), torch.full(shape, config.sigma)
        self.best = torch.zeros(self.steps, 0, *shape[1:])  # elites of the last iteration

    @torch.no_grad()
    def plan(self) -> Tensor:
        """The next actions (M, A), in [-1, 1]."""
        config, mean, std, best = self.config, self.mean, self.std, self.best
        unknown = self.feedback is not None and not self.feedback.mean.flatten(1).any(-1).all()
        for _ in range(max(config.iterations, FIRST) if unknown else config.iterations):
            x = self._samples(mean, std, best)
            along = mean[:, None].expand_as(x).flatten(1, 2)
            returns, costs = rollout(self.model, x.flatten(1, 2), along, self.rows, config.gamma, self.guide)
            returns = returns.view(x.shape[1:3])
            weight = self._weights(returns, self.budget.excess(costs.view(*x.shape[:3], -1)))
            mean = torch.einsum("km,hkma->hma", weight, x)
            if self.feedback is not None:
                self.feedback.improve(weight)
            if config.rule == "elites":
                std = torch.einsum("km,hkma->hma", weight, (x - mean[:, None]).square()).sqrt()
                std = std.clamp(config.least, config.sigma)
                top = weight.topk(config.kept, 0).indices[None, :, :, None]
                best = x.gather(1, top.expand(len(x), -1, -1, x.shape[-1]))
        self.mean, self.best = (torch.cat((x[1:], x[-1:])) for x in (mean, best))  # one control step on
        std = config.carried * torch.cat((std[1:], std[-1:])) if config.carried else config.sigma + 0 * std
        self.std = std.clamp(config.least, config.sigma)
        return mean[0]

    def follow(self, obs: Tensor, step: Step) -> None:
        """After a played control step from obs (M, O): count its costs; where it ended, plan anew."""
        self.budget.add(step.cost.cpu(), done := step.done.cpu())
        if self.guide is not None:
            self.guide.follow(obs, done)
        if bool(done.any()):
            self.mean[:, done], self.std[:, done], self.best[:, :, done] = 0.0, self.config.sigma, 0.0

    def _samples(self, mean: Tensor, std: Tensor, best: Tensor) -> Tensor:
        """(H, K, M, A): the mean, the elites before, and noise around the mean."""
        shape = len(self._at), self.config.samples, *mean.shape[1:]
        noise = torch.tensordot(self._colours, torch.randn(shape, generator=self.rng), dims=1)
        x = mean[:, None] + torch.tensordot(self._between, std[self._at][:, None] * noise, dims=1)
        more = torch.cat((mean[:, None], best), 1)[:, : self.config.samples]
        if self.guide is None:
            x[:, : more.shape[1]] = more
        else:
            x[:, -more.shape[1] :] = more
        return x.clamp_(-1.0, 1.0)

    def _weights(self, returns: Tensor, excess: Tensor) -> Tensor:
        """(K, M), of sum 1: softmax of the scores, which without a feasible sample are minus the excess."""
        excess = torch.where(returns.isfinite(), excess, math.inf)
        feasible = excess <= 0
        some = feasible.any(0)
        score = torch.where(some, torch.where(feasible, returns, -math.inf), -excess)
        if self.config.rule == "elites":
            least = score.topk(self.config.elites, 0).values[-1]
            score = torch.where(score >= least, score, -math.inf)
        counts = score.isfinite()
        x = torch.where(counts, score, torch.nan)
        spread = (x - x.nanmean(0)).square().nanmean(0).sqrt()
        scale = self.config.temperature * spread + 1e-9
        return torch.where(counts.any(0), (score - score.amax(0)) / scale, 0.0).softmax(0)
