"""The planner against Riccati's optimum, over the true simulator, under limits, with a policy beside it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import robokit
from robokit.errors import OptionError
from robokit.limits.limit import Limit
from robokit.planning.budget import Budget
from robokit.planning.noise import between, coloured
from robokit.planning.planner import Config, Planner, check, steps_of
from robokit.planning.rollout import Guide, TrueModel, rollout

DT = 0.1  # s


class Integrator:
    """A mass on a line, pushed: x = [place, speed]; its last imagined step has the value of what follows."""

    a, b = torch.tensor([[1.0, DT], [0.0, 1.0]]), torch.tensor([[DT * DT / 2], [DT]])
    q, r = torch.diag(torch.tensor([1.0, 0.1])), torch.tensor([[0.1]])

    def __init__(self, x: Tensor, ahead: int) -> None:
        self.x, self.ahead, self.p = x, ahead, self.q
        for _ in range(500):  # Riccati's recursion
            gain = torch.linalg.solve(self.r + self.b.T @ self.p @ self.b, self.b.T @ self.p @ self.a)
            self.p = self.q + self.a.T @ self.p @ (self.a - self.b @ gain)

    def cost(self, x: Tensor, u: Tensor) -> Tensor:
        return ((x @ self.q) * x).sum(-1) + ((u @ self.r) * u).sum(-1)

    def to_go(self, x: Tensor) -> Tensor:
        return ((x @ self.p) * x).sum(-1)

    def next(self, x: Tensor, u: Tensor) -> Tensor:
        return x @ self.a.T + u @ self.b.T

    def start(self, rows: Tensor) -> None:
        self.now, self.t = self.x[rows], 0

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cost, self.now, self.t = self.cost(self.now, action), self.next(self.now, action), self.t + 1
        if self.t == self.ahead:
            cost = cost + self.to_go(self.now)
        return -cost, action.new_zeros(len(action), 0), torch.ones(len(action), dtype=torch.bool)


def stand_in(played: int, limits: dict[str, Limit] | None = None, act_dim: int = 1) -> Any:
    task = SimpleNamespace(control_dt=DT, limits=limits or {})
    return SimpleNamespace(task=task, num_envs=played, act_dim=act_dim, max_age=100)


def excess_cost(config: Config, seed: int) -> Tensor:
    """Cost over the optimum's, minus 1, of eight starts and 60 control steps."""
    start = (torch.rand(8, 2, generator=torch.Generator().manual_seed(1)) - 0.5) * torch.tensor([0.8, 0.4])
    model = Integrator(start, ahead=15)
    planner, total = Planner(model, config, stand_in(8), seed), torch.zeros(8)
    for _ in range(60):
        action = planner.plan()
        total += model.cost(model.x, action)
        model.x = model.next(model.x, action)
    return (total + model.to_go(model.x)) / model.to_go(start) - 1


INTEGRATOR = Config(
    rule="elites", samples=64, horizon=1.5, iterations=3, elites=10, carried=1.5, temperature=0.5, colour=1.0
)


def test_it_comes_within_five_per_cent_of_the_linear_quadratic_optimum():
    excess = torch.stack([excess_cost(INTEGRATOR, seed) for seed in range(2)])
    assert 0 < excess.mean() <= 0.05


@pytest.mark.medium
def test_fixed_deviations_of_all_samples_are_worse():
    assert excess_cost(Config(rule="softmax", samples=64, horizon=1.5, iterations=3), 0).mean() > 0.5


# -- noise ---------------------------------------------------------------------------------------------------


def test_white_noise_is_white_and_pink_noise_has_power_1_over_f():
    assert torch.allclose(coloured(16, 0.0), torch.eye(16), atol=1e-6)
    noise = coloured(64, 1.0) @ torch.randn(64, 4000, generator=torch.Generator().manual_seed(0))
    assert noise.std(1).sub(1).abs().max() < 0.05
    power = torch.fft.rfft(noise, dim=0).abs().square().mean(1)
    f = torch.arange(1, 33)
    slope = torch.linalg.lstsq(
        torch.stack((f.log(), torch.ones(32)), 1)[:-1], power[1:-1].log()[:, None]
    ).solution[0]
    assert slope.item() == pytest.approx(-1.0, abs=0.05)


def test_knots_are_met_and_joined_by_lines():
    weights = between(7, 3)
    assert weights[[0, 3, 6]].tolist() == torch.eye(3).tolist()
    assert (weights @ torch.tensor([0.0, 3.0, 0.0])).tolist() == pytest.approx([0, 1, 2, 3, 2, 1, 0])
    assert between(5, 1).tolist() == [[1.0]] * 5


# -- rollouts ------------------------------------------------------------------------------------------------


def test_a_rollout_of_the_true_model_is_what_the_simulation_does_then():
    env = robokit.make("hopper", 2, seed=3, threads=1)
    for _ in range(5):
        env.step(torch.zeros(2, 3))
    model, rows = TrueModel(env, 3, threads=1), torch.arange(2).repeat(3)
    actions = 0.3 * torch.randn(10, 6, 3, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    actions[:, 2:4] = actions[:, :2]
    found, costs = rollout(model, actions, torch.zeros_like(actions), rows, 0.9)
    assert costs.shape == (10, 6, 0)
    total = sum(0.9**t * env.step(action[:2]).reward for t, action in enumerate(actions))
    assert torch.equal(found[:2], found[2:4])
    assert torch.allclose(found[:2], torch.as_tensor(total), rtol=1e-6)


def test_nothing_counts_after_an_end_and_a_cut_off_is_charged():
    class Ends:
        def start(self, rows: Tensor) -> None:
            self.t = 0

        def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            self.t += 1
            return torch.ones(2), torch.ones(2, 1), torch.tensor([self.t != 2, True])

    found, costs = rollout(Ends(), torch.zeros(4, 2, 1), torch.zeros(4, 2, 1), torch.arange(2), 1.0)
    assert found.tolist() == [2.0, 4.0]
    assert costs.sum(0)[:, 0].tolist() == [2.0, 4.0]


# -- limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [  # 30 of 100 control steps with a cost of .2 each, a plan of 10; aims are .9 of the limits
        (Limit(0.5), 0.45 * 40 - 6),
        (Limit(20.0, "episode"), (18 - 6) * 10 / 70),
        (Limit(0.5, "probability"), 0.0),
        (Limit(0.5, "peak"), 0.45),
    ],
)
def test_each_kind_of_limit_has_its_budget(limit: Limit, allowed: float):
    budget = Budget({"x": limit}, 1, 100)
    for _ in range(30):
        budget.add(torch.full((1, 1), 0.2), torch.tensor([False]))
    each = allowed if limit.measure == "peak" else allowed / 10
    for share, feasible in ((0.99, True), (1.01, False)):
        costs = torch.full((10, 1, 1, 1), share * each + (1e-3 if not allowed and not feasible else 0.0))
        assert (budget.excess(costs).item() == 0) == feasible
    budget.add(torch.full((1, 1), 0.2), torch.tensor([True]))
    assert (budget.spent.item(), budget.age.item()) == (0.0, 0.0)


def test_a_discounted_budget_is_spent_in_discounted_costs():
    budget = Budget({"x": Limit(5.0, "discounted")}, 1, 100, gamma=0.9, margin=0.0)
    budget.add(torch.ones(1, 1), torch.tensor([False]))
    budget.add(torch.ones(1, 1), torch.tensor([False]))
    left = (5 - 1.9) * (1 - 0.9**10) / (1 - 0.9**98)
    each = left / sum(0.9**t for t in range(2, 12))
    assert budget.excess(torch.full((10, 1, 1, 1), 0.99 * each)).item() == 0
    assert budget.excess(torch.full((10, 1, 1, 1), 1.01 * each)).item() > 0


class Tempting:
    """A push of 1 is worth most and costs 1, as any above .5 does."""

    def start(self, rows: Tensor) -> None:
        self.n = len(rows)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        going = torch.ones(self.n, dtype=torch.bool)
        return action[:, 0], (action > 0.5).float(), going


@pytest.mark.parametrize("rule", ["softmax", "elites"])
def test_a_feasible_plan_comes_before_a_better_one(rule: Any):
    config = Config(rule=rule, samples=64, horizon=0.3, iterations=5, temperature=0.1)
    free, held = (
        Planner(Tempting(), config, stand_in(1, limits)) for limits in ({}, {"push": Limit(0.0, "peak")})
    )
    pushes = [[planner.plan().item() for _ in range(10)][-1] for planner in (free, held)]
    assert pushes[0] > 0.8
    assert 0.2 < pushes[1] <= 0.5


def test_without_a_feasible_plan_the_least_costly_ones_count():
    planner = Planner(Tempting(), Config(rule="elites", samples=4, elites=2), stand_in(1))
    weight = planner._weights(
        torch.tensor([[9.0], [1.0], [5.0], [7.0]]), torch.tensor([[4.0], [1], [2], [3]])
    )
    assert weight[1] > weight[2] > 0
    assert weight[[0, 3]].tolist() == [[0.0], [0.0]]
    weight = planner._weights(
        torch.tensor([[9.0], [1.0], [5.0], [7.0]]), torch.tensor([[4.0], [0], [2], [3]])
    )
    assert weight[:, 0].tolist() == [0.0, 1.0, 0.0, 0.0]
    weight = planner._weights(torch.tensor([[9.0], [torch.nan], [5.0], [7.0]]), torch.zeros(4, 1))
    assert weight[1] == 0
    assert weight[0] > weight[3] > 0


# -- a policy beside it --------------------------------------------------------------------------------------


class Counting:
    """Pushes by half the number of control steps since its start, told by its belief, over ten."""

    act_dim = belief_size = 1

    def __call__(self, obs: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        now = torch.where(is_first[:, None], 0.0, belief) + 1
        return now / 20, now

    sample: Any = None


def test_a_policy_s_own_actions_are_among_the_samples_and_its_critic_at_the_end():
    class Shown(Tempting):
        obs = state = torch.zeros(6, 1)
        seen: list[Tensor] = []

        def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            self.seen.append(action)
            return super().step(action)

    guide = Guide(Counting(), 2, 2, value=lambda obs, state: torch.full((len(obs),), 100.0))
    guide.follow(torch.zeros(2, 1), torch.tensor([False, True]))  # the second begins anew
    actions, rows = torch.zeros(3, 6, 1), torch.arange(2).repeat(3)
    actions[:, 2:4] = 0.25
    total, _ = rollout(Shown(), actions, torch.zeros_like(actions), rows, 0.5, guide)
    first = torch.stack(Shown.seen)[..., 0]
    assert torch.allclose(first[:, 0], torch.tensor([2.0, 3.0, 4.0]) / 20)
    assert torch.allclose(first[:, 1], torch.tensor([1.0, 2.0, 3.0]) / 20)
    assert torch.allclose(first[:, 2], torch.tensor([2.0, 3.0, 4.0]) / 20 + 0.25)
    assert first[:, 4:].abs().max() == 0
    assert torch.equal(actions[..., 0], first)
    assert total[4].item() == pytest.approx(0.125 * 100)


def test_the_guided_planner_follows_the_policy_where_nothing_is_better():
    class Flat(Tempting):
        obs = state = torch.zeros(16, 1)

    planner = Planner(Flat(), Config(samples=16), stand_in(1), guide=Guide(Counting(), 4, 1))
    assert torch.isfinite(planner.plan()).all()
    done = SimpleNamespace(cost=torch.zeros(1, 0), done=torch.tensor([False]))
    planner.follow(torch.zeros(1, 1), done)  # type: ignore[arg-type]
    assert isinstance(planner.guide, Guide)
    assert planner.guide.belief.item() == 1.0


def test_a_new_episode_begins_with_a_new_plan():
    planner = Planner(Tempting(), Config(rule="elites", samples=16, carried=1.5), stand_in(2))
    planner.plan()
    done = SimpleNamespace(cost=torch.zeros(2, 0), done=torch.tensor([True, False]))
    planner.follow(torch.zeros(2, 1), done)  # type: ignore[arg-type]
    assert planner.mean[:, 0].abs().max() == 0
    assert (planner.std[:, 0] == 0.5).all()
    assert planner.mean[:, 1].abs().max() > 0


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "elites", "elites": 65}, "elites must be at most samples (64), got 65"),
        ({"rule": "elites", "kept": 9}, "kept must be at most elites (8), got 9"),
        ({"sigma": 0.0}, "sigma must be > 0, got 0.0"),
        ({"sigma": -0.1}, "sigma must be > 0, got -0.1"),
        ({"samples": 0}, "samples must be > 0, got 0"),
        ({"iterations": 0}, "iterations must be > 0"),
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"gamma": 1.5}, "gamma must be in [0, 1], got 1.5"),
        ({"least": 0.6}, "least must be at most sigma (0.5), got 0.6"),
        ({"rule": "best"}, "rule must be one of ['softmax', 'elites'], got 'best'"),
        ({"horizon": 0.04}, "horizon must be at least a control step (0.1 s), got 0.04 s"),
        ({"knots": 6}, "knots must be at most the 5 control steps of the horizon (0.5 s), got 6"),
    ],
)
def test_impossible_options_are_refused_by_name(options: Any, words: str):
    def checked() -> None:
        check(config := Config(**options))
        steps_of(config, DT)

    with pytest.raises(OptionError) as refused:
        checked()
    assert words in str(refused.value)


def test_a_limit_that_no_control_step_tells_is_refused():
    with pytest.raises(OptionError, match=r"limits\['x'\]: no plan is held to a cvar: whether an episode"):
        Planner(Tempting(), Config(), stand_in(1, {"x": Limit(0.5, "cvar")}))
