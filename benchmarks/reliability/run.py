"""The rows, and how their trials are run: one fork each, recorded at once."""

import contextlib
import io
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reliability import damage, full, hostile, jobs, kills, lasting, peers, power, resume, steps
from reliability.child import forked
from reliability.record import Facts, Place, Record, Row, bad

HERE = Path(__file__).parents[1]
MODULES = kills, resume, power, damage, hostile, full, steps, peers
ROWS = {row.name: row for row in (*(module.ROW for module in MODULES), lasting.OVERHEAD, lasting.SOAK)}
SEED = 22


def about(size: str) -> Facts:
    """What a record's lines were made with."""
    import torch

    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return {"size": size, "seed": SEED, "commit": commit, "torch": torch.__version__, "machine": machine}


def warm() -> None:
    """Import what trials use."""
    import onnxscript  # noqa: F401
    import torch
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401

    import robokit.calls.training
    import robokit.cli.check
    import robokit.cli.command
    import robokit.cli.files
    import robokit.cli.look
    import robokit.cli.measure
    import robokit.cli.train
    from robokit.algos import ppo, sac, td3  # noqa: F401

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="reliability-") as name, contextlib.chdir(name):
        jobs.lay(Path(name))
        run = forked(lambda: jobs.go_on(jobs.Job()), Path(name)).value
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            robokit.cli.command.main(["export", run, "-o", "out", "--episodes", "0"])
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        raise SystemExit(f"a process with {threads} threads cannot be forked safely")


def run_trial(row: Row, number: int, size: str, work: Path, ready: set[str]) -> Facts:
    """One trial, in a fork that is killed when its time is over."""
    home = work / row.name
    if row.name not in ready:
        home.mkdir()
        prepared = forked(lambda: row.prepare(home, size), home, 3600.0, megabytes=1e6)
        if prepared.code != 0:
            raise SystemExit(f"{row.name} cannot be prepared: {prepared.text}")
        ready.add(row.name)
    trials = work / "trial"
    folder = trials / "here"
    folder.mkdir(parents=True)
    place = Place(home, folder, number, random.Random(f"{SEED} {row.name} {number}"), size)
    try:
        ended = forked(lambda: row.trial(place), folder, row.seconds, megabytes=1e6)
    finally:
        shutil.rmtree(trials, ignore_errors=True)
    if ended.code != 0 or not isinstance(ended.value, dict):
        return bad("the trial itself", ended.why or ended.text or "died")
    return ended.value


def run_rows(rows: list[Row], size: str, record: Record, work: Path, minutes: float) -> None:
    """All trials of the rows that are not recorded yet, until the time is over."""
    end, ready = time.monotonic() + minutes * 60, set[str]()
    for row in rows:
        began, missing = time.monotonic(), sorted({*range(row.trials[size])} - {*record.of(row.name)})
        for number in missing:
            if time.monotonic() > end:
                print(f"stopped after {minutes:g} minutes; the same command goes on", file=sys.stderr)
                return
            facts = run_trial(row, number, size, work, ready)
            record.add(row.name, number, facts)
            if not facts["ok"]:
                print(f"{row.name} {number}: {facts['what']}: {facts['why']}", file=sys.stderr, flush=True)
        if missing:
            print(
                f"{row.name}: {len(missing)} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True
            )
