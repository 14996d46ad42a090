"""What a robot measures of what the simulator knows: noise, bias, delay, dropout, and what it cannot see.

    sensing = {"gyro": Sense(noise=0.2, bias=0.05, delay=(0.0, 0.02)), "velocity": Sense(hidden=True)}

A reading is, in this order: the truth some time ago, plus the episode's bias, plus fresh noise, or, where it
did not come, the last one that did.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from robokit.errors import TaskError
from robokit.state import gather, scatter

LONGEST = 50  # control steps that a delay may reach back
EPSILON = 1e-6  # control steps: 0.06 s is 3 of 0.02 s
Range = float | tuple[float, float]  # one value, or a range that each episode draws from


@dataclass(frozen=True)
class Sense:
    """One observation term as its sensor gives it; raises TaskError for a figure that cannot be."""

    noise: float = 0.0  # unit of the term, fresh every control step: standard deviation, or half width
    distribution: Literal["gaussian", "uniform"] = "gaussian"  # of the noise
    bias: float = 0.0  # half width, unit of the term: each number's constant offset, drawn every episode
    delay: Range = 0.0  # s, between two control steps linear; all the term's numbers share it
    dropout: float = 0.0  # chance per control step that no reading comes: the last one stands
    loss: float = (
        0.0  # failures a second, on average: after one the last reading stands till the episode ends
    )
    hidden: bool = False  # the policy does not see it at all; a critic does
    unit: str | None = None  # for the exported contract, where the model does not say
    frame: str | None = None
    max_age: float | None = None  # s, for the contract: an older reading should not be acted on

    def __post_init__(self) -> None:
        for name, rule in (("noise", "a size"), ("bias", "a half width"), ("loss", "failures a second")):
            if not 0 <= getattr(self, name) < math.inf:
                raise TaskError(f"Sense.{name} must be {rule} >= 0, got {getattr(self, name)}")
        if self.distribution not in ("gaussian", "uniform"):
            raise TaskError(f"Sense.distribution must be gaussian or uniform, got {self.distribution!r}")
        if not 0 <= self.dropout < 1:
            raise TaskError(f"Sense.dropout must be a chance in [0, 1), got {self.dropout}")
        if self.max_age is not None and not 0 < self.max_age < math.inf:
            raise TaskError(f"Sense.max_age must be seconds > 0, got {self.max_age}")
        check_delay("Sense.delay", self.delay)


def check_delay(name: str, delay: Range) -> None:
    """Raise TaskError unless it is a time in s, or a range of times, from 0 on."""
    pair = delay if isinstance(delay, tuple) else (delay, delay)
    if len(pair) != 2 or not 0 <= pair[0] <= pair[1] < math.inf:
        raise TaskError(f"{name} must be seconds >= 0, or a range (from, to) of them, got {delay}")


class Delay:
    """Vectors (N, D) as they were some time ago, linear between the control steps that are kept.

    ranges: for each group of columns its delay in s; widths: how many columns each group has. Every group of
    every simulation has a delay of its own. Raises TaskError when one reaches beyond LONGEST control steps.
    """

    def __init__(
        self,
        ranges: Sequence[Range],
        widths: Sequence[int],
        control_dt: float,
        num_envs: int,
        device: torch.device,
    ) -> None:
        pairs = [r if isinstance(r, tuple) else (r, r) for r in ranges]
        longest = max((high for _, high in pairs), default=0.0) / control_dt
        if longest > LONGEST + EPSILON:
            rule = f"at most {LONGEST} control steps ({LONGEST * control_dt:g} s), the length of its buffer"
            raise TaskError(f"a delay must be {rule}, got {longest * control_dt:g} s")
        self.low, self.high = torch.tensor(pairs, device=device).reshape(-1, 2).unbind(-1)
        self.low, self.high = self.low / control_dt, self.high / control_dt
        self.group = groups(widths, device)
        self.depth = math.ceil(longest - EPSILON)
        self.line = torch.zeros(self.depth + 1, num_envs, len(self.group), device=device)
        self.steps = torch.zeros(num_envs, len(widths), device=device)

    def draw(self, mask: Tensor, rng: Generator) -> None:
        """New delays for the simulations in mask (N,) bool."""
        unit = torch.rand(self.steps.shape, generator=rng, device=self.steps.device)
        drawn = self.low + (self.high - self.low) * unit
        self.steps.copy_(torch.where(mask[:, None], drawn, self.steps))

    def advance(self) -> None:
        """A control step has passed."""
        if self.depth:
            self.line[1:] = self.line[:-1].clone()

    def fill(self, mask: Tensor, past: Tensor | float) -> None:
        """The simulations in mask (N,) bool have only ever seen `past` (N, D)."""
        self.line.copy_(torch.where(mask[:, None], past, self.line))

    def read(self, newest: Tensor) -> Tensor:
        """(N, D) as known now, where `newest` (N, D) is the truth now."""
        self.line[0] = newest
        steps = self.steps.index_select(1, self.group)
        near = steps.long()
        far = (near + 1).clamp(max=len(self.line) - 1)
        return torch.lerp(self.line.gather(0, near[None])[0], self.line.gather(0, far[None])[0], steps - near)

    def state_dict(self) -> dict[str, Tensor]:
        return gather({"line": self.line, "steps": self.steps})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        scatter({"line": self.line, "steps": self.steps}, state)


class Sensors:
    """The sensors of N simulations: truth (N, E), all terms -> obs (N, O), those not hidden.

    widths: of all terms, in order. exact: they only hide. Env calls `restart` where episodes begin, `advance`
    once a control step, and `read` whenever it looks.
    """

    def __init__(
        self,
        sensing: Mapping[str, Sense],
        widths: Mapping[str, int],
        control_dt: float,
        num_envs: int,
        device: torch.device,
        exact: bool = False,
    ) -> None:
        every = {name: sensing.get(name, Sense()) for name in widths}
        columns = torch.tensor(
            [not every[name].hidden for name, width in widths.items() for _ in range(width)]
        )
        self.columns = None if columns.all() else columns.nonzero()[:, 0].to(device)
        shown = [name for name in widths if not every[name].hidden]
        sizes, senses = [widths[name] for name in shown], [every[name] for name in shown]
        senses = [Sense() for _ in senses] if exact else senses
        self.group = groups(sizes, device)
        figures = {n: [float(getattr(s, n)) for s in senses] for n in ("noise", "bias", "dropout", "loss")}
        self.noise_size, self.bias_size, self.dropout, self.loss = torch.tensor(
            list(figures.values()), device=device
        )
        self.loss = self.loss * control_dt  # chance per control step
        self.uniform = torch.tensor([s.distribution == "uniform" for s in senses], device=device)
        self.noisy, self.biased = any(figures["noise"]), any(figures["bias"])
        self.failing = any(figures["dropout"]) or any(figures["loss"])
        self.delay = Delay([s.delay for s in senses], sizes, control_dt, num_envs, device)
        self.noise, self.bias, self.last, self.held = torch.zeros(4, num_envs, len(self.group), device=device)
        self.missing, self.lost = torch.zeros(2, num_envs, len(sizes), dtype=torch.bool, device=device)
        self.fresh = torch.ones(num_envs, dtype=torch.bool, device=device)  # an episode's first reading

    def visible(self, truth: Tensor) -> Tensor:
        """(N, O) of truth (N, E or more): the exact terms that the policy may see."""
        if self.columns is not None:
            return truth.index_select(1, self.columns)
        return truth[:, : len(self.group)]

    def restart(self, mask: Tensor, rng: Generator) -> None:
        """Episodes of the simulations in mask (N,) bool begin: new biases and delays, whole sensors."""
        if self.biased:
            bias = self._each(self.bias_size) * (2 * _uniform(self.bias, rng) - 1)
            self.bias.copy_(torch.where(mask[:, None], bias, self.bias))
        if self.delay.depth:
            self.delay.draw(mask, rng)
        self.lost &= ~mask[:, None]
        self.fresh |= mask

    def advance(self, rng: Generator) -> None:
        """A control step has passed."""
        self.fresh.zero_()
        self.delay.advance()
        self.draw(rng)

    def draw(self, rng: Generator) -> None:
        """Noise and failures of this control step's reading."""
        if self.noisy:
            noise = self.noise.normal_(generator=rng)
            if self.uniform.any():
                noise = torch.where(self._each(self.uniform), 2 * _uniform(noise, rng) - 1, noise)
            self.noise.copy_(noise * self._each(self.noise_size))
        if self.failing:
            self.held.copy_(self.last)
            self.lost |= _uniform(self.missing, rng) < self.loss
            self.missing.copy_(self.lost | (_uniform(self.missing, rng) < self.dropout))

    def read(self, truth: Tensor) -> Tensor:
        """obs (N, O) of truth (N, E) now; once more in the same control step gives the same of the same."""
        seen = self.visible(truth)
        if self.delay.depth:
            self.delay.fill(self.fresh, seen)
            seen = self.delay.read(seen)
        if self.biased:
            seen = seen + self.bias
        if self.noisy:
            seen = seen + self.noise
        if self.failing:
            missing = self._each(self.missing & ~self.fresh[:, None])
            seen = torch.where(missing, self.held, seen)
            self.last.copy_(seen)
        return seen

    def _each(self, figures: Tensor) -> Tensor:
        """(..., O) of one figure for each term."""
        return figures.index_select(-1, self.group)

    def state_dict(self) -> dict[str, Tensor]:
        return gather(self._parts())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        scatter(self._parts(), state)

    def _parts(self) -> dict[str, object]:
        return {**{name: getattr(self, name) for name in _KEPT}, "delay": self.delay}


_KEPT = ("noise", "bias", "last", "held", "missing", "lost", "fresh")


def groups(widths: Sequence[int], device: torch.device) -> Tensor:
    """(sum of widths,): which of the groups of columns each column is in."""
    return torch.arange(len(widths)).repeat_interleave(torch.tensor(widths, dtype=torch.long)).to(device)


def _uniform(like: Tensor, rng: Generator) -> Tensor:
    """[0, 1), of `like`'s shape."""
    return torch.rand(like.shape, generator=rng, device=like.device)
