"""What a robot measures of what the simulator knows: noise, bias, delay, dropout, and what it cannot see.

    sensing = {"gyro": Sense(noise=0.2, bias=0.05, delay=(0.0, 0.02)), "velocity": Sense(hidden=True)}

A reading is, in this order: the truth some time ago, plus the episode's bias, plus fresh noise, or, where it
did not come, the last one that did.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Literal

import torch
from torch import Generator, Tensor

from robokit.errors import TaskError
from robokit.state import gather, scatter

LONGEST = 50  # control steps that a delay may reach back
EPSILON = 1e-6  # control steps: rounding
Range = float | tuple[float, float]  # one value, or a range that each episode draws from


@dataclass(frozen=True)
class Sense:
    """One observation term as its sensor gives it; raises TaskError for a figure that cannot be."""

    noise: float = 0.0  # unit of the term, fresh every control step: standard deviation, or half width
    distribution: Literal["gaussian", "uniform"] = "gaussian"  # of the noise
    bias: float = 0.0  # half width, unit of the term: each number's constant offset, drawn every episode
    delay: Range = 0.0  # s, between two control steps linear; all the term's numbers share it
    dropout: float = 0.0  # chance per control step that no reading comes: the last one stands
    loss: float = 0.0  # failures a second; after one the last reading stands till the episode ends
    hidden: bool = False  # the policy does not see it at all; a critic does
    unit: str | None = None  # for the exported contract; None: as the model says
    frame: str | None = None
    max_age: float | None = None  # s, for the contract: an older reading should not be acted on

    def __post_init__(self) -> None:
        for name, (rule, limit) in _RULES.items():
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < limit):
                raise TaskError(f"Sense.{name} must be {rule}, got {value!r}")
        if self.distribution not in ("gaussian", "uniform"):
            raise TaskError(f"Sense.distribution must be gaussian or uniform, got {self.distribution!r}")
        check_delay("Sense.delay", self.delay)
        if not isinstance(self.hidden, bool):
            raise TaskError(f"Sense.hidden must be True or False, got {self.hidden!r}")
        for name in ("unit", "frame"):
            if not isinstance(getattr(self, name), str | None):
                raise TaskError(f"Sense.{name} must be text, got {getattr(self, name)!r}")
        age = self.max_age
        if age is not None and not (_is_number(age) and 0 < age < math.inf):
            raise TaskError(f"Sense.max_age must be seconds > 0, got {age!r}")


_RULES = {
    "noise": ("a size >= 0", math.inf),
    "bias": ("a half width >= 0", math.inf),
    "dropout": ("a chance in [0, 1)", 1.0),
    "loss": ("failures a second >= 0", math.inf),
}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_delay(name: str, delay: Range, control_dt: float = math.inf) -> None:
    """Raise TaskError unless it is a time in s, or a range of times, from 0 to LONGEST control steps."""
    low, high = delay if isinstance(delay, tuple) and len(delay) == 2 else (delay, delay)
    if not (_is_number(low) and _is_number(high) and 0 <= low <= high < math.inf):
        raise TaskError(f"{name} must be seconds >= 0, or a range (from, to) of them, got {delay!r}")
    if high > (LONGEST + EPSILON) * control_dt:
        rule = f"at most {LONGEST} control steps ({LONGEST * control_dt:g} s), the length of its buffer"
        raise TaskError(f"{name} must be {rule}, got {delay} s")


class Delay:
    """Vectors (N, D) as they were some time ago, linear between the control steps that are kept.

    ranges: for each group of columns its delay in s; widths: how many columns each group has. Every group of
    every simulation has a delay of its own.
    """

    def __init__(
        self,
        ranges: Sequence[Range],
        widths: Sequence[int],
        control_dt: float,
        num_envs: int,
        device: torch.device,
    ) -> None:
        steps = [[t / control_dt for t in (r if isinstance(r, tuple) else (r, r))] for r in ranges]
        self.low, self.high = torch.tensor(steps, device=device).reshape(-1, 2).unbind(-1)
        self.depth = math.ceil(max((high for _, high in steps), default=0.0) - EPSILON)
        self.group = groups(widths, device)
        self.line = torch.zeros(self.depth + 1, num_envs, len(self.group), device=device)  # newest first
        self.steps = torch.zeros(num_envs, len(widths), device=device)
        self.cell = torch.arange(self.line[0].numel(), device=device).reshape(self.line[0].shape)  # of a row
        self._aim()

    def draw(self, mask: Tensor, rng: Generator) -> None:
        """New delays for the simulations in mask (N,) bool."""
        drawn = self.low + (self.high - self.low) * _uniform(self.steps, rng)
        self.steps = torch.where(mask[:, None], drawn, self.steps)
        self._aim()

    def _aim(self) -> None:
        """Where in `line` the newer of the two neighbours is, and how far on its way to the older one."""
        near = self.steps.long().clamp_(max=self.depth - 1)
        self.place = (near * self.cell.numel()).index_select(1, self.group).add_(self.cell).flatten()
        self.weight = (self.steps - near).index_select(1, self.group).flatten()

    def advance(self) -> None:
        """A control step has passed."""
        self.line = self.line.roll(1, 0)

    def fill(self, mask: Tensor, past: Tensor | float) -> None:
        """The simulations in mask (N,) bool have only ever seen `past` (N, D)."""
        self.line = torch.where(mask[:, None], past, self.line)

    def read(self, newest: Tensor) -> Tensor:
        """(N, D) as known now, where `newest` (N, D) is the truth now."""
        self.line[0] = newest
        line = self.line.flatten()
        near, far = (x.index_select(0, self.place) for x in (line, line[newest.numel() :]))
        return torch.lerp(near, far, self.weight).view_as(newest)

    def state_dict(self) -> dict[str, Tensor]:
        return gather({"line": self.line, "steps": self.steps})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        scatter({"line": self.line, "steps": self.steps}, state)
        self._aim()


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
        columns = torch.tensor([not every[name].hidden for name in widths for _ in range(widths[name])])
        self.columns = None if columns.all() else columns.nonzero()[:, 0].to(device)
        shown = {name: Sense() if exact else sense for name, sense in every.items() if not sense.hidden}
        senses, sizes = shown.values(), [widths[name] for name in shown]
        self.group = groups(sizes, device)
        self.noisy, self.biased = any(s.noise for s in senses), any(s.bias for s in senses)
        self.failing = any(s.dropout or s.loss for s in senses)
        figures = [[float(x) for x in (s.noise, s.bias, s.dropout, s.loss)] for s in senses]
        noise, bias, self.dropout, loss = torch.tensor(figures, device=device).unbind(-1)
        self.noise_size, self.bias_size = self._each(noise), self._each(bias)
        self.loss = -torch.expm1(-loss * control_dt)  # chance per control step
        flat = torch.tensor([s.distribution == "uniform" for s in senses])
        self.uniform = self._each(flat.to(device)) if flat.any() else None
        late = [sense.delay not in (0, (0, 0)) for sense in senses]
        self.late = torch.tensor(late).to(device)[self.group].nonzero()[:, 0]  # the columns that are delayed
        delays = [sense.delay for sense in compress(senses, late)]
        self.delay = Delay(delays, [*compress(sizes, late)], control_dt, num_envs, device)
        self.noise, self.bias, self.last = torch.zeros(3, num_envs, len(self.group), device=device)
        self.lost = torch.zeros(num_envs, len(sizes), dtype=torch.bool, device=device)
        self.missing = self._each(self.lost)
        self.fresh: Tensor | None = None  # (N,) bool: whose episode begins with this control step's reading

    def visible(self, truth: Tensor) -> Tensor:
        """(N, O) of truth (N, E or more): the exact terms that the policy may see."""
        if self.columns is not None:
            return truth.index_select(1, self.columns.to(truth.device))
        return truth[:, : len(self.group)]

    def restart(self, mask: Tensor, rng: Generator) -> None:
        """Episodes of the simulations in mask (N,) bool begin: new biases and delays, whole sensors."""
        begun = mask[:, None]
        if self.biased:
            bias = self.bias_size * (2 * _uniform(self.bias, rng) - 1)
            self.bias = torch.where(begun, bias, self.bias)
        if self.delay.depth:
            self.delay.draw(mask, rng)
            self.fresh = mask if self.fresh is None else self.fresh | mask
        if self.failing:
            self.lost, self.missing = self.lost & ~begun, self.missing & ~begun

    def advance(self, rng: Generator) -> None:
        """A control step has passed."""
        if self.delay.depth:
            self.delay.advance()
            self.fresh = None
        self.draw(rng)
        if self.failing:
            self._fail(rng)

    def draw(self, rng: Generator) -> None:
        """Noise of this control step's reading."""
        if not self.noisy:
            return
        noise = torch.empty_like(self.noise).normal_(generator=rng)
        if self.uniform is not None:
            noise = torch.where(self.uniform, 2 * _uniform(noise, rng) - 1, noise)
        self.noise = noise * self.noise_size

    def _fail(self, rng: Generator) -> None:
        """Which of this control step's readings do not come; an episode's first always does."""
        self.lost |= _uniform(self.lost, rng) < self.loss
        self.missing = self._each(self.lost | (_uniform(self.lost, rng) < self.dropout))

    def read(self, truth: Tensor) -> Tensor:
        """obs (N, O) of truth (N, E) now; once more in the same control step gives the same of the same."""
        seen = self.visible(truth)
        if self.delay.depth:
            newest = seen.index_select(1, self.late)
            if self.fresh is not None:
                self.delay.fill(self.fresh, newest)
            seen = seen.index_copy(1, self.late, self.delay.read(newest))
        if self.biased:
            seen = seen + self.bias
        if self.noisy:
            seen = seen + self.noise
        if self.failing:
            seen = torch.where(self.missing, self.last, seen)
            self.last.copy_(seen)
        return seen

    def _each(self, figures: Tensor) -> Tensor:
        """(..., O) of one figure for each term."""
        return figures.index_select(-1, self.group)

    def state_dict(self) -> dict[str, Tensor]:
        """What the next control step needs; its noise and its failures are still to come."""
        return gather(self._parts())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        scatter(self._parts(), state)

    def _parts(self) -> dict[str, object]:
        return {"bias": self.bias, "last": self.last, "lost": self.lost, "delay": self.delay}


def groups(widths: Sequence[int], device: torch.device) -> Tensor:
    """(sum of widths,): which of the groups of columns each column is in."""
    return torch.arange(len(widths)).repeat_interleave(torch.tensor(widths, dtype=torch.long)).to(device)


def _uniform(like: Tensor, rng: Generator) -> Tensor:
    """[0, 1), of `like`'s shape."""
    return torch.rand(like.shape, generator=rng, device=like.device)
