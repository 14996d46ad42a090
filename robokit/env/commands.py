"""Commands of N simulations: drawn at a restart, redrawn when due, or held at given values."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Generator, Tensor

from robokit.errors import OptionError
from robokit.sim.base import Sim
from robokit.sim.rows import Rows
from robokit.state import put
from robokit.task.checks.guarded import guarded
from robokit.task.checks.rules import check_shape
from robokit.task.command import Command
from robokit.task.counts import hold_steps
from robokit.task.goal import SUCCESS
from robokit.task.region import Numbers, Region, Unit
from robokit.task.task import Task

Values = dict[str, Tensor]
Draw = Callable[[Sim], Tensor]  # n simulations -> (n, d)


def left(command: str) -> str:
    """`COMMAND.left`: name of the memory (N, 1) that counts down the control periods until a redraw."""
    return f"{command}.left"


class Commands:
    """Draws commands of N simulations; `redraw` writes them to sim.memory, Env does at a restart.

    rng: the Env's generator, which every draw advances. training: whether a command with every="success" is
    redrawn where the goal has held; elsewhere it stays until the episode ends. each: see Blocks.
    """

    def __init__(
        self,
        task: Task,
        sim: Sim,
        rng: Generator,
        training: bool = False,
        each: Callable[[Tensor], Iterable[Tensor]] = lambda which: (which,),
    ) -> None:
        self.each = each
        self.task, self.commands, self.sim, self.rng = task, task.commands, sim, rng
        kept = () if training else (SUCCESS,)
        self.timed = [name for name, c in self.commands.items() if c.every not in (None, *kept)]
        self.by_success = next((n for n in self.timed if self.commands[n].every == SUCCESS), None)
        self.goal_steps = hold_steps(task.control_dt, task.goal.hold) if task.goal else 0
        self._held: Values = {}  # (d,) each, from `hold`
        self._points = {name: self._drawn_from(command) for name, command in self.commands.items()}
        self._chance = self._box((0.0,), (1.0,))
        spans = {n: c.every for n, c in self.commands.items() if isinstance(c.every, tuple)}
        self._times = {name: self._box(*zip(span)) for name, span in spans.items()}

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

    def draw(self, rows: Sim) -> Values:
        """New or held commands of the n simulations `rows`, and how long they last, where they are redrawn.

        {name: (n, d), left(name): (n, 1) control periods, >= 1, until the redraw}. Writes nothing.
        """
        drawn = [self._draw(name, rows) for name in self.commands]  # even those held
        return {key: value for one in drawn for key, value in one.items()} | self.held(rows.num_envs)

    def reach(self, success: Tensor) -> Tensor:
        """(N, 1) bool: where the goal has now held, so that it is due; success (N,): where it holds now.

        Call it before `countdown`, where a command is redrawn by success.
        """
        steps = self.sim.memory[left(self.by_success or "")]
        steps.copy_(torch.where(success[:, None], steps, self.goal_steps + 1))
        return steps <= 1

    def countdown(self) -> Tensor:
        """Count down one control period; (C, N) bool, of each command with `every`: its time is up."""
        if not self.timed:
            return torch.zeros(0, self.sim.num_envs, dtype=torch.bool, device=self.sim.device)
        return torch.stack([self.sim.memory[left(name)].sub_(1)[:, 0] <= 0 for name in self.timed])

    def redraw(self, due: Tensor) -> None:
        """Write new commands and their countdowns where due (C, N) bool, in the order of `countdown`."""
        for name, mask in zip(self.timed, due, strict=True):
            for which in self.each(self.sim.chosen(mask)):
                rows = Rows(self.sim, which) if which.dtype != torch.bool else self.sim
                for key, value in (self._draw(name, rows) | self.held(rows.num_envs)).items():
                    if key in (name, left(name)):
                        put(self.sim.memory[key], which, value)

    def copy(self, other: "Commands") -> None:
        """Hold what another's `hold` keeps; the commands themselves are in memory."""
        self._held = other._held

    def _draw(self, name: str, rows: Sim) -> Values:
        command, count = self.commands[name], rows.num_envs
        drawn = {name: self._points[name](rows)}
        if command.still:
            drawn[name] = torch.where(self._chance(rows) < command.still, 0.0, drawn[name])
        if name in self._times:
            periods = torch.round(self._times[name](rows) / self.task.control_dt)
            drawn[left(name)] = periods.clamp(min=1)
        elif command.every == SUCCESS:
            drawn[left(name)] = self.sim.qpos.new_full((count, 1), self.goal_steps)
        return drawn

    def _drawn_from(self, command: Command) -> Draw:
        """(n, d) draws from the command's region, or by the task's function."""
        own = command.region
        if own is None:
            return self._box(command.low, command.high)
        if isinstance(own, Region):
            return self._uniform(own.on(self.sim.device))
        low, high = self.sim.constant(*command.low), self.sim.constant(*command.high)
        function, part = own.__get__(self.task), getattr(own, "__name__", "region")

        def drawn(rows: Sim) -> Tensor:
            value = guarded(self.task, part, partial(function, rows, self.rng))
            check_shape(self.task, part, "command", value, (rows.num_envs, len(low)))
            return value.clamp(low, high)

        return drawn

    def _box(self, low: Numbers, high: Numbers) -> Draw:
        a, b = (torch.tensor(x, dtype=torch.float64, device=self.sim.device) for x in (low, high))
        return self._uniform(lambda unit: torch.addcmul(a, b - a, unit(len(a))))

    def _uniform(self, place: Callable[[Unit], Tensor]) -> Draw:
        """Draws of `place`, whose tensors are made once: a copy to a GPU blocks the host."""

        def drawn(rows: Sim) -> Tensor:
            size, how = rows.num_envs, {"generator": self.rng, "device": self.sim.device}
            return place(lambda k: torch.rand(size, k, **how)).to(self.sim.dtype)

        return drawn
