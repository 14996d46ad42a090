"""The filter in simulation: it changes what it must, and counts it in the first episode of each."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import robokit
from robokit.cli.command import main
from robokit.controller import load
from robokit.env.env import Env
from robokit.evaluation.episodes import Episodes, onnx_actor, run_episodes
from robokit.evaluation.filtered import FilteredActor
from robokit.evaluation.measure import evaluate
from robokit.filter import Filter, FilterError
from robokit.task.lookup.find import load_task

HOPPER = Path(__file__).parents[2] / "policies/hopper.onnx"


def through(filter: Filter, n: int = 4) -> FilteredActor:
    session, contract = load(HOPPER)
    return FilteredActor(onnx_actor(session, contract["carry"]["size"]), contract, filter, n)


def short(n: int = 4) -> Env:
    task = load_task("hopper")
    task.time_limit = 0.4  # 50 control steps
    return Env(task, n, seed=5, threads=1)


def plain(n: int = 4) -> Episodes:
    session, contract = load(HOPPER)
    return run_episodes(short(n), onnx_actor(session, contract["carry"]["size"]))


def test_a_filter_that_never_acts_leaves_the_episodes_as_they_are():
    actor = through(Filter(slew=1e6, torque=1e6))
    ran, without = run_episodes(short(), actor), plain()
    assert np.array_equal(ran.returns, without.returns)
    assert actor.shares() == dict.fromkeys(actor.shares(), 0.0)
    assert actor.latched == 0


def test_a_filter_that_acts_changes_them_and_says_how_often():
    actor = through(Filter(slew=5.0, soft_start=0.08))  # 10 control steps
    ran, without = run_episodes(short(), actor), plain()
    assert not np.array_equal(ran.returns, without.returns)
    shares = actor.shares()
    assert shares["soft start"] == pytest.approx(4 * 10 / ran.lengths.sum())
    assert 0 < shares["slew"] <= 1
    assert shares["fallback"] == shares["beyond"] == 0


def test_ctrl_moves_no_faster_than_the_slew_in_every_simulation():
    actor = through(Filter(slew=5.0))
    env = short()
    env.reset()
    first, last = torch.ones(4, dtype=torch.bool), None
    for _ in range(40):
        action = actor(env, first)
        if last is not None:
            assert bool(((action - last).abs() <= 5.0 * 0.008 + 1e-9)[~first].all())
        last, first = action, env.step(action).done


def test_each_episode_begins_anew_and_only_the_first_of_a_simulation_is_counted():
    actor = through(Filter(soft_start=100.0), n=2)  # acts in every step of an episode
    env = short(2)
    env.reset()
    first = torch.ones(2, dtype=torch.bool)
    lengths = [0, 0]
    for step in range(1, 121):  # at least two episodes each
        action = actor(env, first)
        assert not action[first].any()  # t = 0: a motor starts from 0, in every episode
        first = env.step(action).done
        lengths = [length or step * bool(done) for length, done in zip(lengths, first, strict=True)]
    assert min(lengths) > 0
    assert actor.steps.tolist() == lengths


def test_what_an_action_cannot_express_is_counted():
    _, contract = load(HOPPER.with_name("go2_walk.onnx"))  # its actions are offsets of at most 0.5 rad
    home = [a["default"] for a in contract["actuators"]]
    far = [home[0] + 0.8, *home[1:]]
    filter = Filter(grace=0, fallback="pose", pose=far, pose_speed=50.0)
    env = robokit.make("go2_walk", num_envs=2, seed=1, nominal=True, threads=1)
    env.reset()
    actor = FilteredActor(lambda env, first: torch.full((2, 12), torch.nan), contract, filter, 2)
    for step in range(3):
        actor(env, torch.full((2,), step == 0))
    assert actor.latched == 2
    assert actor.shares()["fallback"] == 1.0
    assert actor.shares()["beyond"] > 0


def test_a_report_compares_the_same_episodes_through_the_filter_and_without():
    task = load_task("hopper")
    task.time_limit = 0.4
    reports = [evaluate(HOPPER, task, 4, filter=f, threads=1) for f in (None, Filter(slew=5.0), Filter())]
    plain, slewed, idle = (report.filtered for report in reports)
    assert plain is None and slewed is not None and idle is not None
    assert slewed.numbers == {"slew": 5.0}
    assert slewed.difference.mean == pytest.approx(slewed.returns.mean - reports[1].returns.mean)
    assert slewed.shares["slew"] > 0
    assert (idle.difference.mean, idle.difference.low, idle.difference.high) == (0.0, 0.0, 0.0)
    assert reports[0].returns == reports[1].returns
    assert "through it minus without: +0 in return" in reports[2].text()
    with pytest.raises(FilterError, match="no actuator 'knee'"):
        evaluate(HOPPER, task, 4, filter=Filter(slew={"knee": 1.0}))


def test_simulations_that_broke_through_the_filter_are_counted_and_a_failure():
    breaks = {"disturb": lambda self, sim, rng: {"qvel": sim.qvel + 1e11}}
    task = type("Hopper", (type(load_task("hopper")),), breaks)
    report = evaluate(HOPPER, task, 2, filter=Filter(slew=5.0), threads=1)
    assert report.filtered is not None and report.filtered.bad == 2
    assert "broken simulations 2, in the fallback at the end 0" in report.text()
    assert replace(report, bad=0).failed  # as if nothing had broken without it


@pytest.mark.medium
def test_the_command_line_takes_a_filter_and_refuses_one_that_cannot_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "filter.json"
    file.write_text('{"slew": 1e6, "low": -0.5}')
    # hopper.onnx belongs to a task of 8 s: two episodes of it
    options = ["--episodes", "2", "--threads", "1", "--json", "--filter", str(file)]
    assert main(["evaluate", str(HOPPER), *options]) == 0
    filtered = json.loads(capsys.readouterr().out)["filtered"]
    assert filtered["numbers"] == {"slew": 1e6, "low": -0.5}
    assert filtered["shares"]["range"] > 0
    file.write_text('{"slaw": 1.0}')
    assert main(["evaluate", str(HOPPER), "--filter", str(file)]) == 2
    assert "a filter has no 'slaw'; did you mean 'slew'" in capsys.readouterr().err
