"""SAC against Stable-Baselines3 and values computed by hand."""

import math
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import torch
from agents import Limited, a_batch, agent_of, gradient_step, learner_of, noise_for, numbers_of
from stable_baselines3 import SAC as Peer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

from robokit.algos.sac import SAC, Config, Learner, check, temperature_loss
from robokit.env.env import make
from robokit.errors import OptionError
from robokit.learning.adam import BETA1, Adam, Flat
from robokit.learning.offpolicy.agent import Agent

M = 32  # transitions in a batch
LR = 1e-3


# -- Stable-Baselines3 ---------------------------------------------------------------------------------


class Spaces(gymnasium.Env[Any, Any]):
    """What it asks of an environment that it never steps."""

    def __init__(self, obs_dim: int, act_dim: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (obs_dim,))
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (act_dim,))


class Given(ReplayBuffer):
    """Its memory, which always gives the same batch."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = ReplayBufferSamples(
            batch["obs"][0],
            batch["action"][0],
            batch["final_obs"][0],
            batch["terminated"][0, :, None].float(),
            batch["reward"][0, :, None],
        )

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        return self.batch


def peer_of(agent: Agent, algorithm: Any, **options: Any) -> Any:
    """Its algorithm with networks as large as ours."""
    environment = Spaces(agent.policy.obs_dim, agent.policy.act_dim)
    sizes = {"net_arch": [*agent.config.hidden]}
    return algorithm(
        "MlpPolicy", environment, learning_rate=LR, policy_kwargs=sizes, device="cpu", seed=3, **options
    )


def stacked(critic: Any, of: Any) -> dict[str, Tensor]:
    """Its Q networks as one ensemble of ours; `of` each parameter."""
    linears = [[m for m in net if isinstance(m, nn.Linear)] for net in critic.q_networks]
    layers = list(zip(*linears, strict=True))
    weights = {f"weights.{i}": torch.stack([of(x.weight).mT for x in ls]) for i, ls in enumerate(layers)}
    biases = {f"biases.{i}": torch.stack([of(x.bias)[None] for x in ls]) for i, ls in enumerate(layers)}
    return {f"ensembles.0.{name}": value for name, value in (weights | biases).items()}


def value_of(parameter: Tensor) -> Tensor:
    return parameter.detach()


def gradient_in(optimizer: torch.optim.Optimizer) -> Any:
    """Of the only step so far, by Adam's first moment: what stands in .grad is not the critics' own."""
    return lambda parameter: optimizer.state[parameter]["exp_avg"] / (1 - BETA1)


def gradients(adam: Adam) -> dict[str, Tensor]:
    return {name: moment / (1 - BETA1) for name, moment in adam.views(adam.first).items()}


def put(flat: Flat, values: dict[str, Tensor]) -> None:
    views = flat.views(flat.flat)
    assert views.keys() == values.keys()
    for name, value in values.items():
        views[name].copy_(value)


def assert_near(ours: Flat, theirs: dict[str, Tensor]) -> None:
    assert_same(ours.views(ours.flat), theirs)


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def train(model: Any, batch: dict[str, Tensor], seed: int) -> tuple[dict[str, float], Tensor]:
    """One call of its train(), and the noise (2, 1, M, A) that it drew."""
    model.replay_buffer = Given(batch)
    logger = Logger(None, [])
    model.set_logger(logger)
    torch.manual_seed(seed)
    model.train(1, M)
    torch.manual_seed(seed)
    noise = torch.stack([torch.normal(torch.zeros(M, 2), torch.ones(M, 2)) for _ in range(2)])
    return {k: float(v) for k, v in logger.name_to_value.items()}, noise[:, None]


def their_policy(model: Peer, of: Any = value_of) -> dict[str, Tensor]:
    linears = [m for m in model.actor.latent_pi if isinstance(m, nn.Linear)]
    heads = cast(nn.Linear, model.actor.mu), cast(nn.Linear, model.actor.log_std)
    both = {kind: torch.cat([of(getattr(x, kind)) for x in heads]) for kind in ("weight", "bias")}
    first = {f"head.{2 * i}.{k}": of(getattr(x, k)) for i, x in enumerate(linears) for k in both}
    return first | {f"head.{2 * len(linears)}.{kind}": value for kind, value in both.items()}


@torch.no_grad()
def beside(**changes: Any) -> tuple[SAC, Peer]:
    """Ours and theirs with the same weights, a temperature that is not 1, targets behind the critics."""
    agent = agent_of("sac", hidden=(16, 16), lr=LR, tau=0.01, **changes)
    model = peer_of(agent, Peer, tau=0.01)
    distribution = cast(SquashedDiagGaussianDistribution, model.actor.action_dist)
    distribution.epsilon = 0.0  # it adds 1e-6 to 1 - tanh^2
    put(agent.actor, their_policy(model))
    put(agent.critics, stacked(model.critic, value_of))
    for parameter in model.critic_target.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    put(agent.critic_target, stacked(model.critic_target, value_of))
    agent.temperature_adam.flat.fill_(-0.7)
    assert model.log_ent_coef is not None
    model.log_ent_coef.fill_(-0.7)
    return agent, model


@torch.no_grad()
def ours(agent: Agent, batch: dict[str, Tensor], noise: Tensor, act: bool = True) -> dict[str, float]:
    nothing = torch.zeros(0)
    parts = agent.update(act, torch.tensor(LR), batch, noise, nothing, nothing)
    return {name: value.item() for name, value in parts.items()}


def test_one_update_has_the_losses_and_gradients_of_stable_baselines3():
    agent, model = beside()
    batch = a_batch(agent, M)
    with torch.enable_grad():
        theirs, noise = train(model, batch, seed=5)
    parts = ours(agent, batch, noise)
    assert parts["critic"] == pytest.approx(theirs["train/critic_loss"], abs=1e-5)
    assert parts["policy"] == pytest.approx(theirs["train/actor_loss"], abs=1e-5)
    assert parts["alpha"] == pytest.approx(theirs["train/ent_coef"]) == pytest.approx(math.exp(-0.7))
    loss = temperature_loss(torch.tensor(-0.7), torch.tensor(parts["log_prob"]), agent.target_entropy)
    assert loss.item() == pytest.approx(theirs["train/ent_coef_loss"], abs=1e-5)
    actor, critic, heat = model.actor.optimizer, model.critic.optimizer, model.ent_coef_optimizer
    assert heat is not None and model.log_ent_coef is not None
    assert_same(gradients(agent.actor), their_policy(model, gradient_in(actor)))
    assert_same(gradients(agent.critics), stacked(model.critic, gradient_in(critic)))
    assert_same(gradients(agent.temperature_adam), {"log_alpha": gradient_in(heat)(model.log_ent_coef)[0]})
    assert all(g.abs().max() > 1e-3 for g in gradients(agent.actor).values())


def test_five_updates_lead_where_those_of_stable_baselines3_lead():
    agent, model = beside()
    for seed in range(5):
        batch = a_batch(agent, M, seed)
        theirs, noise = train(model, batch, seed)
        parts = ours(agent, batch, noise)
        assert parts["critic"] == pytest.approx(theirs["train/critic_loss"], abs=1e-5)
        assert parts["policy"] == pytest.approx(theirs["train/actor_loss"], abs=1e-5)
    assert_near(agent.actor, their_policy(model))
    assert_near(agent.critics, stacked(model.critic, value_of))
    assert_near(agent.critic_target, stacked(model.critic_target, value_of))
    assert model.log_ent_coef is not None
    torch.testing.assert_close(agent.temperature_adam.flat, model.log_ent_coef.detach(), atol=1e-5, rtol=1e-5)


# -- temperature ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "direction"), [(50.0, 1), (-50.0, -1)])
def test_entropy_below_its_target_raises_the_temperature_and_above_it_lowers_it(
    target: float, direction: int
):
    agent = agent_of("sac", target_entropy=target)
    gradient_step(agent, a_batch(agent))
    moved = agent.temperature.log_alpha.item()
    assert moved == pytest.approx(direction * agent.config.lr, rel=1e-4)  # Adam's first step


def test_a_learned_temperature_begins_where_it_is_told():
    assert agent_of("sac").temperature.log_alpha.item() == 0.0
    assert agent_of("sac", init_temperature=0.01).temperature.log_alpha.exp().item() == pytest.approx(0.01)


def test_the_temperatures_gradient_by_hand():
    log_alpha = torch.tensor(0.3, requires_grad=True)
    loss = temperature_loss(log_alpha, torch.tensor(1.5), target_entropy=-2.0)
    assert loss.item() == pytest.approx(-0.3 * -0.5)
    assert torch.autograd.grad(loss, log_alpha)[0].item() == pytest.approx(0.5)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1])  # a recipe may set a whole number
def test_a_fixed_temperature_never_moves(alpha: float):
    agent = agent_of("sac", temperature=alpha)
    before = numbers_of(agent)
    for seed in range(3):
        said = gradient_step(agent, a_batch(agent, seed=seed))["alpha"]
        assert said.item() == pytest.approx(alpha) and said.is_floating_point()
    after = numbers_of(agent)
    own = [name for name in before if name.startswith("temperature")]
    assert own and all(torch.equal(before[name], after[name]) for name in own)


def test_the_target_entropy_is_minus_the_number_of_actions_where_none_is_given():
    assert agent_of("sac").target_entropy == -2.0
    assert agent_of("sac", target_entropy=-0.5).target_entropy == -0.5


# -- what the critics learn, and the policy ascends ------------------------------------------------------


def targets(agent: SAC, batch: dict[str, Tensor], alpha: float) -> Tensor:
    """(E, L, M, 1 + K) that the critics are given in an update."""
    given = list[Tensor]()
    agent.fixed = torch.tensor(alpha)
    keep, fit = agent.critic_step, {}

    def watched(lr: Tensor, batch: Any, target: Tensor, valid: Tensor) -> Any:
        given.append(target.clone())
        return {"critic": target.sum(), "grad_norm": target.sum(), **fit}

    agent.critic_step = watched
    gradient_step(agent, batch)
    agent.critic_step = keep
    return given[0]


def test_no_entropy_leaks_into_what_the_critics_of_costs_learn():
    agent = agent_of("sac", Limited, temperature=0.1, n_step=2, lr=1e-30)
    batch = a_batch(agent)
    cold, hot = (targets(agent, batch, alpha) for alpha in (0.1, 10.0))
    assert torch.equal(cold[..., 1:], hot[..., 1:])
    goes_on = agent.sums(batch).discount[..., 0] > 0
    assert (cold[..., 0] != hot[..., 0])[:, goes_on].all() and goes_on.any()


@torch.no_grad()
def test_the_entropy_of_what_follows_is_in_the_target_by_hand():
    agent = agent_of("sac", temperature=0.1, critics=1, lr=1e-30)
    batch, noise = a_batch(agent), torch.zeros(2, 1, 6, 2)
    noise[1] = 0.3  # what is drawn for the states that follow
    mean, log_std = agent.policy.decode(batch["final_obs"][0]).chunk(2, -1)
    u = mean + log_std.exp() * 0.3
    density = torch.distributions.Normal(mean, log_std.exp()).log_prob(u) - torch.log(1 - u.tanh() ** 2)
    value = agent.critic_target.module.decode(batch["final_obs"][0], u.tanh())[0, :, 0]
    value = value - 0.1 * density.sum(-1)
    expected = batch["reward"][0] + 0.99 * torch.where(batch["terminated"][0], 0.0, value)
    q = agent.critic.decode(batch["obs"][0], batch["action"][0])[0, :, 0]
    nothing = torch.zeros(0)
    parts = agent.update(True, torch.tensor(1e-30), batch, noise, nothing, nothing)
    assert parts["critic"].item() == pytest.approx(0.5 * (q - expected).square().mean().item(), rel=1e-5)


@torch.no_grad()
def test_the_policy_ascends_the_lower_q_or_their_mean_less_the_price_of_its_density():
    for reduce, of in (("min", lambda q: q.amin(0)), ("mean", lambda q: q.mean(0))):
        agent = agent_of("sac", temperature=0.5, critics=3, reduce=reduce, lr=1e-30)
        batch = a_batch(agent)
        agent.critics.flat.mul_(3.0)  # so that they differ
        action, density = agent.policy.draw(agent.policy.decode(batch["obs"]), noise_for(agent)[0])
        q = agent.critic.decode(batch["obs"], action)[..., 0]
        loss = (0.5 * density - of(q)).mean().item()
        assert gradient_step(agent, batch)["policy"].item() == pytest.approx(loss, abs=1e-5)


# -- options -------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_papers_table():
    config = Config()
    named = {
        "lr": 3e-4, "gamma": 0.99, "replay": 1_000_000, "hidden": (256, 256), "activation": "relu",
        "tau": 0.005, "critics": 2, "simulations": 1, "temperature": None,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in named} == named
    check(config)
    learner = Learner(make("inverted_pendulum", 1, threads=1), Config(steps=20_000, replay=10_000))
    assert learner.config.sizes.updates == 20_000 - 5_000  # one a transition
    assert learner.pace.batch == 256


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": -0.1}, "temperature must be finite and at least 0, got -0.1"),
        (
            {"init_temperature": 0.5, "temperature": 0.1},
            "not for a fixed one; got temperature 0.1 and init_temperature 0.5",
        ),
        ({"init_temperature": 0.0}, "init_temperature must be > 0, got 0.0"),
        ({"temperature": math.nan}, "temperature must be finite and at least 0, got nan"),
        ({"target_entropy": math.inf}, "target_entropy must be finite, got inf"),
        (
            {"target_entropy": -1.0, "temperature": 0.2},
            "not for a fixed one; got target_entropy -1.0 and temperature 0.2",
        ),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(OptionError, match=words):
        learner_of("sac", **changes)
