"""The columns of a frame: which a model predicts, which are held, and which follow from the action."""

import torch
from torch import Tensor

from robokit.env.env import Env
from robokit.errors import TaskError


class Frames:
    """Frames (M, F) of a task: the observation, then a Delta's targets where they are not observed.

    Sensed columns are predicted. Commands are held: a redraw comes after the final observation. Carried terms
    follow their own `next`. Raises TaskError for a command that is not observed (its redraws would be learned
    as noise), and for a frame without a sensed column.
    """

    def __init__(self, env: Env) -> None:
        self.task, names = env.task, env.names
        owner = type(env.task).__name__
        if unseen := [name for name in env.task.commands if name not in names.obs]:
            rule = "must observe its commands: a model would learn their redraws as noise"
            raise TaskError(f"{owner} {rule}; not observed: {unseen}")
        self.carried = {term.name: term for term in env.carried}
        target = self.carried.get("target")
        self.hidden = target.size if target and "target" not in names.obs else 0  # columns after the obs
        self.kinds = {column.name: column.kind for column in env.columns}
        self.widths = {column.name: column.width for column in env.columns}
        if self.hidden:
            self.kinds["target"], self.widths["target"] = "carried", self.hidden
        self.sensed = {name: width for name, width in self.widths.items() if self.kinds[name] == "sensed"}
        if not self.sensed:
            raise TaskError(f"{owner} observes nothing that a model could predict, only {[*self.widths]}")
        self.obs_dim, self.act_dim, self.size = env.obs_dim, env.act_dim, sum(self.widths.values())
        self.predicted = sum(self.sensed.values())  # P
        self.map = env.map.to(env.device, env.obs.dtype) if "target" in self.widths else None

    def split(self, frame: Tensor) -> dict[str, Tensor]:
        """{name: (..., d)} of frames (..., F), as views."""
        return dict(zip(self.widths, frame.split(list(self.widths.values()), -1), strict=True))

    def targets(self, env: Env) -> Tensor:
        """The targets (N, nu) that the frame has beside the observation; (N, 0): none."""
        if not self.hidden:
            return env.obs[:, :0]
        return env.sim.memory["target"].to(env.device, env.obs.dtype, copy=True)

    def of(self, frame: Tensor) -> Tensor:
        """The predicted columns (..., P) of frames (..., F)."""
        now = self.split(frame)
        return torch.cat([now[name] for name in self.sensed], -1)

    def next(self, frame: Tensor, action: Tensor, change: Tensor) -> Tensor:
        """Frames (M, F) after actions (M, A), where the predicted columns change by (M, P)."""
        now = self.split(frame)
        moved = dict(zip(self.sensed, change.split(list(self.sensed.values()), -1), strict=True))
        commands = [now[name] for name in self.task.commands]
        ctrl = frame if self.map is None else self.map.target(action, now["target"], frame[:, : self.obs_dim])
        parts = []
        for name, kind in self.kinds.items():
            value = now[name]
            if kind == "sensed":
                value = value + moved[name]
            elif kind == "carried":
                term = self.carried[name]
                value = term.now(term.next(value, action, ctrl), commands)
            parts.append(value)
        return torch.cat(parts, -1)
