"""From options to a learner, and from a run folder back to that learner and its exported file.

    learner = build(task, Setup(seed=3), options(task, "ppo"))
    learner, steps = restore(Run.open("runs/hopper/latest"))
    path, learner = exported(Run.open("runs/hopper/latest"))

A run is trained, evaluated and exported from its config.json alone; what changed since then is said.
"""

import contextlib
import hashlib
import json
import os
import platform
import sys
from dataclasses import asdict, fields, replace
from datetime import datetime
from pathlib import Path

from robokit.compute import processes
from robokit.console import say
from robokit.env.env import Env
from robokit.errors import RunError
from robokit.export.card import write_card
from robokit.export.fields import versions
from robokit.export.file import Exported
from robokit.export.write import Written, export
from robokit.learning.offpolicy.options import OffPolicyOptions, Pace
from robokit.limits.limit import with_values
from robokit.task.lookup.find import known_tasks, load_task, title
from robokit.task.task import Task
from robokit.training.build import Built, Setup, algorithm, build
from robokit.training.provenance import changed, commit, task_file, task_hashes
from robokit.training.run import Run
from robokit.training.selection import TIMES, Selection, load_best

POLICY = "policy.onnx"  # in the run folder
EXPORT_ENVS = 64  # simulations the gate replays


def create(root: Path, learner: Built, setup: Setup) -> Run:
    """A new run folder for a learner at its start."""
    task, file = learner.env.task, task_file(learner.env.task)
    threads = getattr(learner.env.sim, "threads", setup.threads)
    setup = replace(setup, threads=threads, torch_threads=learner.threads)
    own = {key: value for key, value in asdict(learner.config).items() if key != "steps"}
    limits = {name: limit.value for name, limit in task.limits.items()}
    parts = {"processes": processes.world(), "options": own, "hashes": task_hashes(task)}
    config = {"task": title(task), "limits": limits, **asdict(setup), **parts}
    about = {
        "file": str(file),
        "command": sys.argv,
        "launch": processes.launch(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": {"robokit": commit(Path(__file__)), "task": commit(file)},
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
    }
    steps = learner.config.steps
    made = None if processes.rank() else Run.create(root, file_name(title(task)), steps, config, about)
    path = processes.agreed(made and str(made.path))
    return made or Run.open(path)


def unfinished(root: Path, task: Task) -> Path | None:
    """The run that this call of torchrun began, where it has started its processes again."""
    found = None
    if processes.restarted() and not processes.rank():  # the first one knows: it made the folder
        began = {"launch": processes.launch(), "command": sys.argv}
        for folder in sorted((root / file_name(title(task))).glob("*/")):
            with contextlib.suppress(RunError):
                run = Run.open(folder)
                found = str(run.path) if run.about | began == run.about else found
    path = processes.agreed(found)
    return None if path is None else Path(path)


def file_name(title: str) -> str:
    """A task's title in the names of files and folders."""
    return title.replace(":", "-")


def task_of(run: Run) -> Task:
    """The task that a run was trained on, with its limits: the file it had, or else one of that name."""
    stem, _, cls = str(run.config["task"]).partition(":")
    file = Path(str(run.about.get("file", "")))
    if not file.is_file():
        file = known_tasks().get(stem, file)
    task = load_task(f"{file}:{cls}" if cls else file)
    task.limits = with_values(task.limits, run.config.get("limits", {}))
    return task


def going_on(run: Run) -> str:
    """The command that goes on with a run."""
    shared = run.config.get("processes", 1)
    launcher = f"torchrun --nproc-per-node {shared} -m " if shared > 1 else ""
    return f"{launcher}robokit train --resume {run.path}"


def rebuild(run: Run, training: bool = True) -> Built:
    """The learner of a run, at its start.

    Not for `training`: on the CPU, whatever it was trained on, eager, with as little replay as may be.

    Raises RunError for a training that other processes share than those that began it.
    """
    config, task = run.config, task_of(run)
    if training and (shared := config.get("processes", 1)) != processes.world():
        rule = f"{run.path} was begun by {shared} process{'es' * (shared > 1)}, each with its own simulations"
        raise RunError(f"{rule}, and cannot be shared by {processes.world()}; go on with: {going_on(run)}")
    if missing := [f.name for f in fields(Setup) if f.name not in config]:
        raise RunError(f"{run.path} was made by another version of robokit: it does not say {missing}")
    setup = Setup(**{f.name: config[f.name] for f in fields(Setup)})
    own = {name: tuple(v) if isinstance(v, list) else v for name, v in config["options"].items()}
    default = algorithm(setup.algo).Config()
    if unknown := sorted(set(own) ^ {f.name for f in fields(default) if f.name != "steps"}):
        raise RunError(f"{run.path} was made by another version of robokit: its options differ in {unknown}")
    config = replace(default, steps=run.steps, **own)
    if not training:
        setup, config = replace(setup, device="cpu", sim="cpu"), replace(config, compile=False)
    if not training and isinstance(config, OffPolicyOptions):
        least = 2 * (Pace.of(config).starts + config.simulations)  # what Learner's checks need
        config = replace(config, replay=min(least, config.replay))
    return build(task, setup, config, begun=True)


def selection(run: Run, learner: Built) -> Selection | None:
    """What validates a learner during its training, where it is to be."""
    times = run.config["validations"]
    if times is None:
        times = TIMES if learner.env.task.limits and learner.config.limit_rule != "off" else 0
    return Selection(run, learner, times) if times else None


def restore(run: Run, last: bool = False) -> tuple[Built, int]:
    """The learner of a run at its newest good checkpoint, and the step of its policy.

    The policy is the best one that held the limits in validation, if there is one; or the `last`.
    """
    learner = rebuild(run, training=False)
    if differ := changed(run, learner.env.task):
        say(f"note: changed since {run.path} was trained: {', '.join(differ)}")
    done = run.load_policy(learner.policy)
    if not done.steps:
        raise RunError(f"{run.path} has no checkpoint after its start: it has learned nothing yet")
    return learner, done.steps if last else take_best(run, learner, done.steps)


def take_best(run: Run, learner: Built, steps: int) -> int:
    """Put the best policy of a run in the place of the learner's, made at `steps`; the step that it is of."""
    score = load_best(run, learner.policy)
    judged = run.config["limits"] and learner.config.limit_rule != "off"
    if score is None and judged and selection(run, learner):
        say(f"note: no policy of {run.path} held its limits in validation; this is the last, of step {steps}")
    if score is None:
        return steps
    say(f"the best policy in validation is that of step {score.steps}: return {score.returns:.4g}")
    return score.steps


def export_policy(run: Run, learner: Built, steps: int, path: Path) -> Written:
    """Write a learner's policy through the gate, its sha256 and its card. Raises ExportError."""
    options = {"seed": run.config["seed"], "threads": run.config["threads"]}
    # on the CPU's engine, whichever trained; nominal: what is observed is then what a sensor says
    fresh = Env(learner.env.task, EXPORT_ENVS, **options, nominal=True)
    report = export(learner.policy, fresh, path, commit=run.about["commit"]["robokit"])
    write_card(Exported.open(path), {"run": run.path.name, "steps": steps})
    return report


def exported(run: Run) -> tuple[Path, Built]:
    """The run's policy.onnx of its newest checkpoint, exported now if need be; and the learner."""
    learner, steps = restore(run)
    path = run.path / POLICY
    if _card_steps(path) != steps:
        say(f"exporting the policy of step {steps} to {path}")
        export_policy(run, learner, steps, path)
    return path, learner


def _card_steps(path: Path) -> int | None:
    """Of a whole export; None where a kill came between."""
    try:
        card = json.loads(path.with_suffix(".json").read_bytes())
        whole = hashlib.sha256(path.read_bytes()).hexdigest() == card["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return card.get("steps") if whole else None
