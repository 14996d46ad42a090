"""Limits on named costs, and the Lagrange multipliers that hold a policy to them: constrained MDPs.

    limits = {"joint_speed": Limit(0.01), "fall": Limit(0.05, "probability")}     # in a task
    meter, multipliers = Meter(limits, num_envs, steps), Multipliers(limits, steps, gamma=0.99)
    multipliers.update(*meter.measure(cost, terminated, done, steps_left))              # once an iteration
    advantage = multipliers.advantage(advantages, valid)                          # (T, N, 1 + K) -> (T, N)

Maximise J(pi) subject to J_k(pi) <= d_k (Altman 1999): the policy ascends J - sum_k lambda_k J_k, and each
lambda_k follows its own violation. J_k is measured from the costs themselves, in their own unit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from robokit.compute.processes import total
from robokit.errors import OptionError
from robokit.limits.limit import Limit
from robokit.limits.measures import MEASURES
from robokit.state import Saved

Rule = Literal["pid", "dual", "fixed", "off"]
SMOOTHING = 0.8  # weight of the past in the smoothed violation
LEAST, MOST = -1.0, 2.0  # bounds of the relative violation in one iteration
HIGHEST = 50.0  # multiplier, in the units of normalised advantages
FLOOR = 0.01  # least divisor of a violation and least unit of a cost, as a share of their largest values
SLOW = 0.95  # weight of the past in the units of reward and costs
TINY = 1e-8
WATCHED = ("measured", "lambda")


def violation(measured: Tensor, aim: Tensor, floor: Tensor) -> Tensor:
    """Relative violations (K,): clip((J_k - d_k) / max(d_k, floor_k), LEAST, MOST), d_k = aim_k."""
    return ((measured - aim) / torch.maximum(aim, floor)).clamp(LEAST, MOST)


def combine(advantage: Tensor, weight: Tensor) -> Tensor:
    """One advantage (T, N) from those of reward and costs (T, N, 1 + K), already divided by their units.

        (A_r - sum_k w_k A_k) / (1 + sum_k w_k)

    Its scale does not grow with the multipliers (Stooke et al. 2020, arXiv:2007.03964, section 5).
    """
    return (advantage[..., 0] - advantage[..., 1:] @ weight) / (1 + weight.sum())


class Multipliers(Saved):
    """One lambda >= 0 for each limit, and the weight w of the cost's advantage in `combine`.

        pid    s <- .8 s + .2 e,  I <- I + Ki e,  w = clip(Kp s + I + Kd max(ds, 0)),  e: the violation
               (Stooke et al. 2020, algorithm 2); w weighs normalised advantages, so it does not depend
               on the units of reward and costs
        dual   lambda <- max(0, lambda + lr (J_k - d_k)): gradient ascent on the dual
        fixed  lambda = penalty

    d_k is (1 - margin) of the limit. Under pid s starts at the first e, I at 0, and both I and w are in
    [0, HIGHEST]. Under every rule w_k = lambda_k unit_k / unit_r, see `follow`, and `lambdas` are in reward
    per unit of cost in one control step. For a discounted limit that binds, lambda_k is its price dJ/dd_k:
    the return gained per unit by which d_k is raised. `steps`: control steps of the longest episode.

    Raises TaskError for a limit that no episode can exceed, OptionError for a measure of evaluation only.
    """

    def __init__(
        self,
        limits: Mapping[str, Limit],
        steps: int,
        gamma: float,
        rule: Rule = "pid",
        margin: float = 0.1,
        gains: tuple[float, float, float] = (0.5, 0.02, 0.0),
        dual_lr: float = 0.01,
        penalty: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.rule, self.gains, self.dual_lr = rule, gains, dual_lr
        self.names = (*limits,)
        for name, limit in limits.items():
            limit.check(steps, gamma, f"limits[{name!r}]")
            if why := MEASURES[limit.measure].untrained:
                remedy = "--limit-rule off trains without limits, and evaluation judges it"
                raise OptionError(f"limits[{name!r}]: no multiplier holds a {limit.measure}: {why}; {remedy}")

        def row(of: Callable[[Limit], float]) -> Tensor:
            return torch.tensor([of(limit) for limit in limits.values()], dtype=torch.float64, device=device)

        self.aim = row(lambda limit: (1 - margin) * limit.value)
        self.floor = row(lambda limit: FLOOR * limit.most(steps, gamma))
        self.least_scale = torch.cat((self.aim.new_tensor([TINY]), row(lambda x: FLOOR * x.largest)))
        start = penalty if rule == "fixed" else 0.0
        self.strength = torch.full_like(self.aim, start)  # w under pid, lambda under the other rules
        self.integral, self.smooth = torch.zeros_like(self.aim), torch.zeros_like(self.aim)
        self.begun = torch.zeros_like(self.aim, dtype=torch.bool)  # whether J_k was ever known
        self.scale = torch.zeros_like(self.least_scale)  # slow units of reward and costs, see `follow`
        self.latest = torch.zeros_like(self.aim)

    def update(self, measured: Tensor, known: Tensor) -> None:
        """Update the multipliers from J_k = measured (K,) where known (K,) bool; the others stay."""
        self.latest = torch.where(known, measured, self.latest)
        if self.rule == "dual":
            step = self.dual_lr * (measured - self.aim)
            self.strength = torch.where(known, (self.strength + step).clamp(min=0.0), self.strength)
        if self.rule == "pid":
            self._pid(violation(measured, self.aim, self.floor), known)
        self.begun = self.begun | known

    def _pid(self, error: Tensor, known: Tensor) -> None:
        kp, ki, kd = self.gains
        smooth = torch.where(self.begun, SMOOTHING * self.smooth + (1 - SMOOTHING) * error, error)
        rise = torch.where(self.begun, (smooth - self.smooth).clamp(min=0.0), 0.0)
        integral = (self.integral + ki * error).clamp(0.0, HIGHEST)
        strength = (kp * smooth + integral + kd * rise).clamp(0.0, HIGHEST)
        for name, value in (("smooth", smooth), ("integral", integral), ("strength", strength)):
            setattr(self, name, torch.where(known, value, getattr(self, name)))

    def take_over(self, state: Mapping[str, Tensor], names: Sequence[str], same: Sequence[str]) -> None:
        """Go on with the multipliers of the `same` limits from a state_dict of those of limits `names`."""
        here, there = ([known.index(name) for name in same] for known in (self.names, names))
        for key, part in self._parts().items():
            if key == "spread":
                part[[0, *(i + 1 for i in here)]] = state[key][[0, *(i + 1 for i in there)]].to(part)
            else:
                part[here] = state[key][there].to(part)

    def advantage(self, advantage: Tensor, valid: Tensor) -> Tensor:
        """The policy's advantage (T, N) from those of reward and costs (T, N, 1 + K) in their own units.

        Each is centred over valid (T, N) bool of all processes, and divided by a slow average of its standard
        deviation, updated here by `follow`, or by the present deviation if larger. `combine` does not
        normalise again.
        """
        count = total(valid.sum()).clamp(min=1)
        weight = valid[..., None] / count
        centred = advantage - total((advantage * weight).sum((0, 1)))
        now = total((centred.square() * weight).sum((0, 1))).sqrt().double()
        self.follow(now)
        units = torch.maximum(self.scale, now)  # the slow average lags when a cost first occurs
        return combine(centred / units, self.weights(units)).float()

    def follow(self, now: Tensor, slow: float = SLOW) -> None:
        """Update `scale`, the slow units of reward and costs, from those of now (1 + K,).

        A unit is the standard deviation of the advantage (PPO) or the RMS of dQ/da (SAC, TD3). In these units
        a weight of 1 counts as much as the reward. slow: weight of the past units, ignored at first.
        """
        mean = torch.where(self.scale > 0, torch.lerp(now, self.scale, slow), now)
        self.scale = torch.maximum(mean, self.least_scale)

    def weights(self, units: Tensor) -> Tensor:
        """w (K,) of `combine`, for these units (1 + K,): under pid as is, else lambda_k unit_k / unit_r."""
        return self.strength if self.rule == "pid" else self.strength * units[1:] / units[0]

    @property
    def units(self) -> Tensor:
        """Slow units (1 + K,) of reward and costs, see `follow`; 1 until known."""
        return torch.where(self.scale > 0, self.scale, 1.0)

    @property
    def metrics(self) -> dict[str, Tensor]:
        """{"limit/NAME/measured": J_k, "limit/NAME/lambda": lambda_k}, 0-d, of each limit."""
        named = zip(self.names, self.measured, self.lambdas, strict=True)
        each = ((name, zip(WATCHED, now, strict=True)) for name, *now in named)
        return {f"limit/{name}/{what}": x for name, pairs in each for what, x in pairs}

    @property
    def measured(self) -> Tensor:
        """The last known J_k (K,); NaN before the first."""
        return torch.where(self.begun, self.latest, torch.nan)

    @property
    def lambdas(self) -> Tensor:
        """Lambda (K,), reward per unit of cost; under pid w unit_r / unit_k, 0 until the units are known."""
        started = self.scale[0] > 0
        price = torch.where(started, self.scale[0] / self.scale[1:].clamp(min=TINY), 0.0)
        return self.strength * price if self.rule == "pid" else self.strength

    def _parts(self) -> dict[str, Tensor]:
        names = ("strength", "integral", "smooth", "begun", "latest")
        return {**{name: getattr(self, name) for name in names}, "spread": self.scale}
