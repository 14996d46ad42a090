"""A simulation's tensors without its physics, to call a task's functions on."""

from collections.abc import Callable, Mapping
from typing import Any, Never

import torch
from torch import Tensor

from robokit.errors import TaskError
from robokit.sim.base import Sim


class NotedMemory(dict[str, Tensor]):
    """Memory that notes which names are read."""

    def __init__(self, memory: Mapping[str, Tensor]) -> None:
        super().__init__(memory)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)


class StandIn(Sim):
    """A Sim over copies of another's tensors: `make` copies each when it is first read, into `copies`.

    A write reaches only the copy. step, reset, bad, copy and the state dicts raise TaskError.
    """

    def __init__(self, sim: Sim, device: torch.device, make: Callable[[Tensor], Tensor]) -> None:
        self.original, self._make, self.highest = sim, make, sim.highest
        self.copies: dict[str, Tensor] = {}
        self.libraries = sim.libraries
        super().__init__(sim.model, sim.num_envs, {k: v.shape[1] for k, v in sim.memory.items()}, device)

    def field(self, name: str) -> Tensor:
        if name not in self.copies:
            self.copies[name] = self._make(self.original.field(name))
        return self.copies[name]

    def step(self, *_: Any, **__: Any) -> Never:
        raise TaskError("a task only reads sim: Env steps and resets it, and writes what the task returns")

    reset = bad = faults = copy = state_dict = load_state_dict = step
