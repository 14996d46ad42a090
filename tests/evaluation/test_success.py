"""Success, time to it and its map over the goals, each against a loop over episodes by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from point import Point, but
from torch import Tensor

from robokit.env.env import Env
from robokit.evaluation.episodes import TIME, run_episodes
from robokit.evaluation.measure import evaluate
from robokit.evaluation.reports.report import Report
from robokit.show.plots import draw, success, success_map
from robokit.task.command import Command
from robokit.task.goal import Goal

N = 60
HOLD, DT = 5, Point.control_dt  # control steps and s of Point's goal
NEAR, GONE = 0.1, 0.3  # m; where an actor of `wandering` stands after it has left its goal


def wandering(env: Env, first: Tensor) -> Tensor:
    """Actions to the goal and away from it again, from ages that differ between simulations."""
    goal, age = env.sim.memory["place"].float(), env.sim.memory["age"].float()
    number = torch.arange(env.num_envs)[:, None]
    begin, end = number % 37, 12 + number % 50  # control steps
    return torch.where((age >= begin) & (age < end), goal, goal - GONE)


def by_hand(task: Any, act: Any) -> list[dict[str, Any]]:
    """Of each episode: its goal, and whether it was near in each of its control steps."""
    env = Env(task, N, seed=3, threads=1)
    env.reset()  # as run_episodes does
    episodes: list[dict[str, Any]] = [{"near": [], "done": False} for _ in range(N)]
    while not all(one["done"] for one in episodes):
        goals = env.sim.memory["place"].clone()
        step = env.step(act(env, torch.zeros(N, dtype=torch.bool)))
        tips = env.split(step.final_obs)["tip"]
        rows = goals.tolist(), tips.tolist(), step.done.tolist()
        for one, goal, tip, done in zip(episodes, *rows, strict=True):
            if not one["done"]:
                one["near"].append(math.dist(tip, goal) <= NEAR)
                one |= {"goal": goal, "done": done}
    return episodes


@pytest.mark.parametrize("every", [None, (0.3, 0.5)])
def test_success_is_being_near_for_the_last_steps_and_time_is_when_that_began(every: Any):
    task = but(commands={"place": Command((-0.6,) * 3, (0.6,) * 3, every=every)})
    ran, episodes = run_episodes(Env(task, N, seed=3, threads=1), wandering), by_hand(task, wandering)
    held, ever, times = [], [], []
    for one in episodes:
        near = one["near"]
        held.append(len(near) >= HOLD and all(near[-HOLD:]))
        ever.append(any(near))
        last_away = max((i for i, is_near in enumerate(near) if not is_near), default=-1)
        times.append((last_away + 2) * DT if held[-1] else math.nan)
    found = ran.metrics["success"]
    assert found["held"].tolist() == held
    assert found["ever"].tolist() == ever
    assert found["mean"] == pytest.approx([np.mean(one["near"]) for one in episodes])
    assert ran.metrics[TIME]["s"] == pytest.approx(times, nan_ok=True)
    assert 5 < sum(held) < sum(ever) <= N  # some hold, some only pass
    assert ran.headline.tolist() == held
    assert ran.goals["place[1]"] == pytest.approx([one["goal"][1] for one in episodes])


@pytest.mark.parametrize("hold", [0.0, 0.02, 0.3])
def test_the_goal_s_own_hold_decides(hold: float):
    task = but(goal=Goal("place", "tip", NEAR, hold))
    steps = max(1, round(hold / DT))
    held = [all(one["near"][-steps:]) for one in by_hand(task, wandering)]
    ran = run_episodes(Env(task, N, seed=3, threads=1), wandering)
    assert ran.metrics["success"]["held"].tolist() == held


def test_the_map_counts_episodes_of_each_cell_as_a_loop_does():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, 300), rng.uniform(0, 5, 300)
    held = (x > y / 5).astype(np.float64)
    shares, *edges = success_map(x, y, held)
    assert shares.shape == (5, 5)
    for i in range(5):
        for j in range(5):
            inside = [
                k
                for k in range(300)
                if edges[0][i] <= x[k] <= edges[0][i + 1] and edges[1][j] <= y[k] <= edges[1][j + 1]
            ]
            assert shares[i, j] == pytest.approx(sum(held[k] for k in inside) / len(inside))


def test_a_cell_without_goals_has_no_share_and_an_axis_without_spread_one_cell():
    x = np.array([0.0, 0.1, 1.0, 0.9] * 10)
    shares, *edges = success_map(x, np.zeros(40), (x < 0.5).astype(np.float64))
    assert shares.tolist() == [[1.0], [0.0]]
    corners, *_ = success_map(x, x, np.ones(40))
    assert np.isnan(corners[0, 1])
    assert np.isnan(corners[1, 0])
    assert edges[0].tolist() == [0.0, 0.5, 1.0]


class Homing:
    """Goes to the place where its x is positive, and stays where it is elsewhere."""

    belief_size, act_dim = 0, 3

    def __call__(self, obs: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(obs[:, 6:7] > 0, obs[:, 6:], obs[:, 3:6]), belief

    def sample(self, obs: Tensor, belief: Tensor, is_first: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self(obs, belief, is_first)


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluate(None, but(), N, policy=Homing(), threads=1)


def test_the_report_tells_what_success_is_and_how_often_how_soon_and_where(report: Report):
    lines = report.text().splitlines()
    assert "  success: tip within 0.1 of place for the last 0.1 s" in lines
    starts = [" ".join(line.split()[:4]) for line in lines]
    assert any(start.startswith("headline success (held)") for start in starts)
    assert any(start.startswith("success (ever)") for start in starts)
    assert any(start.startswith("time to success (s)") for start in starts)
    told = json.loads(report.to_json())
    assert told["goal"]["unit"] == "m"
    places, held = report.numbers("goal/place[0]"), report.numbers("success")
    assert (held == told["per_episode"]["headline"]).all()
    assert held[places > 0].all()
    assert held[places < -0.4].mean() < 0.2
    count = report.metrics[TIME]["s"].count
    assert count == held.sum()
    assert f"  time to success: counted in {count} of {N} episodes" in lines


def test_the_picture_shows_the_shares_of_each_pair_of_the_goal_s_numbers(report: Report):
    figure = success(report)
    axes = [axis for axis in figure.axes if axis.get_ylabel().startswith("place")]
    labels = [(axis.get_xlabel(), axis.get_ylabel()) for axis in axes]
    x, y, z = (f"place[{i}]" for i in range(3))
    assert labels == [(x, y), (x, z), (y, z)]
    numbers = [report.numbers(name) for name in ("goal/place[0]", "goal/place[1]", "success")]
    drawn = axes[0].collections[0].get_array()
    assert drawn is not None
    shares = success_map(*numbers)[0].T.ravel()
    assert np.ma.filled(drawn, np.nan).ravel() == pytest.approx(shares, nan_ok=True)


def test_a_goal_with_one_number_that_varies_is_drawn_as_a_row(report: Report):
    lists = dict(report.per_episode)
    for name in ("goal/place[1]", "goal/place[2]"):
        lists[name] = [0.3] * N
    [axis, _] = success(replace(report, per_episode=lists)).axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("place[0]", "")


def test_the_picture_is_written_where_goals_differ(report: Report, tmp_path: Path):
    assert [path.name for path in draw(tmp_path, report)] == ["success.png"]
    same = {name: [0.3] * N if name.startswith("goal/") else x for name, x in report.per_episode.items()}
    assert draw(tmp_path, replace(report, per_episode=same)) == []
