"""Levels: how hard the task is for each simulation while it is trained."""

from dataclasses import dataclass

from robokit.errors import TaskError


@dataclass(frozen=True)
class Level:
    """A level of each simulation, from 0 to `highest`: `sim.memory["level"]` (N, 1), which a restart keeps.

    A training begins at 0. After `rise` episodes in a row that succeed the level rises by 1, after `fall` in
    a row that fail it falls by 1. Everywhere else, as in evaluation and validation, it is `highest`.
    success: the boolean metric that must hold at an episode's end; None: the headline, else "success".

    Raises TaskError for an impossible value.
    """

    highest: int
    rise: int = 3
    fall: int = 3
    success: str | None = None

    def __post_init__(self) -> None:
        for name in ("highest", "rise", "fall"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise TaskError(f"Level.{name} must be a whole number from 1 on, got {value!r}")
        if not isinstance(self.success, str | None):
            raise TaskError(f"Level.success must name a boolean metric, got {self.success!r}")
