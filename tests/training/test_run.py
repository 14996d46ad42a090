"""The run folder: created atomically, opened again, other folders refused."""

import json
import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy import Remembering, Toy

import robokit.training.run
from robokit.compute import processes
from robokit.errors import CheckpointError, RunError
from robokit.training.log import Log
from robokit.training.run import Done, Run

CONFIG = {"task": "toy", "seed": 0, "options": {"hidden": (4, 4)}}


def make(root: Path, name: str = "toy", **config: object) -> Run:
    return Run.create(root, name, 80, {**CONFIG, **config}, {"commit": {"robokit": "abc"}})


def test_what_was_created_opens_equal_by_folder_and_by_link(tmp_path: Path):
    run = make(tmp_path)
    assert Run.open(run.path) == run
    assert Run.open(tmp_path / "toy/latest") == run
    assert run.config["options"] == {"hidden": [4, 4]}  # as JSON has it, from the start


def test_the_link_is_relative_and_points_to_the_newest(tmp_path: Path):
    runs = [make(tmp_path) for _ in range(3)]  # within one second
    assert len({run.path for run in runs}) == 3
    assert os.readlink(tmp_path / "toy/latest") == runs[-1].path.name
    (tmp_path / "toy").rename(tmp_path / "moved")
    assert Run.open(tmp_path / "moved/latest").config == runs[-1].config


def test_more_steps_are_remembered_on_disk(tmp_path: Path):
    replace(make(tmp_path), steps=160).keep_steps()
    assert Run.open(tmp_path / "toy/latest").steps == 160


def test_what_is_no_run_is_refused_by_name(tmp_path: Path):
    with pytest.raises(RunError, match=r"nothing is no run: it has no config\.json"):
        Run.open(tmp_path / "nothing")
    run = make(tmp_path)
    with pytest.raises(RunError, match=r"toy is no run.*try its 'latest'"):
        Run.open(tmp_path / "toy")
    for text in ("", "{", "[]", '{"schema": 1}', "\xff", '{"schema": 1, "steps": "x"}'):
        (run.path / "config.json").write_text(text, "latin-1")
        with pytest.raises(RunError, match=r"is no run: its config\.json is damaged"):
            Run.open(run.path)
    (run.path / "config.json").write_text('{"schema": 99, "steps": 1, "config": {}, "about": {}}')
    with pytest.raises(RunError, match="config schema 99"):
        Run.open(run.path)


def test_a_root_that_cannot_hold_runs_is_a_run_error(tmp_path: Path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match=r"cannot create a run in .*: .*/runs is no folder"):
        make(tmp_path / "runs")


@pytest.mark.parametrize("name", ["runs", "runs/toy"])
def test_a_link_to_nothing_in_the_place_of_a_folder_is_a_run_error(tmp_path: Path, name: str):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "unmounted")
    with pytest.raises(RunError, match=f"cannot create a run in .*: .*/{name} is a link to nothing"):
        make(tmp_path / "runs")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_called_latest_and_is_no_link_stays_and_is_said(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
):
    latest = tmp_path / "toy/latest"
    latest.parent.mkdir()
    latest.mkdir() if kind == "folder" else latest.write_text("mine")
    run = make(tmp_path)
    assert Run.open(run.path) == run and not latest.is_symlink()
    assert {path.name for path in latest.parent.iterdir()} == {"latest", run.path.name}
    assert f"note: {latest} is no link and stays as it is" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_refused_with_the_difference(tmp_path: Path):
    theirs, ours = make(tmp_path, seed=1), make(tmp_path)
    theirs.save(Toy(), Done(8, 1, 0.5))
    (theirs.path / "checkpoints").rename(ours.path / "checkpoints")
    with pytest.raises(CheckpointError, match="belongs to another run: its seed is 1, this run's 0"):
        ours.resume(Toy())


def test_a_checkpoint_that_does_not_fit_the_learner_is_refused(tmp_path: Path):
    run = make(tmp_path)
    run.save(Toy(size=4), Done(8, 1, 0.5))
    with pytest.raises(CheckpointError, match="does not fit this learner"):
        run.resume(Toy(size=5))


def test_resuming_falls_back_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, toy = make(tmp_path), Toy()
    run.save(toy, Done(8, 1, 0.5))
    toy.iterate()
    damaged = run.save(toy, Done(16, 2, 1.0))
    os.truncate(damaged / "state.safetensors", 10)
    assert run.resume(Toy()) == Done(8, 1, 0.5)
    assert f"skipped: checkpoint {damaged} is damaged" in capsys.readouterr().err


def test_resuming_falls_back_where_a_segment_of_the_replay_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, toy = make(tmp_path), Remembering()
    toy.iterate()  # 4 control steps: segments 0 and 1
    run.save(toy, Done(8, 1, 0.5))
    saved = toy.state_dict()
    toy.iterate()
    damaged = run.save(toy, Done(16, 2, 1.0))
    (path,) = (run.path / "checkpoints/segments").glob("00000003-*")
    path.write_bytes(path.read_bytes()[::-1])
    again = Remembering(seed=1)
    assert run.resume(again) == Done(8, 1, 0.5)
    assert f"skipped: checkpoint {damaged} is damaged: ../segments/{path.name}" in capsys.readouterr().err
    assert torch.equal(again.replay.rows[:4], toy.replay.rows[:4])
    assert again.replay.position == saved["replay.position"] == 4


def test_a_replay_of_another_size_or_none_does_not_fit(tmp_path: Path):
    run, toy = make(tmp_path), Remembering()
    for _ in range(40):  # 160 control steps, of which one keeps 130 and the other 132
        toy.iterate()
    run.save(toy, Done(320, 40, 0.5))
    for other in (Remembering(capacity=264), Toy()):
        with pytest.raises(CheckpointError, match=r"does not fit this learner: .*segments \[15, "):
            run.resume(other)


# -- several processes ---------------------------------------------------------------------------------


def told(monkeypatch: pytest.MonkeyPatch, *others: object) -> None:
    """The second of two processes says these, one after the other, and then the same as this one."""
    coming = iter(others)
    monkeypatch.setattr(robokit.training.run, "everyone", lambda mine: [mine, next(coming, mine)])
    monkeypatch.setattr(processes, "_world", 2)


def test_processes_go_on_from_the_newest_step_that_all_have_and_forget_what_lies_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run, toy = make(tmp_path), Toy()
    for steps in (8, 16):
        run.save(toy, Done(steps, steps // 8, 0.5))
    told(monkeypatch, 8, 8, ["its own reason"])
    assert run.resume(Toy()).steps == 8
    said = capsys.readouterr().err
    assert "process 1 has only step 8" in said and "its own reason" in said
    assert not run.checkpoint(16).exists() and run.checkpoint(8).exists()


def test_a_start_that_only_some_have_saved_is_begun_again_and_later_steps_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = make(tmp_path)
    run.save(Toy(), Done())
    told(monkeypatch, -1)
    assert run.resume(Toy()).steps == 0
    run.save(Toy(), Done(8, 1, 0.5))
    told(monkeypatch, -1)
    with pytest.raises(CheckpointError, match="process 1 has none, others of step 8"):
        run.resume(Toy())


def test_processes_that_loaded_different_policies_do_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = make(tmp_path)
    run.save(Toy(), Done(8, 1, 0.5))
    told(monkeypatch, 8, [], "the digest of another policy")
    with pytest.raises(RunError, match=r"step 8 .* differ between the processes in their policy"):
        run.resume(Toy())
    assert run.checkpoint(8).exists()


def test_the_first_process_locks_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = make(tmp_path)
    monkeypatch.setattr(processes, "_rank", 1)
    monkeypatch.setattr(
        robokit.training.run, "agreed", lambda mine: True
    )  # the first one says that it is taken
    with pytest.raises(RunError, match="another process is training"), run.locked():
        pass
    monkeypatch.setattr(robokit.training.run, "agreed", lambda mine: False)
    with run.locked():
        assert run.checkpoints == run.path / "checkpoints/rank1"


def test_the_best_policy_is_kept_without_the_replay(tmp_path: Path):
    run, toy = make(tmp_path), Remembering()
    toy.iterate()
    run.keep_best(8, toy.policy.state_dict(), {})
    assert sorted(p.name for p in (run.path / "best").iterdir()) == ["000000000008"]


def test_metrics_after_the_checkpoint_and_half_lines_are_dropped(tmp_path: Path):
    with Log(tmp_path, 0) as log:
        for steps in (8, 16, 24):
            log.add({"steps": steps, "loss": 0.5})
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"steps": 3')
    with Log(tmp_path, 16) as log:
        log.add({"steps": 24, "loss": 0.25})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["steps"], row["loss"]) for row in rows] == [(8, 0.5), (16, 0.5), (24, 0.25)]


def test_damaged_metrics_are_not_dropped_and_not_taken_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Those of a run of before, whose checkpoints say nothing of them."""
    text = '{"steps": 8}\n{"ste#s": 16}\n{"steps": 24}\n'
    (tmp_path / "metrics.jsonl").write_text(text + '{"steps": 32}\n')
    with Log(tmp_path, 24):
        assert (tmp_path / "metrics.jsonl").read_text() == text
    assert "not as it was saved at step 24: line 2 is damaged" in capsys.readouterr().err


def test_a_full_disk_under_the_metrics_is_a_run_error(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Log(tmp_path, 0) as log:
        log.add({"steps": 8})
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
        try:
            with pytest.raises(RunError, match="cannot write metrics"):
                log.add({"steps": 16})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with Log(tmp_path, 8):
        assert (tmp_path / "metrics.jsonl").read_text() == '{"steps": 8}\n'


def test_a_full_disk_under_tensorboard_is_a_run_error_not_a_hang_and_loses_no_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def write(log: Log) -> None:
        log.add({"steps": 16})
        log.sync()

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Log(tmp_path, 0) as log:
        log.add({"steps": 8, **dict.fromkeys("abcdefghij", 0.0)})
        log.sync()
        size = sum(path.stat().st_size for path in (tmp_path / "tensorboard").iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))  # metrics.jsonl is shorter
        try:
            with pytest.raises(RunError, match="cannot write metrics"):
                write(log)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["steps"] for line in lines] == [8, 16]
    assert capsys.readouterr().err == ""


def test_tensorboard_holds_the_same_numbers(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for begin in (0, 16):  # the second process takes up at step 16 and overwrites step 24
        with Log(tmp_path, begin) as log:
            for steps in (8, 16, 24)[begin // 8 :]:
                log.add({"steps": steps, "loss": steps + begin})
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(8, 8.0), (16, 16.0), (24, 40.0)]


def test_only_one_process_trains_in_a_folder(tmp_path: Path):
    run = make(tmp_path)
    with run.locked(), pytest.raises(RunError, match="another process is training"), run.locked():
        pass
    with run.locked():
        pass
