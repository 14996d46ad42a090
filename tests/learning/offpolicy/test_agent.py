"""Parts of a gradient step of SAC and TD3: targets, prices of costs, the critics' input."""

from itertools import pairwise

import pytest
import torch
from agents import (
    BOTH,
    Limited,
    Plain,
    a_batch,
    agent_of,
    clear,
    gradient_step,
    numbers_of,
    rewards_of,
    sees_its_first_number,
    target_of,
)
from cart import Cart
from test_recurrent import Blurred, Secret
from torch import Generator, Tensor

from robokit.learning.offpolicy.agent import upper
from robokit.sim.base import Sim
from robokit.task.task import Terms

# -- targets -------------------------------------------------------------------------------------------


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
            batch["is_first"][step + 1, m] = True
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
def test_slopes_by_hand_are_root_mean_squares_in_the_units_of_the_costs(algo: str):
    agent = agent_of(algo, Limited, critics=2, hidden=())  # Q_e = e' s + c_e' a
    first, second = (agent.critics.views(agent.critics.flat)[f"ensembles.{k}.weights.0"] for k in range(2))
    first[:, -2:, 0] = torch.tensor([[3.0, 0.0], [3.0, 8.0]])  # of the reward: on average (3, 4)
    second[:, -2:, 0] = torch.tensor([[0.5, 0.0], [0.5, 0.0]])  # of away, whose largest is 2
    second[:, -2:, 1] = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # of hit: the two do not agree
    torch.testing.assert_close(agent.slopes(a_batch(agent)), torch.tensor([5.0, 1.0, 0.0]))


@torch.no_grad()
def test_slopes_are_those_of_the_actions_that_were_done():
    agent, precise = (agent_of("sac", Limited) for _ in range(2))
    batch, critic = a_batch(agent, windows=20), precise.critic.double()
    seen, action = batch["obs"][0].double(), batch["action"][0].double()
    features = critic.encode(seen, torch.zeros(20, 0), torch.ones(20, dtype=torch.bool))[0]
    there, back = (
        torch.stack([critic.decode(features, action + h * e).mean(0) for e in torch.eye(2)])
        for h in (1e-6, -1e-6)
    )
    expected = ((there - back) / 2e-6).square().sum(0).mean(0).sqrt() * torch.tensor([1.0, 2.0, 1.0])
    torch.testing.assert_close(agent.slopes(batch), expected.float())


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
        batch["is_first"][1:] = batch["done"][:-1]
        batch["bad"] = broken & bad
        for name in ("obs", "final_obs", "action", "reward", "cost"):
            batch[name][broken] += garbage
        slopes = {f"slope {k}": slope for k, slope in enumerate(agent.slopes(batch))}
        return slopes | gradient_step(agent, batch, price=1.5), numbers_of(agent)

    (said, clean), (again, spoiled) = learned(0.0), learned(7.0)
    assert said.keys() == again.keys() and said["slope 2"] > 0
    assert [name for name in said if not torch.equal(said[name], again[name])] == []
    assert [name for name in clean if not torch.equal(clean[name], spoiled[name])] == []
    assert learned(7.0, bad=False)[0]["critic"] != learned(0.0, bad=False)[0]["critic"]


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
    said, again = gradient_step(one, batch), gradient_step(other, moved)
    assert said["critic"] != again["critic"] and said["log_prob"] == again["log_prob"]
