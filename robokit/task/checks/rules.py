"""The rules of the task contract: constants and returned terms, checked once before anything runs."""

import functools
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from inspect import getattr_static
from keyword import iskeyword
from typing import Any

import torch
from torch import Tensor

from robokit.errors import OptionError, TaskError, did_you_mean
from robokit.limits.limit import Limit
from robokit.sim.base import Sim
from robokit.sim.drawn import NEVER_NEGATIVE
from robokit.task.action import check_action
from robokit.task.checks.guarded import call, guarded
from robokit.task.columns import carried_names
from robokit.task.command import Command
from robokit.task.counts import check_counts, check_goal, goal_terms
from robokit.task.mirror import Mirror
from robokit.task.sense import Sense, check_delay
from robokit.task.task import Task, Terms

ALIKE = 0.85  # similarity from which an unknown name counts as a misspelling
ENDS = ("carry", "reset", "ctrl", "carry_next")  # inputs and outputs of an exported graph
MAPPINGS = {
    "weights": "{term: number}",
    "commands": "{name: Command}",
    "memory": "{name: width}",
    "sensing": "{observation: Sense}",
    "mirror": "{observation: Mirror}",
    "recipes": "{algorithm: {option: value}}",
    "planner": "{option: value}",
}


@dataclass(frozen=True)
class Names:
    """Names (and widths) of what a task's functions return; each in the order of the columns."""

    obs: dict[str, int]  # name -> width of the terms that the policy observes
    truth: dict[str, int]  # of all terms that `observe` returns
    privileged: dict[str, int]
    rewards: tuple[str, ...]  # first those of `rewards`, then `reached`
    reached: tuple[str, ...]
    costs: tuple[str, ...]
    metrics: tuple[str, ...]
    booleans: frozenset[str]  # boolean metrics
    memory: tuple[str, ...]  # returned by `remember`

    @property
    def state(self) -> dict[str, int]:
        """Name -> width of the critic's input: all observation terms, then each "privileged NAME"."""
        return self.truth | {f"privileged {name}": width for name, width in self.privileged.items()}


def check_constants(task: Task) -> None:
    """Raise TaskError for a missing or misspelt name, or a constant of the wrong type or range."""
    kind = type(task)
    _check_spelling(kind)
    constants = _constants(task)
    for name, form in MAPPINGS.items():
        if not isinstance(constants[name], Mapping):
            raise TaskError(f"{kind.__name__}.{name} must be {form}, got {constants[name]!r}")
    _check_numbers(task, constants)
    check_action(kind.__name__, task.action)
    for name, command in task.commands.items():
        if not isinstance(command, Command):
            raise TaskError(f"{kind.__name__}.commands[{name!r}] must be a Command, got {command!r}")
    for name, width in task.memory.items():
        if not isinstance(width, int) or width < 1:
            raise TaskError(f"{kind.__name__}.memory[{name!r}] must be a width >= 1, got {width!r}")
    check_limits(task)
    check_goal(task)
    if not 0 <= task.clock * task.control_dt < 0.5:
        rule = f"at least 0 and below {0.5 / task.control_dt:g} Hz, half the control rate"
        raise TaskError(f"{kind.__name__}.clock must be {rule}, got {task.clock!r}")


def _constants(task: Task) -> dict[str, Any]:
    """The constants by name; TaskError if one, `observe` or `rewards` is missing, or a property raises."""
    kind = type(task)
    missing = [name for name in Task.__annotations__ if getattr_static(task, name, ...) is ...]
    missing += [name for name in ("observe", "rewards") if getattr(kind, name) is getattr(Task, name)]
    if missing:
        raise TaskError(f"{kind.__name__} must define {', '.join(missing)}")
    return {n: guarded(task, n, functools.partial(getattr, task, n)) for n in Task.__annotations__}


def _check_numbers(task: Task, constants: Mapping[str, Any]) -> None:
    numbers = {name: constants[name] for name in ("control_dt", "time_limit", "clock")}
    numbers |= {f"weights[{name!r}]": weight for name, weight in constants["weights"].items()}
    for name, value in numbers.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise TaskError(f"{type(task).__name__}.{name} must be a finite number, got {value!r}")


def _check_spelling(kind: type[Task]) -> None:
    """TaskError for a name ALIKE one of Task's: a misspelt `terminated` would silently never be called."""
    known = [name for name in (*vars(Task), *Task.__annotations__) if not name.startswith("_")]
    own = [name for cls in kind.__mro__[: kind.__mro__.index(Task)] for name in vars(cls)]
    for name in own:
        hint = did_you_mean(name, known, alike=ALIKE)
        if hint and not name.startswith("_") and name not in known:
            raise TaskError(f"{kind.__name__}.{name} is no part of a Task{hint} Else call it _{name}")


def read_names(task: Task, sim: Sim, seed: int = 0, nominal: bool = False) -> Names:
    """Call every function of the task once, to bind the fields that it reads and learn its terms' names.

    nominal: without `randomize`. Resets `sim` to the task's start. TaskError for a wrong shape, name or type.
    """
    n, rng = sim.num_envs, torch.Generator(sim.device).manual_seed(seed)
    action = torch.zeros(sim.memory["action"].shape, device=sim.device)
    values = state_values(task, "reset", call(task, "reset", sim, rng), sim)
    if not nominal:
        values |= _model_values(task, call(task, "randomize", sim, rng), sim)
    sim.reset(None, values)
    seen = {f: call(task, f, sim) for f in ("observe", "privileged", "metrics")}
    seen |= {f: call(task, f, sim, action) for f in ("rewards", "costs")}
    for kind, terms in seen.items():
        for name, value in terms.items():
            check_shape(task, kind, name, value, (n, "d") if kind in ("observe", "privileged") else (n,))
    if not seen["observe"]:
        raise TaskError(f"{type(task).__name__}.observe returns no term: a policy needs something to see")
    hidden = {k for k, sense in task.sensing.items() if getattr(sense, "hidden", False)}
    shown = {k: v.float() for k, v in seen["observe"].items() if k not in hidden}
    ended = guarded(task, "ended", lambda: task.ended(shown))
    for name, flag in (("terminated", call(task, "terminated", sim)), ("ended", ended)):
        if name == "terminated" or flag is not None:
            check_shape(task, name, name, flag, (n,))
            if flag.dtype != torch.bool:
                raise TaskError(f"{type(task).__name__}.{name} must be bool, got {flag.dtype}")
    remembered = call(task, "remember", sim, action)
    writes = f"{type(task).__name__}.remember writes {{}}, which is not in memory"
    _check_all(writes, remembered, task.memory)
    state_values(task, "remember", remembered, sim)
    pushes = state_values(task, "disturb", call(task, "disturb", sim, rng), sim)
    if "ctrl" in pushes:
        rule = "would be overwritten by the action; push by qfrc_applied, xfrc_applied or a velocity"
        raise TaskError(f"{type(task).__name__}.disturb 'ctrl' {rule}")
    reached = goal_terms(task, sim, seen, call)
    for name, value in reached.items():
        check_shape(task, "reached", name, value, (n,))
    _check_weights(task, seen["rewards"] | reached)
    _check_costs(task, seen["costs"])
    check_counts(task, seen["metrics"])
    widths = {k: v.shape[1] for k, v in seen["observe"].items()}
    _check_names(task, widths)
    _check_clock(task, widths)
    _check_sensing(task, widths)
    check_history(task.history, widths)
    _check_mirror(task, {**widths, "action": action.shape[1]})
    return Names(
        obs={k: w for k, w in widths.items() if k not in task.sensing or not task.sensing[k].hidden},
        truth=widths,
        privileged={k: v.shape[1] for k, v in seen["privileged"].items()},
        rewards=(*(k for k in task.weights if k not in reached), *reached),
        reached=tuple(reached),
        costs=tuple(task.limits),
        metrics=tuple(seen["metrics"]),
        booleans=frozenset(k for k, v in seen["metrics"].items() if v.dtype == torch.bool),
        memory=tuple(remembered),
    )


def check_finite(task: Task, sim: Sim) -> None:
    """Raise TaskError for a term that is not finite right after a reset; a metric may be NaN ("not counted").

    Also for one named like a command or a carried term ("action") that is not sim.memory[name], the value
    that Env keeps and the exported policy will see under this name.
    """
    action = torch.zeros(sim.memory["action"].shape, device=sim.device)
    seen = {f: call(task, f, sim) for f in ("observe", "privileged", "metrics")}
    seen |= {f: call(task, f, sim, action) for f in ("rewards", "costs")}
    for kind, terms in seen.items():
        for name, value in terms.items():
            fine = ~value.isinf() if kind == "metrics" else value.isfinite()
            if not bool(fine.all()):
                raise TaskError(f"{type(task).__name__}.{kind} {name!r} is not finite right after a reset")
    # on a robot, the controller clips a command to its range, and the exported file carries the others
    for name, what in {**dict.fromkeys(task.commands, "the command"), **carried_names(task.action)}.items():
        if name in seen["observe"] and not _as_in_memory(task, sim, name):
            rule = f"must equal sim.memory[{name!r}], {what}; give another term another name"
            raise TaskError(f"{type(task).__name__}.observe {name!r} {rule}")


def _as_in_memory(task: Task, sim: Sim, name: str) -> bool:
    """Whether observation `name` equals memory `name`; carried terms are tried with varied values."""
    memory, before = sim.memory[name], sim.memory[name].clone()
    if name in carried_names(task.action):
        memory.copy_(torch.linspace(-0.9, 0.8, memory.numel()).view(memory.shape))
    same = torch.equal(call(task, "observe", sim)[name].double(), memory.double())
    memory.copy_(before)
    return same


def same_names(values: Terms, names: Iterable[str], kind: str) -> None:
    """Raise TaskError if a function (`kind`) returns other names than `names`, those of its first call."""
    if values.keys() != set(names):
        raise TaskError(f"{kind} changed its names from {sorted(names)} to {sorted(values)}")


def check_shape(task: Task, kind: str, name: str, value: Any, expected: tuple[int | str, ...]) -> None:
    """Raise TaskError unless a value has the expected shape, where "d" stands for any width."""
    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    fits = len(got) == len(expected) and all(e in ("d", g) for e, g in zip(expected, got, strict=True))
    if not isinstance(value, Tensor) or not fits:
        rule = f"({', '.join(map(str, expected))}{',' * (len(expected) == 1)})"
        raise TaskError(f"{type(task).__name__}.{kind} {name!r} must be a tensor of shape {rule}, got {got}")


def state_values(task: Task, kind: str, values: Terms, sim: Sim) -> Terms:
    for name, value in values.items():
        check_shape(task, kind, name, value, tuple(sim.written(name).shape))
        _check_finite(task, kind, name, value)
    return values


def _model_values(task: Task, values: Terms, sim: Sim) -> Terms:
    for name, value in values.items():
        shape = sim.memory[name].shape if name in sim.memory else (sim.num_envs, *sim.nominal(name).shape)
        check_shape(task, "randomize", name, value, tuple(shape))
        _check_finite(task, "randomize", name, value)
        if NEVER_NEGATIVE.fullmatch(name) and bool((value < 0).any()):
            rule = f"must not be negative, got {float(value.min()):g}"
            raise TaskError(f"{type(task).__name__}.randomize {name!r} {rule}")
    return values


def _check_finite(task: Task, kind: str, name: str, value: Tensor) -> None:
    if not bool(torch.isfinite(value).all()):
        raise TaskError(f"{type(task).__name__}.{kind} {name!r} is not finite")


def _check_weights(task: Task, terms: Terms) -> None:
    _check_all("weights name {}, which rewards does not return", task.weights, terms)
    _check_all("rewards returns {}, which has no weight", terms, task.weights)


def _check_all(rule: str, names: Iterable[str], known: Iterable[str], remedy: str = "") -> None:
    """Raise TaskError, by the rule, for the first name that is not known."""
    for name in names:
        if name not in known:
            raise TaskError(f"{rule.format(repr(name))}{did_you_mean(str(name), known, remedy)}")


def check_limits(task: Task) -> None:
    """Raise TaskError unless limits are {cost: Limit}, with names that an option --limits.NAME can have."""
    kind = type(task).__name__
    if not isinstance(task.limits, Mapping):
        raise TaskError(f"{kind}.limits must be {{cost: Limit}}, got {task.limits!r}")
    for name, limit in task.limits.items():
        if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
            raise TaskError(f"{kind}.limits must be named as variables are, for --limits.NAME; got {name!r}")
        if not isinstance(limit, Limit):
            raise TaskError(f"{kind}.limits[{name!r}] must be a Limit, got {limit!r}")


def _check_costs(task: Task, costs: Terms) -> None:
    kind = type(task).__name__
    _check_all("limits name {}, which costs does not return", task.limits, costs)
    for name, limit in task.limits.items():
        limit.check(round(task.time_limit / task.control_dt), name=f"{kind}.limits[{name!r}]")
    _check_all("costs returns {}, which has no limit", costs, task.limits, "else make it a metric")


def _check_names(task: Task, widths: dict[str, int]) -> None:
    kind = type(task).__name__
    if taken := [name for name in widths if name in ENDS]:
        raise TaskError(f"{kind}.observe may not call terms {taken}: an exported file uses these names")
    if "clock" in widths and not task.clock:
        raise TaskError(f"{kind}.observe has a 'clock', so {kind}.clock must be a rate above 0 Hz, got 0")


def _check_clock(task: Task, widths: dict[str, int]) -> None:
    unseen = [name for name in task.commands if name not in widths]
    if task.clock and "clock" in widths and unseen:
        rule = "must observe its commands by name: the clock stands while they are zero"
        raise TaskError(f"{type(task).__name__} observes its clock, so it {rule}; not so: {unseen}")


def _check_sensing(task: Task, widths: dict[str, int]) -> None:
    kind = type(task).__name__
    measured = [name for name in widths if name not in (*carried_names(task.action), *task.commands)]
    check_delay(f"{kind}.action_delay", task.action_delay, task.control_dt)
    for name, sense in task.sensing.items():
        if name not in measured:
            hint = did_you_mean(str(name), measured, f"it measures {measured}")
            raise TaskError(f"{kind}.sensing[{name!r}] must name a measured observation{hint}")
        if not isinstance(sense, Sense):
            raise TaskError(f"{kind}.sensing[{name!r}] must be a Sense, got {sense!r}")
        sense.check(f"{kind}.sensing[{name!r}]", widths[name], task.control_dt)
    if all(task.sensing.get(name, Sense()).hidden for name in widths):
        raise TaskError(f"{kind}.sensing hides all of {list(widths)}: nothing is left to see")


def _check_mirror(task: Task, widths: dict[str, int]) -> None:
    kind = type(task).__name__
    if task.mirror and task.mirror.keys() != widths.keys():
        odd = sorted(task.mirror.keys() ^ widths.keys())
        raise TaskError(f"{kind}.mirror must name 'action' and every observation; missing or unknown: {odd}")
    for name, mirror in task.mirror.items():
        if not isinstance(mirror, Mirror) or len(mirror.sign) != widths[name]:
            rule = f"must be a Mirror of {widths[name]} numbers"
            raise TaskError(f"{kind}.mirror[{name!r}] {rule}, got {mirror}")


def check_history(history: int | Mapping[str, int], terms: Collection[str] | None = None) -> None:
    """OptionError unless history is frames (>= 1), or {term: frames} with names in `terms` (None: any)."""
    for name, frames in history.items() if isinstance(history, Mapping) else [("", history)]:
        if not isinstance(frames, int) or frames < 1:
            each = f" of {name!r}" if name else ""
            raise OptionError(f"history{each} must be a whole number of frames from 1 on, got {frames!r}")
        if name and terms is not None and name not in terms:
            hint = did_you_mean(name, terms, f"there are {[*terms]}")
            raise OptionError(f"history must name terms, got {name!r}{hint}")
