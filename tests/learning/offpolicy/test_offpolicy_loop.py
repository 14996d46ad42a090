"""The loop of SAC and TD3: number of gradient steps, limits, resuming bit for bit, compiling."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from agents import BOTH, Limited, Plain, a_batch, agent_of, gradient_step, learner_of, numbers_of
from bandits import Three, Two
from test_loop import assert_equal, metrics
from test_recurrent import Secret
from torch import Tensor

from robokit.algos import sac
from robokit.learning.offpolicy.loop import OffPolicy
from robokit.learning.offpolicy.options import Pace
from robokit.learning.offpolicy.replay import Replay
from robokit.limits.limit import Limit
from robokit.limits.multipliers import SLOW
from robokit.task.task import Task
from robokit.training.loop import train
from robokit.training.run import Run

RARE = 1e-3  # gradient steps per transition: none in a test

# -- the loop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("utd", "expected"),
    [
        (0.25, [0, 0, 1, 2, 3, 4]),
        (0.1, [0, 0, 0, 0, 1, 1]),
        (1.0, [0, 0, 4, 8, 12, 16]),
        (3.0, [0, 0, 12, 24, 36, 48]),
        (None, [0, 0, 4, 8, 12, 16]),
    ],
)
def test_gradient_steps_are_so_many_a_transition_once_learning_has_started(utd: float, expected: list[int]):
    learner = learner_of("td3", num_envs=4, learning_starts=8, utd=utd)
    learner.horizon, counted = 1, []
    for _ in expected:
        learner.iterate()
        counted.append(learner.gradients)
    assert counted == expected
    assert learner.config.sizes.updates == int((1000 - 8) * (utd or 1))


def test_many_simulations_learn_eight_times_a_control_step_from_larger_batches_unless_it_is_said():
    def pace(**options: Any) -> tuple[float, ...]:
        return Pace.of(sac.Config(**options))

    assert pace() == (5000, 256, 1.0)
    assert pace(num_envs=8) == (5000, 256, 1.0)
    assert pace(num_envs=64) == (5000, 512, 1 / 8)
    assert pace(num_envs=2048) == (20_480, 8192, 1 / 256)
    assert pace(num_envs=2048, utd=0.5, batch=100, learning_starts=200) == (200, 100, 0.5)
    learner = learner_of("sac", num_envs=32, learning_starts=64)
    assert [learner.pace.gradients(64 + 32 * k) for k in (-1, 0, 1, 10)] == [0, 0, 8, 80]


@BOTH
@torch.no_grad()
def test_actions_are_uniform_until_learning_starts_and_then_the_policys(algo: str):
    learner = learner_of(algo, num_envs=4, learning_starts=1200, replay=2000, steps=2400, utd=RARE)
    for _ in range(400):
        learner._collect(torch.zeros(4, 2))  # without noise, what is exported
    rows, _ = learner.replay.rows[:400], learner.replay.beliefs
    batch = learner.agent.batch(rows.flatten(0, 1)[None], torch.zeros(1600, 0))
    action = batch["action"][0].unflatten(0, (400, 4))
    with torch.no_grad():
        policys = learner.policy.mode(learner.policy.decode(batch["obs"][0])).unflatten(0, (400, 4))
    torch.testing.assert_close(action[300:], policys[300:])
    drawn = action[:300].flatten()
    assert ((drawn - policys[:300].flatten()).abs() > 1e-3).float().mean() > 0.95
    assert -1 <= drawn.min() < -0.99 and 0.99 < drawn.max() <= 1
    assert abs(drawn.mean()) < 0.05 and drawn.var().item() == pytest.approx(1 / 3, abs=0.02)


@BOTH
@torch.no_grad()
def test_the_row_of_a_step_is_what_the_environment_said_of_it(algo: str):
    learner, given = learner_of(algo, Secret, critic="state"), []
    for _ in range(30):
        seen = learner.env.obs, learner.env.state, learner.is_first
        given.append((*seen, learner._collect(torch.zeros(3, 1))))
    batch = learner.agent.batch(learner.replay.rows[:30], torch.zeros(3, 0))
    own = ("done", "reward", "terminated", "steps_left", "final_obs", "final_state")
    for t, (obs, state, first, step) in enumerate(given):
        row = {"obs": obs, "state": state, "is_first": first, **{name: step[name] for name in own}}
        for name, value in row.items():
            assert torch.equal(batch[name][t], value), name
    assert batch["terminated"].any() and (batch["done"] & ~batch["terminated"]).any()
    ended = batch["done"][:-1]
    assert torch.equal(batch["final_obs"][:-1][~ended], batch["obs"][1:][~ended])
    assert not torch.equal(batch["final_obs"][:-1][ended], batch["obs"][1:][ended])


@BOTH
def test_the_normaliser_moves_after_the_gradient_steps_and_the_targets_have_the_same(algo: str):
    learner = learner_of(algo, normalize_obs=True, utd=0.3)
    means = watch(learner, lambda act, given: tuple(learner.policy.normalizer.mean.tolist()))
    for _ in range(3):
        learner.iterate()
    seen = 3 * learner.steps_per_iteration
    assert learner.policy.normalizer.count[0].item() == pytest.approx(seen, abs=0.01)
    assert torch.equal(learner.policy.normalizer.mean, learner.critic.normalizer.mean)
    assert len({*means}) == 3 < len(means)
    targets = [target.module for target, _ in learner.agent.targets]
    assert all(x.normalizer in (learner.policy.normalizer, learner.critic.normalizer) for x in targets)


@BOTH
def test_targets_take_on_a_share_of_what_they_follow(algo: str):
    agent = agent_of(algo, tau=0.1)
    before = agent.critic_target.flat.clone()
    gradient_step(agent, a_batch(agent))
    torch.testing.assert_close(agent.critic_target.flat, 0.9 * before + 0.1 * agent.critics.flat)


@BOTH
def test_gradients_are_clipped_to_the_norm_that_is_asked_for(algo: str):
    agent = agent_of(algo, max_grad_norm=1e-3)
    batch = a_batch(agent)
    assert gradient_step(agent, batch)["critic_grad_norm"] > 1e-2
    for adam in (agent.critics, agent.actor):
        assert adam.first.norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


# -- limits -------------------------------------------------------------------------------------------


@BOTH
@torch.no_grad()
def test_costs_go_into_the_replay_as_they_were(algo: str):
    learner = learner_of(algo, Limited)
    costs = torch.stack([learner._collect(torch.zeros(3, 2))["cost"] for _ in range(7)])
    begin = sum(width for name, width in [*learner.replay.widths.items()][:-1])
    assert [*learner.replay.widths][-1] == "cost"
    assert torch.equal(learner.replay.rows[:7, :, begin:], costs) and costs[..., 0].unique().numel() > 10


def watch(learner: OffPolicy, look: Callable[[bool, tuple[Tensor, ...]], Any]) -> list[Any]:
    """What `look` makes of each gradient step from now on: whether it acts, and what it is given."""
    seen = list[Any]()

    def watched(act: bool, update: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: (seen.append(look(act, given)), update(*given))[1]

    learner.update = {act: watched(act, update) for act, update in learner.update.items()}
    return seen


def prices_in(learner: OffPolicy) -> list[tuple[Tensor, Tensor]]:
    """price and weight of each gradient step from now on."""
    return watch(learner, lambda act, given: (given[-2].clone(), given[-1].clone()))


class Strict(Two):
    limits = {"use": Limit(0.05)}


@BOTH
def test_a_limit_that_was_broken_before_learning_began_counts_from_the_first_step_on(algo: str):
    learner = learner_of(algo, Strict, num_envs=4, learning_starts=40, utd=0.25)
    told = prices_in(learner)
    for _ in range(2):
        learner.iterate()
    assert learner.constrained.multipliers.strength.item() > 0 and len(told) == 10
    first = 1  # gradient step, after which it is known what a reward is
    assert all((weight > 0).all() for _, weight in told)
    assert all((price == 0).all() for price, _ in told[:first])
    assert all((price > 0).all() for price, _ in told[first:])
    assert len({price.item() for price, _ in told[first:]}) == 1  # until the multipliers move again
    learner.iterate()
    assert told[10][0] != told[9][0]


@BOTH
def test_a_fixed_price_is_paid_in_reward_per_unit_of_cost_from_the_very_first_step(algo: str):
    learner = learner_of(algo, Three, num_envs=4, utd=0.25, limit_rule="fixed", penalty=2.0)
    told = prices_in(learner)
    learner.iterate()
    assert len(told) == 4 and all(price.tolist() == [2.0] * 3 for price, _ in told)


@BOTH
def test_without_limits_nothing_is_charged_nor_kept(algo: str):
    learner = learner_of(algo, Three, limit_rule="off")
    assert learner.agent.widths["cost"] == 0 and len(learner.critic.sizes) == 1
    logged = learner.iterate()
    assert not [name for name in logged if name.startswith("limit/")] and "cost/first" in logged


def test_units_of_costs_forget_the_critics_of_the_first_gradient_steps(monkeypatch: pytest.MonkeyPatch):
    learner, weights, counts = learner_of("sac", Limited, utd=0.5), list[float](), [0]
    follow = learner.constrained.multipliers.follow

    def watched(now: Tensor, slow: float = SLOW) -> None:
        if learner.gradients > 1:  # the first gradient step tells the units by itself
            weights.append(slow)
            counts.append(learner.gradients)
        follow(now, slow)

    monkeypatch.setattr(learner.constrained.multipliers, "follow", watched)
    while learner.gradients < 400:
        learner.iterate()
    shares = [new / counts[i] for i, new in enumerate((b - a for a, b in pairwise(counts)), 1)]
    assert weights == pytest.approx([min(SLOW, 1 - share) for share in shares])
    assert weights[0] == 0.0 and weights[1] < SLOW == weights[-1]


# -- save and continue ---------------------------------------------------------------------------------


SAVED = {
    "memoryless": {"num_envs": 1, "replay": 400, "normalize_obs": True},
    "gru": {"belief": "gru", "critic_belief": "gru", "burn_in": 2, "n_step": 2, "replay": 60},
}


def copied(learner: OffPolicy, other: OffPolicy) -> None:
    """Take over what a checkpoint would hold."""
    other.load_state_dict(learner.state_dict())
    for number, tensors in learner.replay.segments().items():
        other.replay.load_segment(number, {name: x.clone() for name, x in tensors.items()})


def assert_remember_alike(one: Replay, other: Replay) -> None:
    slots = [step % one.steps for step in range(one.oldest, one.position)]
    assert (one.position, one.oldest) == (other.position, other.oldest)
    assert torch.equal(one.rows[slots], other.rows[slots])
    assert torch.equal(one.beliefs[slots], other.beliefs[slots])


@BOTH
@pytest.mark.parametrize("memory", SAVED)
@pytest.mark.parametrize("task", [Plain, Limited])
@torch.no_grad()
def test_a_learner_continues_bit_for_bit(algo: str, memory: str, task: type[Task]):
    changes = {**SAVED[memory], "utd": 0.15}
    straight, other = (learner_of(algo, task, seed, **changes) for seed in (0, 5))
    for learner in (straight, other):
        learner.horizon = 33 // learner.env.num_envs
    first = [straight.iterate() for _ in range(2)]
    while not straight.is_first.any():  # a new episode is about to begin in one of them
        straight._collect(torch.zeros(straight.env.num_envs, 2))
    other.iterate()  # that was somewhere else
    assert not torch.equal(straight.is_first, other.is_first)
    copied(straight, other)
    assert_equal(straight, other)
    rest = [straight.iterate() for _ in range(3)]
    assert [other.iterate() for _ in range(3)] == rest != first
    assert straight.gradients > 15 and "loss/policy" in rest[0]
    assert_equal(straight, other)
    assert_remember_alike(straight.replay, other.replay)


@BOTH
def test_equal_seeds_learn_equally_and_others_do_not(algo: str):
    def of(seed: int) -> list[dict[str, float]]:
        learner = learner_of(algo, seed=seed)
        return [learner.iterate() for _ in range(2)]

    assert of(0) == of(0) != of(1)


@BOTH
@pytest.mark.medium
def test_a_run_continues_bit_for_bit_from_its_checkpoint_and_segments(algo: str, tmp_path: Path):
    def new(name: str) -> Run:
        return Run.create(tmp_path / name, "toy", 1 << 40, {"seed": 0}, {})

    changes = {**SAVED["gru"], "utd": 0.1}
    whole, straight, broken = learner_of(algo, Limited, **changes), new("a"), new("b")
    train(whole, straight, 240)
    for steps in (60, 120, 240):
        part = learner_of(
            algo, Limited, seed=steps, **changes
        )  # what it starts from is all in the checkpoint
        train(part if steps > 60 else learner_of(algo, Limited, **changes), broken, steps)
    assert_equal(part, whole)
    assert_remember_alike(part.replay, whole.replay)
    assert metrics(broken) == metrics(straight)


# -- compiled ------------------------------------------------------------------------------------------


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("memory", SAVED)
def test_the_compiled_update_is_the_eager_one(algo: str, memory: str):
    changes = {**SAVED[memory], "utd": RARE, "steps": 10_000, "lr": 1e-3, "window": 2}
    eager, compiled = (learner_of(algo, Limited, compile=c, **changes) for c in (False, True))
    eager.horizon = 24 if memory == "gru" else 60
    eager.iterate()
    copied(eager, compiled)
    windows, price = eager.config.batch // eager.agent.window, torch.tensor([0.5, 0.2])
    rate = eager.schedules.values["lr"]
    for k in range(6):
        rows, belief = eager.replay.sample(windows, eager.length, eager.rng)
        noise = torch.randn(2, eager.agent.window, windows, 2, generator=eager.rng)
        with torch.no_grad():
            parts = [
                learner.update[(k + 1) % eager.delay == 0](rate, rows, belief, noise, price, price)
                for learner in (eager, compiled)
            ]
        assert parts[0].keys() == parts[1].keys()
        for name, value in parts[0].items():
            torch.testing.assert_close(
                parts[1][name], value, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: n + m
            )
    ours, theirs = numbers_of(eager.agent), numbers_of(compiled.agent)
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: n + m)
    noise = torch.randn(eager.env.num_envs, 2, generator=eager.rng)
    seen = eager.env.obs, eager.env.obs, eager.belief, eager.critic_belief, eager.is_first, noise
    with torch.no_grad():
        for one, other in zip(eager.act(*seen), compiled.act(*seen), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
