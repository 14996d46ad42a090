"""SAC and TD3 with memories: windows reproduce the rollout's beliefs; no memory crosses an episode's end."""

from pathlib import Path
from typing import Any

import pytest
import torch
from agents import BOTH, a_batch, agent_of, gradient_step, learner_of, numbers_of, target_of
from arm import Arm
from test_mirror import Symmetric
from test_recurrent import Blurred
from torch import Tensor

import robokit
from robokit.env.env import Env
from robokit.evaluation.episodes import run_episodes, sampling_actor
from robokit.export.gate import TOLERANCE
from robokit.export.write import export
from robokit.learning.offpolicy.loop import OffPolicy
from robokit.networks.belief import KINDS, RECURRENT
from robokit.task.task import Task

STEPS = 40  # control steps that are collected, four episodes of each simulation


def both(kind: str) -> dict[str, Any]:
    return {"belief": kind, "critic_belief": kind}


@torch.no_grad()
def collected(algo: str, task: type[Task] = Blurred, **changes: Any) -> OffPolicy:
    """STEPS control steps of a policy that listens to what it remembers; nothing is learned."""
    learner = learner_of(algo, task, learning_starts=24, **changes)
    learner.policy.get_parameter("head.0.weight").mul_(3)
    learner.policy.get_parameter("head.2.weight").mul_(5)
    for _ in range(STEPS):
        learner._collect(torch.zeros(3, learner.env.act_dim))  # without noise: what is exported
    batch = rows_of(learner)
    for ends in (batch["terminated"], batch["done"] & ~batch["terminated"]):
        assert ends[10:-1].any()
    return learner


def rows_of(learner: OffPolicy) -> dict[str, Tensor]:
    """All that was collected, (T, N, ...)."""
    return dict(learner.agent.batch(learner.replay.rows[:STEPS], learner.replay.beliefs[0]))


def cut(x: Tensor, learner: OffPolicy, start: int, length: int) -> Tensor:
    """(length, M, ...) of x (T, N, ...): what lies `start` steps after the begin of each window there is."""
    begins = torch.arange(STEPS - learner.length + 1)
    return x[begins + torch.arange(start, start + length)[:, None]].flatten(1, 2)


def windows_of(learner: OffPolicy) -> dict[str, Tensor]:
    """All there are, with the beliefs stored before them."""
    rows = cut(learner.replay.rows, learner, 0, learner.length)
    return dict(learner.agent.batch(rows, cut(learner.replay.beliefs, learner, 0, 1)[0]))


def plain(net: Any, seen: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """features (T, N, F), and beliefs (T, N, B) before each step, one step at a time from nothing."""
    belief, features, beliefs = torch.zeros(seen.shape[1], net.belief_size), [], []
    for frame, begins in zip(seen, first, strict=True):
        beliefs.append(belief)
        belief = torch.where(
            begins[:, None], torch.full_like(belief, torch.nan), belief
        )  # it must not matter
        feature, belief = net.encode(frame, belief, begins)
        features.append(feature)
    return torch.stack(features), torch.stack(beliefs)


# -- what was stored -----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("kind", ["stack", "gru", "lstm"])
@torch.no_grad()
def test_stored_beliefs_are_those_of_one_step_at_a_time_that_no_final_observation_moved(algo: str, kind: str):
    learner = collected(algo, **both(kind))
    batch = rows_of(learner)
    expected = [plain(net, batch["obs"], batch["is_first"])[1] for net in (learner.policy, learner.critic)]
    torch.testing.assert_close(learner.replay.beliefs[:STEPS], torch.cat(expected, -1), rtol=1e-6, atol=1e-6)
    assert all(beliefs[5:].abs().max() > 0.01 for beliefs in expected)
    assert batch["is_first"][0].all() and torch.equal(batch["is_first"][1:], batch["done"][:-1])


@BOTH
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_window_repeats_what_was_done_and_what_the_critics_saw(algo: str, kind: str):
    burn_in: dict[str, Any] = {"burn_in": 2} if kind in RECURRENT else {}
    learner = collected(algo, **both(kind), **burn_in, n_step=2)
    networks, rows, batch = learner.agent, rows_of(learner), windows_of(learner)
    assert learner.length == (7 if kind in RECURRENT else 2) and batch["done"][:-1].any()
    policy, critic = learner.policy, learner.critic
    for net, of, head in (
        (policy, networks.policy_now, policy.decode),
        (critic, networks.critic_now, torch.clone),
    ):
        expected = head(plain(net, rows["obs"], rows["is_first"])[0])
        expected = cut(expected, learner, networks.burn_in, networks.window)
        torch.testing.assert_close(of(net, batch), expected, rtol=1e-6, atol=1e-6)
    done, acted = networks.now(batch["action"]), policy.mode(networks.policy_now(policy, batch))
    policys = (
        cut(torch.arange(STEPS)[:, None].expand(STEPS, 3), learner, networks.burn_in, networks.window) >= 8
    )
    torch.testing.assert_close(done[policys], acted[policys], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["stack", "gru"])
@torch.no_grad()
def test_what_is_remembered_matters(kind: str):
    learner = collected("td3", **both(kind))
    batch = windows_of(learner)
    forgotten = {**batch, "belief": torch.zeros_like(batch["belief"])}
    acted = learner.agent.policy_now
    assert (acted(learner.policy, batch) - acted(learner.policy, forgotten)).abs().max() > 1e-2


@torch.no_grad()
def test_a_mirrored_memory_repeats_what_it_did():
    learner = learner_of("sac", Symmetric, **both("gru"), mirror=True)
    for _ in range(STEPS):
        learner._collect(torch.zeros(3, 2))
    assert learner.belief.shape == (3, 10) and learner.critic_belief.shape == (3, 10)
    rows = learner.agent.batch(learner.replay.rows[8:STEPS], learner.replay.beliefs[8])
    window = {name: x[:4] if name not in ("belief", "critic_belief") else x for name, x in rows.items()}
    torch.testing.assert_close(
        learner.policy.mode(learner.agent.policy_now(learner.policy, window)), window["action"]
    )


# -- burn-in -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RECURRENT)
@torch.no_grad()
def test_a_burn_in_changes_nothing_while_the_weights_have_not_moved(kind: str):
    learner = collected("sac", **both(kind), burn_in=3, n_step=2)
    networks, batch = learner.agent, windows_of(learner)
    rows, stored = cut(learner.replay.rows, learner, 3, 5), cut(learner.replay.beliefs, learner, 3, 1)[0]
    later = dict(networks.batch(rows, stored))
    whole = [networks.policy_now(learner.policy, batch), networks.critic_now(learner.critic, batch)]
    networks.burn_in = 0
    short = [networks.policy_now(learner.policy, later), networks.critic_now(learner.critic, later)]
    for one, other in zip(whole, short, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", RECURRENT)
def test_no_gradient_flows_into_the_burn_in(kind: str):
    agent = agent_of("sac", Blurred, **both(kind), burn_in=3)
    batch = a_batch(agent, ends=0.0)
    names = ("obs", "belief", "critic_belief")
    for name in names:
        batch[name].requires_grad_()
    for net, of in ((agent.policy, agent.policy_now), (agent.critic, agent.critic_now)):
        grads = torch.autograd.grad(of(net, batch).sum(), [batch[n] for n in names], materialize_grads=True)
        assert not grads[0][:3].any() and not grads[1].any() and not grads[2].any()
        assert (grads[0][3:].abs().amax((1, 2)) > 0).all()
    assert agent.burn_in == 3 and agent_of("sac", Blurred, burn_in=3).burn_in == 0
    assert agent_of("sac", Blurred, belief="gru", burn_in=3, window=1).burn_in == 3


# -- targets -------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("kind", ["stack", "gru"])
@torch.no_grad()
def test_targets_are_those_of_one_step_at_a_time_and_go_on_from_the_belief_after_their_last(
    algo: str, n: int, kind: str
):
    burn_in: dict[str, Any] = {"burn_in": 1} if kind in RECURRENT else {}
    agent = agent_of(algo, Blurred, **both(kind), **burn_in, n_step=n, critics=3)
    batch = a_batch(agent, windows=12, ends=0.3)
    sums = agent.sums(batch)
    acting = agent.policy.mode(agent.policy_next(agent.policy, batch, sums.last))
    target = target_of(agent, batch, acting)[..., 0]
    going, critic, ends = torch.tensor([False]), agent.critic_target.module, 0
    for m in range(12):
        ours, theirs = batch["belief"][m : m + 1], batch["critic_belief"][m : m + 1]
        beliefs, rows = [], len(batch["reward"])
        for t in range(rows):
            obs, first = batch["obs"][t, m][None], batch["is_first"][t, m][None]
            ours, theirs = agent.policy.encode(obs, ours, first)[1], critic.encode(obs, theirs, first)[1]
            beliefs.append((ours, theirs))
        for k in range(agent.window):
            total, discount, t = 0.0, 1.0, 0
            for t in range(agent.burn_in + k, agent.burn_in + k + n):
                total += discount * batch["reward"][t, m].item()
                discount *= agent.config.gamma
                if batch["done"][t, m]:
                    ends += 1
                    break
            final, (ours, theirs) = batch["final_obs"][t, m][None], beliefs[t]
            said = agent.policy.decode(agent.policy.encode(final, ours, going)[0])
            torch.testing.assert_close(acting[k, m], agent.policy.mode(said)[0])
            q = critic.decode(critic.encode(final, theirs, going)[0], acting[k, m][None])[:, 0, 0]
            value = 0.0 if batch["terminated"][t, m] else discount * q.min().item()
            assert target[:, k, m].tolist() == pytest.approx([total + value] * 3, abs=1e-5)
    assert ends > 3


# -- what learns, and how fast ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_memory_learns_at_its_own_rate(kind: str):
    agent = agent_of("sac", Blurred, **both(kind), lr=1e-3, belief_lr=1e-5)
    before = {adam: adam.flat.clone() for adam in (agent.actor, agent.critics)}
    gradient_step(agent, a_batch(agent))
    for adam, old in before.items():
        moved, moments = adam.views(adam.flat - old), adam.views(adam.first)
        own = [name for name in moved if name.startswith("belief")]
        assert 0 < len(own) < len(moved)
        for name, x in moved.items():
            rate, clear = 1e-5 if name in own else 1e-3, moments[name].abs() > 1e-6
            assert clear.any(), name
            expected = -rate * moments[name].sign()  # Adam's first step is lr * sign
            torch.testing.assert_close(x[clear], expected[clear], rtol=0.02, atol=1e-7)


@BOTH
@pytest.mark.parametrize("policy", ["memoryless", "gru"])
def test_policy_and_critics_remember_apart(algo: str, policy: str):
    learner = learner_of(algo, Blurred, belief=policy, critic_belief="lstm", utd=0.2)
    logged = [learner.iterate() for _ in range(2)]
    assert learner.belief.shape == (3, {"memoryless": 0, "gru": 5}[policy])
    assert learner.critic_belief.shape == (3, 10) and learner.agent.window == 4
    assert all(torch.isfinite(torch.tensor([*said.values()])).all() for said in logged)


@torch.no_grad()
def test_a_simulation_that_breaks_spoils_no_memory():
    learner = learner_of("sac", Blurred, **both("gru"), utd=0.2)
    learner.iterate()
    learner.env.sim.qvel[1] = torch.nan
    assert learner.iterate()["episode/bad"] > 0
    assert learner.replay.rows[:20].isfinite().all() and learner.replay.beliefs[:20].isfinite().all()
    assert all(x.isfinite().all() for x in numbers_of(learner.agent).values())


# -- as a file -----------------------------------------------------------------------------------------


CASES = [
    pytest.param("sac", "gru", True, marks=pytest.mark.medium),
    pytest.param("td3", "stack", False, marks=pytest.mark.medium),
    pytest.param("sac", "memoryless", False, marks=pytest.mark.slow),
    pytest.param("sac", "stack", True, marks=pytest.mark.slow),
    pytest.param("td3", "memoryless", True, marks=pytest.mark.slow),
    pytest.param("td3", "gru", False, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("algo", "kind", "mirror"), CASES)
def test_a_policy_passes_the_gate(algo: str, kind: str, mirror: bool, tmp_path: Path):
    task = Symmetric if mirror else Arm
    policy = learner_of(algo, task, belief=kind, critic_belief="memoryless", mirror=mirror).policy
    with torch.no_grad():
        policy.get_parameter("head.2.weight").mul_(3)  # so that it acts
    report = export(policy, robokit.make(task, num_envs=2, threads=1), tmp_path / "policy.onnx")
    assert report.path.exists() and all(0 < p.ctrl_error <= TOLERANCE for p in report.parity)


@BOTH
@pytest.mark.parametrize("kind", ["memoryless", "gru"])
def test_a_policy_is_evaluated_as_it_explores(algo: str, kind: str):
    learner = learner_of(algo, Arm, belief=kind)
    ran = [run_episodes(Env(Arm(), 4, threads=1), sampling_actor(learner.policy, seed)) for seed in (1, 1, 2)]
    assert ran[0].returns.tolist() == ran[1].returns.tolist()
    assert ran[0].lengths.max() <= 30
