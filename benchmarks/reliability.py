"""Faults by the hundred, put into robokit from outside: what they lose, falsify or leave unsaid.

    python benchmarks/reliability.py                          # the small size, about two minutes
    python benchmarks/reliability.py medium --rows kills --minutes 90
    python benchmarks/reliability.py medium --row kills --trial 17    # one trial again, nothing recorded

Each trial is seeded by its row and number and written to the record as soon as it is done, so that a second
start goes on where the first one stopped. Printed at the end: what was done of what is asked, and each
failure with the options that repeat it. Exit code 1 if there is any.

Trials run in forks of one process that has imported everything: a start costs milliseconds.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a fork keeps no threads
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from reliability import damage, full, hostile, jobs, kills, lasting, peers, power, resume, steps
from reliability.child import forked
from reliability.record import SIZES, Facts, Place, Record, Row, bad, failures, table

HERE = Path(__file__).parent
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


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", nargs="?", default="small", choices=SIZES)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS], help="only these")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--record", type=Path, help="default: benchmarks/curves/reliability-<size>.jsonl")
    parser.add_argument("--row", choices=ROWS, help="with --trial: one trial, printed, not recorded")
    parser.add_argument("--trial", type=int, default=0)
    options = parser.parse_args()
    warm()
    with tempfile.TemporaryDirectory(prefix="reliability-", ignore_cleanup_errors=True) as name:
        work = Path(name)
        if options.row:
            facts = run_trial(ROWS[options.row], options.trial, options.size, work, set())
            print(json.dumps(facts))
            return 0 if facts["ok"] else 1
        path = options.record or HERE / f"curves/reliability-{options.size}.jsonl"
        record, rows = Record(path, about(options.size)), [ROWS[name] for name in options.rows]
        run_rows(rows, options.size, record, work, options.minutes)
    print(table(rows, record, options.size))
    failed = failures(rows, record)
    print("\n".join(["", *failed]) if failed else "\nno failure")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
