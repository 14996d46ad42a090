"""TD3 against Stable-Baselines3 and values computed by hand."""

from typing import Any

import pytest
import torch
from agents import Limited, a_batch, agent_of, learner_of, noise_for, numbers_of
from stable_baselines3 import TD3 as Peer
from stable_baselines3.common.logger import Logger
from test_sac import (
    LR,
    Given,
    M,
    assert_near,
    assert_same,
    gradient_in,
    gradients,
    ours,
    peer_of,
    put,
    stacked,
    value_of,
)
from torch import Tensor, nn

from robokit.algos.td3 import TD3, Config, smooth
from robokit.errors import OptionError


def their_policy(actor: Any, of: Any = value_of) -> dict[str, Tensor]:
    linears = [m for m in actor.mu if isinstance(m, nn.Linear)]
    return {f"head.{2 * i}.{k}": of(getattr(x, k)) for i, x in enumerate(linears) for k in ("weight", "bias")}


@torch.no_grad()
def beside(**changes: Any) -> tuple[TD3, Peer]:
    """Ours and theirs with the same weights, targets behind the networks."""
    agent = agent_of("td3", hidden=(16, 16), lr=LR, tau=0.01, smoothing=0.4, **changes)
    model = peer_of(agent, Peer, tau=0.01, target_policy_noise=0.4)
    put(agent.actor, their_policy(model.actor))
    put(agent.critics, stacked(model.critic, value_of))
    for net in (model.critic_target, model.actor_target):
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    put(agent.critic_target, stacked(model.critic_target, value_of))
    put(agent.actor_target, their_policy(model.actor_target))
    return agent, model


def train(model: Peer, batch: dict[str, Tensor], seed: int) -> tuple[dict[str, float], Tensor]:
    """One call of its train(), and the noise (2, 1, M, A) that it drew; the first is nobody's."""
    model.replay_buffer = Given(batch)
    logger = Logger(None, [])
    model.set_logger(logger)
    torch.manual_seed(seed)
    model.train(1, M)
    torch.manual_seed(seed)
    noise = torch.empty(M, 2).normal_(0, 1)
    return {k: float(v) for k, v in logger.name_to_value.items()}, torch.stack((noise * 1e9, noise))[:, None]


def test_two_updates_have_the_losses_and_gradients_of_stable_baselines3_the_second_with_the_policy():
    agent, model = beside()
    batch = a_batch(agent, M)
    before = numbers_of(agent)
    theirs, noise = train(model, batch, seed=5)
    parts = ours(agent, batch, noise, act=False)
    assert parts["critic"] == pytest.approx(theirs["train/critic_loss"], abs=1e-5)
    assert "policy" not in parts and "train/actor_loss" not in theirs
    assert_same(gradients(agent.critics), stacked(model.critic, gradient_in(model.critic.optimizer)))
    after = numbers_of(agent)
    still = [name for name in before if not name.startswith("critic")]
    assert len(still) > 20 and all(torch.equal(before[name], after[name]) for name in still)
    theirs, noise = train(model, batch, seed=6)
    parts = ours(agent, batch, noise, act=True)
    assert parts["critic"] == pytest.approx(theirs["train/critic_loss"], abs=1e-5)
    assert parts["policy"] == pytest.approx(theirs["train/actor_loss"], abs=1e-5)
    assert_same(gradients(agent.actor), their_policy(model.actor, gradient_in(model.actor.optimizer)))
    assert all(g.abs().max() > 1e-3 for g in gradients(agent.actor).values())


def test_six_updates_lead_where_those_of_stable_baselines3_lead():
    agent, model = beside()
    for seed in range(6):
        batch = a_batch(agent, M, seed)
        theirs, noise = train(model, batch, seed)
        parts = ours(agent, batch, noise, act=seed % 2 == 1)
        assert parts["critic"] == pytest.approx(theirs["train/critic_loss"], abs=1e-5)
    assert_near(agent.actor, their_policy(model.actor))
    assert_near(agent.actor_target, their_policy(model.actor_target))
    assert_near(agent.critics, stacked(model.critic, value_of))
    assert_near(agent.critic_target, stacked(model.critic_target, value_of))


def test_the_policy_is_stepped_at_every_dth_gradient_step():
    learner = learner_of("td3", delay=3, utd=1.0, num_envs=1)
    acted = []
    for act, update in learner.update.items():
        learner.update[act] = lambda *given, act=act, update=update: (acted.append(act), update(*given))[1]
    learner.horizon = 24 + 7
    logged = learner.iterate()
    assert acted == [False, False, True, False, False, True, False]
    assert {"loss/policy", "loss/grad_norm"} <= logged.keys()  # whichever step is the last
    assert [*learner_of("td3", delay=1).update] == [True]


# -- target policy smoothing ---------------------------------------------------------------------------


def test_smoothing_by_hand_noise_is_cut_at_c_and_actions_at_1():
    action = torch.tensor([0.0, 0.0, 0.0, 0.9, -0.9])
    noise = torch.tensor([1.0, 5.0, -5.0, 5.0, -1.0])
    assert smooth(action, noise, 0.2, 0.5).tolist() == pytest.approx([0.2, 0.5, -0.5, 1.0, -1.0])


def test_smoothing_never_leaves_its_bounds():
    rng = torch.Generator().manual_seed(0)
    action = torch.rand(10_000, generator=rng) * 2 - 1
    smoothed = smooth(action, torch.randn(10_000, generator=rng) * 3, 0.4, 0.3)
    moved = smoothed - action
    assert moved.abs().max().item() == pytest.approx(0.3) and smoothed.abs().max() == 1.0
    assert (moved.abs() < 0.29).any()


def test_without_smoothing_the_noise_changes_nothing():
    one, other = (agent_of("td3", smoothing=0.0) for _ in range(2))
    batch = a_batch(one)
    nothing, lr = torch.zeros(0), torch.tensor(1e-3)
    with torch.no_grad():
        for agent, seed in ((one, 1), (other, 2)):
            agent.update(True, lr, batch, noise_for(agent, seed=seed), nothing, nothing)
    assert torch.equal(one.critics.flat, other.critics.flat) and torch.equal(one.actor.flat, other.actor.flat)


# -- DDPG ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_with_one_critic_no_delay_and_no_smoothing_it_is_ddpg_by_hand():
    learner = learner_of("td3", critics=1, delay=1, smoothing=0.0, hidden=())
    assert [*learner.update] == [True]
    agent = learner.agent
    assert isinstance(agent, TD3)
    # mu'(s) = tanh(.5 s_0) for both actions; Q'(s, a) = 2 s_0 + 3 a_0 - a_1 + 1, and Q the same half as large
    for flat, bias in ((agent.actor_target, 0.0), (agent.critic_target, 1.0)):
        flat.flat.zero_()
        views = flat.views(flat.flat)
        if not bias:
            views["head.0.weight"][:, 0] = 0.5
            continue
        views["ensembles.0.weights.0"][0, [0, -2, -1], 0] = torch.tensor([2.0, 3.0, -1.0])
        views["ensembles.0.biases.0"].fill_(bias)
    agent.critics.flat.copy_(agent.critic_target.flat / 2)
    agent.actor.flat.zero_()
    batch = a_batch(agent, 3, ends=0.0)
    batch["reward"][0] = torch.tensor([1.0, 2.0, 3.0])
    batch["final_obs"][0, :, 0] = torch.tensor([0.0, 1.0, 2.0])
    batch["obs"].zero_()
    batch["action"][0] = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]])
    batch["terminated"][0, 2] = batch["done"][0, 2] = True
    mu = torch.tensor(0.5).tanh().item()
    target = [1 + 0.99 * 1.0, 2 + 0.99 * (2 + 2 * mu + 1), 3.0]
    q = [0.5, 0.5 * (1.5 + 1), 0.5 * (-0.5 + 1)]
    parts = ours(agent, batch, noise_for(agent, 3))
    errors = [(a - b) ** 2 for a, b in zip(q, target, strict=True)]
    assert parts["critic"] == pytest.approx(sum(errors) / 3, rel=1e-5)
    # the policy's gradient: dQ/da (1 - a^2) / 2, with respect to its zero bias
    new = agent.critics.views(agent.critics.flat)["ensembles.0.weights.0"][0, -2:, 0]
    torch.testing.assert_close(gradients(agent.actor)["head.0.bias"], -new)


# -- limits --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_under_limits_too_the_policy_ascends_the_first_critic_and_no_other():
    agent = agent_of("td3", Limited, hidden=())
    agent.critics.flat.zero_()
    rewards = agent.critics.views(agent.critics.flat)["ensembles.0.weights.0"]
    rewards[0, -2, 0], rewards[1, -1, 0] = 3.0, 5.0  # Q_1 = 3 a_0, Q_2 = 5 a_1; the costs' are 0
    batch = a_batch(agent)
    share, nothing = torch.full((1, 6), 1 / 6), torch.zeros(2)
    with torch.enable_grad():
        loss, _ = agent._actor_loss(agent.policy, batch, share, nothing, nothing)
        bias = torch.autograd.grad(loss, agent.policy.get_parameter("head.0.bias"))[0]
    action = agent.policy.mode(agent.policy_now(agent.policy, batch))[0]
    expected = -3.0 * (1 - action[:, 0].square()).mean()  # dQ_1/da_0 da_0/db
    assert bias[0].item() == pytest.approx(expected.item(), rel=1e-5) and bias[1].item() == 0.0


# -- options -------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_papers_code():
    named = {"delay": 2, "smoothing": 0.2, "smoothing_clip": 0.5, "exploration": 0.1, "tau": 0.005,
             "gamma": 0.99, "hidden": (256, 256), "lr": 3e-4, "simulations": 1}  # fmt: skip
    assert {name: getattr(Config(), name) for name in named} == named


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"delay": 0}, "delay must be > 0, got 0"),
        ({"smoothing": -0.1}, "smoothing must be finite and at least 0, got -0.1"),
        ({"smoothing_clip": 0.0}, "smoothing_clip must be > 0, got 0.0"),
        ({"exploration": float("nan")}, "exploration must be finite and at least 0, got nan"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(OptionError, match=words):
        learner_of("td3", **changes)
