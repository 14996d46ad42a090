"""The filter in simulation: its effect on actions, and its counts over each simulation's first episode."""

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import robokit
from robokit.cli.command import main
from robokit.env.env import Env
from robokit.evaluation.episodes import Act, Episodes, onnx_actor, run_episodes
from robokit.evaluation.filtered import FilteredActor
from robokit.evaluation.measure import evaluate
from robokit.export.bounds import resolve
from robokit.export.file import Exported
from robokit.filter import Filter, FilterError
from robokit.task.lookup.find import load_task

HOPPER = Path(__file__).parents[2] / "policies/hopper.onnx"


def made(path: Path = HOPPER, **numbers: Any) -> Filter:
    file = Exported.open(path)
    return resolve(numbers, file.contract, file.sha256)


def actor_of(file: Exported) -> Act:
    return onnx_actor(file)


def through(n: int = 4, **numbers: Any) -> FilteredActor:
    return FilteredActor(actor_of(Exported.open(HOPPER)), made(**numbers), n)


def short(n: int = 4) -> Env:
    task = load_task("hopper")
    task.time_limit = 0.4  # 50 control steps
    return Env(task, n, seed=5, threads=1)


def plain(n: int = 4) -> Episodes:
    return run_episodes(short(n), actor_of(Exported.open(HOPPER)))


def test_a_filter_that_never_acts_leaves_the_episodes_as_they_are():
    actor = through(slew=1e6, torque=1e6)
    ran, without = run_episodes(short(), actor), plain()
    assert np.array_equal(ran.returns, without.returns)
    assert actor.shares() == dict.fromkeys(actor.shares(), 0.0)
    assert actor.latched == 0


def test_a_filter_that_acts_changes_them_and_says_how_often():
    actor = through(slew=5.0, soft_start=0.08)  # 10 control steps
    ran, without = run_episodes(short(), actor), plain()
    assert not np.array_equal(ran.returns, without.returns)
    shares = actor.shares()
    assert shares["soft start"] == pytest.approx(4 * 10 / ran.lengths.sum())
    assert 0 < shares["slew"] <= 1
    assert shares["fallback"] == 0


def test_ctrl_moves_no_faster_than_the_slew_in_every_simulation():
    actor = through(slew=5.0)
    env = short()
    env.reset()
    first, last = torch.ones(4, dtype=torch.bool), None
    env.task.terminated = lambda sim: sim.qpos[:, 0] > 100.0  # a restart would clear ctrl
    for _ in range(40):
        first, ctrl = env.step(actor(env, first)).done, env.sim.ctrl.clone()
        if last is not None:
            assert 0 < float((ctrl - last).abs().max()) <= 5.0 * 0.008 + 1e-9
        last = ctrl


def test_each_episode_begins_anew_and_only_the_first_of_a_simulation_is_counted():
    actor = through(2, soft_start=100.0)  # acts in every step of an episode
    env = short(2)
    env.reset()
    first = torch.ones(2, dtype=torch.bool)
    lengths = [0, 0]
    for step in range(1, 121):  # at least two episodes each
        action = actor(env, first)
        assert env._sent is not None and not env._sent[first].any()  # t = 0: a motor starts from 0, always
        first = env.step(action).done
        lengths = [length or step * bool(done) for length, done in zip(lengths, first, strict=True)]
    assert min(lengths) > 0
    assert actor.steps.tolist() == lengths


def test_a_target_that_no_action_stands_for_is_sent_as_it_is():
    walk = HOPPER.with_name("go2_walk.onnx")  # its actions are offsets of at most 0.5 rad
    contract = Exported.open(walk).contract
    home = {a["name"]: a["default"] for a in contract["actuators"]}
    far = home | {"FR_hip": home["FR_hip"] + 0.8}
    filter = made(walk, grace=0, fallback="pose", pose=far, pose_speed=50.0)
    env = robokit.make("go2_walk", num_envs=2, seed=1, nominal=True, threads=1)
    env.reset()
    actor = FilteredActor(lambda env, first: torch.full((2, 12), torch.nan), filter, 2)
    for step in range(3):
        assert not env.step(actor(env, torch.full((2,), step == 0))).reward.isnan().any()
    assert actor.latched == 2
    assert actor.shares()["fallback"] == 1.0
    assert env.sim.ctrl[0].tolist() == pytest.approx([far[a["name"]] for a in contract["actuators"]])


def test_a_report_compares_the_same_episodes_through_the_filter_and_without():
    task = load_task("hopper")
    task.time_limit, task.headline = 0.4, "speed"
    reports = [evaluate(HOPPER, task, 4, filter=f, threads=1) for f in (None, made(slew=5.0), made())]
    plain, slewed, idle = (report.filtered for report in reports)
    assert plain is None and slewed is not None and idle is not None
    assert [row["slew"] for row in slewed.table["actuators"]] == [5.0] * 3
    assert slewed.difference.mean == pytest.approx(slewed.returns.mean - reports[1].returns.mean)
    assert slewed.shares["slew"] > 0
    assert slewed.headline.summary != reports[1].headline.summary == reports[0].headline.summary
    assert reports[1].text().count("headline speed (mean)") == 2
    assert (idle.difference.mean, idle.difference.low, idle.difference.high) == (0.0, 0.0, 0.0)
    assert reports[0].returns == reports[1].returns
    assert "with minus without it: +0 in return" in reports[2].text()
    with pytest.raises(FilterError, match="the filter is for the file of sha256"):
        evaluate(HOPPER, task, 4, filter=made(HOPPER.with_name("half_cheetah.onnx")))


def test_simulations_that_broke_through_the_filter_are_counted_and_a_failure():
    breaks = {"disturb": lambda self, sim, rng: {"qvel": sim.qvel + 1e11}}
    task = type("Hopper", (type(load_task("hopper")),), breaks)
    report = evaluate(HOPPER, task, 2, filter=made(slew=5.0), threads=1)
    assert report.filtered is not None and report.filtered.bad == 2
    assert report.filtered.failure.share.count == 2
    assert "broken simulations 2, in the fallback at the end 0" in report.text()
    assert replace(report, bad=0).failed  # as if nothing had broken without it


def watched(event: str, arguments: tuple[Any, ...]) -> None:
    """Of this process: which .onnx files Python opens while somebody counts."""
    if event == "open" and counting is not None and str(arguments[0]).endswith(".onnx"):
        counting.append(str(arguments[0]))


counting: list[str] | None = None
sys.addaudithook(watched)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was opened (its path) and hashed ("sha256") of HOPPER, in this order."""
    global counting
    counting, whole, real = list[str](), HOPPER.read_bytes(), hashlib.sha256

    def sha256(data: bytes = b"", **options: Any) -> Any:
        if data == whole and counting is not None:
            counting.append("sha256")
        return real(data, **options)

    monkeypatch.setattr(hashlib, "sha256", sha256)
    yield counting
    counting = None


def test_check_opens_and_hashes_a_file_once(opened: list[str]):
    assert main(["check", str(HOPPER)]) == 0
    assert opened == [str(HOPPER), "sha256"]


@pytest.mark.medium
def test_evaluate_takes_numbers_and_a_table_and_opens_and_hashes_the_file_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], opened: list[str]
):
    numbers, table = tmp_path / "numbers.json", tmp_path / "table.json"
    numbers.write_text('{"slew": 1e6, "low": -0.5}')
    # hopper.onnx belongs to a task of 8 s: two episodes of it
    options = ["--episodes", "2", "--threads", "1", "--json", "--filter"]
    assert main(["evaluate", str(HOPPER), *options, str(numbers)]) == 0
    assert opened == [str(HOPPER), "sha256"]
    filtered = json.loads(capsys.readouterr().out)["filtered"]
    assert main(["filter", str(HOPPER), str(numbers), "-o", str(table)]) == 0
    assert capsys.readouterr().out == f"{table}\n"
    assert filtered["table"] == json.loads(json.dumps(asdict(Filter.open(table))))
    assert filtered["shares"]["range"] > 0


def test_a_filter_that_cannot_work_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    numbers, table = tmp_path / "numbers.json", tmp_path / "table.json"
    numbers.write_text('{"slaw": 1.0}')
    for verb in (["evaluate", str(HOPPER), "--filter", str(numbers)], ["filter", str(HOPPER), str(numbers)]):
        assert main(verb) == 2
        assert "a filter has no 'slaw'; did you mean 'slew'" in capsys.readouterr().err
    numbers.write_text("{}")
    assert main(["filter", str(HOPPER.with_name("half_cheetah.onnx")), str(numbers), "-o", str(table)]) == 0
    capsys.readouterr()
    for verb in (["evaluate", str(HOPPER), "--filter", str(table)], ["filter", str(HOPPER), str(table)]):
        assert main(verb) == 2
        assert "make a table for this file with robokit filter" in capsys.readouterr().err
