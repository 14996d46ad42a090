"""What a loop of others sees of an Env: spaces, observations and infos as numpy, rewards of other goals."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from robokit.env.env import Env
from robokit.env.step import Step
from robokit.errors import OptionError, TaskError, did_you_mean
from robokit.task.lookup.find import load_task, title
from robokit.task.lookup.source import known_tasks

Form = Literal["flat", "dict", "goal"]
Obs = Any  # np.ndarray, or a dict of them
OBSERVED, ACHIEVED, DESIRED = "observation", "achieved_goal", "desired_goal"


def env_of(loop: type, task: Any, options: Mapping[str, Any], num_envs: int = 1, **fixed: Any) -> Env:
    """Env of a task, with the options that a person gave to a loop's class and those that the loop has fixed.

    Raises OptionError for an option that is fixed, or that neither Env nor loop has; TaskError for no task.
    """
    known = signature(Env).parameters.keys() - {"num_envs", *fixed}
    known |= signature(loop).parameters.keys() - {"options"}
    for name in options.keys() - known:
        rule = f"there are {sorted(known)}"
        raise OptionError(f"{loop.__name__} takes no {name!r}{did_you_mean(name, known, rule)}")
    if task is None:
        rule = "needs a task: task='hopper', task='my/hop.py:Hop' or a class"
        raise TaskError(f"{loop.__name__} (robokit/Task-v0) {rule}; known are {sorted(known_tasks())}")
    return Env(load_task(task), num_envs, **fixed, **options)


class Observed:
    """Observations of an Env as numpy, in one of three forms.

    flat: (N, O). dict: {term: (N, d)}. goal: {observation: (N, O), achieved_goal: (N, d), desired_goal:
    (N, d)}, of the task's Goal; the achieved one is exact. Raises OptionError for another form, or no Goal.
    """

    def __init__(self, env: Env, form: Form = "flat") -> None:
        if form not in get_args(Form):
            hint = did_you_mean(str(form), get_args(Form))
            raise OptionError(f"observations are one of {get_args(Form)}, got {form!r}{hint}")
        self.env, self.form, self._goal = env, form, env.task.goal
        widths = dict(env.names.obs) if form == "dict" else {OBSERVED: env.obs_dim}
        if form == "goal":
            if self._goal is None or not env.names.reached:
                rule = "has no Goal with reward terms in `reached`"
                raise OptionError(f"observations='goal': {title(env.task)} {rule}, docs/tasks.md")
            widths |= dict.fromkeys((ACHIEVED, DESIRED), len(env.task.commands[self._goal.command].low))
        spaces: dict[str, gym.Space[Any]] = {
            name: Box(-np.inf, np.inf, (width,), np.float32) for name, width in widths.items()
        }
        self.space: gym.Space[Any] = spaces[OBSERVED] if form == "flat" else gym.spaces.Dict(spaces)
        self.actions = Box(-1.0, 1.0, (env.act_dim,), np.float32)
        self._asked = self._command()

    def now(self) -> Obs:
        """The observation for the next action."""
        self._asked = self._command()
        return self._formed(self.env.obs, self.env.state, self._asked)

    def ended(self, step: Step) -> Obs:
        """What a step led to, before any restart and for the goal that was asked for; before `now`."""
        return self._formed(step.final_obs, step.final_state, self._asked)

    def reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any = ()) -> np.ndarray:
        """Rewards (n,) for goals (n, d) in place of the task's: the terms of `reached`, (d,) -> ().

        info: that of the step, or one for each row: their other terms are added, if they are there.
        """
        env, infos = self.env, [info] if isinstance(info, Mapping) else info
        pair = (torch.as_tensor(np.atleast_2d(x), dtype=torch.float32) for x in (achieved, desired))
        reached = env.task.reached(*(x.to(env.sim.device) for x in pair))
        (count,) = reached[env.names.reached[0]].shape
        columns = []  # as Period adds them up
        for name, weight in zip(env.names.rewards, env.period.weights, strict=True):
            other = torch.tensor([row.get(f"reward/{name}", 0.0) for row in infos] or [0.0]).expand(count)
            columns.append(reached[name].float() * weight if name in reached else other.to(weight.device))
        total = array(torch.stack(columns, -1).sum(-1))
        return total[0] if np.ndim(achieved) == 1 else total

    def _command(self) -> Tensor | None:
        if self.form != "goal" or self._goal is None:
            return None
        return self.env.sim.memory[self._goal.command].float().clone()

    def _formed(self, obs: Tensor, state: Tensor, asked: Tensor | None) -> Obs:
        if self.form == "flat":
            return array(obs)
        if asked is None:
            return {name: array(term) for name, term in self.env.split(obs).items()}
        achieved = state.split([*self.env.names.state.values()], -1)[self.env.period.achieved]
        return {OBSERVED: array(obs), ACHIEVED: array(achieved), DESIRED: array(asked)}


def array(tensor: Tensor) -> np.ndarray:
    """A copy as numpy."""
    return tensor.cpu().numpy().copy()


def chosen(mask: np.ndarray, one: Obs, other: Obs) -> Obs:
    """Rows of `one` where mask (N,), else those of `other`."""
    if isinstance(one, dict):
        return {name: chosen(mask, value, other[name]) for name, value in one.items()}
    return np.where(mask[:, None], one, other)


def row(obs: Obs, i: int) -> Obs:
    """The observation of simulation i alone."""
    return {name: value[i] for name, value in obs.items()} if isinstance(obs, dict) else obs[i]


def named(env: Env, step: Step) -> tuple[list[str], np.ndarray]:
    """Names and columns (N, L) of what a step is made of: `Env.labels`, and "cost", their sum, if any."""
    columns = array(step.logged).astype(np.float64)
    if not env.names.costs:
        return env.labels, columns
    return [*env.labels, "cost"], np.concatenate((columns, array(step.cost.sum(-1, keepdim=True))), -1)


def infos_of(env: Env, step: Step) -> list[dict[str, float]]:
    """The info of each simulation, by name, without what is not counted (NaN)."""
    names, columns = named(env, step)
    rows = columns.tolist()
    if not np.isnan(columns).any():
        return [dict(zip(names, numbers, strict=True)) for numbers in rows]
    return [{n: x for n, x in zip(names, numbers, strict=True) if x == x} for numbers in rows]
