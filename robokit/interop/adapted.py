"""A policy of Stable-Baselines3 as an actor of robokit, and its export through the same gate."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from robokit.env.env import Env
from robokit.errors import DataError
from robokit.export.write import Written, export
from robokit.interop.closed import words
from robokit.interop.observed import ACHIEVED, DESIRED, OBSERVED
from robokit.learning.protocols import Foreign
from robokit.task.lookup.find import title
from robokit.task.task import Task

PACKAGE, ENVS = "stable-baselines3", 64


class Adapted(Foreign):
    """The deterministic policy of an SB3 model.

        action = head(memory(features(clip((obs[columns] - mean) / std))))

    normal: mean, std and clip, (3, D). columns (D,): where what it takes stands in the task's observation, as
    `fitted` finds it; None: it takes all of it. box: lowest and highest action, (A,) each; what lies beyond
    is clipped and [low, high] becomes [-1, 1]. squashed: the head ends in [-1, 1] already. lstm: a memory,
    whose (h, c) are the belief.
    """

    low: Tensor
    high: Tensor
    normal: Tensor | None
    columns: Tensor | None

    def __init__(
        self, features: nn.Module, head: nn.Module, box: tuple[np.ndarray, np.ndarray], squashed: bool,
        lstm: nn.LSTM | None = None, normal: np.ndarray | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        self.features, self.head, self.lstm, self.squashed = features, head, lstm, squashed
        self.act_dim = len(box[0])
        self.belief_size = 0 if lstm is None else 2 * lstm.num_layers * lstm.hidden_size
        self.register_buffer("columns", None)
        for name, value in (("low", box[0]), ("high", box[1]), ("normal", normal)):
            self.register_buffer(name, None if value is None else torch.tensor(value, dtype=torch.float32))

    def forward(self, obs: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        if self.columns is not None:
            obs = obs.index_select(-1, self.columns)
        if self.normal is not None:
            mean, std, clip = self.normal.unbind()
            obs = ((obs - mean) / std).clamp(-clip, clip)
        seen = self.features(obs)
        if self.lstm is not None:
            rows, layers = obs.shape[0], self.lstm.num_layers  # len() would fix the batch
            held = torch.where(is_first[:, None], 0.0, belief).view(rows, 2, layers, -1)
            h, c = held.permute(1, 2, 0, 3).contiguous()
            out, after = self.lstm(seen[None], (h, c))
            seen, belief = out[0], torch.stack(after).permute(2, 0, 1, 3).reshape(rows, -1)
        action = self.head(seen)
        if not self.squashed:
            low, high = self.low, self.high
            action = 2 * (action.clamp(low, high) - low) / (high - low) - 1
        return action.clamp(-1.0, 1.0), belief


class Model(NamedTuple):
    """A policy and what else a zip tells."""

    policy: Adapted
    takes: dict[str, int]  # widths of its observations by key, in its order; "": of plain rows
    origin: dict[str, Any]
    last: Tensor | None = None  # (n, D) the last observations of its training, as the policy saw them


def gate_env(task: Task) -> Env:
    """The simulations of the export's gate."""
    return Env(task, ENVS, nominal=True)


def write(model: Model, env: Env, path: str | Path) -> Written:
    """Export a model; `env`, of its task, is reset and stepped.

    Raises DataError for spaces that do not match the task's, ExportError as `export`.
    """
    return export(fitted(model, env), env, path, origin={"package": PACKAGE, **model.origin})


def fitted(model: Model, env: Env) -> Adapted:
    """A model's policy, which now takes the observations of a task: in one row, by term, or as of a goal.

    Raises DataError for spaces that do not match the task's.
    """
    policy, takes, name = model.policy, model.takes, title(env.task)
    at = _places(takes, env)
    found = {key: len(at.get(key, ())) for key in takes}
    if found != takes or policy.act_dim != env.act_dim:
        sizes = (words(takes), policy.act_dim), (f"{env.obs_dim} numbers", env.act_dim)
        theirs, ours = (f"{o} and gives {a}" for o, a in sizes)
        raise DataError(f"the model takes {theirs}; the task {name} takes {ours}: {dict(env.names.obs)}")
    policy.columns = None if [*takes] == [""] else torch.cat([at[key] for key in takes])
    _check_box(policy, env, name)
    return policy


def _places(takes: Mapping[str, int], env: Env) -> dict[str, Tensor]:
    """Columns of the task's observation by what a model may call them."""
    terms, every, goal = env.names.obs, torch.arange(env.obs_dim), env.task.goal
    at = {"": every, **dict(zip(terms, every.split([*terms.values()]), strict=True))}
    if goal is None or not {ACHIEVED, DESIRED} <= takes.keys():
        return at
    for key, term in ((ACHIEVED, goal.achieved), (DESIRED, goal.command)):
        if term not in terms:
            rule = f"the model takes {key!r}, the term {term!r} of {title(env.task)}, which no robot supplies"
            raise DataError(f"{rule}: it is not in `observe`, as in a variant that measures it; {[*terms]}")
        at[key] = at[term]
    return {**at, OBSERVED: every}


def _check_box(policy: Adapted, env: Env, name: str) -> None:
    """Raise DataError unless the box of actions is [-1, 1], or the ctrlrange that the task maps to it."""
    box = torch.stack((policy.low, policy.high))
    if not box.isfinite().all():
        raise DataError(f"the model's box of actions must be finite, and is {box.tolist()}")
    unit = torch.tensor([[-1.0], [1.0]]).expand_as(box)
    ranges = torch.stack((env.map.low, env.map.high)).float().cpu()
    as_ctrl = set(env.map.kinds) == {"ctrl"} and ranges.shape == box.shape and torch.allclose(ranges, box)
    if not torch.allclose(box, unit) and not as_ctrl:
        rule = f"the model's actions lie in {box.tolist()}, those of {name} in [-1, 1]"
        raise DataError(f"{rule}, or as ctrl in {ranges.tolist()}")
