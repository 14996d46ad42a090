"""What SAC and TD3 share: targets, limits, gradient steps that are due, options and bit-equal resuming."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import mujoco
import pytest
import torch
from bandits import Three, Two
from cart import Cart, Still
from test_recurrent import Blurred, Secret
from test_train import assert_equal, metrics
from torch import Generator, Tensor

from robokit.agent import Agent, upper
from robokit.algos import sac, td3
from robokit.constraint import Limit
from robokit.env import Env
from robokit.errors import OptionError, TaskError
from robokit.offpolicy import Learner
from robokit.pace import Pace
from robokit.replay import Replay
from robokit.run import Run
from robokit.sim import Sim
from robokit.task import Task, Terms
from robokit.train import train

ALGOS: dict[str, ModuleType] = {"sac": sac, "td3": td3}
BOTH = pytest.mark.parametrize("algo", ALGOS)
TINY: dict[str, Any] = {
    "num_envs": 3, "hidden": (8,), "batch": 8, "learning_starts": 24, "replay": 300, "steps": 1000,
    "window": 4, "belief_size": 5, "critic": "obs",
}  # fmt: skip
RARE = 1e-3  # gradient steps per transition: none in a test


class Plain(Still):
    """Ten numbers seen, two actions, no limit."""

    limits = {}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        return {}


class Limited(Still):
    """A cost that goes on, and one that happens once."""

    limits = {"away": Limit(0.5, largest=2.0), "hit": Limit(0.1, "probability")}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        return {**super().costs(sim, action), "hit": (sim.qpos[:, 0] > 0.5).to(sim.qpos.dtype)}


def learner_of(algo: str, task: type[Task] = Plain, seed: int = 0, **changes: Any) -> Learner:
    """A tiny one, that says what happened after ten control steps."""
    module = ALGOS[algo]
    config = module.Config(**TINY | changes)
    module.check(config)
    learner = module.Learner(Env(task(), config.num_envs, seed=seed, threads=1), config, seed)
    learner.horizon = 10
    learner.steps_per_iteration = learner.horizon * config.num_envs
    return learner


def agent_of(algo: str, task: type[Task] = Plain, graph: bool = False, **changes: Any) -> Any:
    """Its networks alone."""
    module = ALGOS[algo]
    config = module.Config(**TINY | changes)
    torch.manual_seed(0)
    return getattr(module, algo.upper())(Env(task(), 2, threads=1), config, graph)


def a_batch(agent: Agent, windows: int = 6, seed: int = 0, ends: float = 0.2) -> dict[str, Tensor]:
    """Windows as a replay would give them, of random numbers; episodes end in them with chance `ends`."""
    rng, config = Generator().manual_seed(seed), agent.config
    rows = agent.burn_in + agent.window + config.n_step - 1
    batch = {
        name: torch.randn(rows, windows, width, generator=rng)
        for name, width in agent.widths.items()
        if width != 1 or name in ("cost", "action")
    }
    batch["action"], batch["cost"] = batch["action"].tanh(), batch["cost"].abs()
    batch["reward"] = torch.randn(rows, windows, generator=rng)
    terminated, truncated = torch.rand(2, rows, windows, generator=rng) < ends / 2
    batch["terminated"], batch["done"] = terminated, terminated | truncated
    before = torch.rand(1, windows, generator=rng) < ends
    batch["first"] = torch.cat((before, batch["done"][:-1]))
    batch["bad"], batch["left"] = torch.zeros_like(terminated), torch.full((rows, windows), 5.0)
    sizes = agent.policy.belief_size, agent.critic.belief_size
    own = (torch.randn(windows, size, generator=rng).tanh() for size in sizes)
    return {**batch, **dict(zip(("belief", "critic_belief"), own, strict=True))}


def noise_for(agent: Agent, windows: int = 6, seed: int = 0) -> Tensor:
    shape = 2, agent.window, windows, agent.policy.act_dim
    return torch.randn(shape, generator=Generator().manual_seed(seed))


@torch.no_grad()
def step(agent: Agent, batch: dict[str, Tensor], price: Any = 0.0, act: bool = True, seed: int = 0) -> Any:
    """One gradient step, costs at a price of `price` each."""
    limits = len(agent.limits)
    prices = torch.as_tensor(price, dtype=torch.float32).expand(limits)
    noise = noise_for(agent, batch["reward"].shape[1], seed)
    return agent.update(act, torch.tensor(agent.config.lr), batch, noise, prices, prices)


def numbers_of(agent: Agent) -> dict[str, Tensor]:
    """All that a gradient step changes."""
    named = {name: part.state_dict() for name, part in agent.parts().items()}
    return {f"{part}.{key}": x.clone() for part, state in named.items() for key, x in state.items()}


# -- targets -------------------------------------------------------------------------------------------


@torch.no_grad()
def sees_its_first_number(agent: Agent) -> None:
    """Target critics by hand: Q_e(s, a) = s_0 + 10 e of the reward; s_0 + e and .3 + e / 10 of the costs."""
    agent.critic_target.flat.zero_()
    views = agent.critic_target.views(agent.critic_target.flat)
    steps = {0: [10.0], 1: [1.0, 0.1]}
    for k in range(len(agent.critic.sizes)):
        weight, bias = views[f"ensembles.{k}.weights.0"], views[f"ensembles.{k}.biases.0"]
        weight[:, 0, 0] = 1.0
        for e in range(agent.config.critics):
            bias[e, 0] = e * torch.tensor(steps[k])
        bias[:, 0, 1:] += 0.3


def clear(batch: dict[str, Tensor]) -> None:
    """Nothing ends, and what must not be looked at is far off."""
    for name in ("first", "done", "terminated"):
        batch[name] = torch.zeros_like(batch[name])
    batch["obs"] = torch.full_like(batch["obs"], 1e9)


def target_of(agent: Agent, batch: dict[str, Tensor], action: Tensor) -> Tensor:
    """(E, L, M, 1 + K) without an entropy bonus."""
    sums = agent.sums(batch)
    q = agent.q_next(batch, sums, action)
    return agent.target(sums, agent.reduced(q), q)


def rewards_of(agent: Agent, batch: dict[str, Tensor]) -> Tensor:
    """(E, L, M) targets of the reward."""
    sums = agent.sums(batch)
    with torch.no_grad():
        return target_of(agent, batch, torch.zeros(*sums.last.shape, agent.policy.act_dim))[..., 0]


@BOTH
def test_a_truncation_bootstraps_with_what_was_seen_last_and_a_termination_with_nothing(algo: str):
    agent = agent_of(algo, hidden=(), gamma=0.5)
    sees_its_first_number(agent)
    batch = a_batch(agent, windows=3)
    clear(batch)
    batch["reward"][0] = torch.tensor([1.0, 2.0, 3.0])
    batch["final_obs"][0, :, 0] = 10.0
    batch["done"][0, 1:] = batch["terminated"][0, 2] = True  # goes on, truncated, terminated
    assert rewards_of(agent, batch).tolist() == [[[1 + 5, 2 + 5, 3]]] * 2  # all learn the same: the lowest


@BOTH
def test_three_steps_end_with_their_episode_and_bootstrap_with_what_was_seen_last_in_it(algo: str):
    agent = agent_of(algo, hidden=(), gamma=0.5, n_step=3)
    sees_its_first_number(agent)
    batch = a_batch(agent, windows=6)
    clear(batch)
    batch["reward"][:] = torch.tensor([1.0, 2.0, 4.0])[:, None]
    batch["final_obs"][..., 0] = torch.tensor([10.0, 20.0, 40.0])[:, None]
    for m, (step, terminated) in enumerate([(1, False), (1, True), (0, True), (2, True), (0, False)], 1):
        batch["done"][step, m], batch["terminated"][step, m] = True, terminated
        if step < 2:
            batch["first"][step + 1, m] = True
    expected = [1 + 1 + 1 + 40 / 8, 1 + 1 + 20 / 4, 1 + 1, 1, 1 + 1 + 1, 1 + 10 / 2]
    assert rewards_of(agent, batch).tolist() == [[expected]] * 2


def test_the_mean_of_the_critics_is_bootstrapped_from_where_it_is_asked_for():
    agent = agent_of("sac", hidden=(), gamma=0.5, reduce="mean", critics=3)
    sees_its_first_number(agent)
    batch = a_batch(agent, windows=1, ends=0.0)
    batch["reward"][0], batch["final_obs"][0, :, 0] = 1.0, 2.0
    assert rewards_of(agent, batch).flatten().tolist() == [1 + (2 + 10) / 2] * 3


# -- limits --------------------------------------------------------------------------------------------


def test_an_upper_bound_is_never_below_the_mean_nor_falls_with_k():
    q = torch.randn(4, 7, 2, generator=Generator().manual_seed(0))
    bounds = [upper(q, k) for k in (0.0, 0.5, 1.0, 3.0)]
    assert torch.equal(bounds[0], q.mean(0))
    for lower, higher in pairwise(bounds):
        assert (higher > lower).all()
    torch.testing.assert_close(bounds[2], q.mean(0) + q.std(0, correction=0))


def test_of_two_critics_an_upper_bound_with_k_1_is_the_higher_and_where_they_agree_their_value():
    q = torch.randn(2, 9, 3, generator=Generator().manual_seed(0), requires_grad=True)
    torch.testing.assert_close(upper(q, 1.0), q.amax(0))
    same = q[:1].expand(2, 9, 3)
    torch.testing.assert_close(upper(same, 5.0), q[0], atol=1e-5, rtol=0)
    (slope,) = torch.autograd.grad(upper(same, 5.0).sum(), q)
    assert slope.isfinite().all()


def test_costs_are_learned_raw_in_units_of_the_largest_by_each_critic_from_itself():
    agent = agent_of("td3", Limited, hidden=(), gamma=0.5, smoothing=0.0)
    sees_its_first_number(agent)
    batch = a_batch(agent, windows=4)
    clear(batch)
    batch["final_obs"][0, :, 0] = 10.0
    batch["cost"][0] = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.5, 0.0], [0.0, 1.0]])
    batch["done"][0, 2:] = batch["terminated"][0, 3] = True  # goes on, too, truncated, terminated
    with torch.no_grad():
        target = target_of(agent, batch, torch.zeros(1, 4, 2))[:, 0]
    for e in range(2):
        away = [0.5 + (10 + e) / 2, 1 + (10 + e) / 2, 0.25 + (10 + e) / 2, 0.0]
        hit = [(0.3 + e / 10) / 2, 1.0, (0.3 + e / 10) / 2, 1.0]  # a probability's cost ends alone
        torch.testing.assert_close(target[e, :, 1:], torch.tensor([away, hit]).T)


@BOTH
@torch.no_grad()
def test_costs_go_into_the_replay_as_they_were(algo: str):
    learner = learner_of(algo, Limited)
    costs = torch.stack([learner._collect(torch.zeros(3, 2)).cost for _ in range(7)])
    begin = sum(width for name, width in [*learner.replay.widths.items()][:-1])
    assert [*learner.replay.widths][-1] == "cost"
    assert torch.equal(learner.replay.rows[:7, :, begin:], costs) and costs[..., 0].unique().numel() > 10


def test_the_lagrangian_by_hand():
    agent = agent_of("sac", Limited, pessimism=2.0)  # of away the largest is 2, of hit 1
    q = torch.tensor([[0.0, 0.3, 0.1], [9.0, 0.5, 0.5]])[:, None, None]  # means .4 and .3, deviations .1, .2
    price, weight = torch.tensor([3.0, 5.0]), torch.tensor([0.5, 1.5])
    upper_bounds = 0.4 + 2 * 0.1, 0.3 + 2 * 0.2
    expected = (7.0 - upper_bounds[0] * 3 * 2 - upper_bounds[1] * 5 * 1) / (1 + 0.5 + 1.5)
    assert agent.lagrangian(torch.tensor([[7.0]]), q, price, weight).item() == pytest.approx(
        expected, rel=1e-4
    )
    free = agent_of("sac", Limited, limit_rule="off")
    assert free.lagrangian(torch.tensor([[7.0]]), q, price, weight).item() == 7.0


@BOTH
def test_the_spread_is_the_deviation_of_what_is_remembered_in_the_units_of_the_costs(algo: str):
    agent = agent_of(algo, Limited, critics=3)
    batch = a_batch(agent, windows=20)
    valid = torch.rand(1, 20, generator=Generator().manual_seed(2)) < 0.7
    with torch.no_grad():
        q = agent.critic.decode(agent.critic_now(agent.critic, batch), batch["action"]).mean(0)
        found = agent.fit_critics(torch.tensor(0.0), batch, torch.zeros(3, 1, 20, 3), valid)["spread"]
    units = torch.tensor([1.0, 2.0, 1.0])
    torch.testing.assert_close(found, q[valid].std(0, correction=0) * units)
    free = agent_of(algo)
    given = torch.tensor(0.0), a_batch(free), torch.zeros(1), torch.tensor(True)
    assert "spread" not in free.fit_critics(*given)


@torch.no_grad()
def test_the_policys_gradient_is_that_of_costs_at_their_price_divided_by_all_weights():
    agent = agent_of("td3", Limited, hidden=())
    agent.critics.flat.zero_()  # dQ / da_0 = -1 of the first cost, all else 0
    agent.critics.views(agent.critics.flat)["ensembles.1.weights.0"][:, -2, 0] = -1.0
    agent.actor.flat.zero_()  # a = 0, where tanh' = 1
    batch, zero, nothing = a_batch(agent), torch.tensor(0.0), torch.zeros(2)
    agent.actor_step(zero, batch, agent.sums(batch).share, nothing, nothing)
    assert not agent.actor.first.any()
    price, weight = torch.tensor([3.0, 7.0]), torch.tensor([0.5, 0.25])
    agent.actor_step(zero, batch, agent.sums(batch).share, price, weight)
    found = agent.actor.views(agent.actor.first)["head.0.bias"] / 0.1
    assert found.tolist() == pytest.approx([-3 * 2 / 1.75, 0.0])  # of this cost the largest is 2


def watch(learner: Learner, look: Callable[[bool, tuple[Tensor, ...]], Any]) -> list[Any]:
    """What `look` makes of each gradient step from now on: whether it acts, and what it is given."""
    seen = list[Any]()

    def watched(act: bool, update: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: (seen.append(look(act, given)), update(*given))[1]

    learner.update = {act: watched(act, update) for act, update in learner.update.items()}
    return seen


def prices_in(learner: Learner) -> list[tuple[Tensor, Tensor]]:
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
    assert learner.multipliers.strength.item() > 0 and len(told) == 10
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


# -- broken simulations --------------------------------------------------------------------------------


MEMORIES = {"memoryless": {}, "gru": {"belief": "gru", "critic_belief": "gru"}}


@BOTH
@pytest.mark.parametrize("memory", MEMORIES)
def test_what_a_broken_simulation_gave_is_no_lesson_nor_a_sum_that_reaches_it(algo: str, memory: str):
    def learned(garbage: float, bad: bool = True) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        agent = agent_of(algo, Limited, n_step=3, **MEMORIES[memory])
        batch = a_batch(agent, windows=40, ends=0.1)
        rows = len(batch["reward"])
        broken = torch.rand(rows, 40, generator=Generator().manual_seed(3)) < 0.1
        assert broken[agent.window :].any() and broken[0].any()
        for name in ("done", "terminated"):
            batch[name] = batch[name] | broken
        batch["first"][1:] = batch["done"][:-1]
        batch["bad"] = broken & bad
        for name in ("obs", "final_obs", "action", "reward", "cost"):
            batch[name][broken] += garbage
        logged = step(agent, batch, price=1.5)
        return logged, numbers_of(agent)

    (said, clean), (again, spoiled) = learned(0.0), learned(7.0)
    assert said.keys() == again.keys() and "spread" in said
    assert [name for name in said if not torch.equal(said[name], again[name])] == []
    assert [name for name in clean if not torch.equal(clean[name], spoiled[name])] == []
    assert learned(7.0, bad=False)[0]["critic"] != learned(0.0, bad=False)[0]["critic"]


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
    assert learner.updates == int((1000 - 8) * (utd or 1))


def test_many_simulations_learn_eight_times_a_control_step_from_larger_batches_unless_it_is_said():
    def pace(**options: Any) -> tuple[float, ...]:
        return Pace.of(sac.Config(**options), options.get("num_envs", 1))

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
        policys = learner.policy.settle(learner.policy.decode(batch["obs"][0])).unflatten(0, (400, 4))
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
        seen = learner.env.obs, learner.env.state, learner.first
        given.append((*seen, learner._collect(torch.zeros(3, 1))))
    batch = learner.agent.batch(learner.replay.rows[:30], torch.zeros(3, 0))
    for t, (obs, state, first, step) in enumerate(given):
        row = {"obs": obs, "state": state, "first": first, "done": step.terminated | step.truncated}
        row |= {
            name: getattr(step, name) for name in ("reward", "terminated", "left", "final_obs", "final_state")
        }
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
    assert learner.policy.normalizer.count.item() == pytest.approx(seen, abs=0.01)
    assert torch.equal(learner.policy.normalizer.mean, learner.critic.normalizer.mean)
    assert len({*means}) == 3 < len(means)
    targets = [target.module for target, _ in learner.agent.targets]
    assert all(x.normalizer in (learner.policy.normalizer, learner.critic.normalizer) for x in targets)


@BOTH
def test_targets_take_on_a_share_of_what_they_follow(algo: str):
    agent = agent_of(algo, tau=0.1)
    before = agent.critic_target.flat.clone()
    step(agent, a_batch(agent))
    torch.testing.assert_close(agent.critic_target.flat, 0.9 * before + 0.1 * agent.critics.flat)


@BOTH
def test_gradients_are_clipped_to_the_norm_that_is_asked_for(algo: str):
    agent = agent_of(algo, max_grad_norm=1e-3)
    batch = a_batch(agent)
    assert step(agent, batch)["critic_grad_norm"] > 1e-2
    for adam in (agent.critics, agent.actor):
        assert adam.first.norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


# -- what an asymmetric critic sees --------------------------------------------------------------------


def test_a_state_is_stored_where_it_tells_more_than_what_is_observed_and_else_not_twice():
    widths = {
        (task, critic): set(agent_of("sac", task, critic=critic).widths)
        for task in (Plain, Cart, Blurred, Secret)
        for critic in ("state", "obs")
    }
    told = {"state", "final_state"}
    assert told <= widths[Cart, "state"]  # privileged terms
    assert told <= widths[Blurred, "state"] and told <= widths[Secret, "state"]  # hidden ones
    assert not any(told & widths[task, "obs"] for task in (Plain, Cart, Blurred, Secret))

    class Open(Plain):
        def privileged(self, sim: Sim) -> Terms:
            return {}

    assert widths[Plain, "obs"] == set(agent_of("sac", Open, critic="state").widths)


def test_a_critic_of_state_learns_from_it_and_the_policy_from_what_it_observes():
    agent = agent_of("sac", Secret, critic="state")
    batch = a_batch(agent)
    assert batch["obs"].shape[-1] == 2 and batch["state"].shape[-1] == 7
    one, other = agent_of("sac", Secret, critic="state"), agent_of("sac", Secret, critic="state")
    moved = {**batch, "state": batch["state"] + 1.0}
    said, again = step(one, batch), step(other, moved)
    assert said["critic"] != again["critic"] and said["log_prob"] == again["log_prob"]


# -- options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 32}, r"batch \(32\) must be at most learning_starts \(24\), what is stored when"),
        ({"learning_starts": 301}, r"learning_starts \(301\) must be at most replay \(300\), what is"),
        ({"steps": 23}, r"learning_starts \(24\) must be at most steps \(23\), all that there"),
        ({"utd": 0.0}, "utd must be > 0, got 0.0"),
        ({"utd": -1.0}, "utd must be > 0, got -1.0"),
        ({"n_step": 0}, "n_step must be > 0, got 0"),
        ({"critics": 0}, "critics must be > 0, got 0"),
        ({"learning_starts": 0}, "learning_starts must be > 0, got 0"),
        ({"tau": 1.5}, r"tau must be in \[0, 1\], got 1.5"),
        ({"gamma": 1.1}, r"gamma must be in \[0, 1\], got 1.1"),
        ({"lr": float("nan")}, "lr must be > 0, got nan"),
        ({"belief_lr": 0.0}, "belief_lr must be > 0, got 0.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be > 0, got 0.0"),
        ({"burn_in": -1}, "burn_in must be finite and at least 0, got -1"),
        ({"pessimism": -0.5}, "pessimism must be finite and at least 0, got -0.5"),
        ({"pessimism": 2.0, "critics": 1}, r"pessimism \(2.0\) counts deviations over the critics, of which"),
        ({"bf16": True}, r"bf16 rounds products between hidden layers .* takes two; hidden is \(8,\)"),
        ({"margin": 1.0}, r"margin must be in \[0, 1\), got 1.0"),
        ({"reduce": "max"}, r"reduce must be one of \['min', 'mean'\], got 'max'"),
        ({"belief": "gru", "window": 3}, r"window \(3\), the control steps .* must divide batch \(8\)"),
        ({"critic_belief": "gru", "window": 5}, r"window \(5\), .* must divide batch \(8\)"),
        (
            {"shared": True, "critic": "state"},
            "shared needs a critic that sees obs.*got critic 'state'",
        ),
        (
            {"shared": True, "belief": "gru"},
            "one kind of recurrent belief; got .*belief 'gru', critic_belief 'memoryless'",
        ),
    ],
)
def test_impossible_options_are_refused_before_anything_runs(changes: dict[str, Any], words: str):
    with pytest.raises(OptionError, match=words):
        learner_of("sac", **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"belief": "gru", "window": 8, "burn_in": 2, "n_step": 2},
            r"burn_in \(2\) \+ window \(8\) \+ n_step \(2\) - 1 must be at most the 10 control",
        ),
        ({"n_step": 11}, r"n_step \(11\) must be at most the 10 control steps of an episode"),
        (
            {"n_step": 9},
            r"n_step \(9\) must be at most the 8 of each simulation that are stored",
        ),
        ({"num_envs": 25}, r"n_step \(1\) must be at most the 0 of each simulation that are stored"),
    ],
)
def test_a_window_longer_than_an_episode_or_than_what_is_stored_is_refused(
    changes: dict[str, Any], words: str
):
    with pytest.raises(OptionError, match=words):
        learner_of("td3", Blurred, **changes)
    fits = {"belief": "gru", "window": 8, "n_step": 2, "burn_in": 1, "learning_starts": 30, "replay": 30}
    assert learner_of("td3", Blurred, **fits).length == 10


@BOTH
def test_an_actuator_without_a_range_is_refused_where_actions_fill_it(algo: str):
    class Boundless(Plain):
        model = mujoco.MjSpec.from_string(
            """<mujoco><worldbody><body><joint name="x" type="slide"/><geom size=".1"/></body></worldbody>
            <actuator><motor name="pull" joint="x"/></actuator></mujoco>"""
        )

    with pytest.raises(TaskError, match=r"ctrlrange on every actuator; \['pull'\] have none: use Around"):
        learner_of(algo, Boundless)


@BOTH
def test_a_replay_that_does_not_fit_is_refused_before_it_is_allocated(algo: str):
    with pytest.raises(OptionError, match=r"replay \(10000000000000 transitions of \d+ bytes\) takes"):
        learner_of(algo, replay=10**13)


# -- save and continue ---------------------------------------------------------------------------------


SAVED = {
    "memoryless": {"num_envs": 1, "replay": 400, "normalize_obs": True},
    "gru": {"belief": "gru", "critic_belief": "gru", "burn_in": 2, "n_step": 2, "replay": 60},
}


def copied(learner: Learner, other: Learner) -> None:
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
    while not straight.first.any():  # a new episode is about to begin in one of them
        straight._collect(torch.zeros(straight.env.num_envs, 2))
    other.iterate()  # that was somewhere else
    assert not torch.equal(straight.first, other.first)
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
    for k in range(6):
        rows, belief = eager.replay.sample(windows, eager.length, eager.rng)
        noise = torch.randn(2, eager.agent.window, windows, 2, generator=eager.rng)
        with torch.no_grad():
            parts = [
                learner.update[(k + 1) % eager.delay == 0](learner.lr, rows, belief, noise, price, price)
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
    seen = eager.env.obs, eager.env.obs, eager.belief, eager.critic_belief, eager.first, noise
    with torch.no_grad():
        for one, other in zip(eager.act(*seen), compiled.act(*seen), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
