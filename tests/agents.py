"""Tiny SAC and TD3 learners, their networks alone, and windows of random numbers for them."""

from types import ModuleType
from typing import Any

import pytest
import torch
from cart import Still
from torch import Generator, Tensor

from robokit.algos import sac, td3
from robokit.env.env import Env
from robokit.learning.constrained import Constrained
from robokit.learning.offpolicy.agent import Agent
from robokit.learning.offpolicy.loop import OffPolicy
from robokit.limits.limit import Limit
from robokit.sim.base import Sim
from robokit.task.task import Task, Terms

ALGOS: dict[str, ModuleType] = {"sac": sac, "td3": td3}
BOTH = pytest.mark.parametrize("algo", ALGOS)
TINY: dict[str, Any] = {
    "num_envs": 3, "hidden": (8,), "batch": 8, "learning_starts": 24, "replay": 300, "steps": 1000,
    "window": 4, "belief_size": 5, "critic": "obs",
}  # fmt: skip


class Plain(Still):
    """Ten numbers seen, two actions, no limit."""

    limits = {}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        return {}


class Limited(Still):
    """A cost that goes on, and one that happens once."""

    limits = {"away": Limit(0.5, largest=2.0), "hit": Limit(0.1, "probability")}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        return {**super().costs(sim, action), "hit": (sim.qpos[:, 0] > 0.5).to(sim.qpos.dtype)}


def learner_of(algo: str, task: type[Task] = Plain, seed: int = 0, **changes: Any) -> OffPolicy:
    """A tiny one, that says what happened after ten control steps."""
    module = ALGOS[algo]
    config = module.Config(**TINY | changes)
    module.check(config)
    learner = module.Learner(Env(task(), config.num_envs, seed=seed, threads=1), config, seed)
    learner.horizon = 10
    learner.steps_per_iteration = learner.horizon * config.num_envs
    return learner


def agent_of(algo: str, task: type[Task] = Plain, graph: bool = False, **changes: Any) -> Any:
    """Its networks alone."""
    module = ALGOS[algo]
    config, env = module.Config(**TINY | changes), Env(task(), 2, threads=1)
    torch.manual_seed(0)
    return getattr(module, algo.upper())(env, config, Constrained(env, config), graph)


def a_batch(agent: Agent, windows: int = 6, seed: int = 0, ends: float = 0.2) -> dict[str, Tensor]:
    """Windows as a replay would give them, of random numbers; episodes end in them with chance `ends`."""
    rng, config = Generator().manual_seed(seed), agent.config
    rows = agent.burn_in + agent.window + config.n_step - 1
    batch = {
        name: torch.randn(rows, windows, width, generator=rng)
        for name, width in agent.widths.items()
        if width != 1 or name in ("cost", "action")
    }
    batch["action"], batch["cost"] = batch["action"].tanh(), batch["cost"].abs()
    batch["reward"] = torch.randn(rows, windows, generator=rng)
    terminated, truncated = torch.rand(2, rows, windows, generator=rng) < ends / 2
    batch["terminated"], batch["done"] = terminated, terminated | truncated
    before = torch.rand(1, windows, generator=rng) < ends
    batch["is_first"] = torch.cat((before, batch["done"][:-1]))
    batch["bad"], batch["steps_left"] = torch.zeros_like(terminated), torch.full((rows, windows), 5.0)
    sizes = agent.policy.belief_size, agent.critic.belief_size
    own = (torch.randn(windows, size, generator=rng).tanh() for size in sizes)
    return {**batch, **dict(zip(("belief", "critic_belief"), own, strict=True))}


def noise_for(agent: Agent, windows: int = 6, seed: int = 0) -> Tensor:
    shape = 2, agent.window, windows, agent.policy.act_dim
    return torch.randn(shape, generator=Generator().manual_seed(seed))


@torch.no_grad()
def gradient_step(
    agent: Agent, batch: dict[str, Tensor], price: Any = 0.0, act: bool = True, seed: int = 0
) -> Any:
    """One gradient step, costs at a price of `price` each."""
    limits = len(agent.limits)
    prices = torch.as_tensor(price, dtype=torch.float32).expand(limits)
    noise = noise_for(agent, batch["reward"].shape[1], seed)
    return agent.update(act, torch.tensor(agent.config.lr), batch, noise, prices, prices)


def numbers_of(agent: Agent) -> dict[str, Tensor]:
    """All that a gradient step changes."""
    named = {name: part.state_dict() for name, part in agent.parts().items()}
    return {f"{part}.{key}": x.clone() for part, state in named.items() for key, x in state.items()}


@torch.no_grad()
def sees_its_first_number(agent: Agent) -> None:
    """Target critics by hand: Q_e(s, a) = s_0 + 10 e of the reward; s_0 + e and .3 + e / 10 of the costs."""
    agent.critic_target.flat.zero_()
    views = agent.critic_target.views(agent.critic_target.flat)
    steps = {0: [10.0], 1: [1.0, 0.1]}
    for k in range(len(agent.critic.sizes)):
        weight, bias = views[f"ensembles.{k}.weights.0"], views[f"ensembles.{k}.biases.0"]
        weight[:, 0, 0] = 1.0
        for e in range(agent.config.critics):
            bias[e, 0] = e * torch.tensor(steps[k])
        bias[:, 0, 1:] += 0.3


def clear(batch: dict[str, Tensor]) -> None:
    """Nothing ends, and what must not be looked at is far off."""
    for name in ("is_first", "done", "terminated"):
        batch[name] = torch.zeros_like(batch[name])
    batch["obs"] = torch.full_like(batch["obs"], 1e9)


def target_of(agent: Agent, batch: dict[str, Tensor], action: Tensor) -> Tensor:
    """(E, L, M, 1 + K) without an entropy bonus."""
    sums = agent.sums(batch)
    q = agent.q_next(batch, sums, action)
    return agent.target(sums, agent.reduced(q), q)


def rewards_of(agent: Agent, batch: dict[str, Tensor]) -> Tensor:
    """(E, L, M) targets of the reward."""
    sums = agent.sums(batch)
    with torch.no_grad():
        return target_of(agent, batch, torch.zeros(*sums.last.shape, agent.policy.act_dim))[..., 0]
