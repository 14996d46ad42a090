"""Paired blocks: K equal parts of N simulations that get the same random numbers; copies of simulations."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from robokit.errors import OptionError
from robokit.sim.base import Sim
from robokit.sim.rows import Rows
from robokit.task.task import Task, Terms


class Blocks:
    """Hands out the rows of each block in turn, the generator each time at the same numbers."""

    def __init__(self, number: int, sim: Sim, rng: Generator) -> None:
        whole = isinstance(number, int) and 0 < number <= sim.num_envs and sim.num_envs % number == 0
        if not whole:
            rule = f"blocks must be a whole number that divides the {sim.num_envs} simulations"
            raise OptionError(f"{rule}, got {number!r}")
        if number > 1 and sim.device.type != "cpu":
            raise OptionError(f"blocks ({number}) of simulations must be on the CPU, got {sim.device}")
        self.number, self.size, self.sim, self.rng = number, sim.num_envs // number, sim, rng
        self._all = torch.arange(sim.num_envs, device=sim.device)

    def each(self, which: Tensor) -> Iterator[Tensor]:
        """The part of `which` (n,), row numbers, in each block that has any; without blocks `which` as it is.

        What is drawn for one part, others draw again. The part with most rows comes last.
        """
        if self.number == 1:
            yield which
            return
        parts = [which[which // self.size == block] for block in range(self.number)]
        before = self.rng.get_state()
        for part in sorted(filter(len, parts), key=len):
            self.rng.set_state(before)
            yield part

    def disturb(self, task: Task) -> Terms:
        """`task.disturb` of all simulations."""
        if self.number == 1:
            return task.disturb(self.sim, self.rng)
        parts = [task.disturb(Rows(self.sim, rows), self.rng) for rows in self.each(self._all)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def check_copy(to: Any, of: Any, rows: Tensor) -> None:
    """Raise OptionError unless `to.copy(of, rows)`, of one Env from another, can be done."""
    kinds = [(type(x.task).__name__, x.sim.engine, f"nominal={x.nominal}") for x in (to, of)]
    sizes = [{name: x.shape[1:] for name, x in env.sim.memory.items()} for env in (to, of)]
    if kinds[0] != kinds[1] or sizes[0] != sizes[1] or to.names != of.names:
        rule = f"copy takes an Env of the same task, engine and `nominal`: this one is of {kinds[0]}"
        raise OptionError(f"{rule}, the other of {kinds[1]}")
    if rows.shape != (to.num_envs,) or not 0 <= int(rows.min()) <= int(rows.max()) < of.num_envs:
        rule = f"rows must be {to.num_envs} numbers from 0 to {of.num_envs - 1}"
        raise OptionError(f"{rule}, got {rows.numel()}: {rows.flatten()[:8].tolist()}")
