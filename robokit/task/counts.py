"""What counts in a task: its headline, by which policies are compared, and its failures.

headline = "on_target"             # of a boolean metric: the share of episodes in which it held
failure = ("terminated", "spilt")  # an episode has failed if it ended in a terminal state or ever spilt
"""

import math
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor

from robokit.errors import TaskError, did_you_mean
from robokit.task.task import RETURN, TERMINATED, Task

HOLD_SECONDS = 0.5  # s at the end of an episode in which a boolean metric must be true to have held
ROUNDING = 1e-9  # of a number of control steps: 1.1 s / 0.044 s is 25.000000000000004

Kind = Literal["sum", "mean", "held"]


def hold_steps(control_dt: float, seconds: float = HOLD_SECONDS) -> int:
    """Number of control steps of `control_dt` s that last at least `seconds`."""
    return math.ceil(seconds / control_dt - ROUNDING)


def headline_kind(task: Task, is_boolean: bool) -> Kind:
    """What the headline is of an episode: the sum of the reward, the mean of a number, or whether it held."""
    return "sum" if task.headline == RETURN else "held" if is_boolean else "mean"


def success_of(task: Task, booleans: Collection[str]) -> str | None:
    """The boolean metric that tells whether an episode succeeded: the level's, the headline, or "success".

    None: there is none. Raises TaskError for a level without one.
    """
    level = task.level
    named = [level.success] if level and level.success else [task.headline, "success"]
    found = [name for name in named if name in booleans]
    if level and not found:
        rule = f"moves by a boolean metric, and none is called {' or '.join(map(repr, named))}"
        raise TaskError(f"{type(task).__name__}.level {rule}: Level(success=...) of {sorted(booleans)}")
    return found[0] if found else None


def check_counts(task: Task, metrics: Mapping[str, Tensor]) -> None:
    """Raise TaskError unless headline is a metric or "return", failure boolean metrics or "terminated"."""
    kind, names = type(task).__name__, [*metrics]
    if task.headline not in (RETURN, *names):
        rule = f"must be a metric or {RETURN!r}, got {task.headline!r}"
        hint = did_you_mean(str(task.headline), [*names, RETURN])
        raise TaskError(f"{kind}.headline {rule}{hint}; there are {names}")
    if not isinstance(task.failure, tuple | list):
        rule = f"must be a tuple of names, as ({TERMINATED!r},)"
        raise TaskError(f"{kind}.failure {rule}, got {task.failure!r}")
    for name in task.failure:
        rule = f"must name boolean metrics or {TERMINATED!r}, got {name!r}"
        if name not in (TERMINATED, *names):
            hint = did_you_mean(str(name), [*names, TERMINATED])
            raise TaskError(f"{kind}.failure {rule}{hint}; there are {names}")
        if name != TERMINATED and metrics[name].dtype != torch.bool:
            raise TaskError(f"{kind}.failure {rule}, a number: compare it with a bound")
