"""Off-policy learning: all that SAC, TD3 and their kin share, from a control step to a gradient step.

An algorithm is a file of robokit.algos with a Config, an Agent (what a next state is worth, what the policy
ascends) and a Learner that names it. A gradient step learns from windows of L consecutive control steps of
one simulation, from the belief that was stored before them; L = 1 where nothing recurrent is trained.

    rows of a window:   burn_in | L that are learned from | n - 1 that only n-step sums reach into
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from robokit.belief import RECURRENT, Kind, make_belief
from robokit.constraint import Multipliers, Rule, charged
from robokit.critic import ActionCritic
from robokit.env import Env, Step
from robokit.episodes import Episodes, numbers
from robokit.errors import OptionError
from robokit.meter import Meter
from robokit.optim import Adam, Flat, Parts, compiled, make_step, torch_threads
from robokit.options import check_choices, check_positive, check_rule, check_unit
from robokit.policy import Policy
from robokit.replay import Replay
from robokit.returns import average, n_step
from robokit.rollout import Batch, columns
from robokit.state import gather, scatter

LOGGED = 1000  # transitions in an iteration, or one control step where that is more
FLAGS = ("first", "done", "terminated", "bad")
NUMBERS = (*FLAGS, "reward", "left")  # one for each transition
EPS = 1e-8  # of Adam


@dataclass(frozen=True)
class Options:
    """What every off-policy algorithm can be told."""

    steps: int = 300_000  # environment steps to train for, over all simulations
    num_envs: int = 1  # N, simulations stepped together; 1 is the papers' setting
    replay: int = 1_000_000  # transitions that are remembered
    # transitions of random actions before the first gradient step; None: 5000, or 10 control steps if more
    learning_starts: int | None = None
    batch: int | None = None  # transitions per gradient step; None: 8 num_envs, from 256 to 8192
    # gradient steps per transition (update to data); None: 1, but at most 8 in a control step
    utd: float | None = None
    n_step: int = 1  # n, rewards that a target sums before it bootstraps
    gamma: float = 0.99  # discount per control step
    tau: float = 0.005  # share of the networks that their targets take on with each step
    lr: float = 3e-4  # learning rate of Adam
    critics: int = 2  # E, Q networks
    reduce: Literal["min", "mean"] = "min"  # of the E values of a next state
    layer_norm: bool = False  # in the hidden layers of the critics
    hidden: tuple[int, ...] = (256, 256)  # units in each hidden layer of policy and critics
    activation: Literal["tanh", "elu", "relu", "silu"] = "relu"  # between layers
    normalize_obs: bool = False  # by running mean and deviation
    max_grad_norm: float | None = None  # global norm that gradients are clipped to
    mirror: bool = False  # average the policy with its mirror image, as the task's `mirror` says
    belief: Kind = "memoryless"  # what the policy remembers
    belief_size: int = 64  # units of a recurrent belief
    window: int = 16  # L, control steps that a recurrent belief is trained through; must divide batch
    burn_in: int = 0  # control steps before them that only bring a stored belief up to date
    belief_lr: float = 1e-4  # learning rate of recurrent beliefs, below that of the heads
    critic: Literal["state", "obs"] = "state"  # sees all that the simulator tells, or what the policy sees
    critic_belief: Kind = "memoryless"  # what the critics remember
    shared: bool = False  # the policy's belief is the critics', which alone train it
    # how the multipliers of the task's limits move; fixed: they do not; off: as if there were no limits
    limit_rule: Rule = "pid"
    margin: float = 0.1  # of the limits that training leaves unused: it aims at (1 - margin) of each
    gains: tuple[float, float, float] = (0.5, 0.02, 0.0)  # Kp, Ki, Kd of the rule pid
    dual_lr: float = 0.01  # of the rule dual: lambda per unit of cost and iteration
    penalty: float = 0.0  # of the rule fixed: lambda, reward per unit of cost
    pessimism: float = 1.0  # k of a cost's upper bound: mean + k deviations over the critics
    bf16: bool = False  # products between the critics' hidden layers in bfloat16
    # compiled graphs: slow to start, fast to step; None: where there is a compiler and the run is long
    compile: bool | None = None


class Pace(NamedTuple):
    """How fast is learned from what: of one simulation as the papers do it, of N as FastSAC and FastTD3 do.

    Where an option says nothing: 5000 transitions or 10 control steps, whichever is more, before learning
    starts; batches of 8 N, but from 256 to 8192; one gradient step per transition, up to 8 in a control step
    (batches of 8192 and 8 gradient steps in a control step: Seo et al. 2025, FastTD3 and FastSAC).
    """

    starts: int
    batch: int
    utd: float

    @classmethod
    def of(cls, config: Options) -> "Pace":
        n, starts, batch, utd = config.num_envs, config.learning_starts, config.batch, config.utd
        return cls(
            max(5_000, 10 * n) if starts is None else starts,
            min(max(256, 8 * n), 8192) if batch is None else batch,
            min(1.0, 8 / n) if utd is None else utd,
        )


class Sums(NamedTuple):
    """What n steps came to, of reward and costs; costs in units of the largest that one step can have."""

    total: Tensor  # (L, M, 1 + K)
    discount: Tensor  # (L, M, 1 + K) that the value after them counts; 0 where nothing comes after
    last: Tensor  # (L, M) index of the last of them, from the first step that is learned from
    valid: Tensor  # (L, M) bool: no broken simulation among them


class Agent(ABC):
    """The networks of an algorithm and its gradient step; `graph`: so written that it can be compiled."""

    fit: float  # that squared errors of the critics are multiplied by

    def __init__(self, env: Env, config: Options, graph: bool) -> None:
        self.config, self.graph, device = config, graph, env.device
        self.limits = {} if config.limit_rule == "off" else dict(env.task.limits)
        self.largest = torch.tensor([x.largest for x in self.limits.values()], device=device)
        # where there is nothing more to see, a replay need not keep it twice
        same = env.names.state == env.names.obs and not env.task.sensing
        self.sees = "obs" if config.critic == "obs" or same else "state"
        seen = getattr(env.names, self.sees)
        memory = env.task.history, config.belief_size
        belief = make_belief(config.belief, env.names.obs, *memory)
        outputs = [1, len(self.limits)] if self.limits else [1]
        theirs = [make_belief(config.critic_belief, seen, *memory) for _ in outputs]
        sizes = config.hidden, config.activation
        mirror = env.mirror() if config.mirror else None
        shape = env.obs_dim, env.act_dim, belief, *sizes, config.normalize_obs, mirror
        self.policy = self.make_policy(*shape).to(device)
        width, more = sum(seen.values()), (config.layer_norm, config.bf16, config.normalize_obs)
        networks = theirs, outputs, width, env.act_dim, config.critics, *sizes, *more
        self.critic = ActionCritic(*networks).to(device)
        trained = belief.trained or theirs[0].trained
        self.window, self.burn_in = (config.window, config.burn_in) if trained else (1, 0)  # L
        self.widths = {"obs": env.obs_dim, "final_obs": env.obs_dim, "action": env.act_dim}
        if self.sees == "state":
            self.widths |= {"state": width, "final_state": width}
        self.widths |= dict.fromkeys(NUMBERS, 1) | {"cost": len(self.limits)}
        clip = torch.inf if config.max_grad_norm is None else config.max_grad_norm
        self.actor = Adam(self.policy, EPS, clip, self._rate)
        self.critics = Adam(self.critic, EPS, clip, self._rate)
        self.critic_target = self._target(self.critic)
        self.followers = [(self.critic_target, self.critics)]
        self.critic_step = make_step(self._critic_loss, self.critics, graph)
        self.share()

    @abstractmethod
    def make_policy(self, *shape: Any) -> Policy:
        """A policy of the algorithm's kind."""

    @abstractmethod
    def update(
        self, act: bool, lr: Tensor, batch: Batch, noise: Tensor, price: Tensor, weight: Tensor
    ) -> Parts:
        """A gradient step of the critics and, to `act`, of the policy.

        noise (2, L, M, A) normal, for the actions in the states that were seen and in those after them.
        price (K,) of costs, in reward per unit; weight (K,) of each against the reward, see
        constraint.combine. Under limits parts["spread"] (1 + K,) are the deviations of the advantages.
        """

    # -- what a window holds -----------------------------------------------------------------------

    def batch(self, rows: Tensor, belief: Tensor) -> Batch:
        """Columns (R, M, ...) of rows (R, M, C) by name, and the beliefs (M, B) before them."""
        sizes = self.policy.belief_size, self.critic.belief_size
        named = columns(rows, self.widths, NUMBERS, FLAGS)
        return {**named, **dict(zip(("belief", "critic_belief"), belief.split(sizes, -1), strict=True))}

    def now(self, x: Tensor) -> Tensor:
        """The L control steps that are learned from, of R."""
        return x[self.burn_in : self.burn_in + self.window]

    def acted(self, policy: Any, batch: Batch) -> Tensor:
        """What the policy's head says of what it saw, (L, M, ...)."""
        return policy.decode(self._along(policy, batch["obs"], batch["belief"], batch)[0][: self.window])

    def seen(self, critic: Any, batch: Batch) -> Tensor:
        """features (L, M, F) of what the critics saw."""
        return self._along(critic, batch[self.sees], batch["critic_belief"], batch)[0][: self.window]

    def acting(self, policy: Any, batch: Batch, last: Tensor) -> Tensor:
        """What the policy's head says of what its n steps led to, (L, M, ...)."""
        return policy.decode(self._ahead(policy, "obs", "belief", batch, last))

    def seeing(self, critic: Any, batch: Batch, last: Tensor) -> Tensor:
        """features (L, M, F) of what n steps led to."""
        return self._ahead(critic, self.sees, "critic_belief", batch, last)

    def _along(self, net: Any, frames: Tensor, belief: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """features and beliefs (R - burn_in, M, ...) after each of the steps that follow a burn-in."""
        first, start = batch["first"], self.burn_in
        if start:
            belief = net.unroll(frames[:start], belief, first[:start])[1][-1].detach()
        return net.unroll(frames[start:], belief, first[start:])

    def _ahead(self, net: Any, frames: str, belief: str, batch: Batch, last: Tensor) -> Tensor:
        """features (L, M, F) of what was seen after the last of n steps, before any restart.

        From the belief after that step, which goes no further with it.
        """
        after = self._along(net, batch[frames], batch[belief], batch)[1]
        final = batch[f"final_{frames}"][self.burn_in :]
        if self.config.n_step > 1:
            after, final = (
                x.gather(0, last[..., None].expand(*last.shape, x.shape[-1])) for x in (after, final)
            )
        going_on = torch.zeros(last.numel(), dtype=torch.bool, device=last.device)
        features = net.encode(final.flatten(0, 1), after.flatten(0, 1), going_on)[0]
        return features.unflatten(0, last.shape)

    # -- critics -----------------------------------------------------------------------------------

    def sums(self, batch: Batch) -> Sums:
        """n-step sums of a window. What a broken simulation gave is no lesson, nor a sum that reaches it."""
        config, start = self.config, self.burn_in
        flags = batch["terminated"], batch["left"]
        cost, over = charged(self.limits, batch["cost"], *flags, config.gamma)
        ends, bad = batch["terminated"][..., None], batch["bad"][..., None].float()
        signal = torch.cat((batch["reward"][..., None], cost / self.largest, bad), -1)[start:]
        over = torch.cat((ends, over, ends), -1)[start:]
        total, discount, last = n_step(signal, over, batch["done"][start:], config.n_step, config.gamma)
        return Sums(total[..., :-1], discount[..., :-1], last, total[..., -1] == 0)

    def target(self, batch: Batch, sums: Sums, action: Tensor, bonus: Tensor | float = 0.0) -> Tensor:
        """(E, L, M, 1 + K) that the critics learn, with `action` (L, M, A) taken after n steps.

        Of the reward all learn the same, from the lowest of them or their mean; of costs each its own, so
        that they differ where little is known. `bonus` is added to the value of the reward alone.
        """
        critic = self.critic_target.bound(self.graph)
        q = critic.decode(self.seeing(critic, batch, sums.last), action)
        value = (self.reduced(q) + bonus).expand(q.shape[:-1])[..., None]
        return sums.total + sums.discount * torch.cat((value, q[..., 1:]), -1)

    def reduced(self, q: Tensor) -> Tensor:
        """(L, M) of the reward's Q (E, L, M, 1 + K)."""
        return q[..., 0].amin(0) if self.config.reduce == "min" else q[..., 0].mean(0)

    def fit_critics(self, lr: Tensor, batch: Batch, target: Tensor, valid: Tensor) -> Parts:
        """A gradient step of the critics towards target (E, L, M, 1 + K)."""
        parts = self.critic_step(lr, batch, target, valid)
        self.share()
        return {f"critic_{name}" if name == "grad_norm" else name: value for name, value in parts.items()}

    def _critic_loss(self, critic: Any, batch: Batch, target: Tensor, valid: Tensor) -> tuple[Tensor, Parts]:
        q = critic.decode(self.seen(critic, batch), self.now(batch["action"]))
        loss = self.fit * average((q - target).square().sum((0, -1)), valid)
        return loss, {"critic": loss.detach(), "q": average(q[..., 0].mean(0), valid).detach()}

    # -- policy ------------------------------------------------------------------------------------

    def lagrangian(self, gain: Tensor, q: Tensor, price: Tensor, weight: Tensor) -> Tensor:
        """(L, M) that a policy ascends: gain less the price of the upper bounds of costs, q (E, L, M, 1 + K).

        Divided as in constraint.combine, so that it is of one size whatever the multipliers are.
        """
        if not self.limits:
            return gain
        cost = upper(q[..., 1:], self.config.pessimism)
        return (gain - cost @ (price * self.largest)) / (1 + weight.sum())

    def spread(self, critic: Any, features: Tensor, batch: Batch, q: Tensor, valid: Tensor) -> Parts:
        """Deviations (1 + K,) of Q(s, a) - Q(s, pi(s)), a as it was done; nothing without limits."""
        if not self.limits:
            return {}
        advantage = critic.decode(features, self.now(batch["action"])).mean(0) - q.mean(0)
        share = valid[..., None] / valid.sum().clamp(min=1)
        centred = advantage - (advantage * share).sum((0, 1))
        deviation = (centred.square() * share).sum((0, 1)).sqrt()
        return {"spread": (deviation * torch.cat((self.largest.new_ones(1), self.largest))).detach()}

    # -- after a gradient step ---------------------------------------------------------------------

    def follow(self) -> None:
        """Target networks take on a share tau of those that they follow."""
        for target, online in self.followers:
            target.flat.lerp_(online.flat, self.config.tau)

    def share(self) -> None:
        """Where the belief is shared, the policy's becomes what the critics have made of theirs."""
        if self.config.shared:
            ours, theirs = (adam.views(adam.flat) for adam in (self.actor, self.critics))
            for name, value in ours.items():
                if name.startswith("belief."):
                    value.copy_(theirs[name.replace("belief.", "beliefs.0.", 1)])

    def _target(self, net: nn.Module) -> Flat:
        target = copy.deepcopy(net)
        target.normalizer = net.normalizer
        return Flat(target)

    def _rate(self, name: str) -> float:
        """The share of lr that a parameter learns with."""
        if not name.startswith("belief"):
            return 1.0
        return (
            0.0
            if self.config.shared and name.startswith("belief.")
            else self.config.belief_lr / self.config.lr
        )

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        targets = {f"target{i}": target.module for i, (target, _) in enumerate(self.followers)}
        networks = {"policy": self.policy, "critic": self.critic, **targets}
        return {**networks, "actor_adam": self.actor, "critic_adam": self.critics}


def upper(q: Tensor, k: float) -> Tensor:
    """An upper bound of costs q (E, ...): the mean of the E estimates and k of their deviations."""
    return q.mean(0) + k * q.var(0, correction=0).clamp(min=1e-12).sqrt()


class Learner(ABC):
    """An off-policy algorithm on one Env; `policy` is what gets exported. Networks live on `env.device`."""

    agent: type[Agent]

    def __init__(self, env: Env, config: Any, seed: int = 0) -> None:
        self.env, self.config, self.seed, device = env, config, seed, env.device
        self.pace = Pace.of(config)
        self.rng = torch.Generator(device).manual_seed(seed)
        self.networks = self._networks(bool(config.compile))
        self.policy, self.critic = self.networks.policy, self.networks.critic
        self.limits, self.chunk = self.networks.limits, self.networks.burn_in + self.networks.window
        self.length = self.chunk + config.n_step - 1  # R
        self._check_length()
        beliefs = self.policy.belief_size, self.critic.belief_size
        self.replay = Replay(self.networks.widths, sum(beliefs), env.num_envs, config.replay, device)
        wrap = (lambda f: compiled(f, device)) if config.compile else (lambda f: f)
        self.act = wrap(_make_act(self.networks))
        # with a step of the policy, and without where it is delayed
        self.steps_of = {act: wrap(_make_update(self.networks, act)) for act in {True, self.delay == 1}}
        self.threads = torch.get_num_threads()  # of torch
        self.horizon = max(1, round(LOGGED / env.num_envs))
        self.steps_per_iteration = env.num_envs * self.horizon
        self.episodes = Episodes(env.num_envs, device)
        self.belief, self.critic_belief = (torch.zeros(env.num_envs, b, device=device) for b in beliefs)
        self.first = torch.ones(env.num_envs, dtype=torch.bool, device=device)
        self.meter = Meter(self.limits, env.num_envs, env.max_age, config.gamma, device)
        moves = config.limit_rule, config.margin, config.gains, config.dual_lr, config.penalty
        self.multipliers = Multipliers(self.limits, env.max_age, config.gamma, *moves, device)
        self.lr = torch.tensor(config.lr, device=device)
        self.gradients = 0  # steps so far
        env.reset(stagger=env.num_envs > 1)

    @property
    def delay(self) -> int:
        """Gradient steps of the critics for one of the policy."""
        return 1

    @property
    def updates(self) -> int:
        """Gradient steps of the whole training."""
        return self._gradients_by(self.config.steps)

    def rehearsal(self) -> Callable[[], object]:
        """An eager gradient step on networks of its own: to measure what one costs."""
        networks, device = self._networks(graph=False), self.env.device
        update, windows = _make_update(networks, True), self.pace.batch // networks.window
        rows = torch.ones(self.length, windows, sum(networks.widths.values()), device=device)
        belief = torch.zeros(windows, self.replay.beliefs.shape[-1], device=device)
        noise = torch.zeros(2, networks.window, windows, self.env.act_dim, device=device)
        nothing = torch.zeros(len(self.limits), device=device)
        return lambda: update(self.lr.clone(), rows, belief, noise, nothing, nothing)

    def iterate(self) -> dict[str, float]:
        """Control steps and the gradient steps that are due after each, and what happened."""
        noise = torch.randn(
            self.horizon, self.env.num_envs, self.env.act_dim, generator=self.rng, device=self.env.device
        )
        seen, steps, history = list[tuple[Tensor, Tensor]](), list[Step](), list[Parts]()
        with torch_threads(self.threads), torch.no_grad():
            self._price()
            for z in noise:
                seen.append((self.env.obs, getattr(self.env, self.networks.sees)))
                steps.append(self._collect(z))
                history += [self._learn() for _ in range(self._due())]
        self._follow(steps, history)
        self._normalize(seen, steps)
        known = dict.fromkeys(name for parts in history for name in parts)  # a delayed step has more
        means = {k: torch.stack([p[k] for p in history if k in p]).mean(0) for k in known}
        logged = {f"loss/{name}": value for name, value in means.items() if name != "spread"}
        labelled = torch.stack([s.logged for s in steps]).nanmean((0, 1))
        logged |= dict(zip(self.env.labels, labelled.unbind(), strict=True)) | self.multipliers.metrics
        return {**self.episodes.summary(), **numbers(logged)}

    # -- one control step --------------------------------------------------------------------------

    def _collect(self, noise: Tensor) -> Step:
        env, networks = self.env, self.networks
        obs, state, first = env.obs, getattr(env, networks.sees), self.first
        before = torch.cat((self.belief, self.critic_belief), -1)
        action, self.belief, self.critic_belief = self.act(
            obs, state, self.belief, self.critic_belief, first, noise
        )
        if self._transitions < self.pace.starts:
            action = 2 * torch.rand(action.shape, generator=self.rng, device=env.device) - 1
        step = env.step(action)
        self.episodes.add(step.reward, step.done)
        self.first = step.done
        row = {"obs": obs, "final_obs": step.final_obs, "action": action, "first": first, "cost": step.cost}
        if networks.sees == "state":
            row |= {"state": state, "final_state": step.final_state}
        if not self.limits:
            row["cost"] = step.cost[:, :0]
        kept = ("reward", "done", "terminated", "bad", "left")
        self.replay.add(row | {name: getattr(step, name) for name in kept}, before)
        return step

    @property
    def _transitions(self) -> int:
        """Collected so far."""
        return self.replay.position * self.env.num_envs

    def _gradients_by(self, transitions: int) -> int:
        """Gradient steps that are due once there are so many transitions."""
        return int(max(0, transitions - self.pace.starts) * self.pace.utd)

    def _due(self) -> int:
        return self._gradients_by(self._transitions) - self.gradients

    # -- one gradient step -------------------------------------------------------------------------

    def _learn(self) -> Parts:
        networks = self.networks
        windows = self.pace.batch // networks.window
        rows, belief = self.replay.sample(windows, self.length, self.rng)
        shape = 2, networks.window, windows, self.env.act_dim
        noise = torch.randn(shape, generator=self.rng, device=self.env.device)
        self.gradients += 1
        update = self.steps_of[self.gradients % self.delay == 0]
        parts = update(self.lr, rows, belief, noise, self.price, self.weight)
        if self.limits and self.gradients == self.delay:  # the first step of the policy
            self.multipliers.follow(parts["spread"].double())  # so that a limit counts from the next step on
            self._price()
        return parts

    def _price(self) -> None:
        """What costs weigh, until the multipliers move again."""
        lambdas, weights = self.multipliers.lambdas, self.multipliers.weights(self.multipliers.units)
        self.price, self.weight = lambdas.float(), weights.float()

    def _follow(self, steps: list[Step], history: list[Parts]) -> None:
        """Let the multipliers follow what the costs came to."""
        if self.limits:
            kept = ("cost", "terminated", "done", "left")
            columns = (torch.stack([getattr(step, name) for step in steps]) for name in kept)
            self.multipliers.update(*self.meter.measure(*columns))
            spreads = [parts["spread"] for parts in history if "spread" in parts]
            if spreads:
                self.multipliers.follow(torch.stack(spreads).mean(0).double())

    def _normalize(self, seen: list[tuple[Tensor, Tensor]], steps: list[Step]) -> None:
        if self.config.normalize_obs:
            valid = ~torch.stack([step.bad for step in steps]).flatten()
            obs, state = (torch.stack(column).flatten(0, 1) for column in zip(*seen, strict=True))
            self.policy.normalizer.update(obs, valid)
            self.critic.normalizer.update(state, valid)

    # -- save and continue -------------------------------------------------------------------------

    def _parts(self) -> dict[str, Any]:
        own = {"env": self.env, "episodes": self.episodes, "replay": self.replay, "rng": self.rng}
        limits = {"meter": self.meter, "multipliers": self.multipliers}
        running = {"belief": self.belief, "critic_belief": self.critic_belief, "first": self.first}
        return {**self.networks.parts(), **own, **limits, **running}

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all that a bit-equal continuation needs, but for the whole segments of the replay."""
        return {**gather(self._parts()), "gradients": torch.tensor(self.gradients)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict()` of a Learner with the same task and config."""
        scatter(self._parts(), state)
        self.gradients = int(state["gradients"])

    def _networks(self, graph: bool) -> Agent:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.agent(self.env, self.config, graph)

    def _check_length(self) -> None:
        """Raise OptionError for windows longer than an episode, or than what is stored at first."""
        config, limit = self.config, self.env.max_age
        what = f"burn_in ({config.burn_in}) + window ({config.window}) + n_step ({config.n_step}) - 1"
        if self.chunk == 1:
            what = f"n_step ({config.n_step})"
        if self.length > limit:
            raise OptionError(f"{what} must be at most an episode's {limit} control steps")
        stored = self.pace.starts // config.num_envs
        if self.length > stored:
            rule = f"the control steps of each simulation that are stored when learning starts ({stored})"
            raise OptionError(f"{what} must be at most {rule}")


def _make_act(networks: Agent) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    policy, critic = networks.policy, networks.critic

    def act(
        obs: Tensor, state: Tensor, belief: Tensor, critic_belief: Tensor, first: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        action, belief = policy.sample(obs, belief, first, noise)
        return action, belief, critic.encode(state, critic_belief, first)[1]

    return act


def _make_update(networks: Agent, act: bool) -> Callable[..., Parts]:
    def update(lr: Tensor, rows: Tensor, belief: Tensor, *rest: Tensor) -> Parts:
        return networks.update(act, lr, networks.batch(rows, belief), *rest)

    return update


def check(config: Options) -> None:
    """Raise OptionError for a value that cannot work."""
    check_choices(config)
    check_positive(config, "steps", "num_envs", "replay", "n_step", "critics")
    check_positive(config, "tau", "lr", "belief_lr", "belief_size", "window")
    check_unit(config, "gamma", "tau")
    check_rule(config)
    for name in ("learning_starts", "batch", "utd", "max_grad_norm"):
        if getattr(config, name) is not None:
            check_positive(config, name)
    for name in ("burn_in", "pessimism"):
        if not 0 <= getattr(config, name) < torch.inf:
            raise OptionError(f"{name} must be finite and at least 0, got {getattr(config, name)}")
    pace = Pace.of(config)
    for name, value, most, bound, rule in (
        ("batch", pace.batch, "learning_starts", pace.starts, "what is stored when learning starts"),
        ("learning_starts", pace.starts, "replay", config.replay, "what is remembered"),
        ("learning_starts", pace.starts, "steps", config.steps, "all that there will be"),
    ):
        if value > bound:
            raise OptionError(f"{name} ({value}) must be at most {most} ({bound}), {rule}")
    if {config.belief, config.critic_belief} & set(RECURRENT) and pace.batch % config.window:
        rule = "control steps that a recurrent belief is trained through, must divide batch"
        raise OptionError(f"window ({config.window}), the {rule} ({pace.batch})")
    if config.shared and (config.critic != "obs" or config.critic_belief != config.belief):
        got = f"critic {config.critic!r}, belief {config.belief!r}, critic_belief {config.critic_belief!r}"
        raise OptionError(f"a shared belief needs a critic that sees obs, and one kind of belief; got {got}")
