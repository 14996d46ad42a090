"""Run one episode in each of N simulations."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robokit.compute.compile import torch_threads
from robokit.controller import OUTPUTS, ContractError, Loaded, carry_size, part_of
from robokit.env.env import Env
from robokit.evaluation.ledger import Ledger
from robokit.evaluation.statistics import Array
from robokit.evaluation.tally import Tally
from robokit.export.card import check_ctrl
from robokit.learning.episodes import Reach
from robokit.learning.protocols import Actor
from robokit.limits.measures import EpisodeCosts
from robokit.task.columns import supplied
from robokit.task.counts import headline_kind, steps_held
from robokit.task.goal import SUCCESS
from robokit.task.task import TERMINATED, Task

GAMMA = 0.99  # default discount of discounted limits
TIME = "time to success"
Act = Callable[[Env, Tensor], Tensor]  # (env, is_first (N,)) -> action (N, A)


@dataclass(frozen=True)
class Episodes:
    """Results of one episode in each of E simulations."""

    returns: Array  # (E,) undiscounted
    lengths: Array  # (E,) control steps
    terms: dict[str, Array]  # (E,) weighted sum of each reward term
    costs: dict[str, Array]  # (E,) sum of each cost
    metrics: dict[str, dict[str, Array]]  # name -> kind, as Tally.kinds, (E,) each; NaN: no value
    headline: Array  # (E,) of the task's headline, `returns` itself or of a metric; NaN: no value
    failed: npt.NDArray[np.bool_]  # (E,) by the task's failure, or broken
    charged: dict[str, EpisodeCosts[Array]]  # totals of each cost, for the measures of limits
    terminated: int
    bad: int  # episodes ended by a broken simulation
    goals: dict[str, Array] = field(default_factory=dict[str, Array])  # "target[0]" -> (E,), at the end

    def lists(self) -> dict[str, list[float | None]]:
        """Numbers of all episodes by name; None: NaN. "return", "length", "headline" unless it is the return,
        "failed", "FIELD/COST" for EpisodeCosts' fields, "goal/target[0]" and "success" of a goal.
        """
        own = {"return": self.returns, "length": self.lengths, "failed": self.failed}
        own |= {} if self.headline is self.returns else {"headline": self.headline}
        own |= {f"goal/{name}": x for name, x in self.goals.items()}
        own |= {SUCCESS: self.metrics[SUCCESS]["held"]} if self.goals else {}
        parts = {f"{key}/{k}": x for k, costs in self.charged.items() for key, x in costs._asdict().items()}
        lists = {name: x.astype(np.float64).tolist() for name, x in (own | parts).items()}
        return {name: [None if math.isnan(x) else x for x in numbers] for name, numbers in lists.items()}


def onnx_actor(file: Loaded) -> Act:
    """Actions of an exported graph, read from its carry, because its ctrl is clipped.

    The actor keeps the carry of one Env, so each Env needs a new one; a Delta in it moves on from the targets
    that Env sent, as on a robot. A call raises TaskError if the task's action map gives another ctrl than the
    graph, ContractError if the graph fails or gives other shapes.
    """
    carry, size = list[npt.NDArray[np.float32]](), carry_size(file.contract)
    begin, end = part_of(file.contract, "target")

    def act(env: Env, is_first: Tensor) -> Tensor:
        if not carry:
            carry.append(np.zeros((env.num_envs, size), np.float32))
        if end:
            carry[0][:, begin:end] = env.sim.memory["target"].cpu().numpy()
        seen = env.terms()
        terms = {name: seen[name].contiguous().cpu().numpy() for name in supplied(env.columns)}
        ctrl, carry[0] = _run(file, {**terms, "carry": carry[0], "reset": is_first.cpu().numpy()})
        action = torch.from_numpy(carry[0][:, : env.act_dim]).to(env.map.center.device)
        check_ctrl(env, action, torch.from_numpy(ctrl).to(action))
        return action

    return act


def _run(file: Loaded, feed: dict[str, Any]) -> Any:
    """(ctrl, carry_next)."""
    try:
        ctrl, carry = cast(Any, file.session).run(OUTPUTS, feed)
    except Exception as error:  # onnxruntime's errors share no base class
        why = " ".join(str(error).split())[:500]
        raise ContractError(f"{file.path} fails on {len(feed['reset'])} simulations: {why}") from error
    shapes, wanted = [np.shape(ctrl), np.shape(carry)], feed["carry"].shape
    if shapes != [(wanted[0], len(file.contract["actuators"])), wanted]:
        raise ContractError(f"{file.path} gives ctrl and carry_next of {shapes}, for a carry of {wanted}")
    return ctrl, carry


def torch_actor(policy: Actor) -> Act:
    """Deterministic actions of a torch policy; the actor keeps the belief, so each Env needs a new one."""
    belief: list[Tensor] = []

    @torch.no_grad()
    def act(env: Env, is_first: Tensor) -> Tensor:
        if not belief:
            belief.append(torch.zeros(env.num_envs, policy.belief_size, device=env.device))
        action, belief[0] = policy(env.obs, belief[0], is_first)
        return action

    return act


def sampling_actor(policy: Actor, seed: int) -> Act:
    """Like torch_actor, with actions sampled as in training; Env clips them. seed: of the sampling noise."""
    belief: list[Tensor] = []
    draws: list[torch.Generator] = []

    @torch.no_grad()
    def act(env: Env, is_first: Tensor) -> Tensor:
        if not belief:
            belief.append(torch.zeros(env.num_envs, policy.belief_size, device=env.device))
            draws.append(torch.Generator(env.device).manual_seed(seed))
        noise = torch.randn(env.num_envs, policy.act_dim, generator=draws[0], device=env.device)
        action, belief[0] = policy.sample(env.obs, belief[0], is_first, noise)
        return action

    return act


@torch_threads(1)  # a step has too little work to share, and the physics uses the cores
def run_episodes(env: Env, act: Act, gamma: float = GAMMA) -> Episodes:
    """Run the first episode of each simulation after a reset of `env`; later ones are not counted.

    Metrics leave out steps with NaN; a goal has one more, TIME (s). gamma: of discounted limits only. Raises
    TaskError for a cost out of its range, and for a term that `Reach` refuses.
    """
    env.reset()
    names, n, device, dt = env.names, env.num_envs, env.device, float(env.task.control_dt)
    running = torch.ones(n, dtype=torch.bool, device=device)
    is_first = running.clone()
    widths = (1, len(names.rewards), len(names.costs), 1)
    totals = torch.zeros(n, sum(widths), dtype=torch.float64, device=device)
    ended, bad = torch.zeros_like(running), torch.zeros_like(running)
    one = torch.ones(n, 1, device=device)
    ledger = Ledger(env.task.limits, n, gamma, device)
    reach = Reach(env, names.state)
    tally = Tally(names.metrics, steps_held(env.task, names.booleans), n, device)
    goal = env.task.goal
    asked = env.sim.memory[goal.command] if goal else torch.zeros(n, 0)
    goals = asked.to(device, copy=True)
    while bool(running.any()):
        goals = torch.where(running[:, None], asked.to(device), goals)
        step = env.step(act(env, is_first))
        is_first = step.done
        totals += running[:, None] * torch.cat((step.reward[:, None], step.terms, step.cost, one), -1)
        reach.add(step)
        tally.add(step.metrics, running)
        ledger.add(step.cost, running, step.terminated, step.steps_left)
        ended, bad = ended | (running & step.terminated), bad | (running & step.bad)
        running = running & ~step.done
    charged = ledger.costs()
    reach.check()
    returns, terms, costs, length = (c.cpu().numpy() for c in totals.split(widths, -1))
    metrics, over, broken = tally.kinds(), ended.cpu().numpy(), bad.cpu().numpy()
    if goal is not None:
        metrics[TIME] = {"s": tally.settled(SUCCESS, dt)}
    returns = returns[:, 0]
    return Episodes(
        returns=returns,
        lengths=length[:, 0],
        terms={k: terms[:, i] for i, k in enumerate(names.rewards)},
        costs={k: costs[:, i] for i, k in enumerate(names.costs)},
        metrics=metrics,
        headline=_headline(env, returns, metrics),
        failed=broken | _failed(env.task, over, metrics),
        charged=charged,
        terminated=int(over.sum()),
        bad=int(broken.sum()),
        goals={f"{goal.command}[{i}]": x for i, x in enumerate(goals.cpu().numpy().T)} if goal else {},
    )


def _headline(env: Env, returns: Array, metrics: Mapping[str, Mapping[str, Array]]) -> Array:
    name = env.task.headline
    kind = headline_kind(env.task, name in env.names.booleans)
    return returns if kind == "sum" else metrics[name][kind]


def _failed(
    task: Task, terminated: npt.NDArray[np.bool_], metrics: Mapping[str, Mapping[str, Array]]
) -> npt.NDArray[np.bool_]:
    """(E,): ended in a terminal state, if that is a failure, or a metric of `failure` was ever true."""
    failed = terminated & (TERMINATED in task.failure)
    for name in task.failure:
        if name != TERMINATED:
            failed = failed | (metrics[name]["ever"] == 1)
    return failed
