"""What a control period computes after its physics, in functions that torch.compile can trace."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from robokit.env.carried import Carried
from robokit.env.commands import Commands
from robokit.env.levels import Levels
from robokit.env.sensing import Sensors
from robokit.errors import TaskError
from robokit.sim.base import Sim
from robokit.task.checks.rules import Names, same_names
from robokit.task.goal import Goal
from robokit.task.task import Task, Terms


class Period:
    """The functions of one Env's task, with its sensors, commands and carried terms."""

    def __init__(
        self, task: Task, sim: Sim, names: Names, parts: tuple[Sensors, Commands, tuple[Carried, ...], Levels]
    ) -> None:
        self.task, self.sim, self.names = task, sim, names
        self.sensors, self.commands, self.carried, self.levels = parts
        self.max_age = periods(task)
        kinds = {"reward": names.rewards, "cost": names.costs, "metric": names.metrics}
        named = [f"{kind}/{name}" for kind, each in kinds.items() for name in each]
        self.labels = [*named, *self.levels.labels, "episode/bad"]  # of `logged`
        self.labels += ["goal/reached"] * bool(self.commands.by_success)
        self.weights = torch.tensor([float(task.weights[k]) for k in names.rewards], device=sim.device)
        uncounted = [0.0 if name in names.booleans else torch.nan for name in names.metrics]
        self.uncounted = torch.tensor(uncounted, device=sim.device)  # metrics of a broken simulation
        # names of `rewards` and of `metrics`, without those of a goal
        counts = len(names.rewards) - len(names.reached), len(names.metrics) - (task.goal is not None)
        self.own = names.rewards[: counts[0]], names.metrics[: counts[1]]
        if task.goal is not None:
            name = task.goal.achieved
            self.achieved = [*names.state].index(name if name in names.truth else f"privileged {name}")

    def judge(self, action: Tensor, ctrl: Tensor, look: bool = True) -> dict[str, Tensor]:
        """After `action` (N, A), clipped here: what follows from the physics, as in Step. Writes memory.

        ctrl: targets (N, nu) that were sent. look: also `metrics`, and `final_obs` and `final_state`, those
        before any restart; `final_obs` of a broken simulation is what it broke with.
        """
        task, sim, names = self.task, self.sim, self.names
        action, bad = action.clamp(-1.0, 1.0), sim.bad()
        terms = _columns(task.rewards(sim, action), self.own[0], sim, "rewards")
        cost = _columns(task.costs(sim, action), names.costs, sim, "costs")
        metrics = _columns(task.metrics(sim), self.own[1], sim, "metrics") if look else None
        terminated = task.terminated(sim)
        self._remember(task.remember(sim, action), action, ctrl)
        steps_left = (self.max_age - sim.memory["age"][:, 0]).clamp(min=0).float()
        fields: dict[str, Tensor] = {}
        if look:
            fields["final_obs"], fields["final_state"] = self.look()
        if task.goal is not None:
            reached, success = self._goal(task.goal, fields.get("final_state"), bad)
            terms = torch.cat((terms, reached), -1)
            metrics = None if metrics is None else torch.cat((metrics, success), -1)
        terms = (terms * self.weights).masked_fill(bad[:, None], 0.0)
        cost = cost.masked_fill(bad[:, None], 0.0) if names.costs else cost
        if metrics is not None:
            fields["metrics"] = torch.where(bad[:, None], self.uncounted, metrics)
        return {
            **fields,
            "reward": terms.sum(-1),
            "terminated": terminated | bad,
            # no cost is charged for steps that a broken simulation lost
            "steps_left": steps_left.masked_fill(bad, 0.0),
            "bad": bad,
            "terms": terms,
            "cost": cost,
        }

    def after(self, action: Tensor, ctrl: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """As `judge`: (fields of Step, `due` (C, N), `found` (3,) bool).

        due: commands whose time is up. found: whether any simulation broke, any episode ended, any command is
        due.
        """
        fields = self.judge(action, ctrl)
        terminated, bad, metrics = fields["terminated"], fields["bad"], fields["metrics"]
        done = terminated | (fields["steps_left"] == 0)
        more = [self.commands.reach(metrics[:, -1] == 1)] if self.commands.by_success else []
        due = self.commands.countdown()
        counted = self.levels.after(metrics, done, *more)  # after `look`: final_obs has the old level
        logged = fields["terms"], fields["cost"], metrics, *counted, bad[:, None], *more
        own = torch.ones_like(done) if (own := self.levels.own) is None else own
        fields |= {"truncated": done & ~terminated, "done": done, "own": own, "logged": torch.cat(logged, -1)}
        return fields, due, torch.stack((bad.any(), done.any(), due.any()))

    def _goal(self, goal: Goal, state: Tensor | None, bad: Tensor) -> tuple[Tensor, Tensor]:
        """(terms of `reached`, success (N, 1)); state: None where it was not looked at."""
        if state is not None:
            achieved = state.split([*self.names.state.values()], -1)[self.achieved]
        else:
            values = self.task.observe if goal.achieved in self.names.truth else self.task.privileged
            achieved = values(self.sim)[goal.achieved].float()
        pair = achieved, self.sim.memory[goal.command].float()
        reached = _columns(self.task.reached(*pair), self.names.reached, self.sim, "reached")
        return reached, (goal.holds(*pair) & ~bad)[:, None]

    def look(self) -> tuple[Tensor, Tensor]:
        """obs (N, O) through the sensors, state (N, S): exact values of all terms and the privileged ones."""
        truth = _concatenate(self.task.observe(self.sim), self.names.truth, self.sim, "observe")
        if not self.names.privileged:
            return self.sensors.read(truth), truth
        more = _concatenate(self.task.privileged(self.sim), self.names.privileged, self.sim, "privileged")
        return self.sensors.read(truth), torch.cat((truth, more), -1)

    def _remember(self, values: Terms, action: Tensor, ctrl: Tensor) -> None:
        """Write the task's new memory, add 1 to every age, advance the carried terms."""
        memory = self.sim.memory
        same_names(values, self.names.memory, "remember")
        # copied before any is written: values may be views of memory; a product, as inductor drops clones
        taken = {name: value.to(self.sim.dtype) * 1.0 for name, value in values.items()}
        for name, value in taken.items():
            memory[name].copy_(value)
        memory["age"].add_(1)
        self.carry({term.name: term.next(memory[term.name], action, ctrl) for term in self.carried})

    def carry(self, values: Mapping[str, Tensor]) -> None:
        """Write carried terms {name: (N, size)} to memory, after their `now` with the current commands."""
        memory = self.sim.memory
        commands = [memory[name] for name in self.task.commands]
        for term in self.carried:
            if term.name in values:
                memory[term.name].copy_(term.now(values[term.name], commands))


def periods(task: Task) -> int:
    """Control periods in an episode. Raises TaskError for a time limit below one."""
    if not task.time_limit >= task.control_dt:
        raise TaskError(f"time_limit ({task.time_limit} s) must be at least control_dt ({task.control_dt} s)")
    return round(task.time_limit / task.control_dt)


def substeps(control_dt: float, timestep: float) -> int:
    """Timesteps in a control period. Raises TaskError where these are no whole number."""
    nstep = round(control_dt / timestep)
    if nstep < 1 or abs(nstep * timestep - control_dt) > 1e-6 * control_dt:
        raise TaskError(f"control_dt ({control_dt} s) must be a multiple of the timestep ({timestep} s)")
    return nstep


def _columns(values: Terms, names: tuple[str, ...], sim: Any, kind: str) -> Tensor:
    """Terms (N,) as columns (N, len(names)) float32, in the order of `names`; TaskError for other names."""
    same_names(values, names, kind)
    if not names:
        return torch.zeros(sim.num_envs, 0, device=sim.device)
    return torch.stack([values[k] for k in names], -1).float()


def _concatenate(values: Terms, widths: dict[str, int], sim: Any, kind: str) -> Tensor:
    """Terms (N, d) side by side, (N, sum(widths)) float32; TaskError for other names or another total."""
    same_names(values, widths, kind)
    out = torch.cat([values[k] for k in widths], -1).float()
    if out.shape != (sim.num_envs, sum(widths.values())):
        got = {k: tuple(v.shape) for k, v in values.items()}
        raise TaskError(f"{kind} changed its widths from {widths} to {got}")
    return out
