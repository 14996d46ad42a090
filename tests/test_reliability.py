"""benchmarks/reliability.py: its small size finds nothing, and each row finds a fault that is put in."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{BENCHMARKS}{os.pathsep}{BENCHMARKS.parent}"}

TRIAL = """
import json, os, sys, tempfile
from pathlib import Path
from reliability import damage, full, hostile, kills
from reliability.run import ROWS, run_trial, warm
import robokit.training.loop, robokit.training.run
from robokit.controller import Controller, ObservationError
from robokit.disk import checkpoint
from robokit.errors import RunError
from robokit.training.run import Run

warm()
kills.FEW = kills.FEW[:1]

def flip(run, others, rng):
    path = sorted(run.glob("checkpoints/0*/state.safetensors"))[-1]
    content = path.read_bytes()
    path.write_bytes(damage.BYTES["flip"](content, len(content) - 4, rng))  # in a tensor's numbers
    return str(path.relative_to(run)), "flip"

damage.damaged, damage.JOBS = flip, damage.JOBS[:1]
hopper = (hostile.POLICIES / "hopper.onnx").read_bytes()
hostile.TURNS, hostile._contract = ("contract",), lambda place: hostile._opened(place, hopper, "hopper")
object.__setattr__(ROWS["hostile"], "prepare", lambda home, size: None)
exec(sys.argv[3])
with tempfile.TemporaryDirectory() as work:
    print(json.dumps(run_trial(ROWS[sys.argv[1]], int(sys.argv[2]), "small", Path(work), set())))
"""
NOT_SWEPT = """
robokit.training.loop.sweep = lambda folder: None
def kill_at(place, shared):  # in the middle of a save, wherever that is by now
    def before(event):
        shared["places"] += 1
        if place and event.kind == "fsync" and event.path.endswith("state.safetensors"):
            os.kill(os.getpid(), 9)
    return before
kills.kill_at = kill_at
"""
NOT_SAVED = """
save = robokit.training.run.save
def skips(parent, steps, *rest, **more):
    return save(parent, steps, *rest, **more) if steps < 32 else parent / f"{steps:012d}"
robokit.training.run.save = skips
"""
NOT_SYNCED = "checkpoint.write_synced = lambda path, content: path.write_bytes(content)"
NOT_VERIFIED = "checkpoint._content = lambda path, name, digest: (path / name).read_bytes()"
NOT_TOLD = """
train = robokit.training.loop.train
def swallows(*given, **more):
    try:
        return train(*given, **more)
    except RunError:
        return None
robokit.training.loop.train = swallows
refusing = full.refusing
full.refusing = lambda at, *rest: refusing(60, *rest)  # long before the last save
"""
NOT_EQUAL = """
resume = Run.resume
def nudges(self, learner):
    done = resume(self, learner)
    for weight in learner.policy.parameters():
        weight.data += 1e-7 * bool(done.steps)
    return done
Run.resume = nudges
"""
NOT_REFUSED = """
import numpy as np
step = Controller.step
def mends(self, obs, stamps=None, now=None):
    if isinstance(obs, dict) and all(isinstance(x, np.ndarray) and x.dtype == float for x in obs.values()):
        obs = {name: np.nan_to_num(value) for name, value in obs.items()}
    return step(self, obs, stamps, now)
Controller.step = mends
"""
NOT_KEPT = """
step = Controller.step
def resets(self, obs, stamps=None, now=None):
    try:
        return step(self, obs, stamps, now)
    except ObservationError:
        self.reset()
        raise
Controller.step = resets
"""
NOT_BOUNDED = """
step = Controller.step
Controller.step = lambda self, *given: step(self, *given) * 1e6
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "trial", "fault", "words"),
    [
        ("kills", 0, NOT_SWEPT, "left over"),
        ("kills", 3, NOT_SAVED, "lost"),
        ("power", 0, NOT_SYNCED, "no good checkpoint"),
        ("damage", 1, NOT_VERIFIED, "silent"),
        ("disk-full", 0, NOT_TOLD, "not told"),
        ("resume", 0, NOT_EQUAL, "unequal"),
        ("controller", 0, NOT_REFUSED, "NaN: accepted"),
        ("controller", 0, NOT_KEPT, "state"),
        ("hostile", 0, NOT_BOUNDED, "a bad command"),
    ],
)
def test_a_fault_that_is_put_in_is_found(row: str, trial: int, fault: str, words: str):
    clean, faulty = (_trial(row, trial, patch) for patch in ("", fault))
    assert clean["ok"], clean
    assert not faulty["ok"] and words in faulty["why"], faulty


def _trial(row: str, trial: int, patch: str) -> dict[str, Any]:
    command = [sys.executable, "-c", TRIAL, row, str(trial), patch]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_small_size_finds_nothing_and_a_second_start_repeats_nothing(tmp_path: Path):
    record = tmp_path / "record.jsonl"
    command = [sys.executable, str(BENCHMARKS / "reliability.py"), "small", "--record", str(record)]
    first = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=900)
    assert first.returncode == 0, first.stdout
    lines = record.read_text()
    again = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert (again.returncode, again.stdout, record.read_text()) == (0, first.stdout, lines)


SAVES = """
import json, sys
from pathlib import Path
from reliability.faults import watch
from robokit.disk.checkpoint import save, sweep
from toy import Remembering

events, toy, place = [], Remembering(), Path(sys.argv[1])
watch(place.parent, lambda event: events.append([event.kind, event.path, event.to]))
for steps in (8, 16):
    toy.iterate()
    save(place, steps, toy.state_dict(), {}, keep=1, replay=toy.replay)
print(json.dumps(events))
"""
CALLS = "mkdir", "write", "fsync", "rename", "unlink", "rmdir"


def _calls(lines: str, root: Path) -> list[list[str]]:
    """(change, path, its new path) of strace's lines below `root`, as `faults.watch` tells them."""
    found: list[list[str]] = []
    for name, rest in re.findall(r"^(\w+?)(?:at2?)?\((.*)$", lines, re.MULTILINE):
        paths: list[str] = re.findall(rf'[<"]({root}[^">]*)[">]', rest.partition(") = ")[0])
        if paths and name == "open" and "O_CREAT" in rest:
            found.append(["append" if "O_APPEND" in rest else "create", paths[0], ""])
        elif paths and name in CALLS:
            found.append([name, paths[0], paths[1] if name == "rename" else ""])
    return found


def _once(changes: list[list[str]]) -> list[list[str]]:
    """A write, of which the halves are told, is one."""
    return [change for k, change in enumerate(changes) if k == 0 or change != changes[k - 1]]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_changes_that_are_recorded_are_those_of_strace_in_its_order(tmp_path: Path):
    root, calls = tmp_path / "root", tmp_path / "calls"
    root.mkdir()
    traced = ["strace", "-y", "-s", "0", "-o", str(calls), "-e", "trace=%file,write,pwrite64,fsync,fdatasync"]
    command = [*traced, sys.executable, "-c", SAVES, str(root / "checkpoints")]
    path = f"{ENVIRONMENT['PYTHONPATH']}{os.pathsep}{Path(__file__).parent}"
    done = subprocess.run(
        command, capture_output=True, text=True, env=ENVIRONMENT | {"PYTHONPATH": path}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    told, called = json.loads(done.stdout), _calls(calls.read_text(), root)
    assert _once(called) == _once(told) and len(_once(told)) > 30
