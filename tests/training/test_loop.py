"""The training loop: stops at a signal, fails on NaN, and resumes bit for bit."""

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import Remembering, Toy

import robokit.training.loop
from robokit.algos.ppo import Config, Learner as Ppo
from robokit.compute.compile import Unguarded
from robokit.env.env import make
from robokit.errors import CheckpointError, RunError, TaskError
from robokit.training.log import WALL_CLOCK
from robokit.training.loop import SlowIteration, train
from robokit.training.run import Learner, Run

TESTS = Path(__file__).parents[1]


def new(root: Path, steps: int = 80) -> Run:
    return Run.create(root, "toy", steps, {"seed": 0}, {})


def metrics(run: Run) -> list[dict[str, Any]]:
    """Without what a clock measured."""
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in WALL_CLOCK} for row in rows]


def assert_equal(one: Learner, other: Learner) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert different == []


def test_a_run_holds_one_line_an_iteration_and_a_checkpoint_at_its_end(tmp_path: Path):
    toy, run = Toy(), new(tmp_path)
    outcome = train(toy, run, 80)
    assert (outcome.done.steps, outcome.done.iterations, outcome.stop) == (80, 10, None)
    rows = metrics(run)
    assert [(row["steps"], row["iteration"]) for row in rows] == [(8 * n, n) for n in range(1, 11)]
    assert rows[-1]["episode/return"] == toy.weight.sum().item()
    again = Toy()
    run.resume(again)
    assert_equal(again, toy)
    assert outcome.checkpoint == run.checkpoint(80)


def test_an_iteration_five_times_slower_than_the_fastest_is_noted_once():
    noted = SlowIteration()
    for seconds in (0.1, 0.1):  # random actions, before the first gradient step
        assert noted(seconds, learned=False) == ""
    for seconds in (0.2, 3.0, 2.0, 9.9):  # the first does not count, and 9.9 s are less than 5 times 2 s
        assert noted(seconds, learned=True) == ""
    assert "an iteration took 10.2 s, 5 times as long as the fastest one" in noted(10.2, learned=True)
    assert noted(40.0, learned=True) == ""


def test_short_iterations_vary_and_are_not_noted():
    noted = SlowIteration()
    assert not any(noted(seconds, learned=True) for seconds in (9.0, 0.001, 0.5, 0.99))
    assert noted(1.0, learned=True)


def test_a_slow_iteration_of_a_training_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    durations, clock = iter([60.0, 1.0, 1.0, 7.0, 8.0]), [0.0]
    monkeypatch.setattr(robokit.training.loop.time, "perf_counter", lambda: clock[0])

    class Timed(Toy):
        def iterate(self) -> dict[str, float]:
            clock[0] += next(durations)
            return super().iterate()

    train(Timed(), new(tmp_path, 40), 40)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert [note[:29] for note in notes] == ["note: an iteration took 7.0 s"]


def test_a_run_that_is_done_is_left_alone(tmp_path: Path):
    run = new(tmp_path)
    first = train(Toy(), run, 80)
    before = (run.path / "metrics.jsonl").read_bytes()
    assert train(Toy(), run, 80) == first
    assert (run.path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("cut", [0, 8, 24, 72])
def test_the_toy_continues_bit_for_bit(tmp_path: Path, cut: int):
    whole, straight = Toy(), new(tmp_path)
    train(whole, straight, 80)
    broken, part = new(tmp_path), Toy(seed=5)
    train(Toy(), broken, cut)
    train(part, broken, 80)  # what it starts from is all in the checkpoint
    assert_equal(part, whole)
    assert metrics(broken) == metrics(straight)


@pytest.mark.parametrize("cut", [1, 15, 32, 33, 59])  # 33 iterations fill the replay
def test_a_learner_with_a_replay_continues_bit_for_bit(tmp_path: Path, cut: int):
    whole, straight = Remembering(), new(tmp_path)
    train(whole, straight, 8 * 60)
    broken, part = new(tmp_path), Remembering(seed=5)
    train(Remembering(), broken, 8 * cut, save_steps=8 * 10)
    train(part, broken, 8 * 60)
    assert_equal(part, whole)
    assert torch.equal(part.replay.rows, whole.replay.rows)
    assert torch.equal(part.replay.beliefs, whole.replay.beliefs)
    assert metrics(broken) == metrics(straight)


def test_what_a_killed_save_left_of_a_replay_is_swept_at_the_start(tmp_path: Path):
    run, toy = new(tmp_path), Remembering()
    train(toy, run, 80)
    segments = run.path / "checkpoints/segments"
    before = sorted(segments.iterdir())
    for name in (
        ".00000099-0123456789abcdef.safetensors.cdcdcdcd.tmp",
        "00000099-0123456789abcdef.safetensors",
    ):
        (segments / name).write_bytes(b"of a process that died")
    train(Remembering(), run, 80)
    assert sorted(segments.iterdir()) == before


def test_a_kill_after_the_checkpoint_is_made_up_for(tmp_path: Path):
    whole, straight = Toy(), new(tmp_path)
    train(whole, straight, 80)
    killed = new(tmp_path)
    train(Toy(), killed, 64, save_steps=24)
    shutil.rmtree(killed.checkpoint(64))  # as if the process had died at step 63: lines and events, no save
    part = Toy()
    train(part, killed, 80)
    assert_equal(part, whole)
    assert metrics(killed) == metrics(straight)


def pendulum(steps: int) -> Ppo:
    config = Config(
        steps=steps, num_envs=4, horizon=16, minibatch=16, epochs=2, lr_schedule="adaptive", hidden=(8,)
    )
    return Ppo(make("inverted_pendulum", 4, seed=1, threads=1), config, seed=2)


@pytest.mark.medium
def test_ppo_continues_bit_for_bit_at_five_random_points(tmp_path: Path):
    steps = 64 * 12
    whole, straight = pendulum(steps), new(tmp_path, steps)
    train(whole, straight, steps)
    for cut in random.Random(0).sample(range(1, 12), 5):
        part, broken = pendulum(steps), new(tmp_path, steps)
        train(pendulum(steps), broken, 64 * cut)
        train(part, broken, steps)
        assert_equal(part, whole)
        assert metrics(broken) == metrics(straight)
    assert any("episode/return" in row for row in metrics(straight))  # episodes ended: resets are in it


def test_a_parameter_that_is_not_finite_stops_the_run_and_spares_the_good_checkpoint(tmp_path: Path):
    run = new(tmp_path)
    with pytest.raises(RunError, match=r"weight not finite at step 48.*checkpoint of step 40 is the last"):
        train(Toy(nan_at=6), run, 80, save_steps=8)
    saved, _ = run.newest()
    assert saved is not None
    assert saved.steps == 40
    assert all(bool(torch.isfinite(t).all()) for t in saved.tensors.values())
    assert metrics(run)[-1]["steps"] == 40
    assert train(Toy(), run, 80).done.steps == 80  # with the cause gone it goes on


def test_a_metric_that_is_not_finite_stops_the_run(tmp_path: Path):
    class Diverging(Toy):
        def iterate(self) -> dict[str, float]:
            return {**super().iterate(), "loss/value": math.inf if self.iterations == 3 else 0.0}

    with pytest.raises(RunError, match="loss/value not finite at step 24"):
        train(Diverging(), new(tmp_path), 80)


def test_a_term_that_ruins_a_training_is_named_and_the_good_checkpoint_stays(tmp_path: Path):
    class Ruined(Toy):
        def iterate(self) -> dict[str, float]:
            if self.iterations == 3:
                raise TaskError("rewards 'pace' (inf) must be finite")
            return super().iterate()

    run = new(tmp_path)
    said = r"^rewards 'pace' \(inf\) must be finite; stopped, the checkpoint of step 16 is the last good one$"
    with pytest.raises(RunError, match=said):
        train(Ruined(), run, 80, save_steps=16)
    assert run.newest()[0].steps == 16  # pyright: ignore[reportOptionalMemberAccess]


def test_what_no_metric_shows_is_found_before_it_is_saved(tmp_path: Path):
    class Hidden(Toy):
        def state_dict(self) -> dict[str, torch.Tensor]:
            broken = torch.full((1,), torch.nan if self.iterations == 4 else 0.0)
            return {**super().state_dict(), "critic": broken, "env.sim": torch.full((1,), torch.nan)}

    run = new(tmp_path)
    with pytest.raises(RunError, match=r"^critic not finite at step 32"):
        train(Hidden(), run, 80, save_steps=16)
    assert run.newest()[0].steps == 16  # pyright: ignore[reportOptionalMemberAccess]


def test_a_folder_that_cannot_be_written_is_found_before_the_first_iteration(tmp_path: Path):
    run, toy = new(tmp_path), Toy()
    (run.path / "checkpoints").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot save"):
        train(toy, run, 80)
    assert toy.iterations == 0


def test_the_loop_runs_outside_of_the_main_thread(tmp_path: Path):
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(train(Toy(), new(tmp_path), 16)))
    thread.start()
    thread.join()
    assert outcomes[0].done.steps == 16


def test_the_handlers_of_the_caller_come_back(tmp_path: Path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(Toy(), new(tmp_path), 16)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_loop_after_the_iteration_and_saves(tmp_path: Path, number: signal.Signals):
    class Stopped(Toy):
        def iterate(self) -> dict[str, float]:
            if self.iterations == 3:
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)  # the impatient second one, too
            return super().iterate()

    whole, straight = Toy(), new(tmp_path)
    train(whole, straight, 80)
    run = new(tmp_path)
    outcome = train(Stopped(), run, 80)
    assert (outcome.stop, outcome.done.steps) == (number, 32)
    part = Toy()
    train(part, run, 80)
    assert_equal(part, whole)
    assert metrics(run) == metrics(straight)


def test_lines_that_nobody_reads_do_not_stop_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        monkeypatch.setattr(sys, "stderr", gone)
        assert train(Toy(), new(tmp_path), 80).done.steps == 80


def test_what_a_signal_breaks_under_way_is_a_stop_at_the_last_checkpoint(tmp_path: Path):
    class Compiling(Toy):
        def iterate(self) -> dict[str, float]:
            if self.iterations == 3:
                os.kill(os.getpid(), signal.SIGINT)  # as from a terminal: a compiler gets it too
                raise RuntimeError("the compiler was interrupted")
            return super().iterate()

    run = new(tmp_path)
    outcome = train(Compiling(), run, 80, save_steps=16)
    assert (outcome.stop, outcome.done.steps, outcome.checkpoint) == (signal.SIGINT, 16, run.checkpoint(16))
    train(Toy(), run, 80)
    assert [line["steps"] for line in metrics(run)] == [*range(8, 81, 8)]


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/training"]
import torch
torch.set_num_threads(1)
from test_loop import assert_equal, metrics, new, pendulum
from robokit.training.loop import SlowIteration, train

root, kills = Path(sys.argv[2]), int(sys.argv[3])
random.seed(0)
run, cut, at = new(root, 1 << 40), 0, 0
for _ in range(kills):
    child = os.fork()
    if not child:
        train(pendulum(1), run, 1 << 40, save_steps=64)
    while not run.checkpoint(at + 64).exists() and not run.checkpoint(at + 128).exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it left by itself"
    time.sleep(random.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    cut += any((run.path / "checkpoints").glob(".*.tmp"))
    checkpoint, skipped = run.newest()
    assert not skipped, skipped
    at = checkpoint.steps
part, whole, straight = pendulum(1), pendulum(1), new(root, 1 << 40)
train(part, run, at + 64)
train(whole, straight, at + 64)
assert_equal(part, whole)
assert metrics(run) == metrics(straight)
assert at >= 64 * kills
print(cut)
"""


@pytest.mark.parametrize(
    "kills", [pytest.param(5, marks=pytest.mark.medium), pytest.param(50, marks=pytest.mark.slow)]
)
def test_kills_lose_nothing_and_change_nothing(tmp_path: Path, kills: int):
    command = [sys.executable, "-c", KILLED, str(TESTS), str(tmp_path), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= (kills == 50)  # one at least hit a save; about one in ten does


def test_progress_without_a_terminal_is_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    toy = Toy()
    train(toy, new(tmp_path), 80)
    out, err = capsys.readouterr()
    assert out == ""  # standard output is for results
    first, *_, last = err.splitlines()
    assert first.startswith("toy 8/80 steps, return ") and "left" not in first  # it may have compiled
    assert re.fullmatch(
        rf"toy 80/80 steps, return {toy.weight.sum():.1f}, [\d,]+ steps/s, 0 min 00 s left", last
    )
    assert "\x1b" not in err


def test_compiling_is_told_apart_and_left_out_of_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    durations, clock = iter([1.0, 25.0, 2.0]), [0.0]
    monkeypatch.setattr(robokit.training.loop.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(robokit.training.loop, "PLAIN_SECONDS", 0.0)

    class Compiling(Toy):
        def iterate(self) -> dict[str, float]:
            clock[0] += next(durations)
            if self.iterations == 1:
                Unguarded.compiling += 24.0
            return super().iterate()

    train(Compiling(), new(tmp_path, 24), 24)
    first, compiled, second, third = capsys.readouterr().err.splitlines()
    assert compiled == "compiled in 24.0 s"
    assert "steps/s" not in first + second and ", 4 steps/s," in third


FULL = """
import subprocess, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/training"]
disk = Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], check=True)
import torch
from test_loop import assert_equal, metrics, new
from toy import Toy
from robokit.errors import RunError, TaskError
from robokit.training.loop import SlowIteration, train

def refused(words):
    try:
        train(Toy(size=64), run, 4000, save_steps=8)
    except RunError as error:
        assert words in str(error), error
    else:
        raise AssertionError("nothing was refused")

run = new(disk)
train(Toy(size=64), run, 40)
(disk / "ballast").write_bytes(bytes(800_000))
refused("No space left on device")
assert not list(run.path.glob("checkpoints/.*")), "debris"
assert 40 <= run.newest()[0].steps < 4000
(disk / "ballast").unlink()
subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
refused("Read-only file system")
subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
toy, whole, straight = Toy(size=64), Toy(size=64), new(Path(sys.argv[3]))
train(toy, run, 4000)
train(whole, straight, 4000)
assert_equal(toy, whole)
assert metrics(run) == metrics(straight)
"""
ALONE = ["unshare", "--user", "--map-root-user", "--mount"]  # a process that may mount a disk of its own
MAY_MOUNT = shutil.which("unshare") and subprocess.run([*ALONE, "true"], capture_output=True).returncode == 0


@pytest.mark.medium
@pytest.mark.skipif(not MAY_MOUNT, reason="needs unshare(1), to mount a small disk")
def test_a_disk_that_fills_up_or_turns_read_only_costs_nothing(tmp_path: Path):
    for name in ("disk", "runs"):
        (tmp_path / name).mkdir()
    places = [str(TESTS), str(tmp_path / "disk"), str(tmp_path / "runs")]
    done = subprocess.run([*ALONE, sys.executable, "-c", FULL, *places], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
