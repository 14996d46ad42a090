"""The loop of off-policy algorithms: control steps into the replay, gradient steps from it.

An algorithm is a file of robokit.algos with a Config (a subclass of OffPolicyOptions), an Agent (the critics'
targets and the policy's objective, see agent.py) and an OffPolicy whose `kind` is that Agent.
"""

from abc import ABC
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robokit import seeds
from robokit.compute import processes
from robokit.compute.compile import compiled, torch_threads
from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.learning.adam import Losses
from robokit.learning.constrained import MEASURED, Constrained
from robokit.learning.episodes import EpisodeTotals, Reach, iteration_metrics
from robokit.learning.offpolicy.agent import Agent
from robokit.learning.offpolicy.options import Pace
from robokit.learning.offpolicy.replay import Replay
from robokit.learning.rollout import OF_STEP
from robokit.learning.schedule import Schedules
from robokit.limits.multipliers import SLOW
from robokit.state import gather, scatter

NETWORKS = ("policy", "critic", "temperature")  # of the agent's parts


class OffPolicy(ABC):
    """An off-policy algorithm on one Env, with networks on `env.device`; `policy` is exported."""

    kind: Callable[..., Agent]
    delay: int = 1  # gradient steps of the critics per gradient step of the policy

    def __init__(self, env: Env, config: Any, seed: int = 0) -> None:
        self.env, self.config, self.seed, device = env, config, seed, env.device
        self.pace = Pace.of(config)
        self.rng = torch.Generator(device).manual_seed(seeds.seed("training", seed, processes.rank()))
        self.constrained = Constrained(env, config)
        self.agent = self._make_agent(bool(config.compile))
        self.policy, self.critic, self.limits = self.agent.policy, self.agent.critic, self.agent.limits
        self.chunk = self.agent.burn_in + self.agent.window
        self.length = self.chunk + config.n_step - 1  # R
        beliefs = self.policy.belief_size, self.critic.belief_size
        own, batch = (number // processes.world() for number in (config.replay, self.pace.batch))
        self.replay = Replay(self.agent.widths, sum(beliefs), env.num_envs, own, device)
        self.windows = batch // self.agent.window  # per batch in this process
        self._check_length()
        wrap: Callable[..., Any] = partial(compiled, device=device) if config.compile else (lambda f, **_: f)
        self.act = wrap(_make_act(self.agent))
        # True: a step of critics and policy; False, only with a delay: of the critics alone
        kinds = {True, self.delay == 1}
        self.update = {act: wrap(_make_update(self.agent, act), cpp_wrapper=True) for act in kinds}
        self.threads = torch.get_num_threads()  # torch threads of gradient steps
        self.horizon = max(1, round(self.pace.transitions / self._all))
        self.steps_per_iteration = self._all * self.horizon
        self.episodes, self.reach = EpisodeTotals(env.num_envs, device), Reach(env, self.constrained.widths)
        self.belief, self.critic_belief = (torch.zeros(env.num_envs, b, device=device) for b in beliefs)
        self.is_first = torch.ones(env.num_envs, dtype=torch.bool, device=device)
        self.schedules = Schedules(config, device)
        self.gradients = 0  # gradient steps so far
        self.random = True  # whether actions are random until pace.starts
        env.reset(stagger=self._all > 1)

    def keep_weights(self) -> None:
        """Keep the present weights: copy them to the targets, and act with the policy from the first step.

        Call it before loading a resumed run's state.
        """
        for target, online in self.agent.targets:
            target.flat.copy_(online.flat)
        self.random = False

    def iterate(self) -> dict[str, float]:
        """Take `horizon` control steps, each with the gradient steps due by `Pace`; return mean metrics.

        The multipliers and normalisers are updated once, at the end.
        """
        shape = self.horizon, self.env.num_envs, self.env.act_dim
        noise = torch.randn(shape, generator=self.rng, device=self.env.device)
        rows, history = list[dict[str, Tensor]](), list[Losses]()
        with torch_threads(self.threads), torch.no_grad():
            self._price()
            for z in noise:
                rows.append(self._collect(z))
                due = self.pace.gradients(self._transitions) - self.gradients
                history += [self.learn() for _ in range(due)]
            self.episodes.add(_column(rows, "reward"), _column(rows, "done"))
            self._move_multipliers(rows, len(history))
            if self.config.normalize_obs:
                self._normalize(rows)
        names = dict.fromkeys(name for parts in history for name in parts)  # not every step has all
        means = {k: torch.stack([p[k] for p in history if k in p]).mean(0) for k in names}
        logged = _column(rows, "logged")
        self.reach.look(_column(rows, "obs"), _column(rows, "state"), logged)
        moving = self.schedules.metrics()
        self.schedules.advance(self.steps_per_iteration)
        mean, own = logged.nanmean((0, 1)), self.constrained.metrics
        return iteration_metrics(self.episodes, self.reach, means, mean, moving, own)

    # -- one control step --------------------------------------------------------------------------

    def _collect(self, noise: Tensor) -> dict[str, Tensor]:
        """Take a control step, add it to the replay, return its columns; the first actions: `random`."""
        env, constrained = self.env, self.constrained
        state = constrained.state(getattr(env, constrained.sees))
        row = {"obs": env.obs, "state": state, "is_first": self.is_first, **self._before()}
        before = torch.cat((self.belief, self.critic_belief), -1)
        beliefs = self.belief, self.critic_belief
        action, self.belief, self.critic_belief = self.act(env.obs, state, *beliefs, self.is_first, noise)
        if self.random and self._transitions < self.pace.starts:
            action = 2 * torch.rand(action.shape, generator=self.rng, device=env.device) - 1
        step = env.step(action)
        cost, final_state = constrained.step(step)
        self.is_first = step.done
        row |= {"action": action, "cost": cost, "final_obs": step.final_obs, "final_state": final_state}
        row |= {name: getattr(step, name) for name in OF_STEP}
        self.replay.add({name: row[name] for name in self.replay.widths}, before)
        return row

    def _before(self) -> dict[str, Tensor]:
        """Further columns of the replay that an algorithm stores, as they are before the action."""
        return {}

    @property
    def _all(self) -> int:
        """Number of simulations, over all processes."""
        return processes.world() * self.env.num_envs

    @property
    def _transitions(self) -> int:
        """Number of transitions so far, over all processes."""
        return self.replay.position * self._all

    # -- one gradient step -------------------------------------------------------------------------

    @torch.no_grad()
    def learn(self) -> Losses:
        """One gradient step of the critics, each `delay`-th also of the policy, on a batch from the replay.

        Returns {name: 0-d tensor} to log. After the very first one the multipliers' units are set.
        """
        rows, belief = self.replay.sample(self.windows, self.length, self.rng)
        shape = 2, self.agent.window, self.windows, self.env.act_dim
        noise = torch.randn(shape, generator=self.rng, device=self.env.device)
        self.gradients += 1
        update = self.update[self.gradients % self.delay == 0]
        parts = update(self.schedules.values["lr"], rows, belief, noise, self.price, self.weight)
        if self.limits and self.gradients == 1:
            self.constrained.multipliers.follow(self._slopes())  # limits count from the next step on
            self._price()
        return parts

    def _price(self) -> None:
        """Set `price` (K,), lambda in reward per unit of cost, and `weight` (K,), as in Agent.lagrangian."""
        multipliers = self.constrained.multipliers
        self.price = multipliers.lambdas.float()
        self.weight = multipliers.weights(multipliers.units).float()

    def _move_multipliers(self, rows: list[dict[str, Tensor]], gradients: int) -> None:
        """Update the multipliers from the iteration's costs (T, N, K), and the units from the critics.

        Units (1 + K,) of reward and costs: RMS of dQ/da, see Multipliers.follow, averaged over iterations. At
        first each counts by its number of gradient steps, so that untrained critics are soon forgotten; later
        the past keeps the weight SLOW. gradients: steps of this iteration; 0: the units stay.
        """
        if not self.limits:
            return
        self.constrained.update(*(_column(rows, name) for name in MEASURED))
        if gradients:
            slow = min(SLOW, 1 - gradients / self.gradients)
            self.constrained.multipliers.follow(self._slopes(), slow)

    def _slopes(self) -> Tensor:
        """`Agent.slopes` (1 + K,) on a batch from the replay."""
        rows, belief = self.replay.sample(self.windows, self.length, self.rng)
        return self.agent.slopes(self.agent.batch(rows, belief)).double()

    def _normalize(self, rows: list[dict[str, Tensor]]) -> None:
        valid = ~_column(rows, "bad").flatten()
        self.policy.normalizer.update(_column(rows, "obs").flatten(0, 1), valid)
        self.critic.normalizer.update(_column(rows, "state").flatten(0, 1), valid)

    # -- save and continue -------------------------------------------------------------------------

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What another training can start from, by its name in `state_dict`; see `keep_weights`."""
        return {name: x for name, x in self.agent.parts().items() if name in NETWORKS}

    def _parts(self) -> dict[str, Any]:
        own = {"env": self.env, "episodes": self.episodes, "replay": self.replay, "rng": self.rng}
        own |= {"schedule": self.schedules}
        running = {"belief": self.belief, "critic_belief": self.critic_belief, "first": self.is_first}
        return {**self.agent.parts(), **own, **running, **self.constrained.parts()}

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the training and Env states: with the replay's whole segments they resume bit for bit."""
        return {**gather(self._parts()), "gradients": torch.tensor(self.gradients)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict()`; the same task and config go unchecked. Then: replay.load_segment."""
        scatter(self._parts(), state)
        self.gradients = int(state["gradients"])

    def _make_agent(self, graph: bool) -> Agent:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.kind(self.env, self.config, self.constrained, graph)

    def _check_length(self) -> None:
        """Raise OptionError if the R rows exceed an episode, or the steps stored at first or kept later."""
        config = self.config
        what = f"burn_in ({config.burn_in}) + window ({config.window}) + n_step ({config.n_step}) - 1"
        if self.chunk == 1:
            what = f"n_step ({config.n_step})"
        stored, kept = self.pace.starts // self._all + 1, self.replay.steps - self.replay.segment + 1
        for limit, rule in (
            (self.env.max_age, "control steps of an episode"),
            (stored, "of each simulation that are stored when learning starts"),
            (kept, "of each simulation that the replay keeps at least"),
        ):
            if self.length > limit:
                raise OptionError(f"{what} must be at most the {limit} {rule}")


def _column(rows: list[dict[str, Tensor]], name: str) -> Tensor:
    """One column of the T rows, stacked: (T, N, ...)."""
    return torch.stack([row[name] for row in rows])


def _make_act(agent: Agent) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    policy, critic = agent.policy, agent.critic

    def act(
        obs: Tensor, state: Tensor, belief: Tensor, critic_belief: Tensor, is_first: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        action, belief = policy.sample(obs, belief, is_first, noise)
        return action, belief, critic.encode(state, critic_belief, is_first)[1]

    return act


def _make_update(agent: Agent, act: bool) -> Callable[..., Losses]:
    def update(lr: Tensor, rows: Tensor, belief: Tensor, *rest: Tensor) -> Losses:
        return agent.update(act, lr, agent.batch(rows, belief), *rest)

    return update
