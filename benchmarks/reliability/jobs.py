"""Small trainings: begun, cut, gone on with, and compared to the bit."""

import hashlib
import json
import mmap
import os
import shutil
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TASKS = Path(__file__).parent / "tasks"
ALGOS = ("ppo", "sac", "td3")
BELIEFS = ("memoryless", "stack", "gru")
WALL_CLOCK = {"seconds", "steps_per_second"}
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"num_envs": 2, "horizon": 8, "minibatch": 8, "epochs": 1, "hidden": (8,), "chunk": 4},
    "sac": {"num_envs": 2, "learning_starts": 8, "batch": 8, "replay": 512, "hidden": (8,), "window": 4},
}
SMALL["td3"] = SMALL["sac"]
EACH = 16  # environment steps of an iteration
ITERATIONS = 6


@dataclass(frozen=True)
class Job:
    """One configuration of a training."""

    algo: str = "ppo"
    belief: str = "memoryless"
    limits: bool = False
    more: dict[str, Any] = field(default_factory=dict)  # options of the algorithm

    @property
    def name(self) -> str:
        more = [f"{key}={value}" for key, value in self.more.items()]
        return "-".join([self.algo, self.belief, *(["limits"] if self.limits else []), *more])

    @property
    def task(self) -> str:
        return f"tasks/slide.py:{'Gentle' if self.limits else 'Slide'}"


JOBS = [Job(algo, belief, limits) for limits in (False, True) for belief in BELIEFS for algo in ALGOS]


class Shared:
    """Numbers that outlive a killed child: what it did last."""

    NAMES = ("begun", "inside", "returned", "places")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * len(self.NAMES))

    def __getitem__(self, name: str) -> int:
        return struct.unpack_from("q", self._memory, 8 * self.NAMES.index(name))[0]

    def __setitem__(self, name: str, value: int) -> None:
        struct.pack_into("q", self._memory, 8 * self.NAMES.index(name), value)


def small_iterations() -> None:
    """Off-policy iterations of EACH transitions in this process, where robokit's have at least 100."""
    from robokit.learning.offpolicy import options

    options.ITERATION = options.LEAST = EACH


def lay(folder: Path) -> None:
    """The tasks, where a training in `folder` finds them."""
    shutil.copytree(TASKS, folder / "tasks", ignore=shutil.ignore_patterns("__pycache__"))


def begin(job: Job, steps: int = EACH * ITERATIONS) -> Any:
    """(learner, run) of a new run in ./runs."""
    from dataclasses import replace

    from robokit.task.lookup.find import load_task
    from robokit.training.setup.build import Setup, build_learner, options
    from robokit.training.setup.provenance import create

    small_iterations()
    task = load_task(job.task)
    config = replace(options(task, job.algo), steps=steps, compile=False, belief=job.belief)
    config = replace(config, **SMALL[job.algo])
    config = replace(config, **({"belief_size": 4} if job.belief != "memoryless" else {}))
    config = replace(config, **job.more)
    setup = Setup(job.algo, threads=1, torch_threads=1, validations=2 if job.limits else 0)
    learner = build_learner(task, setup, config)
    return learner, create(Path("runs"), learner, setup)


def found() -> Path | None:
    """The newest run in ./runs that has a config.json."""
    runs = sorted(Path("runs").glob("*/2*/config.json"))
    return runs[-1].parent if runs else None


def go_on(job: Job, steps: int | None = None, save_steps: float = EACH, shared: Shared | None = None) -> str:
    """Train to `steps`, the run's own if None; begins, if there is no run yet; returns the run's folder."""
    from dataclasses import replace

    from robokit.training.loop import train
    from robokit.training.run import Run
    from robokit.training.selection import Selection
    from robokit.training.setup.restore import rebuild

    if shared is not None:
        note_saves(shared)
    place = found()
    if place is None:
        learner, run = begin(job)
    else:
        small_iterations()
        run = Run.open(place)
        learner = rebuild(run)
    validate = Selection(run, learner, 2) if job.limits else (lambda done: {})
    run = replace(run)
    train(learner, run, steps or run.steps, save_steps=save_steps, validate=validate)
    return str(run.path)


def note_saves(shared: Shared) -> None:
    """Note in `shared` when a save is under way, and the step of the last that returned, plus one."""
    from robokit.training import run as runs

    save = runs.save

    def noted(parent: Path, steps: int, *rest: Any, **more: Any) -> Path:
        shared["inside"] = 1
        target = save(parent, steps, *rest, **more)
        shared["inside"] = 0
        if parent.name == "checkpoints":
            shared["returned"] = steps + 1
        return target

    runs.save = noted
    shared["begun"] = 1


def state(path: str | Path) -> dict[str, Any]:
    """All that a run has learned and recorded, but for the clock: equal runs have equal states."""
    from robokit.training.run import Run

    run = Run.open(path)
    last, skipped = run.newest()
    best = run.best()
    lines = [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if k not in WALL_CLOCK} for line in lines]
    one: dict[str, Any] = {"steps": last and last.steps, "skipped": skipped, "metrics": metrics}
    for name, checkpoint in (("last", last), ("best", best)):
        tensors = checkpoint.tensors if checkpoint else {}
        one |= {f"{name}/{key}": digest(tensor) for key, tensor in tensors.items()}
        one[f"{name}/segments"] = {str(k): v for k, v in checkpoint.segments.items()} if checkpoint else {}
        one[f"{name}/steps"] = checkpoint.steps if checkpoint else None
    return one


def digest(tensor: Any) -> str:
    """A tensor's type, shape and bits in short."""
    return f"{tensor.dtype}{[*tensor.shape]}" + hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]


def differ(one: dict[str, Any], other: dict[str, Any]) -> str:
    """The first keys in which two states differ; "" if none."""
    keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    return f"unequal: {', '.join(keys[:4])} ({len(keys)} in all)" if keys else ""


def leftovers(folder: Path) -> list[str]:
    """What a save or an export wrote under a temporary name and left; also segments that nothing lists."""
    hidden = [str(path.relative_to(folder)) for path in folder.rglob(".*")]
    listed = {
        Path(line.split()[-1]).name
        for sums in folder.rglob("SHA256SUMS")
        for line in sums.read_text().splitlines()
    }
    unlisted = [path.name for path in folder.rglob("segments/*") if path.name not in listed]
    return hidden + unlisted


def kill_at(place: int, shared: Shared) -> Callable[[object], None]:
    """A `before` for faults.watch that kills the process at the place of this number, counted from 1."""

    def before(event: object) -> None:
        shared["places"] += 1
        if shared["places"] == place:
            os.kill(os.getpid(), signal.SIGKILL)

    return before
