"""Proximal policy optimization (Schulman et al. 2017, arXiv:1707.06347), both objectives of the paper.

    learner = Learner(robokit.make("hopper", num_envs=64), Config())
    while ...: print(learner.iterate()["episode/return"])

Two older algorithms are special cases: A2C (Mnih et al. 2016) is `--epochs 1 --minibatch <the whole rollout>
--lam 1`, where the ratio is always 1; REINFORCE (Williams 1992) is A2C with `--no-baseline
--no-normalize-advantage` and a horizon of whole episodes.

If the task has limits, the advantage combines reward and costs (robokit.limits.multipliers).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robokit import seeds
from robokit.compute import processes
from robokit.compute.compile import Sizes, compiled, torch_threads
from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.learning.adam import Adam, Losses, make_update
from robokit.learning.constrained import MEASURED, Constrained
from robokit.learning.episodes import EpisodeTotals, Reach, iteration_metrics
from robokit.learning.networks import make_actor_belief, make_critic_beliefs, make_policy
from robokit.learning.options import Options, check_chunk, check_options, each_of, recurrent
from robokit.learning.returns import average, discounted_sums, gae, shares, standardize
from robokit.learning.rollout import NUMBERS, OF_STEP, Batch, Rollout, pack, unpack
from robokit.learning.schedule import Scheduled, Schedules
from robokit.networks.belief import Belief
from robokit.networks.critic import ActorCritic, Critic
from robokit.networks.distributions import entropy, kl, log_prob
from robokit.networks.normalizer import Normalizer
from robokit.networks.policy import Gaussian
from robokit.state import Saved

LR_RANGE = (1e-5, 1e-2)  # bounds of the adaptive learning rate
REWARD_CLIP = 10.0  # bound of scaled rewards


@dataclass(frozen=True)
class Config(Options):
    """Options of PPO. Defaults follow the paper's MuJoCo table; its 2048 steps are 32 simulations of 64."""

    usual_num_envs = 32

    steps: int = 500_000  # environment steps, over all simulations; the last rollout is completed
    num_envs: int | None = None  # N, simulations stepped together; None: 32
    horizon: int = 64  # T, control steps per rollout
    minibatch: int = 64  # transitions per gradient step; must divide num_envs * horizon
    epochs: int = 10  # K, passes over each rollout
    lam: float = 0.95  # lambda of generalized advantage estimation
    objective: Literal["clip", "penalty"] = "clip"  # eq. 7 (PPO-Clip) or eq. 8 (PPO-Penalty, adaptive KL)
    clip: float = 0.2  # epsilon of eq. 7
    kl_target: float = 0.01  # d_targ in nats, of the penalty and of the adaptive learning rate
    lr_schedule: Literal["given", "adaptive"] = "given"  # adaptive: from lr, it follows the KL divergence
    value_coef: float = 0.5  # c1 of eq. 9
    entropy_coef: Scheduled = 0.0  # c2 of eq. 9; START,END: linear from step 0 to `steps`
    value_clip: float | None = None  # in the loss, clip V to within this distance of its old value
    max_grad_norm: float = 0.5  # clip gradients to this global norm
    normalize_advantage: bool = True  # to mean 0 and deviation 1 in each minibatch; no effect under limits
    normalize_obs: bool = True  # by running mean and standard deviation
    scale_reward: bool = True  # divide by the running standard deviation of the discounted return
    baseline: bool = True  # subtract V(s); off: the advantage is the return, discounted by gamma * lam
    hidden: tuple[int, ...] = (64, 64)  # units in each hidden layer of policy and critic
    activation: Literal["tanh", "elu", "relu", "silu"] = "tanh"  # between layers
    init_std: float = 1.0  # initial standard deviation of the actions
    chunk: int = 16  # L, control steps of backpropagation through a recurrent belief; must divide the horizon

    @property
    def sizes(self) -> Sizes:
        """Number and size of gradient steps, for `compute.compile.choose`."""
        unrolled = self.chunk if recurrent(self) else 1
        updates = self.steps * self.epochs // self.minibatch
        return Sizes(updates, self.minibatch // processes.world(), unrolled)


# -- the paper's equations ---------------------------------------------------------------------------


def surrogate_clip(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """L^CLIP, eq. 7, per transition: min(r A, clip(r, 1 - eps, 1 + eps) A)."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def surrogate_penalty(ratio: Tensor, advantage: Tensor, divergence: Tensor, beta: Tensor) -> Tensor:
    """L^KLPEN, eq. 8, per transition: r A - beta KL[pi_old, pi]."""
    return ratio * advantage - beta * divergence


def adapt_penalty(beta: Tensor, divergence: Tensor, target: float) -> Tensor:
    """beta after a policy update, section 4: halved where KL < d_targ / 1.5, doubled above 1.5 d_targ."""
    halved = torch.where(divergence < target / 1.5, beta / 2, beta)
    return torch.where(divergence > target * 1.5, beta * 2, halved)


def adapt_lr(lr: Tensor, divergence: Tensor, target: float) -> Tensor:
    """Learning rate after a gradient step: / 1.5 if KL > 2 d_targ, * 1.5 if KL < d_targ / 2; in LR_RANGE."""
    lower = torch.where(divergence > 2 * target, lr / 1.5, lr)
    return torch.where(divergence < target / 2, lower * 1.5, lower).clamp(*LR_RANGE)


def value_loss(value: Tensor, old_value: Tensor, target: Tensor, clip: float | None) -> Tensor:
    """(V - V_targ)^2 per transition; with `clip`, at least the error of V clipped to old_value +- clip."""
    error = (value - target).square()
    if clip is None:
        return error
    near = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum(error, (near - target).square())


def make_loss(config: Config) -> Callable[..., tuple[Tensor, Losses]]:
    """loss(net, batch, belief, log_std_old, beta, c2) -> (minus eq. 9 of a minibatch, its detached parts).

    batch (L, M, ...). belief (M, B) before it: [policy | critic]. Parts: policy, value, entropy, kl, clipped.
    """

    def loss(
        net: ActorCritic, batch: Batch, belief: Tensor, log_std_old: Tensor, beta: Tensor, c2: Tensor
    ) -> tuple[Tensor, Losses]:
        share = batch["share"]
        mean, log_std, value = net(batch["obs"], batch["state"], batch["is_first"], belief)
        log_ratio = log_prob(batch["action"], mean, log_std) - batch["log_prob"]
        ratio = log_ratio.exp()
        divergence = kl(batch["mean"], log_std_old, mean, log_std)
        if config.objective == "clip":
            gain = surrogate_clip(ratio, batch["advantage"], config.clip)
        else:
            gain = surrogate_penalty(ratio, batch["advantage"], divergence, beta)
        fit = value_loss(value, batch["value"], batch["target"], config.value_clip).sum(-1)
        parts = {
            "policy": -average(gain, share),
            "value": average(fit, share),
            "entropy": entropy(log_std),
            "kl": average(divergence, share),
            "clipped": average(((ratio - 1).abs() > config.clip).float(), share),
        }
        total = parts["policy"] + config.value_coef * parts["value"] - c2 * parts["entropy"]
        return total, {k: v.detach() for k, v in parts.items()}

    return loss


# -- the algorithm -----------------------------------------------------------------------------------


def make_actor(env: Env, config: Config, belief: Belief | None = None) -> Gaussian:
    """A policy on the CPU, with random weights from torch's global generator; belief None: a new one."""
    return make_policy(Gaussian, env, config, belief, init_std=config.init_std)


MakeActor = Callable[[Env, Config, Belief], Gaussian]


class Learner(Saved):
    """PPO on one Env, with networks on `env.device`; `policy`, made by `actor`, is exported."""

    replay = None

    def __init__(self, env: Env, config: Config, seed: int = 0, actor: MakeActor = make_actor) -> None:
        config = config.on(env.num_envs)
        check(config)
        self.env, self.config, device = env, config, env.device
        self.rng = torch.Generator(device).manual_seed(seeds.seed("training", seed, processes.rank()))
        self.constrained = constrained = Constrained(env, config)
        seen, outputs = sum(constrained.widths.values()), constrained.outputs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            belief, beliefs = make_actor_belief(env, config), make_critic_beliefs(env, config, constrained)
            self.policy = actor(env, config, belief).to(device)
            sizes = config.hidden, config.activation, config.normalize_obs
            self.critic = Critic(beliefs, outputs, seen, *sizes).to(device)
        self.net = ActorCritic(self.policy, self.critic)
        self.adam = Adam(self.net, max_grad_norm=config.max_grad_norm)
        self.chunk = config.chunk if belief.trained or beliefs[0].trained else 1  # L
        self.chunks = config.minibatch // processes.world() // self.chunk  # per minibatch in this process
        self.widths = {"obs": env.obs_dim, "state": seen, "action": env.act_dim, "mean": env.act_dim}
        self.widths |= dict.fromkeys(NUMBERS, 1) | dict.fromkeys(("value", "target"), sum(outputs))
        self.update = self._make_update(self.adam, bool(config.compile))
        self.act = compiled(self.policy.act, device) if config.compile else self.policy.act
        self.threads = torch.get_num_threads()  # torch threads of `learn`
        self.steps_per_iteration = processes.world() * env.num_envs * config.horizon
        self.episodes, self.reach = EpisodeTotals(env.num_envs, device), Reach(env, constrained.widths)
        self.belief = torch.zeros(env.num_envs, self.policy.belief_size, device=device)
        self.critic_belief = torch.zeros(env.num_envs, self.critic.belief_size, device=device)
        self.is_first = torch.ones(env.num_envs, dtype=torch.bool, device=device)
        self.discounted = torch.zeros(env.num_envs, sum(outputs), device=device)  # discounted returns so far
        self.return_scale = Normalizer(sum(outputs)).to(device)
        self.least_scale = torch.cat((torch.zeros(1, device=device), constrained.largest))
        self.schedules, self.beta = Schedules(config, device), torch.tensor(1.0, device=device)
        env.reset(stagger=True)

    def _make_update(self, adam: Adam, compile: bool) -> Callable[..., Losses]:
        config, widths, of_columns = self.config, self.widths, make_loss(self.config)

        def loss(net: ActorCritic, rows: Tensor, *rest: Tensor) -> tuple[Tensor, Losses]:
            return of_columns(net, unpack(rows, widths), *rest)

        def schedule(lr: Tensor, parts: Losses) -> Tensor:
            return adapt_lr(lr, processes.mean(parts["kl"]), config.kl_target)

        return make_update(loss, adam, compile, schedule if config.lr_schedule == "adaptive" else None)

    def iterate(self) -> dict[str, float]:
        """Collect one rollout, learn from it, and return the metrics to log."""
        roll = self.collect()
        parts = self.learn(roll)
        rate, moving = self.schedules.values["lr"].clone(), self.schedules.metrics()
        self.schedules.advance(self.steps_per_iteration)
        valid = ~roll.bad.flatten()
        # after the epochs: with other statistics the first ratio would not be 1
        self.policy.normalizer.update(roll.obs.flatten(0, 1), valid)
        self.critic.normalizer.update(roll.state.flatten(0, 1), valid)
        own = {"policy/std": self.policy.log_std.exp().mean(), "policy/lr": rate, **moving}
        return iteration_metrics(self.episodes, self.reach, parts, roll.logged, own, self.constrained.metrics)

    @torch.no_grad()
    def collect(self) -> Rollout:
        """Collect T control steps of N simulations with the current policy."""
        env, constrained, rows = self.env, self.constrained, list[dict[str, Tensor]]()
        shape = self.config.horizon, env.num_envs, env.act_dim
        for noise in torch.randn(shape, generator=self.rng, device=env.device).unbind():
            row = {"obs": env.obs, "belief": self.belief, "is_first": self.is_first}
            row["state"] = constrained.state(getattr(env, constrained.sees))
            row["action"], row["mean"], self.belief = self.act(env.obs, self.belief, self.is_first, noise)
            step = env.step(row["action"])
            row["cost"], row["final_state"] = constrained.step(step)
            rows.append(row | {name: getattr(step, name) for name in OF_STEP})
            self.is_first = step.done
        column = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        self.episodes.add(column["reward"], column["done"])
        self.reach.look(column["obs"], column["state"], column["logged"])
        column["logged"] = column["logged"].nanmean((0, 1))
        log_std = self.policy.log_std.clone()
        # computed from the action, as in the loss: the first ratio is exactly 1
        density = log_prob(column["action"], column["mean"], log_std)
        return Rollout(**column, log_std=log_std, log_prob=density)

    @torch.no_grad()
    def targets(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values (T, N, 1 + K), advantage (T, N), value targets, critic beliefs before; moves multipliers."""
        config = self.config
        cost, over = self.constrained.charged(rollout.cost, rollout.terminated, rollout.steps_left)
        signal = torch.cat((rollout.reward[..., None], cost), -1)
        over = torch.cat((rollout.terminated[..., None], over), -1)
        scale = self._scale(signal, rollout)
        signal = signal / scale
        if config.scale_reward:
            signal[..., 0].clamp_(-REWARD_CLIP, REWARD_CLIP)
        features, after = self.critic.unroll(rollout.state, self.critic_belief, rollout.is_first)
        value = self.critic.decode(features)
        before = torch.cat((self.critic_belief[None], after[:-1]))
        self.critic_belief = after[-1].clone()
        is_first = torch.zeros_like(rollout.done).flatten()  # V(final) uses the belief of its own episode
        ends = self.critic(rollout.final_state.flatten(0, 1), after.flatten(0, 1), is_first)[0]
        base, ahead = (value, ends.view_as(value)) if config.baseline else (torch.zeros_like(value),) * 2
        advantages = gae(signal, base, ahead, over, over | rollout.done[..., None], config.gamma, config.lam)
        self.constrained.update(*(getattr(rollout, name) for name in MEASURED))
        advantage = self.constrained.advantage(advantages * scale, ~rollout.bad)
        return value, advantage, advantages + base, before

    def _scale(self, signal: Tensor, rollout: Rollout) -> Tensor:
        """Divisors (1 + K,) of reward and costs: deviations of their discounted sums, costs' >= `largest`."""
        done, gamma = rollout.done[..., None], self.config.gamma
        sums, self.discounted = discounted_sums(signal, done, self.discounted, gamma)
        self.return_scale.update(sums.flatten(0, 1), ~rollout.bad.flatten())
        deviation = (self.return_scale.var + 1e-8).sqrt()
        scale = torch.maximum(deviation, self.least_scale)  # a rare cost has a tiny deviation
        if not self.config.scale_reward:
            scale[:1].fill_(1.0)
        return scale

    def learn(self, rollout: Rollout) -> dict[str, Tensor]:
        """Train `epochs` times on all minibatches; return the loss's parts, averaged over gradient steps."""
        config, values = self.config, self.schedules.values
        with torch_threads(self.threads):
            value, advantage, target, critic_belief = self.targets(rollout)
        columns = {**vars(rollout), "share": ~rollout.bad}
        columns |= {"value": value, "advantage": advantage, "target": target}
        rows = pack([columns[name] for name in self.widths], self.chunk)
        beliefs = torch.cat((rollout.belief, critic_belief), -1)[:: self.chunk].flatten(0, 1)
        rest, history = (rollout.log_std, self.beta, values["entropy_coef"]), list[Losses]()
        with torch_threads(self.threads):
            for _ in range(config.epochs):
                order = torch.randperm(len(rows), generator=self.rng, device=self.env.device)
                shuffled, before = (x[order].unflatten(0, (-1, self.chunks)) for x in (rows, beliefs))
                batches = zip(self._ready(shuffled), before, strict=True)
                history += [self.update(values["lr"], *b, *rest) for b in batches]
        means = {k: torch.stack([p[k] for p in history]).mean() for k in history[0]}
        if config.objective == "penalty":
            last = torch.stack([p["kl"] for p in history[-(len(history) // config.epochs) :]]).mean()
            self.beta.copy_(adapt_penalty(self.beta, processes.mean(last), config.kl_target))
        return means

    def _ready(self, rows: Tensor) -> Tensor:
        """In place, in rows (B, M, L, C): set `share` and, without limits, standardize `advantage`."""
        named = dict(zip(self.widths, rows.split(list(self.widths.values()), -1), strict=True))
        valid, within = named["share"] != 0, (1, 2)
        if self.config.normalize_advantage and not self.constrained.limits:
            named["advantage"].copy_(standardize(named["advantage"], valid, within))
        named["share"].copy_(shares(valid, within))
        return rows

    # -- save and continue -----------------------------------------------------------------------

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What another training can start from, by its name in `state_dict`."""
        return {"policy": self.policy, "critic": self.critic, "return_scale": self.return_scale}

    def keep_weights(self) -> None:
        """Keep the present weights; the unit of the return then counts no more than one rollout."""
        self.return_scale.count.clamp_(max=self.steps_per_iteration)

    def _parts(self) -> dict[str, object]:
        """The training state, the environment's included: enough to resume bit for bit."""
        running = {"belief": self.belief, "critic_belief": self.critic_belief, "first": self.is_first}
        running |= {"discounted": self.discounted, "adam": self.adam, "beta": self.beta}
        own = {"env": self.env, "episodes": self.episodes, "rng": self.rng, "schedule": self.schedules}
        return {**self.networks, **running, **own, **self.constrained.parts()}


def check(config: Config) -> None:
    """Raise OptionError for an invalid option or combination of options."""
    positive = "horizon", "minibatch", "epochs", "chunk", "kl_target", "value_clip", "init_std"
    check_options(config, positive, ("value_coef", "entropy_coef"), ("lam",), minibatch=config.minibatch)
    if config.lr_schedule == "adaptive" and isinstance(config.lr, tuple):
        raise OptionError(f"lr_schedule 'adaptive' moves lr from one number, got {config.lr}")
    if not 0 < config.clip < 1:
        raise OptionError(f"clip must be in (0, 1), got {config.clip}")
    minibatch, batch = config.minibatch, config.simulations * config.horizon
    check_chunk(config, "chunk", config.horizon, f"horizon ({config.horizon})")
    check_chunk(config, "chunk", minibatch // processes.world(), each_of("minibatch", minibatch))
    if batch % minibatch:
        raise OptionError(f"minibatch ({minibatch}) must divide num_envs * horizon ({batch})")
    by_kl = [v for v in (config.lr_schedule, config.objective) if v in ("adaptive", "penalty")]
    if by_kl and config.epochs == 1 and batch == minibatch:
        rule = "follows the KL divergence, which is 0 at the first gradient step of a rollout"
        raise OptionError(f"{by_kl[0]} {rule}; epochs 1 and a minibatch of all {batch} take no other step")
