"""The columns of an observation: terms side by side, and where each comes from on the robot."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from robokit.task.action import Action, moves

Kind = Literal["sensed", "command", "carried"]
# name -> meaning
CARRIED = {"action": "the previous action", "clock": "the task's clock", "target": "the targets sent last"}
Names = Collection[str]


def carried_names(action: Action) -> dict[str, str]:
    """CARRIED, as far as a task with this action map may have it: only a Delta carries "target"."""
    return {name: meaning for name, meaning in CARRIED.items() if name != "target" or moves(action)}


@dataclass(frozen=True)
class Column:
    """One observation term. The robot supplies sensed terms and commands; the exported file the others."""

    name: str
    width: int
    kind: Kind


def columns_of(widths: Mapping[str, int], commands: Names, carried: Names) -> tuple[Column, ...]:
    """The columns of an observation with terms {name: width}, in this order; kind by name alone.

    "carried": a name in `carried`; "command": one in `commands`; "sensed": any other.
    """

    def kind(name: str) -> Kind:
        return "carried" if name in carried else "command" if name in commands else "sensed"

    return tuple(Column(name, width, kind(name)) for name, width in widths.items())


def supplied(columns: Collection[Column]) -> dict[str, int]:
    """Name -> width of the terms that the robot supplies: sensed ones and commands."""
    return {column.name: column.width for column in columns if column.kind != "carried"}
