"""The training loop of every learner: progress, metrics, checkpoints, signals, and a check for NaN.

    outcome = train(learner, run, run.steps)  # again after a kill: continues from the newest good checkpoint

On the CPU a resumed run continues bit for bit.
"""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from robokit.compute.compile import compile_seconds
from robokit.compute.processes import agreed, everyone, rank
from robokit.console import SlowIteration as SlowIteration, say
from robokit.disk.checkpoint import sweep
from robokit.errors import RunError, TaskError
from robokit.learning.protocols import Learner
from robokit.training.hooks import Event, Hook, Hooks, Kind
from robokit.training.log import WALL_CLOCK, Log
from robokit.training.run import BEST, Done, Run

SAVE_SECONDS = 300.0  # between checkpoints
PLAIN_SECONDS = 10.0  # between lines of progress without a terminal
STOPPED = "stopped, the checkpoint of step {} is the last good one"
BY_HOOK = 0  # no signal has this number


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    done: Done
    checkpoint: Path  # the folder of process 0's checkpoint at `done`
    stop: int | None  # what stopped it early: a signal's number, or BY_HOOK; None: it ran to its end


def train(
    learner: Learner,
    run: Run,
    steps: int,
    *,
    save_seconds: float = SAVE_SECONDS,
    save_steps: float = math.inf,
    validate: "Validate" = lambda done: {},
    hooks: Sequence[Hook] = (),
) -> Outcome:
    """Train to `steps` environment steps in total, from the run's newest good checkpoint, if it has one.

    The last iteration is completed. validate: called after each iteration; its metrics are logged. Its time
    and that of hooks do not count as training. Each process trains and saves its own simulations; the first
    one also validates, logs, displays and calls the hooks. A checkpoint is written at step 0, `save_seconds`
    or `save_steps` after the last one, and at the end. SIGINT, SIGTERM and a hook that returns False end the
    loop after the current iteration.

    Raises RunError if another process trains in this folder, if it cannot be written, or if a metric or
    parameter is not finite; the last good checkpoint stays.
    """
    with run.locked() as held, _stop_requests() as requests:
        for folder in (run.checkpoints, *([] if rank() else [run.path / BEST])):
            sweep(folder)
        saved = done = run.resume(learner)
        run.keep_steps()  # only after a successful resume
        notify = _notifier(Hooks(hooks), run, learner, requests)
        with _record(run, steps, done, validate, notify) as record:
            slow = SlowIteration()

            def keep() -> Done:
                _check_finite(learner.state_dict(), f"at step {done.steps}", saved)
                run.notice(held, saved.steps if saved.steps or done.steps else None)
                run.save(learner, done, record.sync())
                return done

            if not done.steps:
                keep()  # a folder that cannot be written fails now, not in an hour
            record.notify("begin", done, {})
            stop = agreed(requests[0] if requests else None)
            while done.steps < steps and stop is None:
                before = done
                try:
                    done, metrics = _iterate(learner, before, saved)
                except Exception:
                    if not requests:
                        raise
                    # a signal to the process group also ends subprocesses, such as a compiler
                    record.notify("end", saved, {})
                    return Outcome(saved, run.checkpoint(saved.steps), requests[0])
                if note := slow(done.seconds - before.seconds, any(n.startswith("loss/") for n in metrics)):
                    say(note)
                record.add(done, metrics)
                due = done.seconds - saved.seconds >= save_seconds or done.steps - saved.steps >= save_steps
                stops, dues = zip(*everyone((requests[0] if requests else None, due)), strict=True)
                stop = None if done.steps >= steps else next((x for x in stops if x is not None), None)
                if dues[0]:  # by the first process's clock
                    saved = keep()
            if saved != done:
                keep()
            record.notify("end", done, {})
    return Outcome(done, run.checkpoint(done.steps), stop)


def _iterate(learner: Learner, done: Done, saved: Done) -> tuple[Done, dict[str, float]]:
    """Run one iteration: (progress, metrics). Raises RunError if these or the policy are not finite."""
    began, steps = time.perf_counter(), learner.steps_per_iteration
    try:
        metrics = learner.iterate()
    except TaskError as error:
        raise RunError(f"{error}; {STOPPED.format(saved.steps)}") from error
    duration = time.perf_counter() - began
    numbers = {name: torch.tensor(value) for name, value in metrics.items()}
    done = Done(done.steps + steps, done.iterations + 1, done.seconds + duration)
    _check_finite({**numbers, **learner.policy.state_dict()}, f"at step {done.steps}", saved)
    clock = dict(zip(WALL_CLOCK, (done.seconds, steps / duration), strict=True))
    return done, {"steps": done.steps, "iteration": done.iterations, **clock, **metrics}


def _check_finite(tensors: Mapping[str, Tensor], when: str, saved: Done) -> None:
    """Raise RunError with the names that are not finite; not for `env.*`: Env resets broken simulations."""
    mine = {name: t for name, t in tensors.items() if not name.startswith("env.")}
    finite: dict[torch.device, dict[str, Tensor]] = {}  # one transfer per device
    for name, t in mine.items():
        finite.setdefault(t.device, {})[name] = torch.isfinite(t).all()
    each = [zip(flags, torch.stack([*flags.values()]).tolist(), strict=True) for flags in finite.values()]
    broken = [name for flags in each for name, fine in flags if not fine]
    if broken:
        hint = "a smaller learning rate may help"
        raise RunError(f"{', '.join(broken)} not finite {when}; {STOPPED.format(saved.steps)}; {hint}")


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Context in which SIGINT and SIGTERM only append their number to this list; main thread only."""
    requests: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        requests.append(number)
        if not rank():
            with contextlib.suppress(OSError):  # the same Ctrl-C ends the reader in `| tee log`
                os.write(2, b"stopping after this iteration\n")  # the signal may interrupt a print

    if threading.current_thread() is not threading.main_thread():  # others cannot set handlers
        yield requests
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


Show = Callable[[Done, dict[str, float]], None]
Validate = Callable[[Done], dict[str, float]]
Notify = Callable[[Kind, Done, dict[str, float]], None]


def _notifier(hooks: Hooks, run: Run, learner: Learner, requests: list[int]) -> Notify:
    """A function that calls the hooks; if one returns False, it appends BY_HOOK to `requests`."""

    def notify(kind: Kind, done: Done, metrics: dict[str, float]) -> None:
        if not hooks(Event(kind, run, done, learner, metrics)):
            requests.append(BY_HOOK)

    return notify


class Record:
    """Validates, logs and displays each iteration and calls the hooks, in the first process only."""

    def __init__(self, log: Log | None, show: Show, validate: Validate, notify: Notify) -> None:
        self._log, self._show, self._validate, self.notify = log, show, validate, notify

    def add(self, done: Done, metrics: dict[str, float]) -> None:
        if self._log is None:
            return
        validated = self._validate(done)
        metrics = {**metrics, **validated}
        self._log.add(metrics)
        self._show(done, metrics)
        self.notify("iteration", done, metrics)
        if validated:
            self.notify("validation", done, metrics)

    def sync(self) -> dict[str, Any] | None:
        return None if self._log is None else self._log.sync()


@contextlib.contextmanager
def _record(run: Run, steps: int, start: Done, validate: Validate, notify: Notify) -> Iterator[Record]:
    if rank():
        yield Record(None, lambda *_: None, validate, lambda *_: None)
        return
    log = Log(run.path, start.steps, run.logged(start.steps))
    with log, _display(run.path.parent.name, steps, start) as show:
        yield Record(log, show, validate, notify)


@contextlib.contextmanager
def _display(name: str, steps: int, start: Done) -> Iterator[Show]:
    """Yields a function to show progress on stderr: a bar on a terminal, else a line per PLAIN_SECONDS."""
    console = Console(stderr=True)
    columns = BarColumn(), TextColumn("{task.description}")
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task(name, total=steps, completed=start.steps)
    latest, validated, shown, warm = "-", "", -math.inf, None

    def show(done: Done, metrics: dict[str, float]) -> None:
        nonlocal latest, validated, shown, warm
        latest = f"{metrics['episode/return']:.1f}" if "episode/return" in metrics else latest
        if "validation/headline" in metrics:
            validated = f", validation {metrics['validation/headline']:.4g}"  # of the task's headline
        text = f"{name} {done.steps:,}/{steps:,} steps, return {latest}{validated}"
        if share := metrics.get("episode/bad"):
            text += f", {share:.2g} of the steps broke"
        if compiling := compile_seconds():
            say(f"compiled in {compiling:.1f} s")
        if compiling or warm is None:
            warm = done  # the rate leaves out the first iteration, and those that compiled
        if done != warm:
            rate = (done.steps - warm.steps) / max(done.seconds - warm.seconds, 1e-9)
            left = int(max(steps - done.steps, 0) / rate)
            text += f", {rate:,.0f} steps/s, {left // 60} min {left % 60:02} s left"
        bar.update(task, completed=done.steps, description=text)
        if bar.disable and (done.seconds - shown >= PLAIN_SECONDS or done.steps >= steps):
            say(text)
            shown = done.seconds

    bar.start()
    try:
        yield show
    finally:
        with contextlib.suppress(OSError):  # the terminal may be gone
            bar.stop()
