"""PPO with memories: chunks reproduce the rollout's beliefs; no memory crosses an episode's end."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import assert_equal, metrics, new
from test_mirror import Symmetric
from torch import Generator, Tensor

from robokit.algos.ppo import Config, Learner
from robokit.env.env import Env
from robokit.learning.adam import Adam, Losses
from robokit.learning.rollout import Rollout, pack, unpack
from robokit.networks.belief import KINDS, RECURRENT
from robokit.networks.distributions import log_prob
from robokit.sim.base import Sim
from robokit.task.lookup.find import load_task
from robokit.task.sense import Sense
from robokit.task.task import Task, Terms, uniform
from robokit.training.loop import train

InvertedPendulum = type(load_task("inverted_pendulum"))
TINY = Config(num_envs=4, horizon=16, minibatch=64, epochs=1, hidden=(8,), belief_size=6, scale_reward=False)
STEPS, N = TINY.horizon, TINY.simulations


class Blurred(InvertedPendulum):  # pyright: ignore
    """Ends both ways, and is seen late, in part, and not always; its actuator is late too."""

    time_limit = 0.4  # 10 control steps
    memory = {"fate": 1}  # control steps after which an episode is terminated
    weights = {"low": 1.0}
    history = 3
    sensing = {
        "position": Sense(noise=0.01, bias=0.02, delay=(0.0, 0.1), dropout=0.2),
        "velocity": Sense(hidden=True),
    }
    action_delay = (0.0, 0.06)

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        fate = 11 + uniform(sim, rng, 1, 9.0)
        return {"qpos": uniform(sim, rng, 2, 0.5), "qvel": uniform(sim, rng, 2, 0.5), "fate": fate.round()}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"low": sim.qpos[:, 1].square()}

    def terminated(self, sim: Sim) -> Tensor:
        return sim.memory["age"][:, 0] >= sim.memory["fate"][:, 0]


class Watched(Learner):
    """Keeps its newest rollout, what that was worth, and what the first gradient step on it was given."""

    rollout: Rollout
    worth: tuple[Tensor, Tensor, Tensor, Tensor]
    given: tuple[dict[str, Tensor], Tensor] | None = None
    found: tuple[Tensor, ...]  # mean, log_std and value of the networks then

    def collect(self) -> Rollout:
        self.rollout = super().collect()
        return self.rollout

    def targets(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self.worth, self.given = super().targets(rollout), None
        return self.worth

    def _make_update(self, adam: Adam, compile: bool) -> Callable[..., Losses]:
        update = super()._make_update(adam, compile)

        def watched(lr: Tensor, rows: Tensor, belief: Tensor, *rest: Tensor) -> Losses:
            if self.given is None:
                batch = dict(unpack(rows, self.widths))
                self.given = batch, belief
                self.found = adam.module(batch["obs"], batch["state"], batch["is_first"], belief)
                self.found = tuple(x.detach().clone() for x in self.found)
            return update(lr, rows, belief, *rest)

        return watched


def tiny(task: type[Task] = Blurred, seed: int = 0, **changes: Any) -> Watched:
    """A learner whose means and values depend on what it sees and remembers."""
    config = dataclasses.replace(TINY, **changes)
    learner = Watched(Env(task(), config.simulations, seed=seed, threads=1), config, seed)
    with torch.no_grad():
        learner.policy.get_parameter("head.2.weight").mul_(50)  # not as timid as PPO begins
    return learner


def both(kind: str) -> dict[str, Any]:
    return {"belief": kind, "critic_belief": kind}


def has_episode_ends_inside(rollout: Rollout) -> bool:
    truncated = rollout.done & ~rollout.terminated
    return all(bool(x[1:-1].any()) for x in (truncated, rollout.terminated, rollout.is_first))


# -- chunks ------------------------------------------------------------------------------------------


def test_packing_by_hand():
    time = torch.arange(4.0)[:, None].expand(4, 2)
    simulation = torch.tensor([10.0, 20.0]).expand(4, 2)
    value, first = time + simulation, time + simulation == 12
    rows = pack([torch.stack((time, simulation), -1), value, first, first], 2)
    assert rows[..., 2].tolist() == [[10, 11], [20, 21], [12, 13], [22, 23]]
    batch = unpack(rows, {"obs": 2, "advantage": 1, "is_first": 1, "share": 1})
    assert batch["obs"].shape == (2, 4, 2)
    assert batch["obs"][1].tolist() == [[1, 10], [1, 20], [3, 10], [3, 20]]
    assert batch["advantage"].tolist() == [[10, 20, 12, 22], [11, 21, 13, 23]]
    assert batch["is_first"].tolist() == [[False, False, True, False], [False] * 4]
    assert pack([value], 1).shape == (8, 1, 1) and pack([value], 4)[..., 0].tolist() == value.T.tolist()


@torch.no_grad()
def test_every_episode_begins_with_nothing_remembered_whatever_ended_the_one_before():
    learner = tiny(belief="gru")
    one, two = learner.collect(), learner.collect()
    first, done, mean, obs = (
        torch.cat((getattr(one, k), getattr(two, k))) for k in ("is_first", "done", "mean", "obs")
    )
    assert has_episode_ends_inside(one) and has_episode_ends_inside(two)
    assert first[0].all() and torch.equal(first[1:], done[:-1])
    begins = obs[first]
    seen, _ = learner.policy.encode(begins, torch.zeros(len(begins), 6), torch.zeros(len(begins)).bool())
    torch.testing.assert_close(mean[first], learner.policy.decode(seen), rtol=0, atol=1e-6)


CHUNKS = pytest.mark.parametrize("chunk", [1, 4, 16])


@CHUNKS
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_gradient_step_finds_what_was_collected(kind: str, chunk: int):
    learner = tiny(**both(kind), chunk=chunk)
    for _ in range(2):  # in the second the normaliser is live and episodes go on from the first
        learner.iterate()
    assert has_episode_ends_inside(learner.rollout)
    assert learner.given is not None
    batch, belief = learner.given
    mean, log_std, value = learner.found
    chunk = chunk if kind in RECURRENT else 1  # without training through time it has no meaning
    assert batch["obs"].shape == (chunk, STEPS * N // chunk, 2)
    torch.testing.assert_close(mean, batch["mean"], rtol=0, atol=1e-6)
    torch.testing.assert_close(value, batch["value"], rtol=0, atol=1e-6)
    ratio = (log_prob(batch["action"], mean, log_std) - batch["log_prob"]).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=2e-6)
    if kind != "memoryless":
        lost = learner.net(batch["obs"], batch["state"], batch["is_first"], torch.zeros_like(belief))
        assert (lost[0] - mean).abs().max() > 1e-3 and (lost[2] - value).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_ratio_of_every_rollout_is_one(kind: str):
    learner = tiny(**both(kind))
    for logged in (learner.iterate() for _ in range(3)):
        assert logged["loss/clipped"] == 0.0
        assert abs(logged["loss/kl"]) < 1e-9


@CHUNKS
@pytest.mark.parametrize("kind", RECURRENT)
def test_gradients_are_those_of_a_plain_loop_that_is_cut_every_chunk(kind: str, chunk: int):
    learner = tiny(**both(kind), chunk=chunk, lr=1e-30)  # the weights stay
    learner.iterate()
    start = learner.belief, learner.critic_belief
    learner.policy.normalizer.active = learner.critic.normalizer.active = False  # nor does it move
    learner.iterate()
    assert learner.given is not None
    batch, belief = learner.given
    mean, _, value = learner.net(batch["obs"], batch["state"], batch["is_first"], belief)
    ours = (mean * batch["action"]).sum() + (value * batch["target"]).sum()
    theirs, rollout = torch.zeros(()), learner.rollout
    for n in range(N):
        h, g = (belief[n : n + 1] for belief in start)
        for t in range(STEPS):
            if t % chunk == 0:
                h, g = h.detach(), g.detach()
            obs, state, first = (x[t, n][None] for x in (rollout.obs, rollout.state, rollout.is_first))
            seen, h = learner.policy.encode(obs, h, first)
            judged, g = learner.critic.encode(state, g, first)
            mean, value = learner.policy.decode(seen), learner.critic.decode(judged)
            theirs = theirs + mean[0] @ rollout.action[t, n] + value[0] * learner.worth[2][t, n]
    names = [name for name, _ in learner.net.named_parameters() if name != "policy.log_std"]
    weights = [learner.net.get_parameter(name) for name in names]
    grads = (torch.autograd.grad(loss, weights) for loss in (ours, theirs))
    for name, mine, plain in zip(names, *grads, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", ["memoryless", "stack"])
def test_without_training_through_time_a_chunk_has_no_meaning(kind: str):
    one, other = (tiny(**both(kind), chunk=chunk, epochs=2, minibatch=32) for chunk in (1, 16))
    assert [one.iterate() for _ in range(2)] == [other.iterate() for _ in range(2)]
    assert torch.equal(one.adam.flat, other.adam.flat)


@pytest.mark.parametrize("critic", ["memoryless", "lstm"])
@pytest.mark.parametrize("policy", ["memoryless", "stack", "gru"])
def test_policy_and_critic_remember_apart(policy: str, critic: str):
    learner = tiny(belief=policy, critic_belief=critic)
    learner.iterate()
    assert learner.belief.shape == (N, {"memoryless": 0, "stack": 6, "gru": 6}[policy])
    assert learner.critic_belief.shape == (N, {"memoryless": 0, "lstm": 12}[critic])
    learner.iterate()
    assert learner.given is not None
    torch.testing.assert_close(learner.found[0], learner.given[0]["mean"], rtol=0, atol=1e-6)


def test_a_mirrored_memory_learns_from_what_it_did():
    learner = tiny(Symmetric, belief="gru", critic_belief="lstm", mirror=True, chunk=4)
    for _ in range(2):
        learner.iterate()
    assert learner.belief.shape == (N, 12)
    assert learner.given is not None and learner.rollout.is_first[1:-1].any()
    torch.testing.assert_close(learner.found[0], learner.given[0]["mean"], rtol=0, atol=1e-6)


# -- the critic's memory -----------------------------------------------------------------------------


@torch.no_grad()
def plain(learner: Learner, rollout: Rollout, n: int, belief: Tensor) -> tuple[list[float], Tensor]:
    """Advantages of simulation n and the critic's belief after it, one step at a time."""
    config, no = learner.config, torch.tensor([False])
    values, ahead, forgetful = [], [], []
    for t in range(STEPS):
        value, belief = learner.critic(rollout.state[t, n][None], belief, rollout.is_first[t, n][None])
        final = rollout.final_state[t, n][None]
        values.append(value.item())
        ahead.append(learner.critic(final, belief, no)[0].item())
        forgetful.append(learner.critic(final, torch.zeros_like(belief), no)[0].item())
    advantages, tail = [], 0.0
    for t in reversed(range(STEPS)):
        bootstrap = 0.0 if rollout.terminated[t, n] else config.gamma * ahead[t]
        delta = rollout.reward[t, n].item() + bootstrap - values[t]
        tail = delta + (0.0 if rollout.done[t, n] else config.gamma * config.lam * tail)
        advantages.insert(0, tail)
    assert max(abs(a - b) for a, b in zip(ahead, forgetful, strict=True)) > 1e-2  # else it proves nothing
    return advantages, belief


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("seen", ["state", "obs"])
def test_values_and_advantages_are_those_of_one_step_at_a_time(kind: str, seen: str):
    learner = tiny(critic_belief=kind, critic=seen)
    belief = torch.zeros(N, learner.critic_belief.shape[1])
    for _ in range(3):  # nothing is learned between them, so that beliefs go on
        rollout = learner.collect()
        assert has_episode_ends_inside(rollout)
        torch.testing.assert_close(learner.critic_belief, belief, rtol=0, atol=1e-6)
        _, advantage, *_ = learner.targets(rollout)
        for n in range(N):
            expected, after = plain(learner, rollout, n, belief[n : n + 1])
            assert advantage[:, n].tolist() == pytest.approx(expected, abs=1e-5)
            belief[n] = after
    assert belief.abs().max() > 0.01


def test_what_follows_a_reset_does_not_move_the_value_before_it():
    learner = tiny(critic_belief="gru")
    rollout, start = learner.collect(), learner.critic_belief
    _, before, *_ = learner.targets(rollout)
    ends = rollout.done[:-1].nonzero().tolist()
    for t, n in ends:
        state = rollout.state.clone()
        state[t + 1 :, n] += 1.0
        learner.critic_belief = start
        _, after, *_ = learner.targets(dataclasses.replace(rollout, state=state))
        assert torch.equal(after[: t + 1, n], before[: t + 1, n])
        assert not torch.equal(after[t + 1 :, n], before[t + 1 :, n])
    assert len(ends) > N


class Secret(Blurred):
    """Hides a number from the policy, and tells the critic another."""

    size = 1.0
    sensing = {**Blurred.sensing, "secret": Sense(hidden=True)}

    def observe(self, sim: Any) -> dict[str, Tensor]:
        return {**super().observe(sim), "secret": self.size * sim.qpos[:, :1]}

    def privileged(self, sim: Any) -> dict[str, Tensor]:
        return {"told": self.size * sim.qvel}


class Louder(Secret):
    size = 3.0


@pytest.mark.parametrize("kind", ["memoryless", "gru"])
def test_a_critic_of_obs_sees_what_the_sensors_give_and_one_of_state_everything(kind: str):
    def run(task: type[Task], critic: str) -> tuple[Watched, list[dict[str, float]]]:
        learner = tiny(task, belief="gru", critic=critic, critic_belief=kind)
        return learner, [learner.iterate() for _ in range(2)]

    (sensed, quiet), (_, loud) = (run(task, "obs") for task in (Secret, Louder))
    assert quiet == loud
    assert torch.equal(sensed.rollout.state, sensed.rollout.obs) and sensed.rollout.obs.shape[-1] == 2
    on = ~sensed.rollout.done[:-1]
    assert torch.equal(sensed.rollout.final_state[:-1][on], sensed.rollout.obs[1:][on])
    (_, quiet), (told, loud) = (run(task, "state") for task in (Secret, Louder))
    assert quiet[0]["loss/value"] != loud[0]["loss/value"]
    assert told.rollout.state.shape[-1] == 2 + 2 + 1 + 2
    assert not torch.equal(told.rollout.state[..., :2], told.rollout.obs)  # exact


def test_a_simulation_that_breaks_spoils_no_memory():
    learner = tiny(InvertedPendulum, **both("gru"))
    learner.iterate()
    learner.env.sim.qvel[1] = torch.nan
    metrics = learner.iterate()
    assert metrics["episode/bad"] > 0 and learner.rollout.bad[0, 1] and learner.rollout.is_first[1, 1]
    assert all(math.isfinite(v) for v in metrics.values())
    assert all(bool(x.isfinite().all()) for x in (learner.belief, learner.critic_belief, learner.adam.flat))


# -- save and continue, compiled ---------------------------------------------------------------------

COMPILED = pytest.param({"compile": True}, marks=pytest.mark.slow)


@pytest.mark.parametrize("changes", [{"critic_belief": "lstm"}, {"critic_belief": "mingru"}, COMPILED])
def test_a_learner_with_a_memory_continues_bit_for_bit(changes: dict[str, Any]):
    changes = {"belief": "gru", "critic_belief": "gru", "chunk": 4, "epochs": 2, "minibatch": 32, **changes}
    straight = tiny(**changes)
    first = [straight.iterate() for _ in range(2)]
    saved = straight.state_dict()
    assert straight.is_first.any() < straight.is_first.numel() and straight.belief.any()  # episodes are cut
    rest = [straight.iterate() for _ in range(3)]
    assert has_episode_ends_inside(straight.rollout)
    other = tiny(seed=5, **changes)
    other.iterate()  # what it remembers of its own is overwritten
    other.load_state_dict(saved)
    assert [other.iterate() for _ in range(3)] == rest != first
    for name, value in straight.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.medium
def test_a_run_with_a_memory_continues_bit_for_bit_from_its_checkpoint(tmp_path: Path):
    changes = {"belief": "gru", "critic_belief": "lstm", "chunk": 8, "minibatch": 32}
    steps, straight, broken = 5 * STEPS * N, new(tmp_path), new(tmp_path)
    whole, part = tiny(**changes), tiny(seed=5, **changes)
    train(whole, straight, steps)
    train(tiny(**changes), broken, 2 * STEPS * N)
    train(part, broken, steps)
    assert_equal(part, whole)
    assert metrics(broken) == metrics(straight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "task", "mirror"),
    [("gru", Blurred, False), ("mingru", Blurred, False), ("gru", Symmetric, True)],
)
def test_the_compiled_update_of_a_memory_is_the_eager_one(kind: str, task: type[Task], mirror: bool):
    changes = {**both(kind), "chunk": 8, "epochs": 2, "minibatch": 32, "mirror": mirror}
    eager, compiled = (tiny(task, **changes, compile=c) for c in (False, True))
    for _ in range(2):
        rollout = eager.collect()
        collected = compiled.collect()
        torch.testing.assert_close(collected.mean, rollout.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(collected.belief, rollout.belief, rtol=1e-4, atol=1e-5)
        ours, theirs = eager.learn(rollout), compiled.learn(rollout)
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-5)
    for a, b in zip(eager.net.parameters(), compiled.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
