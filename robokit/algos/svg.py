"""Soft actor-critic through a learned model: stochastic value gradients over H imagined steps.

    learner = Learner(robokit.make("hopper"), Config())
    while ...: print(learner.iterate()["episode/return"])

SAC whose critics' targets and policy gradient go through H = `lookahead` steps that an ensemble imagines
(Heess et al. 2015, arXiv:1510.09142; Amos et al. 2021, arXiv:2008.12775), from frames that longer imagined
rollouts reach (Kubo et al. 2025, arXiv:2512.15439). With `lookahead` 0 only the batches are imagined: MBPO
(Janner et al. 2019, arXiv:1906.08253) is `--lookahead 0 --imagined 1 --utd 20 --real 0.05`. The policy is
exported as any SAC policy; the model is robokit.dynamics.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from robokit.algos import sac
from robokit.algos.sac import SAC, make_actor as make_actor, soft_value
from robokit.compute.compile import Sizes, Unguarded, compiled
from robokit.dynamics.ensemble import deal
from robokit.dynamics.fit import Fit, Upkeep
from robokit.dynamics.imagine import After, Model
from robokit.dynamics.rollouts import ROWS, Imagined, Rollouts, State
from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.learning.adam import Bound, Losses
from robokit.learning.constrained import Constrained
from robokit.learning.offpolicy.agent import Sums
from robokit.learning.options import check_not_negative, check_positive, check_unit, recurrent
from robokit.learning.returns import n_step, shares
from robokit.learning.rollout import Batch
from robokit.networks.policy import Policy

REFRESH = 20  # gradient steps between two imagined rollouts
ITERATION = 250  # transitions: a gradient step takes as long as several of SAC's
START = 1500  # gradient steps of the model before the policy's first


@dataclass(frozen=True)
class Config(sac.Config):
    """Options of SAC through a model."""

    activation: Literal["tanh", "elu", "relu", "silu"] = "silu"  # between layers
    normalize_obs: bool = True  # by running mean and standard deviation
    critic: Literal["state", "obs"] = "obs"  # critics' input: the policy's, which is what a model predicts
    critics: int = 5  # E, Q networks
    reduce: Literal["min", "mean"] = "mean"  # over the E critics, in targets and in the policy objective
    layer_norm: bool = True  # in the hidden layers of the critics
    init_temperature: float = 0.1  # initial alpha of a learned temperature
    lookahead: int = 3  # H, imagined steps in targets and policy gradient; 0: none, SAC on imagined batches
    imagined: int = 20  # control steps of the rollouts whose frames batches begin at; 0: real frames only
    real: float = 0.0  # share of a batch from the replay, not from imagined rollouts
    members: int = 5  # networks of the model; each leaves out a part of the replay, to judge it by
    model_hidden: tuple[int, ...] = (256, 256, 256)  # units in each hidden layer of a member
    model_lr: float = 1e-3  # learning rate of the model
    # transitions per gradient step of the model; None: 2, but at most 8 steps in a control step
    model_every: float | None = None
    # a rollout ends where the members' disagreement exceeds so many times its running 95 % quantile at real
    # frames (Frauenknecht et al. 2024, arXiv:2405.19014); 0: only where an episode ends
    doubt: float = 0.0
    caution: float = 0.0  # imagined costs are raised by so many deviations over the members
    ends: Literal["task", "learned"] = "task"  # of imagined episodes: by the task's `ended`, if it has one

    @property
    def sizes(self) -> Sizes:
        return super().sizes._replace(unrolled=1)

    @property
    def each(self) -> float:
        """Transitions per gradient step of the model."""
        return max(2.0, self.simulations / 8) if self.model_every is None else self.model_every


def make_model(env: Env, config: Config, policy: Policy) -> Model:
    """A model of the Env's task and a policy's beliefs, with random weights from torch's global generator."""
    costs = 0 if config.limit_rule == "off" else len(env.task.limits)
    sizes = policy.belief_size, costs, config.members, config.model_hidden
    return Model(env, *sizes, learned=config.ends == "learned")


class SVG(SAC):
    """Networks, model, and the gradient step through H imagined control steps."""

    config: Config

    def __init__(self, env: Env, config: Config, constrained: Constrained, graph: bool) -> None:
        super().__init__(env, config, constrained, graph)
        if self.sees != "obs":
            rule = "what the model predicts, the policy's input: give critic 'obs', and no limit of a peak"
            raise OptionError(f"svg's critics must see {rule}; here they see {[*constrained.widths]}")
        self.window, self.burn_in, self.cautious = 1, 0, config.caution > 0 and bool(self.limits)
        self.model = make_model(env, config, self.policy)
        if hidden := self.model.frames.hidden:
            self.widths["target"] = hidden
        self.fit = Fit(self.model.net, config.model_lr, graph)
        # costs whose violations count: learned as a probability, they happen where that is above 1/2
        nothing = torch.zeros(1, device=env.device)
        counted = [m.charge(nothing)[1] is not None for m in constrained.charges.measures]
        self.counted = torch.tensor(counted, dtype=torch.bool, device=env.device)

    # -- the model ---------------------------------------------------------------------------------

    def data(self, rows: Tensor, belief: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Inputs (M, I), outputs (M, D), next observations, ends, and whether rows (1, M, C) are sound."""
        batch = self.batch(rows, belief)
        frame, cost, final = self._frame(batch), batch["cost"][0], batch["final_obs"][0]
        after = self.actor.bound(self.graph).encode(batch["obs"][0], batch["belief"], batch["is_first"][0])[1]
        cost = torch.where(self.counted, (cost > 0).float(), cost)
        x = self.model.inputs(frame, after, batch["action"][0])
        y = self.model.outputs(frame, final, batch["reward"][0], cost)
        return x, y, final, batch["terminated"][0], ~batch["bad"][0]

    def update_model(self, rows: Tensor, belief: Tensor, allowed: Tensor) -> Losses:
        """One gradient step of the model on rows (1, E M, C); allowed (E, M) bool: of a member's folds."""
        x, y, seen, ended, sound = (part.unflatten(0, allowed.shape) for part in self.data(rows, belief))
        return self.fit.update(x, y, allowed & sound, seen, ended)

    # -- imagined control steps --------------------------------------------------------------------

    def start(self, rows: Tensor, belief: Tensor) -> State:
        """The state before the action of rows (1, M, C) of the replay."""
        batch = self.batch(rows, belief)
        parts = batch["belief"], batch["critic_belief"], batch["is_first"][0], batch["steps_left"][0]
        return State(*(x.contiguous() for x in (self._frame(batch), *parts)))  # a graph knows one layout

    def _frame(self, batch: Batch) -> Tensor:
        return torch.cat((batch["obs"][0], batch["target"][0]), -1) if "target" in batch else batch["obs"][0]

    def imagine(
        self, policy: Any, state: State, noise: Tensor, wide: Tensor, deal: Tensor, spread: bool
    ) -> tuple[State, Imagined]:
        """One control step: actions by noise (M, A), the next frames by wide (M, P) and `deal`."""
        critic, net = self.critics.bound(self.graph), self.fit.adam.bound(self.graph)
        obs = state.frame[:, : self.model.frames.obs_dim]
        features, belief = policy.encode(obs, state.belief, state.is_first)
        action, log_prob = policy.draw(policy.decode(features), noise)
        theirs = critic.encode(obs, state.critic_belief, state.is_first)[1]
        after = self.model.step(net, state.frame, belief, action, wide, deal, spread)
        signal, over, cost = self._signal(after, state.steps_left)
        left = (state.steps_left - 1).clamp(min=0)
        following = State(after.frame, belief, theirs, torch.zeros_like(state.is_first), left)
        return following, Imagined(action, log_prob, signal, over, cost, after.dead, after.doubt)

    def _signal(self, after: After, steps_left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`signal`, `over` and `cost` of Imagined, with caution; those of a count as a simulation has it."""
        ends = after.dead[:, None]
        if not self.limits:
            return after.reward[:, None], ends, after.cost
        cost = after.cost + self.config.caution * after.cost_doubt
        happens = torch.where(self.counted, (cost > 0.5).float(), cost)
        charged, over = self.constrained.charged(happens, after.dead, steps_left)
        charged = (charged - happens + cost) / self.largest
        return torch.cat((after.reward[:, None], charged), -1), torch.cat((ends, over), -1), happens

    def roll(self, state: State, noise: Tensor, wide: Tensor, deal: Tensor) -> tuple[State, Tensor, Tensor]:
        """A control step of a rollout: the next state, its rows (M, C) of a replay, the disagreement (M,)."""
        policy = self.actor.bound(self.graph)
        spread = self.config.doubt > 0 or (self.cautious and not self.config.lookahead)
        after, step = self.imagine(policy, state, noise, wide, deal, spread)
        obs, target = state.frame.tensor_split([self.model.frames.obs_dim], -1)
        columns = {"obs": obs, "target": target, "final_obs": after.frame[:, : obs.shape[-1]]}
        columns |= {"action": step.action, "cost": step.cost, "reward": step.signal[:, 0]}
        columns |= {"done": step.dead, "terminated": step.dead, "bad": torch.zeros_like(step.dead)}
        columns |= {"is_first": state.is_first, "steps_left": state.steps_left}
        parts = [columns[name].reshape(len(obs), width).float() for name, width in self.widths.items()]
        return after, torch.cat(parts, -1), step.doubt

    # -- one gradient step -------------------------------------------------------------------------

    def ahead(
        self, flat: Tensor | None, state: State, noise: Tensor, wide: Tensor, deal: Tensor
    ) -> tuple[State, Imagined]:
        """`imagine` with a gradient to the policy; flat: its parameters in a graph; None: the module's."""
        return self.imagine(self._policy(flat), state, noise, wide, deal, self.cautious)

    def finish(self, flat: Tensor | None, state: State, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q and the target critics' Q (E, M, 1 + K) after the last imagined step, and log pi (M,)."""
        policy, critic = self._policy(flat), self.critics.bound(self.graph)
        target = self.critic_target.bound(self.graph)
        obs = state.frame[:, : self.model.frames.obs_dim]
        features = policy.encode(obs, state.belief, state.is_first)[0]
        action, log_prob = policy.draw(policy.decode(features), noise)
        given = obs, state.critic_belief, state.is_first
        q = critic.decode(critic.encode(*given)[0], action)
        aside = (x.detach() for x in given)
        return q, target.decode(target.encode(*aside)[0], action.detach()).detach(), log_prob

    def _policy(self, flat: Tensor | None) -> Any:
        return self.policy if flat is None else Bound(self.actor.methods, self.actor.views(flat))

    def objective(
        self, steps: list[Imagined], ends: tuple[Tensor, Tensor, Tensor], alpha: Tensor, *prices: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The policy's objective (M,), and the critics' targets (E, M, 1 + K), of H imagined steps.

            sum_{t<H} g^t m_t (r_t - alpha log pi_t) + g^H m_H (Q(x_H, a_H) - alpha log pi_H)

        m_t: alive. The targets lack the entropy of the first action; costs have none. ends: as `finish`
        returns them. prices: price and weight (K,), as in `lagrangian`.
        """
        q, q_target, last = ends
        entropy = [-alpha * step.log_prob[:, None] for step in steps]
        reward = torch.arange(1 + len(self.limits), device=last.device) == 0  # the column
        signal = torch.stack([s.signal + bool(t) * entropy[t] * reward for t, s in enumerate(steps)])
        over, dead = (torch.stack(x) for x in ([s.over for s in steps], [s.dead for s in steps]))
        total, discount, index = n_step(signal, over, dead, len(steps), self.config.gamma)
        sums = Sums(total[0], discount[0], index[0], torch.ones_like(last))
        target = self.target(sums, soft_value(self.reduced(q_target), last, alpha), q_target)
        ahead = self.target(sums, soft_value(self.reduced(q), last, alpha), q)
        return self.lagrangian(ahead[0, :, 0] + entropy[0][:, 0], ahead, *prices), target.detach()

    def settle(
        self, lr: Tensor, rows: Tensor, belief: Tensor, first: tuple[Tensor, ...], grads: list[Tensor]
    ) -> Losses:
        """Steps of the critics, of the policy by `grads`, of alpha and the target networks.

        first: actions (M, A) at the rows (1, M, C), the critics' targets for them (E, M, 1 + K), log pi (M,).
        """
        action, target, log_prob = first
        batch = {**self.batch(rows, belief), "action": action[None]}
        parts = self.fit_critics(lr, batch, target[:, None], shares(torch.ones_like(log_prob[None]) > 0))
        parts |= {"grad_norm": self.actor.apply(grads, lr), "log_prob": log_prob.mean()}
        if self.fixed is None:
            parts["temperature"] = self.temperature_step(lr, parts["log_prob"])["temperature"]
        self.move_targets()
        return parts

    def parts(self) -> dict[str, Any]:
        return super().parts() | {"model": self.model.net, "model_adam": self.fit.adam}


class Learner(sac.Learner):
    """SAC through a model, on one Env; `policy` is exported."""

    kind = SVG
    agent: SVG  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, env: Env, config: Config, seed: int = 0) -> None:
        check(config.on(env.num_envs))
        super().__init__(env, config, seed)
        config = self.config
        self.horizon = max(1, round(self.pace.iteration(ITERATION) / self._all))
        self.steps_per_iteration = self._all * self.horizon
        agent, device, once, with_grad = self.agent, env.device, lambda f: f, lambda f: f
        if config.compile:
            once = partial(compiled, device=device, cpp_wrapper=True)
            with_grad = partial(Unguarded, cpp_wrapper=device.type == "cpu")
        self.ahead, self.finish = with_grad(agent.ahead), with_grad(agent.finish)
        self.settle = once(agent.settle)
        sizes = agent.widths, self.replay.beliefs.shape[-1], agent.start, once(agent.roll)
        self.rollouts = Rollouts(*sizes, config.members, config.doubt, device)
        self.upkeep = Upkeep(agent.model.net, agent.data, once(agent.update_model))
        self.deals = [deal(self.windows, config.members, turn, device) for turn in range(config.members)]

    def _collect(self, noise: Tensor) -> dict[str, Tensor]:
        row = super()._collect(noise)
        if self.config.normalize_obs:  # in every step: few are taken, and a jump in the units costs hundreds
            super()._normalize([row])
        return row

    def _normalize(self, rows: list[dict[str, Tensor]]) -> None: ...  # done in every control step

    def _before(self) -> dict[str, Tensor]:
        frames = self.agent.model.frames
        return {"target": frames.targets(self.env)} if frames.hidden else {}

    @torch.no_grad()
    def learn(self) -> Losses:
        """One gradient step of critics and policy; before it those of the model and the rollouts due."""
        config, due = self.config, START + int((self._transitions - self.pace.starts) / self.config.each)
        parts = self.upkeep.catch_up(due, self.replay, self.rng)
        if config.imagined and self.gradients % REFRESH == 0:
            parts["stopped"] = self.rollouts.go(self.replay, *self._noise(config.imagined, ROWS), self.rng)
        rows, belief = self._batch()
        self.gradients += 1
        parts |= self._look_ahead(rows, belief) if config.lookahead else self._plain(rows, belief)
        if self.limits and self.gradients == 1:
            self.constrained.multipliers.follow(self._slopes())
            self._price()
        return parts

    def _noise(self, steps: int, rows: int, more: int = 0) -> tuple[Tensor, Tensor]:
        """Standard normal noise of actions (T + more, M, A), and of the model's changes (T, M, P)."""
        sizes = (steps + more, rows, self.env.act_dim), (steps, rows, self.agent.model.frames.predicted)
        noise, wide = (torch.randn(n, generator=self.rng, device=self.env.device) for n in sizes)
        return noise, wide

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Rows (1, M, C) and beliefs (M, B): the share `real` from the replay, the others imagined."""
        real = round(self.config.real * self.windows) if self.config.imagined else self.windows
        taken = [self.replay.sample(real, 1, self.rng)] if real else []
        taken += [self.rollouts.ring.sample(self.windows - real, 1, self.rng)] if real < self.windows else []
        rows, beliefs = zip(*taken, strict=True)
        return torch.cat(rows, 1), torch.cat(beliefs)

    def _plain(self, rows: Tensor, belief: Tensor) -> Losses:
        noise = self._noise(2, self.windows)[0][:, None]
        return self.update[True](self.schedules.values["lr"], rows, belief, noise, self.price, self.weight)

    def _look_ahead(self, rows: Tensor, belief: Tensor) -> Losses:
        """A gradient step through `lookahead` imagined steps from rows (1, M, C)."""
        agent, h = self.agent, self.config.lookahead
        noise, wide = self._noise(h, self.windows, more=1)
        alpha = agent.temperature().detach().exp() if agent.fixed is None else agent.fixed
        flat = agent.actor.flat.detach().requires_grad_() if agent.graph else None
        state, steps = agent.start(rows, belief), list[Imagined]()
        with torch.enable_grad():
            for t in range(h):
                state, step = self.ahead(flat, state, noise[t], wide[t], self.deals[t % len(self.deals)])
                steps.append(step)
            ends = self.finish(flat, state, noise[h])
            gain, target = agent.objective(steps, ends, alpha, self.price, self.weight)
            loss = -gain.mean()
            leaves = [*self.policy.parameters()] if flat is None else [flat]
            grads = torch.autograd.grad(loss, leaves, materialize_grads=True)
        first = steps[0].action.detach(), target, steps[0].log_prob.detach()
        parts = self.settle(self.schedules.values["lr"], rows, belief, first, [*grads])
        return {**parts, "policy": loss.detach(), "alpha": alpha.clone()}

    def _parts(self) -> dict[str, Any]:
        return {**super()._parts(), "imagined": self.rollouts, "upkeep": self.upkeep}


def check(config: Config) -> None:
    """Raise OptionError for an invalid option or combination of options."""
    sac.check(config)
    check_positive(config, "members", "model_hidden", "model_lr", "model_every")
    check_not_negative(config, "lookahead", "imagined", "doubt", "caution")
    check_unit(config, "real")
    if not config.lookahead and not config.imagined:
        raise OptionError("lookahead 0 and imagined 0 leave nothing to imagine: that is --algo sac")
    if config.members < 2:
        rule = "each leaves out a part of the replay to judge it by, and caution is how they differ"
        raise OptionError(f"members must be at least 2: {rule}; got {config.members}")
    if config.n_step != 1:
        raise OptionError(f"n_step must be 1: svg looks ahead by its model; got {config.n_step}")
    if config.burn_in:
        raise OptionError(f"burn_in must be 0: svg has no windows of the replay; got {config.burn_in}")
    if not config.lookahead and recurrent(config):
        rule = "trains no recurrent belief, which needs imagined steps"
        raise OptionError(
            f"lookahead 0 {rule}; belief is {config.belief!r}, critic_belief {config.critic_belief!r}"
        )
