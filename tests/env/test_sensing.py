"""Sensors: noise, bias, missing readings and hidden terms of the policy's observation."""

import math

import pytest
import torch
from cart import PERIODS, Cart, Still, actions, but, new, same
from sensors import DT, hits, play
from torch import Tensor

import robokit
from robokit.env.env import Env
from robokit.sim.base import Sim
from robokit.task.command import Command
from robokit.task.sense import Sense


class Noisy(Still):
    sensing = {"slide": Sense(noise=0.5), "tip": Sense(noise=2.0)}


class Every(Cart):
    """Every kind of sensing, commands that are redrawn under way, episodes that end early and late."""

    commands = {"goal": Command((-0.5,), (0.5,)), "turn": Command((-1.0, 2.0), (1.0, 3.0), every=(0.04, 0.1))}
    sensing = {
        "slide": Sense(noise=0.1, bias=0.2, delay=(0.0, 0.07), dropout=0.3),
        "hinge_speed": Sense(noise=0.5, distribution="uniform", delay=0.03, loss=3.0),
        "tip": Sense(hidden=True, noise=1.0),
    }
    action_delay = (0.0, 0.05)


# -- noise ---------------------------------------------------------------------------------------


def test_noise_is_on_the_terms_that_are_named_with_their_deviation_and_not_on_what_the_critic_sees():
    env = new(Noisy, 2000)
    off = env.obs - env.state[:, : env.obs_dim]
    stds = {
        name: part.std(0)
        for name, part in zip(env.names.obs, off.split([*env.names.obs.values()], -1), strict=True)
    }
    assert stds.pop("slide").item() == pytest.approx(0.5, rel=0.1)
    assert stds.pop("tip").tolist() == pytest.approx([2.0] * 3, rel=0.1)
    assert all(not std.any() for std in stds.values())


def test_noise_is_fresh_every_step():
    env = new(Noisy, 4)
    one, two = env.step(actions(1, 4)[0]), env.step(actions(1, 4)[0])
    noise = [s.obs - s.state[:, : env.obs_dim] for s in (one, two)]
    assert not torch.equal(*noise)


def test_uniform_noise_has_a_half_width_and_gaussian_noise_beside_it_a_deviation():
    truth = torch.zeros(200, 100, 3)
    seen = play({"a": 2, "b": 1}, truth, a=Sense(0.5, "uniform"), b=Sense(0.5)).flatten(0, 1)
    assert -0.5 <= seen[:, :2].min() < -0.4999 and 0.4999 < seen[:, :2].max() <= 0.5
    stds = torch.cat((seen.std(0), (seen[:, 0] + seen[:, 1]).std()[None]))
    third = 0.5 / math.sqrt(3)  # deviation of a uniform number
    assert stds.tolist() == pytest.approx([third, third, 0.5, third * math.sqrt(2)], rel=0.02)
    assert seen.mean(0).abs().max() < 4 * 0.5 / math.sqrt(len(seen))


def test_noise_is_one_normal_draw_a_step_for_all_columns_and_nothing_else_is_drawn():
    """So seeds mean what they meant before there was more than Gaussian noise."""
    env, rng = new(Noisy, 5, seed=3), torch.Generator().manual_seed(3)
    torch.rand(5, 1, generator=rng)  # ages
    std = torch.tensor([0.5, 0, 2, 2, 2, 0, 0, 0, 0, 0])  # slide, hinge_speed, tip, goal, turn, action
    exact = env.state[:, :10]
    for action in actions(2 * PERIODS, 5):
        noise = torch.zeros(5, 10).normal_(generator=rng) * std
        assert torch.equal(env.obs, exact + noise)
        exact = env.step(action).state[:, :10]


class Plain:
    """Gaussian noise as plainly as can be, in the place of Sensors."""

    def __init__(self, env: Env) -> None:
        sensing = env.task.sensing
        stds = [sensing.get(k, Sense()).noise for k, width in env.names.obs.items() for _ in range(width)]
        self.std, self.noise = torch.tensor(stds), torch.zeros(env.num_envs, env.obs_dim)

    def restart(self, mask: Tensor, rng: torch.Generator) -> None:
        pass

    def draw(self, rng: torch.Generator) -> None:
        self.noise.normal_(generator=rng).mul_(self.std)

    advance = draw

    def read(self, truth: Tensor) -> Tensor:
        return truth + self.noise


def test_the_walking_task_draws_what_it_always_drew():
    env, plain = (robokit.make("go2_walk", 3, seed=1, threads=1) for _ in range(2))
    plain.sensors = plain.period.sensors = Plain(plain)  # pyright: ignore[reportAttributeAccessIssue]
    for e in (env, plain):
        e.rng.manual_seed(7)
        e.reset(stagger=True)
    for _ in range(40):
        action = torch.rand(3, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1
        step, expected = env.step(action), plain.step(action)
        assert torch.equal(step.obs, expected.obs)
        assert torch.equal(step.final_obs, expected.final_obs)
        assert torch.equal(step.state, expected.state)


# -- bias ----------------------------------------------------------------------------------------


def test_a_bias_is_constant_in_an_episode_and_drawn_anew_for_those_who_restart():
    truth, begins = torch.randn(6, 400, 4), hits(6, 400, {3: slice(0, 200)})
    bias = play({"a": 2, "b": 1, "c": 1}, truth, begins, a=Sense(bias=0.5), b=Sense(0.0)) - truth
    assert not bias[..., 2:].any()
    first, second = bias[0, :, :2], bias[5, :, :2]
    assert torch.allclose(bias[:3, :, :2], first.expand(3, -1, -1), atol=1e-6)
    assert torch.allclose(bias[3:, :, :2], second.expand(3, -1, -1), atol=1e-6)
    assert torch.allclose(first[200:], second[200:], atol=1e-6)
    drawn = torch.cat((first, second[:200]))
    assert (first[:200] - second[:200]).abs().min() > 0
    assert -0.5 <= drawn.min() < -0.49 and 0.49 < drawn.max() <= 0.5
    assert drawn.std(0).tolist() == pytest.approx([0.5 / math.sqrt(3)] * 2, rel=0.06)
    pairs = torch.cat((drawn, second[:200].roll(1, 0).repeat(3, 1)), -1).T  # of simulations, of numbers
    assert torch.corrcoef(pairs)[0, 1:].abs().max() < 0.2


# -- readings that do not come -------------------------------------------------------------------


def test_where_a_reading_drops_out_the_last_one_stands_with_its_noise_for_all_numbers_of_the_term():
    truth, begins = torch.randn(50, 200, 3), hits(50, 200, {20: slice(0, 100)})
    seen = play({"a": 2, "b": 1}, truth, begins, a=Sense(noise=0.1, bias=1.0, dropout=0.3), b=Sense(0.1))
    held = seen[1:] == seen[:-1]
    assert torch.equal(held[..., 0], held[..., 1])
    assert not held[19, :100].any()  # an episode's first reading always comes
    assert not held[..., 2].any()
    assert held[..., 0].float().mean().item() == pytest.approx(0.3, abs=0.02)
    twice = (
        (held[1:, 100:, 0] & held[:-1, 100:, 0]).float().mean().item()
    )  # one step says nothing of the next
    assert twice == pytest.approx(0.09, abs=0.02)


def test_the_reading_that_stands_is_the_last_that_came():
    """Against a loop: late by one control step, without noise, so that each reading is known."""
    truth, begins = torch.randn(60, 20, 1), hits(60, 20, {25: slice(0, 10), 26: slice(5, 6)})
    seen = play({"a": 1}, truth, begins, a=Sense(delay=DT, dropout=0.4))[..., 0]
    dropped = 0
    for n in range(20):
        for t in range(60):
            start = begins[t, n]
            due = truth[t if start else t - 1, n, 0]
            dropped += int(seen[t, n] != due)
            assert seen[t, n] == due or (seen[t, n] == seen[t - 1, n] and not start)
    assert dropped / truth.numel() == pytest.approx(0.4, abs=0.05)


def test_a_lost_sensor_stays_lost_until_the_episode_ends_and_the_rate_is_per_second():
    rate, n = 3.0, 4000
    truth = torch.arange(100.0)[:, None, None].expand(-1, 2 * n, 2)
    seen = play({"a": 1, "b": 1}, truth, hits(100, 2 * n, {50: slice(n, None)}), a=Sense(loss=rate))
    assert torch.equal(seen[..., 1], truth[..., 1])
    for episode in (seen[:, :n, 0], seen[:50, n:, 0], seen[50:, n:, 0]):
        time = torch.arange(len(episode))
        working = episode == episode[0, 0] + time[:, None]
        assert working[0].all()
        assert (working[1:] <= working[:-1]).all()  # never again
        assert torch.equal(episode.diff(dim=0), working[1:].float())  # the last reading stands
        share = working.float().mean(1)
        expected = torch.exp(-rate * DT * time)
        assert (share - expected).abs().max() < 0.025
        assert share[1].item() == pytest.approx(expected[1].item(), abs=0.012)


def test_a_reset_under_way_finds_whole_sensors():
    env = Env(but(sensing={"slide": Sense(loss=1e9)}), 3, threads=1)
    for _ in range(2):
        begun = env.terms()["slide"]
        assert torch.equal(begun, env.state[:, :1])
        for action in actions(3, 3):
            assert not torch.equal(env.step(action).state[:, :1], begun)
            assert torch.equal(env.terms()["slide"], begun)
        env.reset()


# -- hidden and nominal --------------------------------------------------------------------------


def test_a_hidden_term_is_the_critics_alone_and_the_others_keep_their_order():
    env, full = new(Every, 3), new(Cart, 3)
    assert list(env.names.obs) == ["slide", "hinge_speed", "goal", "turn", "action"]
    assert (env.obs_dim, env.state_dim, env.obs.shape, env.state.shape) == (7, 14, (3, 7), (3, 14))
    assert env.names.state == full.names.state
    step = env.step(actions(1, 3)[0])
    assert torch.equal(step.state[:, 2:5], env.sim.sensor("tip").float())
    assert torch.equal(step.obs[:, 2:], step.state[:, 5:10])
    assert torch.equal(step.final_obs[:, 2:], step.final_state[:, 5:10])


def test_nominal_sensors_are_exact_and_actions_arrive_at_once_but_what_is_hidden_stays_hidden():
    env = new(Every, 3, nominal=True)
    columns = [0, 1, *range(5, 10)]
    assert torch.equal(env.obs, env.state[:, columns])
    for action in actions(2 * PERIODS, 3):
        step = env.step(action)
        assert torch.equal(step.obs, step.state[:, columns])
        assert torch.equal(step.final_obs, step.final_state[:, columns])
        on = ~step.done
        assert torch.allclose(env.sim.ctrl[on, 0].float(), 2 + 4 * action[on, 0])


# -- in an environment ---------------------------------------------------------------------------


def test_episodes_that_go_on_see_what_final_obs_said_and_only_the_redrawn_command_differs():
    env = new(Every, 16)
    env.reset(stagger=True)
    mixed = redrawn = 0
    measured = [0, 1, 2, 5, 6]  # slide, hinge_speed, goal, action
    for action in actions(3 * PERIODS, 16):
        before, step = env.terms()["turn"], env.step(action)
        on = ~step.done
        assert torch.equal(step.obs[on][:, measured], step.final_obs[on][:, measured])
        assert torch.equal(step.final_obs[:, 3:5], before)
        moved = (step.obs[on, 3:5] != before[on]).any()
        redrawn += int(moved)
        mixed += int(moved and step.done.any())
    assert redrawn > 20 and mixed > 5


@pytest.mark.parametrize("where", ["qpos", "qvel", "action", "seen"])
def test_a_broken_simulation_leaves_nothing_behind(where: str):
    """On a GPU a NaN stays in the simulation, and so is seen; "seen" plays that on a CPU."""

    class Broken(Every):
        action_delay = 0.02  # a NaN in an action is not late

        def observe(self, sim: Sim) -> dict[str, Tensor]:
            terms = super().observe(sim)
            gone = sim.memory["age"][:, :1] == (8 if where == "seen" else -1)
            return {k: v if k in self.commands else torch.where(gone, torch.nan, v) for k, v in terms.items()}

    env = new(Broken, 3)
    bad = torch.zeros(3, dtype=torch.bool)
    if where == "seen":
        env.sim.bad = lambda: env.sim.memory["age"][:, 0] == 7  # pyright: ignore[reportAttributeAccessIssue]
    for t, action in enumerate(actions(2 * PERIODS, 3)):
        if t == 6 and where in ("qpos", "qvel", "action"):
            (action if where == "action" else env.sim.written(where))[1, 0] = torch.nan
        step = env.step(action)
        bad |= step.bad
        assert all(torch.isfinite(x).all() for x in (step.obs, step.final_obs, step.state))
    assert bad[1]
    kept = {k: v for k, v in env.state_dict().items() if k.startswith(("sensors", "action_delay"))}
    assert all(torch.isfinite(v).all() for v in kept.values())


def test_one_seed_is_one_run():
    one, other, third = new(Every, 4, seed=2), new(Every, 4, seed=2), new(Every, 4, seed=3)
    for action in actions(2 * PERIODS, 4):
        step = one.step(action)
        assert same(step, other.step(action))
        assert not torch.equal(step.obs, third.step(action).obs)


@pytest.mark.parametrize("cut", [0, 7, PERIODS, 33])
def test_a_saved_environment_continues_bit_for_bit_with_every_kind_of_sensing(cut: int):
    env, other = new(Every, 4, seed=1), new(Every, 4, seed=9)
    env.reset(stagger=True)
    for action in actions(cut, 4, seed=1):
        env.step(action)
    for action in actions(5, 4, seed=3):  # leaves readings of its own
        other.step(action)
    other.load_state_dict(env.state_dict())
    assert torch.equal(env.obs, other.obs)
    for action in actions(2 * PERIODS, 4, seed=2):
        assert same(env.step(action), other.step(action))


def test_a_restart_touches_its_own_simulation_only():
    """Beside a run with the same draws in which nobody restarts."""
    sense = Sense(noise=0.1, bias=1.0, delay=(0.0, 0.1), dropout=0.3, loss=1.0)
    truth = torch.randn(30, 2, 3)
    runs = []
    for whom in (slice(0, 1), slice(0, 0)):
        begins = hits(30, 2, {10: whom, 17: whom})
        runs.append(play({"a": 2, "b": 1}, truth, begins, also=(10, 17), a=sense, b=sense))
    assert torch.equal(runs[0][:, 1], runs[1][:, 1])
    assert torch.equal(runs[0][:10, 0], runs[1][:10, 0])
    assert not torch.equal(runs[0][12, 0], runs[1][12, 0])


def test_reading_twice_in_one_control_step_is_reading_once():
    sense = Sense(noise=0.1, bias=1.0, delay=(0.0, 0.1), dropout=0.3, loss=1.0)
    truth = torch.randn(30, 4, 3)
    once, twice = (play({"a": 2, "b": 1}, truth, a=sense, b=sense, reads=reads) for reads in (1, 2))
    assert torch.equal(once, twice)
