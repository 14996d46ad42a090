"""Imagined control steps of a task: a frame, an action, and what the model says of the next.

model = Model(env, belief_size=0, costs=0, members=5, hidden=(256, 256, 256))
after = model.step(model.net, frame, belief, action, noise, deal)

imagined = Imagined(model, env)            # what a planner rolls forward, without a policy's belief
imagined.start(rows)                       # (M,) simulations of env
reward, cost, alive = imagined.step(action)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robokit.dynamics.ensemble import Dynamics, deal, deviation
from robokit.dynamics.frame import Frames
from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.task.task import Task


class After(NamedTuple):
    """What follows M frames and actions."""

    frame: Tensor  # (M, F)
    reward: Tensor  # (M,)
    cost: Tensor  # (M, K)
    dead: Tensor  # (M,) bool: the episode ends
    doubt: Tensor  # (M,) disagreement of the members, as a share of the changes' deviation; 0 without spread
    cost_doubt: Tensor  # (M, K) deviation of the members' costs; 0 without spread


class Prediction(NamedTuple):
    """The joint prediction of all members, for M frames and actions."""

    frame: Tensor  # (M, F) mean of the members
    noise: Tensor  # (M, P) deviation that the members expect of the changes, in the units of the task
    disagreement: Tensor  # (M, P) deviation of the members' means, likewise
    reward: Tensor  # (M,)
    cost: Tensor  # (M, K)
    end: Tensor  # (M,) probability; 0 or 1 where the end is known


class Model:
    """Frames, networks and ends of one task. `net` is trained; `step` takes it, or one bound to parameters.

    belief_size: columns of the belief after a frame, which are inputs beside it. costs: K. learned: the ends
    by the classifier, even where the task knows them.
    """

    def __init__(
        self,
        env: Env,
        belief_size: int,
        costs: int,
        members: int,
        hidden: Sequence[int],
        learned: bool = False,
    ) -> None:
        self.task, self.frames = env.task, Frames(env)
        inputs = self.frames.size + belief_size + env.act_dim
        sizes = inputs, env.obs_dim, self.frames.predicted, costs, members, hidden
        self.net = Dynamics(*sizes).to(env.device)
        largest = [float(limit.largest) for limit in env.task.limits.values()][:costs]
        self.largest = torch.tensor(largest, device=env.device)
        self.known = None if learned else known_end(env)

    def inputs(self, frame: Tensor, belief: Tensor, action: Tensor) -> Tensor:
        """Inputs (..., I) of the networks; belief: after the frame, (..., B)."""
        return torch.cat((frame, belief, action), -1)

    def outputs(self, frame: Tensor, final_obs: Tensor, reward: Tensor, cost: Tensor) -> Tensor:
        """What the networks learn (..., D), from frames (..., F) and what came of them; reward (...)."""
        final = torch.cat((final_obs, frame[..., final_obs.shape[-1] :]), -1)
        return torch.cat((self.frames.of(final) - self.frames.of(frame), reward[..., None], cost), -1)

    def step(
        self,
        net: Any,
        frame: Tensor,
        belief: Tensor,
        action: Tensor,
        noise: Tensor,
        deal: Tensor,
        spread: bool = False,
    ) -> After:
        """One control step of M frames, each by one member; noise (M, P). See Dynamics.draw."""
        drawn = net.draw(self.inputs(frame, belief, action), noise, deal, spread)
        change, reward, cost = self._parts(drawn[0])
        frame = self.frames.next(frame, action, change)
        seen = frame[:, : self.frames.obs_dim]
        dead = self.known(seen) if self.known else net.ends(seen, deal)
        return After(frame, reward, cost, dead, *drawn[1:])

    @torch.no_grad()
    def predict(self, frame: Tensor, belief: Tensor, action: Tensor) -> Prediction:
        """What all members together say of M frames (M, F), beliefs after them (M, B) and actions (M, A)."""
        net, p = self.net, self.frames.predicted
        mean, log_std = net(self.inputs(frame, belief, action))
        unit = net.out.std[:p]
        noise = log_std[..., :p].exp().square().mean(0).sqrt() * unit
        change, reward, cost = self._parts(net.out.back(mean.mean(0)))
        frame = self.frames.next(frame, action, change)
        seen = frame[:, : self.frames.obs_dim]
        end = self.known(seen).float() if self.known else net.logit(seen).sigmoid().mean(0)
        return Prediction(frame, noise, deviation(mean[..., :p]) * unit, reward, cost, end)

    def _parts(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Changes (M, P), reward (M,) and costs (M, K), from 0 to Limit.largest, of outputs (M, D)."""
        change, reward, cost = y.split((self.frames.predicted, 1, len(self.largest)), -1)
        return change, reward[:, 0], torch.minimum(cost.clamp(min=0.0), self.largest)


class Imagined:
    """M imagined episodes from the present observations of `played`, each by one member: a planning.Model.

    The members take turns from step to step. rng None: without noise. Raises OptionError for a model whose
    inputs have a policy's belief.
    """

    def __init__(self, model: Model, played: Env, rng: torch.Generator | None = None) -> None:
        if extra := model.net.inp.mean.numel() - model.frames.size - model.frames.act_dim:
            rule = "plans can only be imagined by the model of a policy without memory"
            raise OptionError(f"{rule}; this one's inputs have {extra} columns of a belief")
        self.model, self.played, self.rng = model, played, rng

    @property
    def obs(self) -> Tensor:
        """(M, O)."""
        return self.frame[:, : self.model.frames.obs_dim]

    def start(self, rows: Tensor) -> None:
        """Begin in the present frames of the played simulations `rows` (M,)."""
        self.frame = torch.cat((self.played.obs, self.model.frames.targets(self.played)), -1)[rows]
        self.age, self.alive = 0, torch.ones_like(rows, dtype=torch.bool)

    @torch.no_grad()
    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reward (M,), costs (M, K) and alive (M,) bool after actions (M, A); 0 once an episode has ended."""
        rows, net = len(self.frame), self.model.net
        noise = action.new_zeros(rows, self.model.frames.predicted)
        if self.rng is not None:
            noise.normal_(generator=self.rng)
        dealt = deal(rows, net.members, self.age % net.members, action.device)
        after = self.model.step(net, self.frame, self.frame[:, :0], action.clamp(-1.0, 1.0), noise, dealt)
        reward = torch.where(self.alive, after.reward, 0.0)
        cost = torch.where(self.alive[:, None], after.cost, 0.0)
        self.frame, self.age, self.alive = after.frame, self.age + 1, self.alive & ~after.dead
        return reward, cost, self.alive


def known_end(env: Env) -> Callable[[Tensor], Tensor] | None:
    """Whether episodes end at observations (M, O) -> (M,) bool, if the task says: never, or by `ended`."""
    task = env.task
    if type(task).terminated is Task.terminated:
        return lambda seen: torch.zeros_like(seen[:, 0], dtype=torch.bool)
    if task.ended(env.terms()) is None:
        return None

    def ended(seen: Tensor) -> Tensor:
        found = task.ended(env.split(seen))
        assert found is not None
        return found

    return ended
