"""What counts in a task: its goal, its headline, by which policies are compared, and its failures.

headline = "on_target"             # of a boolean metric: the share of episodes in which it held
failure = ("terminated", "spilt")  # an episode has failed if it ended in a terminal state or ever spilt
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from robokit.errors import TaskError, did_you_mean
from robokit.sim.base import Sim
from robokit.task.goal import HOLD_SECONDS, SUCCESS, Goal, origin
from robokit.task.task import RETURN, TERMINATED, Task, Terms

ROUNDING = 1e-9  # of a number of control steps: 1.1 s / 0.044 s is 25.000000000000004

Kind = Literal["sum", "mean", "held"]


def hold_steps(control_dt: float, seconds: float = HOLD_SECONDS) -> int:
    """Number of control steps of `control_dt` s, at least one, that last at least `seconds`."""
    return max(1, math.ceil(seconds / control_dt - ROUNDING))


def steps_held(task: Task, booleans: Iterable[str]) -> dict[str, int]:
    """In how many of the last control steps each boolean metric must be true to have held."""
    steps = dict.fromkeys(booleans, hold_steps(task.control_dt))
    return steps | ({SUCCESS: hold_steps(task.control_dt, task.goal.hold)} if task.goal else {})


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
        hint = did_you_mean(str(task.headline), [*names, RETURN], f"there are {names}")
        raise TaskError(f"{kind}.headline {rule}{hint}")
    if not isinstance(task.failure, tuple | list):
        rule = f"must be a tuple of names, as ({TERMINATED!r},)"
        raise TaskError(f"{kind}.failure {rule}, got {task.failure!r}")
    for name in task.failure:
        rule = f"must name boolean metrics or {TERMINATED!r}, got {name!r}"
        if name not in (TERMINATED, *names):
            hint = did_you_mean(str(name), [*names, TERMINATED], f"there are {names}")
            raise TaskError(f"{kind}.failure {rule}{hint}")
        if name != TERMINATED and metrics[name].dtype != torch.bool:
            raise TaskError(f"{kind}.failure {rule}, a number: compare it with a bound")


def check_goal(task: Task) -> None:
    """Raise TaskError for a goal of no command or too long a hold, and for a redraw at success without it."""
    kind, goal = type(task).__name__, task.goal
    if not isinstance(goal, Goal | None):
        raise TaskError(f"{kind}.goal must be a Goal, got {goal!r}")
    if goal and goal.command not in task.commands:
        hint = did_you_mean(goal.command, task.commands, f"there are {[*task.commands]}")
        raise TaskError(f"{kind}.goal.command must be one of commands, got {goal.command!r}{hint}")
    if goal and goal.hold > task.time_limit:
        rule = f"must be at most time_limit, {task.time_limit} s"
        raise TaskError(f"{kind}.goal.hold {rule}, got {goal.hold} s")
    for name, command in task.commands.items():
        if command.every == SUCCESS and not (goal and goal.command == name):
            rule = "is redrawn at success, so it must be the command of the task's goal"
            raise TaskError(f"{kind}.commands[{name!r}] {rule}, got {goal}")


def goal_pair(task: Task, sim: Sim) -> tuple[Tensor, ...]:
    """(achieved, goal), (N, d) float32 each, as Env gives them to `reached`; () for a task without a goal.

    Raises TaskError for an `achieved` that is no term, or is not as wide as the command.
    """
    if (goal := task.goal) is None:
        return ()
    terms, command = {**task.privileged(sim), **task.observe(sim)}, sim.memory[goal.command]
    if goal.achieved not in terms or terms[goal.achieved].shape != command.shape:
        widths = {name: term.shape[1] for name, term in terms.items()}
        hint = did_you_mean(goal.achieved, {*terms} - {goal.achieved}, f"there are {widths}")
        rule = f"must be an observed or privileged term of {command.shape[1]} numbers, as its command"
        got = f"{goal.achieved!r}{hint}"
        raise TaskError(f"{type(task).__name__}.goal.achieved {rule}, got {got}")
    return terms[goal.achieved].float(), command.float()


def goal_terms(task: Task, sim: Sim, seen: dict[str, Terms], call: Callable[..., Terms]) -> Terms:
    """The terms of `reached`, of `call(task, "reached", achieved, goal)`; {} for a task without a goal.

    seen: what the task's functions return; a goal's metric is added. Raises TaskError for a name that
    `rewards` or `metrics` gives too, and for a marker in a frame that the model lacks.
    """
    if (goal := task.goal) is None:
        return {}
    pair, kind = goal_pair(task, sim), type(task).__name__
    reached, success = call(task, "reached", *pair), {SUCCESS: goal.holds(*pair)}
    for function, own, more in (("rewards", "reached", reached), ("metrics", "goal", success)):
        if both := sorted(seen[function].keys() & more.keys()):
            raise TaskError(f"{kind}.{function} gives {both[0]!r}, and so does {kind}.{own}: rename one")
    if goal.marker:
        origin(task.commands[goal.command], sim)
    seen["metrics"] |= success
    return reached
