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
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robokit.compute.processes import agreed, everyone, rank, world
from robokit.console import say
from robokit.disk.checkpoint import FACTS, Checkpoint, kept, newest, prune, save
from robokit.disk.folder import BEST, CHECKPOINTS, CONFIG, LATEST, SCHEMA, digest, read_config
from robokit.disk.own import check_own
from robokit.disk.place import Held, check_place, new_folder, point
from robokit.disk.read import check_types, first_difference, read_json, short
from robokit.disk.write import drop_dead, write_atomically
from robokit.errors import CheckpointError, DataError, RunError, reason, tell
from robokit.learning.protocols import Learner
from robokit.state import load_weights

UNSAVED = "has no checkpoint after its start: one is saved every 300 s (--save-every) and at the end"
PREFIX = "policy."  # prefix of the policy's tensors in a learner's state
# a Done, as in a checkpoint's facts, and whether there was a best policy then
PROGRESS = {"steps": int, "iterations": int, "seconds": float, "best": bool}


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
    _seen: set[str] = field(default_factory=set, repr=False, compare=False)  # BEST: it has had a policy

    @classmethod
    def create(
        cls, root: str | Path, name: str, steps: int, config: dict[str, Any], about: dict[str, Any]
    ) -> "Run":
        """Create `root/name/<date>/`, its config.json, and the link `root/name/latest`. Raises RunError."""
        check_place(Path(root) / name)
        try:
            config, about = json.loads(json.dumps([config, about], allow_nan=False))  # as `open` reads them
            run = cls(new_folder(Path(root) / name), steps, config, about)
            run._write_config()
            point(run.path.parent / LATEST, run.path.name)
        except OSError as error:
            raise RunError(f"cannot create a run in {root}: {error.strerror}") from error
        return run

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """The run in a folder, or in the folder of a link. Raises RunError for anything else."""
        path, text = read_config(folder)
        return cls(path, text["steps"], text["config"], text["about"])

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

    def save(self, learner: Learner, done: Done, logged: Mapping[str, Any] | None = None) -> Path:
        """Write a checkpoint; return its folder. If that fails, raises CheckpointError; earlier ones stay.

        logged: what `Log.sync` says of the metrics until then.
        """
        facts = {**asdict(done), "config": self.config, "about": digest(self.about)}
        facts["best"] = BEST in self._seen
        facts |= {} if logged is None else {"metrics": logged}
        state = learner.state_dict()
        return save(self.checkpoints, done.steps, state, facts, replay=learner.replay)

    def logged(self, steps: int) -> dict[str, Any] | None:
        """What process 0's checkpoint at `steps` says of the metrics; None: nothing, or it is not there."""
        with contextlib.suppress(OSError, DataError):
            facts = read_json(self.checkpoint(steps) / FACTS)
            check_types(facts, {"metrics": {"bytes": int, "sha256": str}}, FACTS)
            return facts.get("metrics")
        return None

    def notice(self, held: Held, saved: int | None) -> None:
        """Say what others removed or changed while training. Folder and config.json are made again.

        saved: the step of the last checkpoint. Raises RunError if that cannot be done, or if another process
        trains in what is at the folder's place now.
        """
        last, lost = self.checkpoints / f"{saved or 0:012d}", "" if rank() else held.lost()
        try:
            if lost:
                tell(f"note: {self.path} was {lost} while training: it is made again, and saved into")
                if not held.renew():
                    raise RunError(f"another process is training in {self.path}")
            elif saved is not None and not last.is_dir():
                tell(f"note: {last} was removed while training: only what is saved from now on is there")
            if not rank():
                self._keep_config()
                self.notice_best()
        except OSError as error:
            raise RunError(f"cannot write into {self.path}: {reason(error)}") from error

    def _keep_config(self) -> None:
        """Write config.json again if it has gone or is damaged; say so, and whether it is another one."""
        try:
            there = Run.open(self.path)
        except RunError as error:
            tell(f"note: written again, for others removed or damaged it while training: {error}")
            self._write_config()
        else:
            if (there.steps, there.config) != (self.steps, self.config):
                tell(f"note: {self.path / CONFIG} was changed while training: a resume needs what it was")

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

    def load_policy(self, policy: nn.Module, prefix: str = PREFIX) -> Done:
        """Like `resume`, but for the policy alone, and from a checkpoint whose replay may be damaged.

        prefix: of another module in the learner's state.
        """

        def load(checkpoint: Checkpoint) -> None:
            own = {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
            load_weights(policy, own)

        return self._load(load, shared=False)

    def _load(self, load: Callable[[Checkpoint], None], shared: bool = True) -> Done:
        """Call `load` on the newest good checkpoint, say what was skipped, return the progress, or Done()."""
        checkpoint, skipped = self.newest(shared)
        for why in skipped:
            say(f"skipped: {why}")
        if checkpoint is None:
            return Done()
        try:
            load(checkpoint)
            check_types(checkpoint.facts, PROGRESS, FACTS)
            if checkpoint.facts.get("about", own := digest(self.about)) != own:
                say(f"note: {self.path / CONFIG} has another 'about' than at step {checkpoint.steps}")
            if checkpoint.facts.get("best"):
                self._seen.add(BEST)
            self.notice_best()
            return Done(**{key: checkpoint.facts[key] for key in asdict(Done())})
        except CheckpointError:
            raise
        except (LookupError, RuntimeError, TypeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(f"{checkpoint.path} does not fit this learner: {error!r}") from error

    def keep_best(self, steps: int, policy: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replace the best policy, uncompared. If that fails, raises CheckpointError; the old one stays."""
        save(self.path / BEST, steps, policy, {**facts, "config": self.config}, keep=1)
        self._seen.add(BEST)

    def best(self) -> Checkpoint | None:
        """Checkpoint with the best state_dict of the policy, or None. Raises CheckpointError if damaged."""
        return newest(self.path / BEST, self._check_fits)[0]

    def notice_best(self) -> None:
        """Say once if the best policy that was kept, or that a checkpoint tells of, has gone."""
        if BEST in self._seen and not kept(self.path / BEST):
            say(f"note: {self.path / BEST} was removed; what is best from now on is kept")
            self._seen.remove(BEST)

    def last(self) -> Checkpoint | None:
        """Process 0's newest good checkpoint, its replay unread; None without any. Raises CheckpointError."""
        return newest(self.path / CHECKPOINTS, self._check_fits, shared=False)[0]

    @contextlib.contextmanager
    def locked(self) -> Iterator[Held]:
        """Context that locks the folder for one training. Raises RunError if locked, or for links inside."""
        check_own([self.path / CHECKPOINTS, self.path / BEST, self.checkpoints])
        try:
            held = Held(self.path)
            taken = not rank() and not held.take()
        except OSError as error:
            raise RunError(f"cannot lock {self.path}: {reason(error)}") from error
        try:
            if agreed(taken):
                raise RunError(f"another process is training in {self.path}")
            drop_dead(self.path.parent / LATEST, [LATEST])
            drop_dead(self.path / CONFIG)
            yield held
        finally:
            held.close()

    def _write_config(self) -> None:
        text = {"schema": SCHEMA, "steps": self.steps, "config": self.config, "about": self.about}
        write_atomically(self.path / CONFIG, (json.dumps(text, indent=1, allow_nan=False) + "\n").encode())

    def _check_fits(self, checkpoint: Checkpoint) -> None:
        """Raise CheckpointError unless the checkpoint has the same config as this run."""
        theirs, ours = checkpoint.facts.get("config", {}), self.config
        if not isinstance(theirs, dict):
            raise CheckpointError(f"{checkpoint.path} has a config of {short(theirs)} in {FACTS}")
        if theirs != ours:
            key, their, own = first_difference(theirs, ours)
            what = f"its {key} is {short(their)}, this run's {short(own)} in {self.path / CONFIG}"
            raise CheckpointError(f"checkpoint {checkpoint.path} belongs to another run: {what}")
