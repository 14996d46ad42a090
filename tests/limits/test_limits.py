"""PPO on constrained problems with solutions known on paper, measured with sampled actions."""

import dataclasses
import statistics
from typing import Any

import pytest
import torch
from bandits import GOES_ON, Absorbing, Bandit, Chain, Jolts, Lqr, Mortal, Tabular, Three, Two, best_within
from cart import Cart
from torch import Tensor

from robokit.algos.ppo import Config, Learner, check
from robokit.env.checks.laws import check_costs
from robokit.env.env import Env
from robokit.errors import OptionError, TaskError
from robokit.evaluation.episodes import run_episodes, sampling_actor
from robokit.limits.limit import Limit
from robokit.limits.multipliers import Rule
from robokit.networks.belief import Kind
from robokit.sim.base import Sim
from robokit.task.task import Task, Terms

SMALL = Config(num_envs=256, horizon=8, minibatch=512, epochs=4, hidden=(8,), margin=0.0, gamma=0.0, lam=0.0)
QUICK: dict[str, Any] = {"lr": 1e-3, "gains": (2.0, 0.06, 0.0)}  # as near in 40 % of the iterations
TINY = Config(num_envs=4, horizon=8, minibatch=16, epochs=2, hidden=(8,))


def learner_of(task: type[Task], config: Config, **changes: Any) -> Learner:
    config = dataclasses.replace(config, **changes)
    return Learner(Env(task(), config.simulations, seed=0, threads=1), config, 0)


def trained(learner: Learner, iterations: int, last: int) -> dict[str, float]:
    """Means over the last iterations."""
    metrics = [learner.iterate() for _ in range(iterations)][-last:]
    return {key: statistics.mean(m[key] for m in metrics) for key in metrics[-1] if key in metrics[0]}


@pytest.mark.medium
def test_t1_one_arm_at_most_three_tenths_of_the_time_at_a_price_of_one():
    found = trained(learner_of(Two, SMALL, **QUICK), 200, last=80)
    assert found["cost/use"] == pytest.approx(0.3, abs=0.02)
    assert found["limit/use/lambda"] == pytest.approx(1.0, abs=0.1)


@pytest.mark.medium
def test_t2_two_limits_that_bind_and_one_that_does_not():
    found = trained(learner_of(Three, SMALL, **QUICK), 200, last=80)
    assert found["cost/first"] == pytest.approx(0.2, abs=0.02)
    assert found["cost/second"] == pytest.approx(0.3, abs=0.02)
    assert found["reward/gain"] == pytest.approx(0.8, abs=0.02)
    assert found["limit/first/lambda"] == pytest.approx(1.0, abs=0.1)
    assert found["limit/second/lambda"] == pytest.approx(2.0, abs=0.1)
    assert found["limit/slack/lambda"] <= 0.01


@pytest.mark.medium
def test_t4_a_tabular_problem_comes_to_what_its_linear_program_allows():
    changes: dict[str, Any] = {
        "gamma": 1.0,
        "lam": 0.95,
        "hidden": (16,),
        "lr": 5e-4,
        "gains": (4.0, 0.08, 0.0),
    }
    learner, limit, totals = learner_of(Tabular, SMALL, **changes), 0.6, []
    for _ in range(220):
        metrics = learner.iterate()
        learner.policy.log_std.data.zero_()  # goes on exploring: the answer is a mixture
        totals.append((metrics["reward/gain"], metrics["cost/price"]))
    gain, price = (statistics.mean(column) / (1 - GOES_ON) for column in zip(*totals[-100:], strict=True))
    assert price == pytest.approx(limit, rel=0.02)
    assert gain == pytest.approx(best_within(limit), rel=0.02)


class Dear(Three):
    """Three in thousandths."""

    prices = {name: tuple(1000 * x for x in price) for name, price in Three.prices.items()}
    limits = {
        name: dataclasses.replace(limit, value=1000 * limit.value, largest=1000.0)
        for name, limit in Three.limits.items()
    }


@pytest.mark.parametrize(("rule", "penalty"), [("pid", 0.0), ("fixed", 0.5)])
def test_t5_costs_and_limits_a_thousand_times_larger_give_the_same_policy(rule: Rule, penalty: float):
    changes = {"num_envs": 32, "minibatch": 64, "limit_rule": rule, "gamma": 0.9}
    one = learner_of(Three, SMALL, **changes, penalty=penalty)
    other = learner_of(Dear, SMALL, **changes, penalty=penalty / 1000)
    ours, theirs = [(one.iterate(), other.iterate()) for _ in range(5)][-1]
    assert ours["limit/first/lambda"] == pytest.approx(1000 * theirs["limit/first/lambda"], rel=1e-3)
    assert ours["limit/first/lambda"] > 0
    for mine, its in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, its, atol=2e-4, rtol=1e-3)


def test_t9_the_cost_critic_learns_what_a_chain_costs_and_how_likely_it_hits():
    gamma = 0.9
    learner = learner_of(Chain, SMALL, gamma=gamma, lam=1.0, num_envs=64, horizon=16, minibatch=128, lr=3e-3)
    for _ in range(40):
        learner.iterate()
    places = torch.eye(4)
    with torch.no_grad():
        value = learner.critic(places, torch.zeros(4, 0), torch.zeros(4, dtype=torch.bool))[0]
    scale = (learner.return_scale.var + 1e-8).sqrt()[1:].maximum(torch.tensor([4.0, 1.0]))
    last = 4.0
    third = gamma * last
    second = 2 + gamma * third
    expected = torch.tensor([[1 + gamma * second, gamma], [second, 1.0], [third, gamma], [last, 1.0]])
    torch.testing.assert_close(value[:, 1:] * scale, expected, atol=0.15, rtol=0)


@pytest.mark.medium
def test_t10_a_peak_on_two_states_comes_to_the_price_of_its_rise():
    """lambda = 2: see Jolts. Of the costs' sum, or where critics do not see the running maximum, it is 1."""
    learner = learner_of(Jolts, SMALL, gamma=1.0, lr=5e-4, gains=(4.0, 0.08, 0.0))
    found = list[dict[str, float]]()
    for _ in range(150):
        found.append(learner.iterate())
        learner.policy.log_std.data.zero_()  # goes on exploring: the answer is a mixture
    for key, expected in (("lambda", 2.0), ("measured", 0.65)):
        mean = statistics.mean(metrics[f"limit/jolt/{key}"] for metrics in found[-70:])
        assert mean == pytest.approx(expected, rel=0.05)


def test_the_policy_never_sees_a_running_maximum():
    learner = learner_of(Jolts, TINY)
    assert learner.env.obs_dim == 1 and learner.policy.normalizer.mean.shape == (1,)
    rollout = learner.collect()
    assert rollout.obs.shape[-1] == 1 and rollout.state.shape[-1] == rollout.final_state.shape[-1] == 2
    first, second = rollout.state[:-1], rollout.state[1:]
    began = rollout.is_first[1:]
    assert (second[began][:, 1] == 0).all() and began.any()
    rises = torch.cat((first[..., 1:], rollout.cost[:-1]), -1).sum(-1)
    assert torch.equal(second[~began][:, 1], rises[~began])  # m + its rise


# -- one path ----------------------------------------------------------------------------------------


def test_without_limits_and_with_the_rule_off_learning_is_bit_equal():
    class Free(Two):
        limits = {}

        def costs(self, sim: Sim, action: Tensor) -> Terms:
            return {}

    free, off = learner_of(Free, TINY), learner_of(Two, TINY, limit_rule="off")
    for learner in (free, off):
        trained(learner, 3, last=1)
    for ours, theirs in zip(free.net.parameters(), off.net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_limit_that_never_binds_leaves_the_rewards_advantage_alone():
    learner = learner_of(Two, TINY, gamma=0.9)
    rollout = learner.collect()
    rollout.cost = torch.zeros_like(rollout.cost)
    _, advantage, *_ = learner.targets(rollout)
    reward = learner_of(Two, TINY, gamma=0.9, limit_rule="off")
    _, alone, *_ = reward.targets(dataclasses.replace(rollout))
    scaled = (alone - alone.mean()) / alone.std(correction=0)
    assert torch.corrcoef(torch.stack((advantage.flatten(), scaled.flatten())))[0, 1] > 0.999
    assert learner.constrained.multipliers.strength.item() == 0.0


class Held(Cart):
    """Within less than it moves by chance."""

    limits = {"away": Limit(0.001, largest=2.0)}


class Never(Held):
    """Not even once in an episode."""

    limits = {"away": Limit(0.001, "peak", largest=2.0)}


@pytest.mark.parametrize("task", [Held, Never])
@pytest.mark.parametrize("belief", ["memoryless", "stack", "gru"])
@pytest.mark.parametrize("critic", ["state", "obs"])
def test_limits_go_with_every_belief_and_critic_and_resume_bit_for_bit(
    belief: Kind, critic: str, task: type[Task]
):
    changes = {"belief": belief, "critic": critic, "critic_belief": belief, "chunk": 4, "belief_size": 8}
    learner, again = (learner_of(task, TINY, **changes) for _ in range(2))
    metrics = trained(learner, 6, last=1)
    again.load_state_dict(learner.state_dict())
    for _ in range(2):
        assert learner.iterate() == again.iterate()
    assert metrics["limit/away/lambda"] > 0 and 0 < metrics["limit/away/measured"] <= 2
    for name, value in learner.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_each_limit_has_a_head_of_its_own_on_a_trunk_that_the_reward_does_not_share():
    learner = learner_of(Three, TINY)
    state, first = torch.randn(5, 1), torch.zeros(5, dtype=torch.bool)
    values = learner.critic(state, torch.zeros(5, 0), first)[0]
    assert values.shape == (5, 4)
    named = dict(learner.critic.named_parameters())
    for column, owner in enumerate((0, 1, 1, 1)):
        grads = torch.autograd.grad(
            values[:, column].sum(), [*named.values()], allow_unused=True, retain_graph=True
        )
        moved = {
            name.split(".")[1]
            for name, grad in zip(named, grads, strict=True)
            if grad is not None and grad.any()
        }
        assert moved == {str(owner)}


def test_the_combined_advantage_is_not_normalised_again():
    norms = []
    for factor in (1.0, 2.0):
        learner = learner_of(Two, TINY, value_coef=0.0, max_grad_norm=1e9, epochs=1, minibatch=32)
        multipliers = learner.constrained.multipliers
        combined = multipliers.advantage

        def scaled(advantage: Tensor, valid: Tensor, by: float = factor, of: Any = combined) -> Tensor:
            return by * of(advantage, valid)

        setattr(multipliers, "advantage", scaled)  # noqa: B010
        norms.append(learner.iterate()["loss/grad_norm"])
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-4) and norms[0] > 0


def test_dying_early_does_not_pay_where_it_is_absorbed():
    class Charged(Chain):
        limits = {**Chain.limits, "toll": Limit(1.0, "discounted", largest=4.0, absorb=4.0)}

    plain, absorbing = (learner_of(t, TINY, gamma=0.9, lam=1.0) for t in (Chain, Charged))
    rollout = absorbing.collect()
    targets = [learner.targets(rollout)[2][..., 1] * scale(learner, 4.0) for learner in (plain, absorbing)]
    ended = rollout.terminated
    assert ended.any()
    left = rollout.steps_left[ended]
    owed = 0.9 * 4 * (1 - 0.9**left) / (1 - 0.9)
    torch.testing.assert_close(targets[1][ended] - targets[0][ended], owed, atol=1e-3, rtol=1e-4)


def scale(learner: Learner, largest: float) -> float:
    return max(float((learner.return_scale.var[1] + 1e-8).sqrt()), largest)


# -- wrong input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"limit_rule": "adam"}, "limit_rule must be one of .*'pid'.*, got 'adam'"),
        ({"margin": 1.0}, r"margin must be in \[0, 1\), got 1.0"),
        ({"margin": float("nan")}, "margin must be in"),
        ({"gains": (0.5, -0.1, 0.0)}, "gains must be finite and at least 0"),
        ({"penalty": float("inf")}, "penalty must be finite and at least 0, got inf"),
        ({"dual_lr": 0.0}, "dual_lr must be > 0, got 0"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(changes: dict[str, Any], rule: str):
    with pytest.raises(OptionError, match=rule):
        check(dataclasses.replace(TINY, **changes))


@pytest.mark.parametrize(
    ("cost", "rule"),
    [
        (-0.5, "costs 'use' must lie from 0 to 1, its Limit.largest; got -0.5 at step 0"),
        (1.5, "costs 'use' must lie from 0 to 1, its Limit.largest; got 1.5 at step 0"),
        (float("nan"), "costs 'use' is not finite right after a reset"),
    ],
)
def test_a_cost_out_of_its_bounds_is_refused_before_training(cost: float, rule: str):
    class Wrong(Bandit):
        limits = {"use": Limit(0.3)}

        def costs(self, sim: Sim, action: Tensor) -> Terms:
            return {"use": torch.full_like(action[:, 0], cost)}

    with pytest.raises(TaskError, match=rule):
        check_costs(Wrong())


# -- slow: whole trainings ---------------------------------------------------------------------------


def lqr(learner: Any) -> tuple[float, float]:
    """Discounted reward and cost of the deterministic policy from x = 1."""
    x, gain, cost = torch.ones(1, 1), 0.0, 0.0
    for t in range(1000):
        action, _ = learner.policy(x, torch.zeros(1, 0), torch.zeros(1, dtype=torch.bool))
        gain -= 0.99**t * x.item() ** 2
        cost += 0.99**t * action[0, 0].item() ** 2
        x = x + action[:, :1] / 2
    return gain, cost


@pytest.mark.slow
@torch.no_grad()
def test_t3_a_linear_quadratic_problem_comes_to_what_its_riccati_equation_allows():
    config = dataclasses.replace(
        SMALL, num_envs=64, horizon=100, minibatch=640, epochs=6, hidden=(16,), gamma=0.99, lam=1.0
    )
    config = dataclasses.replace(
        config,
        lr=(1e-3, 0.0),
        steps=450 * 6400,
        init_std=0.05,
        gains=(2.0, 0.06, 0.0),
        normalize_obs=False,
    )
    learner = learner_of(Lqr, config)
    learner.env.reset()  # all at once: each rollout is an episode
    with torch.enable_grad():
        for _ in range(450):
            learner.iterate()
    gain, cost = lqr(learner)
    assert gain == pytest.approx(-2.46509, rel=0.03)
    assert cost <= 1.03 * 0.5


@pytest.mark.slow
def test_t6_a_limit_that_is_halved_is_met_again_without_much_overshoot():
    learner = learner_of(Two, SMALL)
    trained(learner, 300, last=1)
    learner.constrained.multipliers.aim *= 0.5
    rates = [learner.iterate()["cost/use"] for _ in range(300)]
    smooth = torch.tensor(rates).unfold(0, 10, 1).mean(-1)
    met = int((smooth <= 0.15).nonzero()[0])
    assert met < 60
    assert smooth[met:].max() <= 1.2 * 0.15
    assert statistics.mean(rates[-100:]) == pytest.approx(0.15, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "lives"), [(Mortal, False), (Absorbing, True)])
def test_t7_dying_early_is_a_way_out_unless_it_is_absorbed(task: type[Task], lives: bool):
    config = dataclasses.replace(
        SMALL, num_envs=128, horizon=50, minibatch=640, hidden=(16,), gamma=0.99, lam=0.95, lr=1e-3
    )
    learner = learner_of(task, config)
    found = trained(learner, 110, last=10)
    survived = 1 - found["episode/length"] / 50 < 0.01
    assert survived == lives
    if lives:
        env = Env(task(), 200, seed=9, threads=1)
        ran = run_episodes(env, sampling_actor(learner.policy, 0))
        assert ran.terminated <= 0.05 * 200
