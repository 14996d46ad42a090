"""Proximal policy optimization (Schulman et al. 2017, arXiv:1707.06347), both objectives of the paper.

    learner = Learner(robokit.make("hopper", num_envs=64), Config())
    while ...: print(learner.iterate()["episode/return"])

Settings of it are older algorithms: A2C (Mnih et al. 2016) is `--epochs 1 --minibatch <the whole rollout>
--lam 1`, whose ratio is 1 throughout; REINFORCE (Williams 1992) is A2C with `--no-baseline
--no-normalize-advantage` and a horizon of whole episodes.

Under a task's limits the advantage is that of reward and costs together (robokit.limits.multipliers).
"""

import copy
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robokit.compute import processes
from robokit.compute.compile import compiled, torch_threads
from robokit.env.env import Env
from robokit.env.step import Step
from robokit.errors import OptionError
from robokit.learning.adam import Adam, Parts, make_update
from robokit.learning.episodes import Episodes, numbers
from robokit.learning.options import (
    check_choices,
    check_not_negative,
    check_positive,
    check_rule,
    check_shared,
    check_unit,
    each_of,
)
from robokit.learning.returns import average, discounted_sums, gae, shares, standardize
from robokit.learning.rollout import KEPT, NUMBERS, Batch, Rollout, pack, unpack
from robokit.limits.charges import Charges
from robokit.limits.meter import Meter
from robokit.limits.multipliers import Multipliers, Rule
from robokit.networks.belief import RECURRENT, Kind, make_belief
from robokit.networks.critic import ActorCritic, Critic
from robokit.networks.distributions import entropy, kl, log_prob
from robokit.networks.mirror import reflections
from robokit.networks.normalizer import Normalizer
from robokit.networks.policy import Gaussian
from robokit.state import gather, scatter

LR_RANGE = (1e-5, 1e-2)  # within which the adaptive schedule moves
REWARD_CLIP = 10.0  # scaled rewards


@dataclass(frozen=True)
class Config:
    """Options of PPO; the defaults are those of the paper's MuJoCo table where it names them."""

    steps: int = 500_000  # environment steps to train for, over all simulations; the last rollout is finished
    num_envs: int = 32  # N, simulations stepped together
    horizon: int = 64  # T, control steps per rollout
    minibatch: int = 64  # transitions per gradient step; must divide num_envs * horizon
    epochs: int = 10  # K, passes over each rollout
    gamma: float = 0.99  # discount per control step
    lam: float = 0.95  # lambda of generalized advantage estimation
    objective: Literal["clip", "penalty"] = "clip"  # eq. 7 (PPO-Clip) or eq. 8 (PPO-Penalty, adaptive KL)
    clip: float = 0.2  # epsilon of eq. 7
    kl_target: float = 0.01  # d_targ, nats: of the penalty, and of the adaptive learning rate
    lr: float = 3e-4  # learning rate of Adam
    # linear: to 0 at `steps`; adaptive: by KL
    lr_schedule: Literal["constant", "linear", "adaptive"] = "constant"
    value_coef: float = 0.5  # c1 of eq. 9
    entropy_coef: float = 0.0  # c2 of eq. 9
    value_clip: float | None = None  # clip V around its old value by this much
    max_grad_norm: float = 0.5  # global norm that gradients are clipped to
    normalize_advantage: bool = True  # to mean 0 and deviation 1 within each minibatch
    normalize_obs: bool = True  # by running mean and deviation
    scale_reward: bool = True  # divide by the running deviation of the discounted return
    baseline: bool = True  # subtract V(s); off, the advantage is the return itself
    hidden: tuple[int, ...] = (64, 64)  # units in each hidden layer of policy and critic
    activation: Literal["tanh", "elu", "relu", "silu"] = "tanh"  # between layers
    init_std: float = 1.0  # standard deviation of the first policy's actions
    mirror: bool = False  # average the policy with its mirror image, as the task's `mirror` says
    belief: Kind = "memoryless"  # what the policy remembers
    belief_size: int = 64  # units of a recurrent belief
    chunk: int = 16  # L, control steps that a recurrent belief is trained through; must divide the horizon
    critic: Literal["state", "obs"] = "state"  # sees all that the simulator tells, or what the policy sees
    critic_belief: Kind = "memoryless"  # what the critic remembers
    # how the multipliers of the task's limits move; fixed: they do not; off: as if there were no limits
    limit_rule: Rule = "pid"
    margin: float = 0.1  # of the limits that training leaves unused: it aims at (1 - margin) of each
    gains: tuple[float, float, float] = (0.5, 0.02, 0.0)  # Kp, Ki, Kd of the rule pid
    dual_lr: float = 0.01  # of the rule dual: lambda per unit of cost and iteration
    penalty: float = 0.0  # of the rule fixed: lambda, reward per unit of cost
    # compiled graphs: slow to start, fast to step; None: where there is a compiler and the run is long
    compile: bool | None = None
    overlap: bool = False  # collect the next rollout while learning from this one; its data are one older


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
    """Learning rate after a gradient step: / 1.5 above 2 d_targ, * 1.5 below d_targ / 2, in LR_RANGE."""
    lower = torch.where(divergence > 2 * target, lr / 1.5, lr)
    return torch.where(divergence < target / 2, lower * 1.5, lower).clamp(*LR_RANGE)


def value_loss(value: Tensor, old_value: Tensor, target: Tensor, clip: float | None) -> Tensor:
    """(V - V_targ)^2 per transition; with `clip`, the larger of it and that of V within old_value +- clip."""
    error = (value - target).square()
    if clip is None:
        return error
    near = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum(error, (near - target).square())


def make_loss(config: Config) -> Callable[..., tuple[Tensor, Parts]]:
    """loss(net, batch, belief, log_std_old, beta): minus eq. 9, c1 and c2 as in `config`, over a minibatch.

    batch: (L, M, ...) chunks of L steps, with each transition's share of a mean (see returns.shares); belief:
    (M, B) of policy and critic, as stored before them.
    """

    def loss(
        net: ActorCritic, batch: Batch, belief: Tensor, log_std_old: Tensor, beta: Tensor
    ) -> tuple[Tensor, Parts]:
        share = batch["share"]
        mean, log_std, value = net(batch["obs"], batch["state"], batch["first"], belief)
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
        total = parts["policy"] + config.value_coef * parts["value"] - config.entropy_coef * parts["entropy"]
        return total, {k: v.detach() for k, v in parts.items()}

    return loss


# -- the algorithm -----------------------------------------------------------------------------------


class Learner:
    """PPO on one Env; `policy` is what gets exported. Networks live on `env.device`."""

    replay = None

    def __init__(self, env: Env, config: Config, seed: int = 0) -> None:
        check(config)
        self.env, self.config, device = env, config, env.device
        self.rng = torch.Generator(device).manual_seed(processes.seed(seed))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            seen = env.names.state if config.critic == "state" else env.names.obs  # by the critic
            memory = env.task.history, config.belief_size
            belief = make_belief(config.belief, env.names.obs, *memory)
            self.limits = {} if config.limit_rule == "off" else dict(env.task.limits)
            self.charges = Charges(self.limits, device)
            outputs = [1, len(self.limits)] if self.limits else [1]
            theirs = [make_belief(config.critic_belief, seen, *memory) for _ in outputs]
            sizes = (config.hidden, config.activation, config.normalize_obs)
            mirror = reflections(env.task.mirror, env.names.obs) if config.mirror else None
            shape = env.obs_dim, env.act_dim, belief, *sizes, mirror
            self.policy = Gaussian(*shape, config.init_std).to(device)
            self.critic = Critic(theirs, outputs, sum(seen.values()), *sizes).to(device)
        self.net = ActorCritic(self.policy, self.critic)
        self.adam = Adam(self.net, max_grad_norm=config.max_grad_norm)
        self.chunk = config.chunk if belief.trained or theirs[0].trained else 1
        self.chunks = config.minibatch // processes.world() // self.chunk  # of a minibatch, in this process
        self.widths = {"obs": env.obs_dim, "state": sum(seen.values())}
        self.widths |= {"action": env.act_dim, "mean": env.act_dim} | dict.fromkeys(NUMBERS, 1)
        self.widths |= dict.fromkeys(("value", "target"), sum(outputs))
        self.update = self._make_update(self.adam, bool(config.compile))
        self.actor = copy.deepcopy(self.policy) if config.overlap else self.policy  # that collects
        self.act = compiled(_make_act(self.actor), device) if config.compile else _make_act(self.actor)
        self.warm = not config.compile  # whether all is compiled that will be
        self.threads = torch.get_num_threads()  # of torch, that `learn` uses
        self.steps_per_iteration = processes.world() * env.num_envs * config.horizon
        self.episodes = Episodes(env.num_envs, device)
        self.belief = torch.zeros(env.num_envs, self.policy.belief_size, device=device)
        self.critic_belief = torch.zeros(env.num_envs, self.critic.belief_size, device=device)
        self.first = torch.ones(env.num_envs, dtype=torch.bool, device=device)
        # running returns of reward and costs, that scale what the critic learns
        self.discounted = torch.zeros(env.num_envs, sum(outputs), device=device)
        self.return_scale = Normalizer(sum(outputs)).to(device)
        self.least_scale = torch.tensor([0.0, *(x.largest for x in self.limits.values())], device=device)
        self.meter = Meter(self.limits, env.num_envs, env.max_age, config.gamma, device)
        moves = config.limit_rule, config.margin, config.gains, config.dual_lr, config.penalty
        self.multipliers = Multipliers(self.limits, env.max_age, config.gamma, *moves, device)
        start = {"lr": config.lr, "beta": 1.0, "iterations": 0.0}
        self.scalars = {name: torch.tensor(value, device=device) for name, value in start.items()}
        env.reset(stagger=True)
        self.pending = self.collect() if config.overlap else None

    def _make_update(self, adam: Adam, compile: bool) -> Callable[..., Parts]:
        config, widths = self.config, self.widths
        of_columns = make_loss(config)

        def loss(net: ActorCritic, rows: Tensor, *rest: Tensor) -> tuple[Tensor, Parts]:
            return of_columns(net, unpack(rows, widths), *rest)

        def schedule(lr: Tensor, parts: Parts) -> Tensor:
            return adapt_lr(lr, processes.mean(parts["kl"]), config.kl_target)

        return make_update(loss, adam, compile, schedule if config.lr_schedule == "adaptive" else None)

    def rehearsal(self) -> Callable[[], object]:
        """An eager gradient step on copies: to measure what one costs."""
        net, device = copy.deepcopy(self.net), self.env.device
        update = self._make_update(Adam(net), compile=False)
        rows = torch.ones(self.chunks, self.chunk, sum(self.widths.values()), device=device)
        beliefs = torch.zeros(self.chunks, self.belief.shape[1] + self.critic_belief.shape[1], device=device)
        one, log_std = torch.ones((), device=device), self.policy.log_std.detach().clone()
        return lambda: update(one.clone(), rows, beliefs, log_std, one)

    @property
    def updates(self) -> int:
        """Gradient steps of the whole training."""
        return self.config.steps * self.config.epochs // self.config.minibatch

    def iterate(self) -> dict[str, float]:
        """Collect one rollout, learn from it, and say what happened."""
        rollout = self.pending or self.collect()
        parts = self._learn_and_collect(rollout) if self.pending else self.learn(rollout)
        self.scalars["iterations"] += 1
        valid = ~rollout.bad.flatten()
        # after the epochs, so that the ratio began at 1
        self.policy.normalizer.update(rollout.obs.flatten(0, 1), valid)
        self.critic.normalizer.update(rollout.state.flatten(0, 1), valid)
        logged = {f"loss/{k}": v for k, v in parts.items()}
        logged |= dict(zip(self.env.labels, rollout.logged.unbind(), strict=True))
        logged |= {"policy/std": self.policy.log_std.exp().mean(), "policy/lr": self.scalars["lr"]}
        return {**self.episodes.summary(), **numbers(logged | self.multipliers.metrics)}

    def _learn_and_collect(self, rollout: Rollout) -> dict[str, Tensor]:
        """Learn from a rollout while a copy of the policy, as it is now, collects the next on another thread.

        The two share no tensor that either writes: the noise is drawn before, the copy has its own weights.
        """
        self.actor.load_state_dict(self.policy.state_dict())
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self.collect, self._noise())
            if not self.warm:
                coming.result()  # torch cannot compile on two threads at once
            parts, self.warm = self.learn(rollout), True
            self.pending = coming.result()
        return parts

    def _noise(self) -> Tensor:
        shape = (self.config.horizon, self.env.num_envs, self.env.act_dim)
        return torch.randn(shape, generator=self.rng, device=self.env.device)

    @torch.no_grad()
    def collect(self, noise: Tensor | None = None) -> Rollout:
        """One rollout of the policy; noise (T, N, A) is drawn ahead."""
        env, log_std = self.env, self.actor.log_std.clone()
        rows: list[tuple[Tensor, ...]] = []
        steps: list[Step] = []
        for z in self._noise() if noise is None else noise:
            obs, state, belief, first = env.obs, getattr(env, self.config.critic), self.belief, self.first
            action, mean, self.belief = self.act(obs, belief, first, z)
            step = env.step(action)
            self.episodes.add(step.reward, step.done)
            self.first = step.done
            rows.append((obs, state, belief, first, action, mean))
            steps.append(step)
        obs, state, belief, first, action, mean = (torch.stack(column) for column in zip(*rows, strict=True))
        density = log_prob(action, mean, log_std)  # not from the noise: the ratio shall begin at exactly 1
        after = {k: torch.stack([getattr(s, k) for s in steps]) for k in KEPT}
        after["final_state"] = torch.stack([getattr(s, f"final_{self.config.critic}") for s in steps])
        logged = torch.stack([s.logged for s in steps]).nanmean((0, 1))
        return Rollout(obs, state, belief, first, action, mean, log_std, density, **after, logged=logged)

    @torch.no_grad()
    def targets(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """values (T, N, 1 + K), advantage (T, N), value targets, the critic's belief (T, N, B') before."""
        config, flags = self.config, (rollout.terminated, rollout.left)
        cost, over = self.charges.learned(rollout.cost[..., : len(self.limits)], *flags, config.gamma)
        signal = torch.cat((rollout.reward[..., None], cost), -1)
        over = torch.cat((rollout.terminated[..., None], over), -1)
        scale = self._scale(signal, rollout)
        signal = signal / scale
        if config.scale_reward:
            signal[..., 0].clamp_(-REWARD_CLIP, REWARD_CLIP)
        seen, after = self.critic.unroll(rollout.state, self.critic_belief, rollout.first)
        value = self.critic.decode(seen)
        before = torch.cat((self.critic_belief[None], after[:-1]))
        self.critic_belief = after[-1].clone()
        going_on = torch.zeros_like(rollout.done).flatten()  # V(final) remembers the episode that it ends
        ends = self.critic(rollout.final_state.flatten(0, 1), after.flatten(0, 1), going_on)[0]
        next_value = ends.view_as(value)
        base, ahead = (value, next_value) if config.baseline else (torch.zeros_like(value),) * 2
        done = over | rollout.done[..., None]
        advantages = gae(signal, base, ahead, over, done, config.gamma, config.lam)
        target = advantages + base
        return value, self._advantage(rollout, advantages * scale), target, before

    def _scale(self, signal: Tensor, rollout: Rollout) -> Tensor:
        """(1 + K,) that reward and costs are divided by for the critic: the deviation of their returns."""
        sums, self.discounted = discounted_sums(
            signal, rollout.done[..., None], self.discounted, self.config.gamma
        )
        self.return_scale.update(sums.flatten(0, 1), ~rollout.bad.flatten())
        deviation = (self.return_scale.var + 1e-8).sqrt()
        scale = torch.maximum(deviation, self.least_scale)  # a rare cost is not blown up
        if not self.config.scale_reward:
            scale[:1].fill_(1.0)
        return scale

    def _advantage(self, rollout: Rollout, advantages: Tensor) -> Tensor:
        """(T, N) that the policy ascends, from those of reward and costs (T, N, 1 + K) in their own units."""
        if not self.limits:
            return advantages[..., 0]
        flags = rollout.terminated, rollout.done, rollout.left
        self.multipliers.update(*self.meter.measure(rollout.cost, *flags))
        return self.multipliers.advantage(advantages, ~rollout.bad)

    def learn(self, rollout: Rollout) -> dict[str, Tensor]:
        """K epochs of minibatches; the means of the loss's parts over them."""
        config, scalars = self.config, self.scalars
        value, advantage, target, remembered = self.targets(rollout)
        columns = {**vars(rollout), "share": ~rollout.bad}
        columns |= {"value": value, "advantage": advantage, "target": target}
        rows = pack([columns[name] for name in self.widths], self.chunk)
        beliefs = torch.cat((rollout.belief, remembered), -1)[:: self.chunk].flatten(0, 1)
        if config.lr_schedule == "linear":
            done = scalars["iterations"] * self.steps_per_iteration / config.steps
            scalars["lr"].copy_(config.lr * (1 - done).clamp(min=0.0))
        history: list[Parts] = []
        with torch_threads(self.threads):
            for _ in range(config.epochs):
                order = torch.randperm(len(rows), generator=self.rng, device=self.env.device)
                shuffled, before = (x[order].unflatten(0, (-1, self.chunks)) for x in (rows, beliefs))
                batches = zip(self._ready(shuffled), before, strict=True)
                fixed = rollout.log_std, scalars["beta"]
                history += [self.update(scalars["lr"], *batch, *fixed) for batch in batches]
        means = {k: torch.stack([p[k] for p in history]).mean() for k in history[0]}
        if config.objective == "penalty":
            last = torch.stack([p["kl"] for p in history[-(len(history) // config.epochs) :]]).mean()
            scalars["beta"].copy_(adapt_penalty(scalars["beta"], processes.mean(last), config.kl_target))
        return means

    def _ready(self, rows: Tensor) -> Tensor:
        """Rows (B, M, L, C) of B minibatches: advantages normalised in each, and what a transition counts."""
        named = dict(zip(self.widths, rows.split(list(self.widths.values()), -1), strict=True))
        valid, within = named["share"] != 0, (1, 2)
        if self.config.normalize_advantage and not self.limits:
            named["advantage"].copy_(standardize(named["advantage"], valid, within))
        named["share"].copy_(shares(valid, within))
        return rows

    # -- save and continue -----------------------------------------------------------------------

    def _parts(self) -> dict[str, object]:
        modules = {
            "policy": self.policy,
            "critic": self.critic,
            "adam": self.adam,
            "env": self.env,
            "episodes": self.episodes,
        }
        modules |= {"meter": self.meter, "multipliers": self.multipliers}
        running = {
            "belief": self.belief,
            "first": self.first,
            "critic_belief": self.critic_belief,
            "discounted": self.discounted,
            "rng": self.rng,
        }
        coming = {f"pending.{k}": v for k, v in vars(self.pending).items()} if self.pending else {}
        return {**modules, **running, **self.scalars, "return_scale": self.return_scale, **coming}

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of everything a bit-equal continuation needs, the environment included."""
        return gather(self._parts())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict()` of a Learner with the same task and config."""
        scatter(self._parts(), state)


def _make_act(policy: Gaussian) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    def act(obs: Tensor, belief: Tensor, first: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, belief = policy.encode(obs, belief, first)
        mean = policy.decode(features)
        return policy.explore(mean, noise), mean, belief

    return act


def check(config: Config) -> None:
    """Raise OptionError for a value that cannot work."""
    check_choices(config)
    check_positive(config, "steps", "num_envs", "horizon", "minibatch", "epochs", "belief_size", "chunk")
    check_positive(config, "lr", "kl_target", "value_clip", "max_grad_norm", "init_std", "hidden")
    check_not_negative(config, "value_coef", "entropy_coef")
    check_unit(config, "gamma", "lam")
    check_rule(config)
    if not 0 < config.clip < 1:
        raise OptionError(f"clip must be in (0, 1), got {config.clip}")
    check_shared(num_envs=config.num_envs, minibatch=config.minibatch)
    if {config.belief, config.critic_belief} & set(RECURRENT):
        what = "the control steps that a recurrent belief is trained through"
        rule = f"chunk ({config.chunk}), {what}, must divide"
        if config.horizon % config.chunk:
            raise OptionError(f"{rule} horizon ({config.horizon})")
        if config.minibatch // processes.world() % config.chunk:
            raise OptionError(f"{rule} {each_of('minibatch', config.minibatch)}")
    batch = config.num_envs * config.horizon
    if batch % config.minibatch:
        raise OptionError(f"minibatch ({config.minibatch}) must divide num_envs * horizon ({batch})")
    by_kl = [v for v in (config.lr_schedule, config.objective) if v in ("adaptive", "penalty")]
    if by_kl and config.epochs == 1 and batch == config.minibatch:
        rule = "follows the KL that gradient steps lead to, which is 0 at the first of a rollout"
        raise OptionError(f"{by_kl[0]} {rule}; epochs 1 and a minibatch of all {batch} make no other")
