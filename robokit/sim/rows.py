"""A few simulations of a Sim, for what is drawn where only these restart."""

from typing import Any

from torch import Tensor

from robokit.sim.base import Sim

_OWN = ("qpos", "qvel", "ctrl", "memory", "_named")  # of a Sim: its others are the same for a few rows


class Rows(Sim):
    """The n simulations `ids` (n,) of a Sim, read as if there were no others: num_envs is n.

    Its tensors are copies, gathered when first read. To write, step or reset it is a TypeError.
    """

    def __init__(self, sim: Sim, ids: Tensor) -> None:
        vars(self).update({name: value for name, value in vars(sim).items() if name not in _OWN})
        self.num_envs, self._named = len(ids), {}
        self._sim, self._ids = sim, ids
        self._gathered: dict[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "memory":
            self.memory = {key: live[self._ids] for key, live in self._sim.memory.items()}
            return self.memory
        if name in _OWN:
            return self.field(name)
        return super().__getattr__(name)

    def field(self, name: str) -> Tensor:
        if name not in self._gathered:
            self._gathered[name] = self._sim.field(name)[self._ids]
        return self._gathered[name]

    def sensor(self, name: str) -> Tensor:
        return self._sim.sensor(name)[self._ids]

    def _refuse(self, *_: object) -> Any:
        raise TypeError("some rows of a simulation are copies to read: write to the simulation itself")

    step = reset = bad = faults = state_dict = _refuse  # pyright: ignore[reportAssignmentType]
    written = load_state_dict = copy = _refuse  # pyright: ignore[reportAssignmentType]
