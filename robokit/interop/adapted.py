"""A policy of Stable-Baselines3 as an actor of robokit, and its export through the same gate."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from robokit.env.env import Env
from robokit.errors import ExportError
from robokit.export.write import Written, export
from robokit.interop.closed import Normalize
from robokit.learning.protocols import Foreign
from robokit.task.lookup.find import title
from robokit.task.task import Task

PACKAGE, ENVS = "stable-baselines3", 64


class Adapted(Foreign):
    """The deterministic policy of an SB3 model.

        action = head(memory(features(clip((obs - mean) / std))))

    box: lowest and highest action, (A,) each; what lies beyond is clipped and [low, high] becomes [-1, 1].
    squashed: the head ends in [-1, 1] already. lstm: a memory, whose (h, c) are the belief.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, features: nn.Module, head: nn.Module, box: tuple[np.ndarray, np.ndarray], squashed: bool,
        lstm: nn.LSTM | None = None, normalize: Normalize | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        self.features, self.head, self.lstm, self.squashed = features, head, lstm, squashed
        self.act_dim = len(box[0])
        self.belief_size = 0 if lstm is None else 2 * lstm.num_layers * lstm.hidden_size
        self.clip = None if normalize is None else normalize.clip
        numbers = {"low": box[0], "high": box[1]}
        numbers |= {} if normalize is None else {"mean": normalize.mean, "std": normalize.std}
        for name, value in numbers.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

    def forward(self, obs: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        if self.clip is not None:
            obs = ((obs - self.mean) / self.std).clamp(-self.clip, self.clip)
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
    obs_dim: int  # O
    origin: dict[str, Any]
    last: Tensor | None = None  # (n, O) the last observations of its training, as the policy saw them


def gate_env(task: Task) -> Env:
    """The simulations of the export's gate."""
    return Env(task, ENVS, nominal=True)


def write(model: Model, env: Env, path: str | Path) -> Written:
    """Export a model; `env`, of its task, is reset and stepped.

    Raises ExportError for spaces that do not match the task's, and as `export`.
    """
    policy, obs_dim = model.policy, model.obs_dim
    terms, name = dict(env.names.obs), title(env.task)
    if obs_dim != env.obs_dim or policy.act_dim != env.act_dim:
        sizes = (obs_dim, policy.act_dim), (env.obs_dim, env.act_dim)
        theirs, ours = (f"{o} numbers and gives {a}" for o, a in sizes)
        raise ExportError(f"the model takes {theirs}; the task {name} takes {ours}: {terms}")
    if policy.clip is not None and len(policy.mean) != obs_dim:
        rule = f"VecNormalize has {len(policy.mean)} numbers"
        raise ExportError(f"{rule}, the model takes {obs_dim}: it is of another run")
    _check_box(policy, env, name)
    return export(policy, env, path, origin={"package": PACKAGE, **model.origin})


def _check_box(policy: Adapted, env: Env, name: str) -> None:
    """Raise ExportError unless the box of actions is [-1, 1], or the ctrlrange that the task maps to it."""
    box = torch.stack((policy.low, policy.high))
    if not box.isfinite().all():
        raise ExportError(f"the model's box of actions must be finite, and is {box.tolist()}")
    unit = torch.tensor([[-1.0], [1.0]]).expand_as(box)
    ranges = torch.stack((env.map.low, env.map.high)).float().cpu()
    as_ctrl = set(env.map.kinds) == {"ctrl"} and ranges.shape == box.shape and torch.allclose(ranges, box)
    if not torch.allclose(box, unit) and not as_ctrl:
        rule = f"the model's actions lie in {box.tolist()}, those of {name} in [-1, 1]"
        raise ExportError(f"{rule}, or as ctrl in {ranges.tolist()}")
