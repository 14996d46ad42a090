"""Commands of N simulations: drawn at a restart, redrawn when their time is up, or held at given values."""

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from robokit.errors import OptionError
from robokit.sim.base import Sim
from robokit.state import put
from robokit.task.command import Command

Bound = float | tuple[float, ...]
Values = dict[str, Tensor]


def left(command: str) -> str:
    """`COMMAND.left`: name of the memory (N, 1) that counts down the control periods until a redraw."""
    return f"{command}.left"


class Commands:
    """Draws commands of N simulations; `redraw` writes them to sim.memory, Env does at a restart.

    commands: of the task, by name. rng: the Env's generator, which every draw advances.
    """

    def __init__(self, commands: Mapping[str, Command], control_dt: float, sim: Sim, rng: Generator) -> None:
        self.commands, self.control_dt, self.sim, self.rng = commands, control_dt, sim, rng
        self.timed = [name for name, command in commands.items() if command.every is not None]
        self._held: Values = {}  # (d,) each, from `hold`
        self._bounds: dict[str, tuple[Tensor, Tensor]] = {}  # see _uniform

    def hold(self, values: Mapping[str, Sequence[float]]) -> None:
        """Keep commands at {name: d numbers} in all simulations, from each one's next restart or redraw on.

        Replaces what was held before. Raises OptionError for an unknown command or a wrong number of values.
        """
        for name, numbers in values.items():
            command = self.commands.get(name)
            if command is None or len(numbers) != len(command.low):
                widths = {n: len(c.low) for n, c in self.commands.items()}
                raise OptionError(f"no command {name!r} of {len(numbers)} numbers; there are {widths}")
        place = {"dtype": self.sim.dtype, "device": self.sim.device}
        self._held = {name: torch.as_tensor(x, **place) for name, x in values.items()}

    def held(self, count: int) -> Values:
        """{name: (count, d)} of the commands that `hold` keeps."""
        return {name: value.expand(count, -1) for name, value in self._held.items()}

    def draw(self, count: int) -> Values:
        """New or held commands of `count` simulations, and how long they last, where that is drawn.

        {name: (count, d), left(name): (count, 1) control periods, >= 1, until the redraw}. Writes nothing.
        """
        drawn = [self._draw(name, count) for name in self.commands]  # even those held
        return {key: value for one in drawn for key, value in one.items()} | self.held(count)

    def countdown(self) -> Tensor:
        """Count down one control period; (C, N) bool, of each command with `every`: its time is up."""
        if not self.timed:
            return torch.zeros(0, self.sim.num_envs, dtype=torch.bool, device=self.sim.device)
        return torch.stack([self.sim.memory[left(name)].sub_(1)[:, 0] <= 0 for name in self.timed])

    def redraw(self, due: Tensor) -> None:
        """Write new commands and their countdowns where due (C, N) bool, in the order of `countdown`."""
        for name, mask in zip(self.timed, due, strict=True):
            which = self.sim.chosen(mask)
            for key, value in (self._draw(name, len(which)) | self.held(len(which))).items():
                if key in (name, left(name)):
                    put(self.sim.memory[key], which, value)

    def _draw(self, name: str, count: int) -> Values:
        command = self.commands[name]
        drawn = {name: self._uniform(command.low, command.high, count)}
        if command.still:
            drawn[name] = torch.where(self._uniform(0.0, 1.0, count) < command.still, 0.0, drawn[name])
        if command.every is not None:
            periods = torch.round(self._uniform(*command.every, count) / self.control_dt)
            drawn[left(name)] = periods.clamp(min=1)
        return drawn

    def _uniform(self, low: Bound, high: Bound, count: int) -> Tensor:
        """Draws (count, d) between bounds of d numbers each; a single number counts as d = 1."""
        key, device = f"{low} {high}", self.sim.device
        if key not in self._bounds:  # made once: copying a number to a GPU blocks the host
            a, b = (torch.as_tensor(x, dtype=torch.float64, device=device).reshape(-1) for x in (low, high))
            self._bounds[key] = a, b - a
        start, width = self._bounds[key]
        unit = torch.rand(count, len(start), generator=self.rng, device=device)
        return torch.addcmul(start, width, unit).to(self.sim.dtype)
