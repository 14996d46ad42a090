"""Rows `overhead` and `soak`: the price of a step, and what hours of training take from the machine."""

import os
import re
import sys
import time
from pathlib import Path

import numpy as np

from reliability import jobs
from reliability.child import Ended, forked, resident
from reliability.jobs import Job
from reliability.record import Facts, Place, Row, bad, judged
from reliability.steps import POLICIES

RATIO = 1.5
ROUNDS = {"small": 2_000, "medium": 20_000, "night": 20_000}
MINUTES = {"small": 0.1, "medium": 30.0, "night": 240.0}
EVERY = {"small": 0.1, "medium": 2.0, "night": 10.0}  # s between samples
SLOPE = 1.0  # MB per hour
WARM = 0.3  # of the time, that is not counted; nor is the last tenth, the end


def price(place: Place) -> Facts:
    """Controller.step over the bare run of one shipped file."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import controller

    path = sorted(POLICIES.glob("*.onnx"))[place.number]
    line = controller.price(path, ROUNDS[place.size])
    ratio = float(re.findall(r"ratio ([\d.]+)", line)[0])
    return judged(path.name, [f"ratio {ratio}, asked {RATIO}"] if ratio > RATIO else [], ratio=ratio)


def soak(place: Place) -> Facts:
    """A training of some minutes, its memory and descriptors sampled from outside."""
    job, minutes = Job(("ppo", "sac")[place.number], "gru", True), MINUTES[place.size]
    jobs.lay(place.folder)
    samples, due = list[tuple[float, float, int]](), [time.monotonic()]

    def look(pid: int) -> None:
        if time.monotonic() < due[0]:
            return
        due[0] += EVERY[place.size]
        if memory := resident(pid):
            samples.append((time.monotonic() / 3600, memory, len(os.listdir(f"/proc/{pid}/fd"))))

    ended = forked(lambda: _train(job, minutes), place.folder, minutes * 60 + 300, watch=look)
    what = f"{job.name}, {minutes:g} minutes"
    return bad(what, ended.text) if ended.code else _growth(what, samples, ended, place.size == "small")


def _train(job: Job, minutes: float) -> int:
    """Go on until the time is over; the number of steps."""
    from dataclasses import replace

    from robokit.training.loop import train

    end = time.monotonic() + minutes * 60
    learner, run = jobs.begin(job)
    run = replace(run, steps=1 << 40)
    return train(learner, run, 1 << 40, save_seconds=5.0, hooks=[_until(end)]).done.steps


def _until(end: float):
    return lambda event: time.monotonic() < end


def _growth(what: str, samples: list[tuple[float, float, int]], ended: Ended, short: bool) -> Facts:
    """The slope of resident memory after the start, with its 95 % interval from blocks of the residuals."""
    rows = np.array(samples[int(len(samples) * WARM) : -max(1, len(samples) // 10)])
    hours, memory, files = rows.T
    slope, base = np.polyfit(hours, memory, 1)
    off, blocks = memory - slope * hours - base, max(2, min(20, len(hours) // 3))
    parts = np.array([part.mean() for part in np.array_split(off, blocks)])
    spread = np.ptp(hours) / np.sqrt(12) + 1e-12
    wide = 1.96 * parts.std(ddof=1) / (np.sqrt(blocks) * spread)
    opened = int(np.median(files[-5:]) - np.median(files[:5]))
    faults = [f"descriptors {opened:+d}"] if opened else []
    if slope - wide > SLOPE and not short:  # seconds say nothing about an hour
        faults.append(f"grows by {slope:.2f} MB/h")
    more = {"steps": ended.value, "slope": round(float(slope), 3), "wide": round(float(wide), 3)}
    return judged(what, faults, **more)


def ratios(found: list[Facts]) -> str:
    return f"at most {max(facts.get('ratio', 0.0) for facts in found):.2f}"


def slopes(found: list[Facts]) -> str:
    rows = [facts for facts in found if "slope" in facts]
    return ", ".join(f"{f['what']}: {f['slope']:+.2f} ± {f['wide']:.2f} MB/h" for f in rows)


OVERHEAD = Row(
    "overhead",
    f"Controller over the bare run: at most {RATIO}",
    {"small": 4, "medium": 4, "night": 4},
    price,
    figure=ratios,
)
SOAK = Row(
    "soak",
    "PPO and SAC, 30 minutes each: slope of RSS < 1 MB/h, descriptors constant",
    {"small": 2, "medium": 2, "night": 2},
    soak,
    seconds=5 * 3600.0,
    figure=slopes,
)
