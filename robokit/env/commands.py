"""Commands of N simulations: drawn at a restart, redrawn when their time is up, or held at given values."""

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from robokit.errors import OptionError
from robokit.sim.base import Sim
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
        self.held: Values = {}  # (N, d) each, from `hold`
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
        held = {n: torch.as_tensor(x, dtype=self.sim.qpos.dtype) for n, x in values.items()}
        self.held = {n: x.to(self.sim.device).expand(self.sim.num_envs, -1) for n, x in held.items()}

    def draw(self) -> Values:
        """{name: (N, d)} new or held commands, {left(name): (N, 1)} control periods (>= 1) until the redraw.

        Only a command with `every` has a redraw. Writes nothing.
        """
        drawn: Values = {}
        for name, command in self.commands.items():
            drawn[name] = self._uniform(command.low, command.high)
            if command.still:
                drawn[name] = torch.where(self._uniform(0.0, 1.0) < command.still, 0.0, drawn[name])
            if command.every is not None:
                periods = torch.round(self._uniform(*command.every) / self.control_dt)
                drawn[left(name)] = periods.clamp(min=1)
        return {**drawn, **self.held}  # held ones are drawn too, so that other draws stay the same

    def due(self) -> dict[str, Tensor]:
        """Count down one control period; {name: (N, 1) bool} where a command with `every` must be redrawn."""
        return {name: self.sim.memory[left(name)].sub_(1) <= 0 for name in self.timed}

    def redraw(self, due: Mapping[str, Tensor]) -> None:
        """Draw commands; write those in `due` {name: (N, 1) bool}, and their countdowns, where it is True."""
        memory, drawn = self.sim.memory, self.draw()
        for name, mask in due.items():
            for key in (name, left(name)):
                memory[key].copy_(torch.where(mask, drawn[key], memory[key]))

    def _uniform(self, low: Bound, high: Bound) -> Tensor:
        """Draws (N, d) between bounds of d numbers each; a single number counts as d = 1."""
        key, device = f"{low} {high}", self.sim.device
        if key not in self._bounds:  # made once: copying a number to a GPU blocks the host
            a, b = (torch.as_tensor(x, dtype=torch.float64, device=device).reshape(-1) for x in (low, high))
            self._bounds[key] = a, b - a
        start, width = self._bounds[key]
        unit = torch.rand(self.sim.num_envs, len(start), generator=self.rng, device=device)
        return (start + width * unit).to(self.sim.qpos.dtype)
