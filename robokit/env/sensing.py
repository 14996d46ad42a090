"""Sensors of N simulations: noise, bias, delay, frames, rigid offsets, dropout and hidden terms.

    sensing = {"gyro": Sense(noise=0.2, bias=0.05, delay=(0.0, 0.02)), "velocity": Sense(hidden=True)}

A reading is the delayed true value, moved by the episode's rigid offset, plus its bias, plus new noise; where
there is no new frame, or it is missing, the last reading stands.
"""

from collections.abc import Mapping
from itertools import accumulate, compress

import torch
from torch import Generator, Tensor

from robokit.env.delay import Delay, groups, uniform_like
from robokit.state import Saved, put
from robokit.task.sense import EPSILON, Sense, ends


class Sensors(Saved):
    """The sensors of N simulations: true values (N, E) of all terms -> obs (N, O) without the hidden terms.

    widths: {term: width} of all terms, in order; a term that `sensing` lacks has no errors. exact: hide
    terms, add no errors. blocks: see Env. Env calls `restart` where episodes begin, `advance` once per
    control step, and `read` for every observation.
    """

    def __init__(
        self,
        sensing: Mapping[str, Sense],
        widths: Mapping[str, int],
        control_dt: float,
        num_envs: int,
        device: torch.device,
        exact: bool = False,
        blocks: int = 1,
    ) -> None:
        self.blocks = blocks
        every = {name: sensing.get(name, Sense()) for name in widths}
        columns = torch.tensor([not every[name].hidden for name in widths for _ in range(widths[name])])
        self.columns = None if columns.all() else columns.nonzero()[:, 0].to(device)
        shown = {name: Sense() if exact else sense for name, sense in every.items() if not sense.hidden}
        senses, sizes = shown.values(), [widths[name] for name in shown]
        self.group = groups(sizes, device)
        self.noisy, self.biased = any(s.noise for s in senses), any(s.bias for s in senses)
        self.framed = any(s.rate for s in senses)
        self.failing = self.framed or any(s.dropout or s.loss for s in senses)
        figures = [[float(x) for x in (s.noise, s.bias, s.dropout, s.loss)] for s in senses]
        noise, bias, self.dropout, loss = torch.tensor(figures, device=device).unbind(-1)
        self.noise_size, self.bias_size = self._each(noise), self._each(bias)
        self.loss = -torch.expm1(-loss * control_dt)  # probability per control step
        flat = torch.tensor([s.distribution == "uniform" for s in senses])
        self.uniform = self._each(flat.to(device)) if flat.any() else None
        late = [sense.delay not in (0, (0, 0)) for sense in senses]
        self.late = torch.tensor(late).to(device)[self.group].nonzero()[:, 0]  # delayed columns
        delays = [sense.delay for sense in compress(senses, late)]
        self.delay = Delay(delays, [*compress(sizes, late)], control_dt, num_envs, device)
        every_step = 1 / control_dt  # Hz, of a term without frames and of one with more
        rates = [[min(x * control_dt, 1.0) for x in ends(s.rate or every_step)] for s in senses]
        self.slowest, self.fastest = torch.tensor(rates, dtype=torch.float64, device=device).unbind(-1)
        # frames per control step, and the part of a frame's time that has passed since the last
        self.rate, self.phase = torch.ones(2, num_envs, len(sizes), dtype=torch.float64, device=device)
        places = zip(senses, sizes, accumulate(sizes, initial=0), strict=False)
        columns = [(s, torch.arange(a, a + d, device=device)) for s, d, a in places if s.offset or s.rotation]
        self.rigid = columns  # of the terms that are moved
        alike = [(s.source or k, s.offset, s.rotation, s.frame) for k, (s, _) in enumerate(columns)]
        self.first = [alike.index(one) for one in alike]  # one source has one motion: its first term's
        self.by = torch.zeros(num_envs, len(columns), 7, device=device)  # see `moved`
        self.noise, self.bias, self.last = torch.zeros(3, num_envs, len(self.group), device=device)
        self.lost = torch.zeros(num_envs, len(sizes), dtype=torch.bool, device=device)
        self.missing = self._each(self.lost)
        # (N,) bool: episodes that begin with this control step's reading
        self.fresh = torch.zeros(num_envs, dtype=torch.bool, device=device)

    def visible(self, truth: Tensor) -> Tensor:
        """The exact values (N, O) of the terms that are not hidden, from truth (N, E or more)."""
        if self.columns is not None:
            return truth.index_select(1, self.columns.to(truth.device))
        return truth[:, : len(self.group)]

    def restart(self, which: Tensor, rng: Generator) -> None:
        """Begin episodes of `which` (see state.put): draw all that an episode keeps; restore failed sensors.

        The next `read` fills the delay line of these simulations with its values, and is a frame.
        """
        if self.biased:
            unit = torch.rand(len(which), self.bias.shape[1], generator=rng, device=self.bias.device)
            put(self.bias, which, self.bias_size * (2 * unit - 1))
        if self.delay.depth:
            self.delay.draw(which, rng)
            put(self.fresh, which, True)
        if self.failing:
            put(self.lost, which, False)
            put(self.missing, which, False)
        if self.framed:
            rate, phase = torch.rand(2, len(which), len(self.slowest), generator=rng, device=self.rate.device)
            put(self.rate, which, torch.lerp(self.slowest, self.fastest, rate.double()))
            put(self.phase, which, phase.double())
        for k, (sense, _) in enumerate(self.rigid):
            if self.first[k] == k:
                put(self.by[:, k], which, rigid(sense, len(which), rng, self.by.device))

    def advance(self, rng: Generator) -> None:
        """Begin a new control step: shift the delay line, draw noise and missing readings."""
        if self.delay.depth:
            self.delay.advance()
            self.fresh.zero_()
        self.draw(rng)
        if self.failing:
            self._fail(rng)

    def draw(self, rng: Generator) -> None:
        """Draw the noise of this control step's readings, and nothing else."""
        if not self.noisy:
            return
        noise = torch.empty_like(self._block(self.noise)).normal_(generator=rng)
        if self.uniform is not None:
            noise = torch.where(self.uniform, 2 * uniform_like(noise, rng) - 1, noise)
        self.noise = self._repeated(noise) * self.noise_size

    def _fail(self, rng: Generator) -> None:
        """Draw which terms fail until the episode's end (`loss`) or miss this reading (`dropout`, no frame).

        An episode's first reading is never missing, because `restart` comes after this.
        """
        one = self._block(self.lost)
        self.lost |= self._repeated(uniform_like(one, rng)) < self.loss
        missing = self.lost | (self._repeated(uniform_like(one, rng)) < self.dropout)
        if self.framed:
            due = (self.phase + self.rate + EPSILON).floor()  # at most 1: `rate` is
            self.phase += self.rate - due
            missing |= due == 0
        self.missing = self._each(missing)

    def read(self, truth: Tensor) -> Tensor:
        """Observations (N, O) for the true values (N, E).

        A second call in the same control step with the same values returns the same readings.
        """
        seen = self.visible(truth)
        if self.delay.depth:
            newest = seen.index_select(1, self.late)
            self.delay.fill(self.fresh, newest)
            seen = seen.index_copy(1, self.late, self.delay.read(newest))
        for k, (_, columns) in zip(self.first, self.rigid, strict=True):
            seen = seen.index_copy(1, columns, moved(seen.index_select(1, columns), self.by[:, k]))
        if self.biased:
            seen = seen + self.bias
        if self.noisy:
            seen = seen + self.noise
        if self.failing:
            seen = torch.where(self.missing, self.last, seen)
            self.last.copy_(seen)
        return seen

    def copy(self, other: "Sensors", rows: Tensor) -> None:
        """Take on what `rows` (N,) of the equal Sensors of another Env keep, and their present readings."""
        for name in ("noise", "bias", "last", "lost", "missing", "rate", "phase", "by", "fresh"):
            getattr(self, name).copy_(getattr(other, name)[rows])
        self.delay.copy(other.delay, rows)

    def _block(self, like: Tensor) -> Tensor:
        return like[: len(like) // self.blocks]

    def _repeated(self, drawn: Tensor) -> Tensor:
        return drawn if self.blocks == 1 else drawn.repeat(self.blocks, 1)

    def _each(self, figures: Tensor) -> Tensor:
        """Repeat one number for each term (..., terms) over the term's columns (..., O)."""
        return figures.index_select(-1, self.group)

    def _parts(self) -> dict[str, object]:
        """State to continue with `advance`: this control step's noise and missing readings are not in it."""
        parts = {"bias": self.bias, "last": self.last, "lost": self.lost, "delay": self.delay}
        frames = {"rate": self.rate, "phase": self.phase} if self.framed else {}
        return {**parts, **frames, **({"by": self.by} if self.rigid else {})}


def rigid(sense: Sense, count: int, rng: Generator, device: torch.device) -> Tensor:
    """`count` rigid motions (n, 7): a translation in the ball, a turn by an angle about an axis, uniform."""
    ways = torch.empty(2, count, 3, device=device).normal_(generator=rng)
    shift, axis = torch.nn.functional.normalize(ways, dim=-1)
    radius, angle = torch.rand(2, count, 1, generator=rng, device=device)
    half = sense.rotation * angle / 2
    return torch.cat((sense.offset * radius ** (1 / 3) * shift, half.cos(), half.sin() * axis), -1)


def moved(pose: Tensor, by: Tensor) -> Tensor:
    """A position (N, 3), quaternion (N, 4) or both (N, 7) after a rigid motion by (N, 7); wxyz.

    p' = R(q) p + t, o' = q o, for by = [t, q]: about the origin of the frame in which the pose is given.
    """
    shift, w, v = by.split((3, 1, 3), -1)
    parts: list[Tensor] = []  # torch.compile refuses list[Tensor]()
    if pose.shape[-1] != 4:
        turned = 2 * torch.linalg.cross(v, pose[:, :3])
        parts.append(pose[:, :3] + w * turned + torch.linalg.cross(v, turned) + shift)
    if pose.shape[-1] != 3:
        scalar, u = pose[:, -4:].split((1, 3), -1)
        parts.append(w * scalar - (v * u).sum(-1, keepdim=True))
        parts.append(w * u + scalar * v + torch.linalg.cross(v, u))
    return torch.cat(parts, -1)
