"""The run folder: configuration, metrics and checkpoints of one training.

    run = Run.create("runs", "hopper", steps=500_000, config={...}, about={...})
    run = Run.open("runs/hopper/latest")

Contents:

    config.json        all options, versions, commits
    metrics.jsonl      one line per iteration; tensorboard/ has the same numbers
    checkpoints/       see robokit.disk.checkpoint; segments/ inside is an off-policy learner's replay, rank1/
                       the folder of the second process's checkpoints
    best/              the best policy in validation, if any: see robokit.training.selection
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robokit.compute.processes import agreed, everyone, rank, world
from robokit.console import say
from robokit.disk.checkpoint import Checkpoint, newest, prune, save
from robokit.disk.folder import BEST, CHECKPOINTS, CONFIG, LATEST
from robokit.disk.write import sync_folder, write_atomically
from robokit.errors import CheckpointError, RunError
from robokit.learning.protocols import Learner

SCHEMA = 1  # of config.json
UNSAVED = "has no checkpoint after its start: one is saved every 300 s (--save-every) and at the end"
PREFIX = "policy."  # prefix of the policy's tensors in a learner's state


@dataclass(frozen=True)
class Done:
    """Progress of a run."""

    steps: int = 0  # environment steps, over all simulations
    iterations: int = 0
    seconds: float = 0.0  # of training, summed over restarts


@dataclass(frozen=True)
class Run:
    """One training on disk. A checkpoint must have the same `config`; `about` is for information only."""

    path: Path
    steps: int  # environment steps to train for
    config: dict[str, Any] = field(repr=False)
    about: dict[str, Any] = field(repr=False)

    @classmethod
    def create(
        cls, root: str | Path, name: str, steps: int, config: dict[str, Any], about: dict[str, Any]
    ) -> "Run":
        """Create `root/name/<date>/`, its config.json, and the link `root/name/latest`. Raises RunError."""
        check_place(Path(root) / name)
        try:
            config, about = json.loads(json.dumps([config, about], allow_nan=False))  # as `open` reads them
            run = cls(_new_folder(Path(root) / name), steps, config, about)
            run._write_config()
            _point(run.path.parent / LATEST, run.path.name)
        except OSError as error:
            raise RunError(f"cannot create a run in {root}: {error.strerror}") from error
        return run

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """The run in a folder, or in the folder of a link. Raises RunError for anything else."""
        path = Path(folder).resolve()
        try:
            text = json.loads((path / CONFIG).read_bytes())
            run = cls(path, int(text["steps"]), dict(text["config"]), dict(text["about"]))
        except OSError as error:
            inside = " (its runs are inside; try its 'latest')" if (path / LATEST).exists() else ""
            raise RunError(f"{folder} is no run: it has no {CONFIG}{inside}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{folder} is no run: its {CONFIG} is damaged: {error!r}") from error
        if text.get("schema") != SCHEMA:
            raise RunError(f"{folder} has config schema {text.get('schema')!r}; known here: {SCHEMA}")
        return run

    def keep_steps(self) -> None:
        """Write `steps` to config.json if it differs, in process 0; only a process that trains may do so."""
        if not rank() and Run.open(self.path).steps != self.steps:
            self._write_config()

    def checkpoint(self, steps: int) -> Path:
        """The folder of process 0's checkpoint at `steps`, which may not exist."""
        return self.path / CHECKPOINTS / f"{steps:012d}"

    @property
    def checkpoints(self) -> Path:
        """The folder of this process's checkpoints: its own simulations and its copy of the learner."""
        own = self.path / CHECKPOINTS
        return own / f"rank{rank()}" if rank() else own

    def newest(self, shared: bool = True) -> tuple[Checkpoint | None, list[str]]:
        """This process's newest good checkpoint (None: no checkpoints), and why newer ones were skipped.

        With several processes: of the newest step that all have. Raises CheckpointError if there are
        checkpoints, but no good one, or none that all have. shared: verify segments too.
        """
        most, reasons = math.inf, list[str]()
        while True:
            checkpoint, skipped = newest(self.checkpoints, self._check_fits, shared, most)
            steps = everyone(-1 if checkpoint is None else checkpoint.steps)
            least, lacking = min(steps), steps.index(min(steps))
            reasons += skipped
            if checkpoint is not None and checkpoint.steps > least:
                reasons.append(f"{checkpoint.path}: process {lacking} has only step {least}")
            if least == max(steps) or max(steps) == 0:  # without step 0 a run just starts again
                whole = checkpoint if least >= 0 else None
                return whole, [reason for theirs in everyone(reasons) for reason in theirs]
            if least < 0:
                lack = f"process {lacking} has none, others of step {max(steps)}"
                raise CheckpointError(f"no checkpoint in {self.path} that all processes have: {lack}")
            most = least

    def save(self, learner: Learner, done: Done) -> Path:
        """Write a checkpoint; return its folder. If that fails, raises CheckpointError; earlier ones stay."""
        facts = {**asdict(done), "config": self.config}
        state = learner.state_dict()
        return save(self.checkpoints, done.steps, state, facts, replay=learner.replay)

    def resume(self, learner: Learner) -> Done:
        """Load the newest good checkpoint into `learner`; return its progress, Done() if there is none."""

        def load(checkpoint: Checkpoint) -> None:
            learner.load_state_dict(checkpoint.tensors)
            checkpoint.load_segments(learner.replay)

        done = self._load(load)
        if world() > 1:
            self._check_shared(learner, done)
        return done

    def _check_shared(self, learner: Learner, done: Done) -> None:
        """Raise RunError unless all processes have the same policy; delete checkpoints after `done.steps`."""
        weights = learner.policy.state_dict().values()
        content = b"".join(x.detach().cpu().numpy().tobytes() for x in weights)
        if len({*everyone(hashlib.sha256(content).hexdigest())}) > 1:
            which = f"the checkpoints of step {done.steps} in {self.path}"
            rule = "differ between the processes in their policy: delete them to resume from earlier ones"
            raise RunError(f"{which} {rule}")
        prune(self.checkpoints, done.steps)

    def load_policy(self, policy: nn.Module) -> Done:
        """Like `resume`, but for the policy alone, and from a checkpoint whose replay may be damaged."""

        def load(checkpoint: Checkpoint) -> None:
            own = {k.removeprefix(PREFIX): v for k, v in checkpoint.tensors.items() if k.startswith(PREFIX)}
            policy.load_state_dict(own)

        return self._load(load, shared=False)

    def _load(self, load: Callable[[Checkpoint], None], shared: bool = True) -> Done:
        """Call `load` on the newest good checkpoint, say what was skipped, return the progress, or Done()."""
        checkpoint, skipped = self.newest(shared)
        for reason in skipped:
            say(f"skipped: {reason}")
        if checkpoint is None:
            return Done()
        try:
            load(checkpoint)
            return Done(**{key: checkpoint.facts[key] for key in asdict(Done())})
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint.path} does not fit this learner: {error!r}") from error

    def keep_best(self, steps: int, policy: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replace the best policy, uncompared. If that fails, raises CheckpointError; the old one stays."""
        save(self.path / BEST, steps, policy, {**facts, "config": self.config}, keep=1)

    def best(self) -> Checkpoint | None:
        """Checkpoint with the best state_dict of the policy, or None. Raises CheckpointError if damaged."""
        return newest(self.path / BEST, self._check_fits)[0]

    def last(self) -> Checkpoint | None:
        """Process 0's newest good checkpoint, its replay unread; None without any. Raises CheckpointError."""
        return newest(self.path / CHECKPOINTS, self._check_fits, shared=False)[0]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Context that locks the folder for one training; a kill unlocks it. Raises RunError if locked."""
        descriptor, taken = os.open(self.path, os.O_RDONLY), True
        try:
            if not rank():
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    taken = False
            if agreed(taken):
                raise RunError(f"another process is training in {self.path}")
            yield
        finally:
            os.close(descriptor)

    def _write_config(self) -> None:
        text = {"schema": SCHEMA, "steps": self.steps, "config": self.config, "about": self.about}
        write_atomically(self.path / CONFIG, (json.dumps(text, indent=1, allow_nan=False) + "\n").encode())

    def _check_fits(self, checkpoint: Checkpoint) -> None:
        """Raise CheckpointError unless the checkpoint has the same config as this run."""
        theirs, ours = checkpoint.facts.get("config", {}), self.config
        differ = [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]
        if differ:
            key = differ[0]
            what = f"its {key} is {theirs.get(key)!r}, this run's {ours.get(key)!r}"
            raise CheckpointError(f"checkpoint {checkpoint.path} belongs to another run: {what}")


def check_place(folder: Path) -> None:
    """Raise RunError unless `folder` can be made: its nearest existing ancestor must be a writable folder."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        what = "a link to nothing" if there.is_symlink() else "no folder"
        raise RunError(f"cannot create a run in {folder}: {there} is {what}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"cannot create a run in {folder}: {there} may not be written into")


def _new_folder(parent: Path) -> Path:
    """Make and return `parent/<date>`, or the first of `<date>-2`, `-3`... that is free."""
    parent.mkdir(parents=True, exist_ok=True)
    date = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for n in range(1, sys.maxsize):
        folder = parent / (date if n == 1 else f"{date}-{n}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError


def _point(link: Path, target: str) -> None:
    """Point `link` to `target` beside it, atomically; a file or folder of its name stays, with a note."""
    if link.exists() and not link.is_symlink():
        say(f"note: {link} is no link and stays as it is; it does not point to {target}")
        return
    temporary = link.with_name(f".{link.name}.{os.urandom(4).hex()}.tmp")
    temporary.symlink_to(target)
    try:
        temporary.replace(link)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(link.parent)
