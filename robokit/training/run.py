"""The run folder: what was asked for, what came of it, and where to go on.

    run = Run.create("runs", "hopper", steps=500_000, config={...}, about={...})
    run = Run.open("runs/hopper/latest")

What is inside:

    config.json        everything that was asked for, versions, commit
    metrics.jsonl      one line an iteration; tensorboard/ holds the same
    checkpoints/       see robokit.disk.checkpoint; segments/ in it is an off-policy learner's replay, rank1/
                       what the second of several processes has of its own
    best/              the policy to export, where one was chosen: see robokit.training.selection
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robokit.compute.processes import agreed, everyone, rank, world
from robokit.console import say
from robokit.disk.checkpoint import Checkpoint, newest, prune, save
from robokit.disk.write import sync_folder, write_atomically
from robokit.errors import CheckpointError, RunError
from robokit.learning.protocols import Learner

CONFIG, CHECKPOINTS, BEST, LATEST = "config.json", "checkpoints", "best", "latest"
SCHEMA = 1  # of config.json
POLICY = "policy."  # what the names of a policy's tensors begin with in a learner's state


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
        check_place(Path(root) / name)
        try:
            config, about = json.loads(json.dumps([config, about], allow_nan=False))  # as they will be read
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
        """Write down the steps asked for, where the disk says another number; only for who trains here."""
        if not rank() and Run.open(self.path).steps != self.steps:
            self._write_config()

    def checkpoint(self, steps: int) -> Path:
        """The folder of the checkpoint at `steps`."""
        return self.path / CHECKPOINTS / f"{steps:012d}"

    @property
    def checkpoints(self) -> Path:
        """The folder of this process's checkpoints: its own simulations, and the learner that all share."""
        own = self.path / CHECKPOINTS
        return own / f"rank{rank()}" if rank() else own

    def newest(self, shared: bool = True) -> tuple[Checkpoint | None, list[str]]:
        """The newest good checkpoint of this run, and why newer ones were skipped (see checkpoint.newest).

        Of several processes it is the newest step that all of them have. Raises CheckpointError for none.
        """
        most, reasons = math.inf, list[str]()
        while True:
            checkpoint, skipped = newest(self.checkpoints, self._check_fits, shared, most)
            steps = everyone(-1 if checkpoint is None else checkpoint.steps)
            least, lacking = min(steps), steps.index(min(steps))
            reasons += skipped
            if checkpoint is not None and checkpoint.steps > least:
                reasons.append(f"{checkpoint.path}: process {lacking} has only step {least}")
            if least == max(steps) or max(steps) == 0:  # of step 0 nothing is lost that a start has not
                whole = checkpoint if least >= 0 else None
                return whole, [reason for theirs in everyone(reasons) for reason in theirs]
            if least < 0:
                lack = f"process {lacking} has none, others of step {max(steps)}"
                raise CheckpointError(f"no checkpoint in {self.path} that all processes have: {lack}")
            most = least

    def save(self, learner: Learner, done: Done) -> Path:
        """Write a checkpoint. Raises CheckpointError; earlier ones stay."""
        facts = {**asdict(done), "config": self.config}
        state = learner.state_dict()
        return save(self.checkpoints, done.steps, state, facts, replay=learner.replay)

    def resume(self, learner: Learner) -> Done:
        """Bring `learner` to the newest good checkpoint; the start where there is none yet."""

        def load(checkpoint: Checkpoint) -> None:
            learner.load_state_dict(checkpoint.tensors)
            checkpoint.load_segments(learner.replay)

        done = self._load(load)
        if world() > 1:
            self._check_shared(learner, done)
        return done

    def _check_shared(self, learner: Learner, done: Done) -> None:
        """Raise RunError unless all processes hold one policy; forget what only some have after it."""
        weights = learner.policy.state_dict().values()
        content = b"".join(x.detach().cpu().numpy().tobytes() for x in weights)
        if len({*everyone(hashlib.sha256(content).hexdigest())}) > 1:
            which = f"the checkpoints of step {done.steps} in {self.path}"
            raise RunError(
                f"{which} hold another policy for each process: delete those, to go on from earlier"
            )
        prune(self.checkpoints, done.steps)

    def load_policy(self, policy: nn.Module) -> Done:
        """Bring a learner's policy alone to the newest good checkpoint, whatever became of its replay."""

        def load(checkpoint: Checkpoint) -> None:
            own = {k.removeprefix(POLICY): v for k, v in checkpoint.tensors.items() if k.startswith(POLICY)}
            policy.load_state_dict(own)

        return self._load(load, shared=False)

    def _load(self, load: Callable[[Checkpoint], None], shared: bool = True) -> Done:
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
        """Write the best policy so far. Raises CheckpointError; the one before it stays then."""
        save(self.path / BEST, steps, policy, {**facts, "config": self.config}, keep=1)

    def best(self) -> Checkpoint | None:
        """The best policy so far and its facts, or None. Raises CheckpointError for a damaged one."""
        return newest(self.path / BEST, self._check_fits)[0]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else trains in this folder meanwhile; a kill unlocks it. The first process asks for all."""
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
        theirs, ours = checkpoint.facts.get("config", {}), self.config
        differ = [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]
        if differ:
            key = differ[0]
            what = f"its {key} is {theirs.get(key)!r}, this run's {ours.get(key)!r}"
            raise CheckpointError(f"checkpoint {checkpoint.path} belongs to another run: {what}")


def check_place(folder: Path) -> None:
    """Raise RunError where no folder can be made: of what is there, the last must be one to write into."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        what = "a link to nothing" if there.is_symlink() else "no folder"
        raise RunError(f"cannot create a run in {folder}: {there} is {what}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"cannot create a run in {folder}: {there} may not be written into")


def _new_folder(parent: Path) -> Path:
    """`parent/<date>`, or the first of `<date>-2`, `-3`... that is free."""
    parent.mkdir(parents=True, exist_ok=True)
    date = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for n in range(1, sys.maxsize):
        folder = parent / (date if n == 1 else f"{date}-{n}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError


def _point(link: Path, target: str) -> None:
    """Let `link` point to `target` beside it, in one step; what is no link stays."""
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
