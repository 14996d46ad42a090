"""Goals in Env: reward terms, success, and commands that are redrawn where the goal has held."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from point import Point, but
from torch import Generator, Tensor

from robokit.env.env import Env
from robokit.env.step import Step
from robokit.learning.episodes import EpisodeTotals, Reach, iteration_metrics
from robokit.sim.base import Sim
from robokit.task.command import Command
from robokit.task.goal import Goal
from robokit.task.region import Ball, Points
from robokit.task.task import Task, Terms, uniform

N = 8
HOLD = 5  # control steps of Point's goal
PLACES = ((0.5, 0.0, 0.0), (-0.5, 0.0, 0.0), (0.0, 0.5, 0.5))


class Again(Point):
    """A new place as soon as the last one was held."""

    commands = {"place": Command(region=Points(PLACES), every="success", unit="m")}
    time_limit = 4.0


def homing(env: Env) -> Tensor:
    """Actions that lead to each simulation's goal, but in simulation 0 nowhere."""
    action = env.sim.memory["place"].float().clone()
    action[0] = 0.0
    return action


def new(task: Task, training: bool = False, seed: int = 0) -> Env:
    return Env(task, N, seed=seed, threads=1, training=training)


def run(env: Env, steps: int) -> Iterator[tuple[Tensor, Step]]:
    """(the goals that each control step was about, its Step), for actions of `homing`."""
    for _ in range(steps):
        goal = env.sim.memory["place"].clone()
        yield goal, env.step(homing(env))


def test_the_terms_of_reached_are_weighed_reward_terms_of_the_place_after_the_step():
    env = new(but())
    assert env.names.rewards == ("calm", "near")
    for goal, step in run(env, 60):
        tip = env.split(step.final_obs)["tip"]
        speed = env.split(step.final_obs)["speed"]
        near, calm = -(tip - goal.float()).norm(dim=-1), speed.square().sum(-1)
        torch.testing.assert_close(step.terms, torch.stack((-0.5 * calm, 2.0 * near), -1))
        assert torch.equal(step.reward, step.terms.sum(-1))
        assert torch.equal(step.metrics[:, 0], ((tip - goal.float()).norm(dim=-1) <= 0.1).float())


def test_a_privileged_term_can_be_what_is_achieved_also_behind_others():
    def privileged(self: Point, sim: Sim) -> Terms:
        return {"more": sim.qvel[:, :2], "exact": sim.site("tip").xpos}

    env, plain = new(but(privileged=privileged, goal=Goal("place", "exact", 0.1))), new(but())
    for (_, one), (_, two) in zip(run(env, 30), run(plain, 30), strict=True):
        assert torch.equal(one.terms, two.terms)
        assert torch.equal(one.metrics, two.metrics)


def test_a_variant_without_the_goal_has_its_parents_own_headline():
    assert but().headline == "success"
    bare = but(goal=None, weights={"calm": -0.5})
    assert new(bare).task.headline == "return"


def test_in_training_a_command_is_redrawn_in_the_step_in_which_its_goal_has_held():
    env, streak, reached = new(Again(), training=True), torch.zeros(N), 0
    assert env.labels[-1] == "goal/reached"
    assert env.training
    for goal, step in run(env, 150):
        streak = (streak + 1) * step.metrics[:, 0]
        due = streak >= HOLD
        moved = (env.sim.memory["place"] != goal).any(-1)
        assert torch.equal(step.logged[:, -1].bool(), due)
        assert not (moved & ~due & ~step.done).any()  # the same place may be drawn again
        reached += int(due.sum())
        streak[due] = 0
        streak[step.done] = 0
    assert reached > 5 * N


def test_elsewhere_the_goal_stays_until_the_episode_ends():
    env = new(Again())
    assert "goal/reached" not in env.labels
    for goal, step in run(env, 150):
        moved = (env.sim.memory["place"] != goal).any(-1)
        assert not (moved & ~step.done).any()
        assert len(env.labels) == step.logged.shape[1]


def test_a_goal_that_need_not_be_held_is_redrawn_after_one_control_step_near_it():
    task = type("Touch", (Again,), {"goal": Goal("place", "tip", 0.1, hold=0.0)})()
    env = new(task, training=True)
    for _, step in run(env, 80):
        assert torch.equal(step.logged[:, -1], step.metrics[:, 0])


@pytest.mark.parametrize("training", [False, True])
def test_a_task_without_redrawing_at_success_is_the_same_in_training(training: bool):
    one, other = run(new(but()), 60), run(new(but(), training=training), 60)
    assert all(torch.equal(a.obs, b.obs) for (_, a), (_, b) in zip(one, other, strict=True))


def test_counting_goes_on_bit_for_bit_from_a_saved_state():
    one, two = (new(Again(), training=True, seed=seed) for seed in (0, 1))
    list(run(one, 37))
    two.load_state_dict(one.state_dict())
    for (goal, a), (same, b) in zip(run(one, 60), run(two, 60), strict=True):
        assert torch.equal(goal, same)
        assert torch.equal(a.obs, b.obs)
        assert torch.equal(a.logged, b.logged)


def beside(self: Task, sim: Sim, rng: Generator) -> Tensor:
    """A place by the task's own function: beside the tip, never above, and beyond the bounds at times."""
    step = uniform(sim, rng, 3, 0.5) + 0.5
    return sim.site("tip").xpos + step * sim.constant(self.time_limit, self.time_limit, 0.0)


def test_a_function_of_the_task_draws_from_the_state_and_its_values_are_clamped():
    bounds = (-0.6,) * 3, (0.6,) * 3
    env = new(but(commands={"place": Command(*bounds, every=(0.1, 0.2), region=beside)}))
    seen = []
    for goal, step in run(env, 40):
        now = env.sim.memory["place"]
        moved = ((now != goal).any(-1) & ~step.done).nonzero()[:, 0]
        for i in moved.tolist():
            tip = env.sim.site("tip").xpos[i]
            assert now[i, 2] == tip[2]
            assert (now[i, :2] >= tip[:2].clamp(-0.6, 0.6)).all()
            seen.append(now[i])
    seen = torch.stack(seen)
    assert seen.abs().max() <= 0.6
    assert (seen[:, 0] == 0.6).any()


def test_a_ball_is_drawn_at_restarts_and_by_time_within_its_bounds():
    ball = Ball((0.1, 0.2, 0.3), 0.2)
    env = new(but(commands={"place": Command(region=ball, every=(0.1, 0.2))}))
    center = torch.tensor(ball.center)
    places = torch.cat([goal for goal, _ in run(env, 100)])
    assert len(places.unique(dim=0)) > 10 * N
    assert (places - center).norm(dim=-1).max() <= 0.2


@pytest.mark.parametrize("training", [False, True])
def test_a_training_s_env_logs_goals_per_episode_as_a_loop_counts_them(training: bool):
    env = new(Again(), training)
    totals, steps = EpisodeTotals(N, env.device), [step for _, step in run(env, 200)]
    assert env.max_age == 200  # every simulation ends one episode
    logged = torch.stack([step.logged for step in steps])
    totals.add(torch.stack([s.reward for s in steps]), torch.stack([s.done for s in steps]))
    reach = Reach(env, env.names.state)
    reach.look(torch.stack([s.obs for s in steps]), torch.stack([s.state for s in steps]), logged)
    found: dict[str, Any] = iteration_metrics(totals, reach, {}, logged.mean((0, 1)))
    if not training:
        assert "episode/goals" not in found
        return
    streak, count = torch.zeros(N), 0
    for step in steps:
        streak = (streak + 1) * step.metrics[:, 0]
        count += int((streak == HOLD).sum())
        streak[streak == HOLD] = 0
    assert found["episode/goals"] == pytest.approx(count / N)


@pytest.mark.slow
def test_compiled_goals_are_as_eager_ones():
    eager, compiled = (Env(Again(), N, threads=1, training=True, compile=c) for c in (False, True))
    for goal, one in run(eager, 60):
        other = compiled.step(homing(compiled))
        for f in ("obs", "terms", "metrics", "logged"):
            torch.testing.assert_close(getattr(one, f), getattr(other, f), rtol=1e-5, atol=1e-5)
        assert torch.equal(eager.sim.memory["place"], compiled.sim.memory["place"])
        assert goal.shape == (N, 3)


@pytest.mark.slow
def test_goals_are_the_same_on_both_engines():
    pytest.importorskip("mujoco_warp", reason="needs robokit[gpu]")
    bounds = (-0.6,) * 3, (0.6,) * 3
    for task in (Again(), but(commands={"place": Command(*bounds, every="success", region=beside)})):
        cpu, warp = (Env(task, N, sim=engine, training=True) for engine in ("mujoco", "warp"))
        torch.testing.assert_close(cpu.sim.memory["place"].float(), warp.sim.memory["place"])
        for engine in (cpu, warp):
            engine.sim.memory["place"].copy_(torch.tensor(PLACES[0]))
        for _ in range(30):
            one, other = (env.step(torch.tensor(PLACES[0]).expand(N, 3)) for env in (cpu, warp))
            near = (one.terms[:, 1] + 0.2).abs() < 1e-3  # at the edge of within, where rounding decides
            torch.testing.assert_close(one.terms, other.terms, rtol=1e-3, atol=1e-3)
            assert torch.equal(one.metrics[~near], other.metrics[~near])
            assert torch.equal(one.logged[~near, -1], other.logged[~near, -1])
            if bool(one.logged[:, -1].any()):
                break
