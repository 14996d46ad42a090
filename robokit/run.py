"""The run folder, and the one loop around every learner.

    run = Run.create("runs", "hopper", steps=500_000, config={...})
    train(learner, run, run.steps)  # again after a kill: continues from the newest good checkpoint

    runs/hopper/latest -> 2030-01-31_12-00-00/
        config.json        everything that was asked for, versions, commit
        metrics.jsonl      one line an iteration; tensorboard/ holds the same
        checkpoints/       see robokit.checkpoint

On the CPU a resumed run continues bit for bit; its metrics.jsonl differs from an uninterrupted one only in WALL_CLOCK.
"""

import contextlib
import fcntl
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from robokit.checkpoint import Checkpoint, newest, save, sweep, sync_folder, write_atomically
from robokit.errors import CheckpointError, RunError

CONFIG, METRICS, BOARD, CHECKPOINTS, LATEST = (
    "config.json", "metrics.jsonl", "tensorboard", "checkpoints", "latest"
)  # fmt: skip
SCHEMA = 1  # of config.json
WALL_CLOCK = ("seconds", "steps_per_second")  # keys of a metrics line that no two runs share
SAVE_SECONDS = 300.0  # between two checkpoints
PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal


class Learner(Protocol):
    """What the loop asks of an algorithm."""

    @property
    def steps_per_iteration(self) -> int: ...

    @property
    def policy(self) -> nn.Module: ...

    def iterate(self) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class Done:
    """How far a run is."""

    steps: int = 0  # environment steps, over all simulations
    iterations: int = 0
    seconds: float = 0.0  # of training, over all its processes


@dataclass(frozen=True)
class Run:
    """One training on disk. `config` decides its results and is checked on resuming; `about` describes it."""

    path: Path
    steps: int  # environment steps asked for
    config: dict[str, Any]
    about: dict[str, Any]

    @classmethod
    def create(
        cls, root: str | Path, name: str, steps: int, config: dict[str, Any], about: dict[str, Any]
    ) -> "Run":
        """`root/name/<date>/`, and `root/name/latest` pointing to it; values as JSON has them."""
        try:
            run = cls(_new_folder(Path(root) / name), steps, config, about)
            run._write_config()
            _point(run.path.parent / LATEST, run.path.name)
        except OSError as error:
            raise RunError(f"cannot create a run in {root}: {error.strerror}") from error
        return run

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """An existing run: its folder, or a link to it. Raises RunError for anything else."""
        path = Path(folder).resolve()
        try:
            text = json.loads((path / CONFIG).read_bytes())
            if text["schema"] != SCHEMA:
                raise RunError(f"{folder} has config schema {text['schema']!r}; known here: {SCHEMA}")
            return cls(path, int(text["steps"]), dict(text["config"]), dict(text["about"]))
        except OSError as error:
            inside = " (its runs are inside; try its 'latest')" if (path / LATEST).exists() else ""
            raise RunError(f"{folder} is no run: it has no {CONFIG}{inside}") from error
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise RunError(f"{folder} is no run: its {CONFIG} is damaged: {error!r}") from error

    def until(self, steps: int) -> "Run":
        """The same run asked for more (or fewer) steps, on disk too."""
        run = replace(self, steps=steps)
        run._write_config()
        return run

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest good checkpoint of this run, and why newer ones were skipped (see checkpoint.newest)."""
        return newest(self.path / CHECKPOINTS, self._check_fits)

    def save(self, learner: Learner, done: Done) -> Path:
        """Write a checkpoint. Raises CheckpointError; earlier ones stay."""
        facts = {**asdict(done), "config": self.config}
        return save(self.path / CHECKPOINTS, done.steps, learner.state_dict(), facts)

    def resume(self, learner: Learner) -> Done:
        """Bring `learner` to the newest good checkpoint; the start where there is none yet."""
        checkpoint, skipped = self.newest()
        for reason in skipped:
            say(f"skipped: {reason}")
        if checkpoint is None:
            return Done()
        try:
            learner.load_state_dict(checkpoint.tensors)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"{checkpoint.path} does not fit this learner: {error}") from error
        return Done(**{key: checkpoint.facts[key] for key in asdict(Done())})

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else trains in this folder meanwhile; a kill unlocks it."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise RunError(f"another process is training in {self.path}") from error
        finally:
            os.close(descriptor)

    def _write_config(self) -> None:
        text = {"schema": SCHEMA, "steps": self.steps, "config": self.config, "about": self.about}
        write_atomically(self.path / CONFIG, (json.dumps(text, indent=1, allow_nan=False) + "\n").encode())

    def _check_fits(self, checkpoint: Checkpoint) -> None:
        theirs, ours = checkpoint.facts.get("config", {}), self.config
        differ = [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]
        if differ:
            key = differ[0]
            what = f"its {key} is {theirs.get(key)!r}, this run's {ours.get(key)!r}"
            raise CheckpointError(f"checkpoint {checkpoint.path} belongs to another run: {what}")


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    done: Done
    checkpoint: Path
    signal: int | None  # that asked it to stop early


def train(
    learner: Learner,
    run: Run,
    steps: int,
    *,
    save_seconds: float = SAVE_SECONDS,
    save_steps: float = math.inf,
) -> Outcome:
    """Iterate until `steps` environment steps are done, from wherever the run stands.

    A checkpoint is written at the start, every `save_seconds` or `save_steps`, and at the end. SIGINT and
    SIGTERM end the loop after the running iteration.

    Raises RunError when another process trains here, the folder cannot be written, or a metric or parameter
    is no longer finite; the last good checkpoint then is untouched.
    """
    with run.locked(), _stop_requests() as requests:
        sweep(run.path / CHECKPOINTS)
        done = run.resume(learner)
        saved = done if done.steps else None
        with _Log(run.path, done.steps) as log, _display(run.path.parent.name, steps, done) as show:
            if saved is None:  # also finds out now, not in an hour, that nothing can be saved here
                saved, path = done, run.save(learner, done)
            while done.steps < steps and not requests:
                done, metrics = _iterate(learner, done, saved)
                log.add(metrics)
                show(done, metrics)
                due = done.seconds - saved.seconds >= save_seconds or done.steps - saved.steps >= save_steps
                if due:
                    log.sync()
                    saved, path = done, run.save(learner, done)
            if saved != done:
                log.sync()
                saved, path = done, run.save(learner, done)
    return Outcome(done, path, requests[0] if requests else None)


def say(text: str) -> None:
    """A line for the person in front of it: standard error, as standard output is for results."""
    print(text, file=sys.stderr, flush=True)
