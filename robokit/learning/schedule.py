"""Options that move over a run: a number, or (start, end), linear in the environment steps."""

from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, get_args

import torch
from torch import Tensor

Scheduled = float | tuple[float, float]  # the annotation that marks an option


def first(value: Scheduled) -> float:
    """A scheduled option's value at step 0."""
    return value[0] if isinstance(value, tuple) else value


def is_scheduled(kind: Any) -> bool:
    """Whether an annotation is Scheduled, or Scheduled | None."""
    return {*get_args(kind)} - {NoneType} == {*get_args(Scheduled)}


class Schedules:
    """The values of a config's marked options: 0-d float32 tensors by name, which keep their storage.

    (start, end) moves from start at step 0 to end at `config.steps` and stays there. A run that is resumed
    with more steps keeps the steps that it was begun with: they are in the state where something moves.
    """

    def __init__(self, config: Any, device: torch.device) -> None:
        marked = (option.name for option in fields(config) if is_scheduled(option.type))
        given = {name: getattr(config, name) for name in marked}
        self.values = {
            name: torch.tensor(float(first(value)), device=device)
            for name, value in given.items()
            if value is not None
        }
        self.spans = {name: value for name, value in given.items() if isinstance(value, tuple)}
        self.clock = torch.tensor([0.0, config.steps], dtype=torch.float64, device=device)  # taken, of all

    def advance(self, steps: int) -> None:
        """Move the values on by so many environment steps."""
        self.clock[0] += steps
        share = (self.clock[0] / self.clock[1]).clamp(max=1.0)
        for name, (start, end) in self.spans.items():
            self.values[name].copy_(start + (end - start) * share)

    def metrics(self) -> dict[str, Tensor]:
        """The values that move, to log: `schedule/<option>`."""
        return {f"schedule/{name}": self.values[name].clone() for name in self.spans}

    def state_dict(self) -> dict[str, Tensor]:
        return {**({"clock": self.clock} if self.spans else {}), **self.values}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self.state_dict().items():
            value.copy_(state[name])
