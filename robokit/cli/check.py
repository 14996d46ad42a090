"""The command `robokit check`."""

import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

import torch
from tyro.conf import Positional, arg

from robokit.calls.names import locate, path_of
from robokit.calls.planning import planner_of
from robokit.cli.contract import check_file, verified
from robokit.disk.checkpoint import damaged
from robokit.disk.folder import BEST, CHECKPOINTS, POLICY
from robokit.env.checks.laws import Finding, check_task
from robokit.env.checks.notes import find_notes
from robokit.errors import ExportError, OptionError, TaskError
from robokit.planning.planner import steps_of
from robokit.sim.model import compiled_once
from robokit.task.lookup.find import find_task, load_task
from robokit.task.task import Task
from robokit.training.run import Run
from robokit.training.setup.build import Setup, algorithm, options
from robokit.training.setup.init_from import Parent, open_parent, preview
from robokit.training.setup.rehearse import rehearse
from robokit.training.setup.restore import export_env


@dataclass(frozen=True)
class Check:
    """Check a task file against the task contract, an exported file against its own, or a run's files."""

    # a task (its name, file.py or file.py:Class), an exported file, or a run folder
    what: Positional[Annotated[str, arg(metavar="TASK|RUN|FILE.onnx")]]
    json: bool = False  # print JSON
    # list what a training from this run folder, exported file or name would take over, and train nothing
    init_from: str | None = None
    # algorithm of that training, by default ppo; and of the rehearsed export, by default the first recipe's
    algo: str | None = None

    def __call__(self) -> int:
        if self.init_from is not None:
            return self._start(open_parent(locate(self.init_from)))
        if path := path_of(self.what):
            if self.algo is not None:
                raise OptionError(f"--algo goes with a task: {path} is none")
            return check_file(path, self.json) if path.suffix == ".onnx" else self._run(Run.open(path))
        file, name = find_task(self.what)
        try:
            findings = self._findings(load_task(f"{file}:{name}" if name else file))
        except TaskError as error:
            findings = [Finding("import", False, str(error))]
        rows = [f"{_word(f):<5}{f.name:<15}{' '.join(f.detail.split())}" for f in findings]
        print(json.dumps([asdict(f) for f in findings], indent=1) if self.json else "\n".join(rows))
        return 0 if all(f.ok for f in findings) else 1

    @compiled_once()
    def _findings(self, task: Task) -> list[Finding]:
        laws = check_task(task)
        recipes = [*map(partial(_recipe, task), task.recipes), *_planner(task)]
        exports = [_exports(task, self.algo)] if all(f.ok for f in (*laws, *recipes)) else []
        doubts = find_notes(task) if all(law.ok for law in laws) else []
        return [*laws, *recipes, *exports, *doubts]

    def _start(self, parent: Parent) -> int:
        takeover = preview(load_task(self.what), self.algo or Setup.algo, parent)
        found = {"parent": parent.facts, **asdict(takeover)}
        lines = takeover.report(parent.name, parent.steps)
        print(json.dumps(found, indent=1) if self.json else "\n".join(lines))
        return 0

    def _run(self, run: Run) -> int:
        """Check a run's exported file, if there is one, and all its checkpoints."""
        file, text = {"ok": True}, f"ok   no {POLICY} yet: robokit evaluate writes it"
        if (run.path / POLICY).exists():
            file, text = verified(run.path / POLICY)
        folders = [run.path / CHECKPOINTS, *sorted((run.path / CHECKPOINTS).glob("rank*")), run.path / BEST]
        found = {
            f"{folder.relative_to(run.path)}/{name}": wrong
            for folder in folders
            for name, wrong in damaged(folder).items()
        }
        rows = [f"FAIL {wrong}" if wrong else f"ok   {name}" for name, wrong in found.items()]
        ok = file["ok"] and not any(found.values())
        told = {**file, "ok": ok, "checkpoints": found}
        print(json.dumps(told, indent=1) if self.json else "\n".join([text, *rows]))
        return 0 if ok else 1


def _word(finding: Finding) -> str:
    return "note" if finding.note else "ok" if finding.ok else "FAIL"


def _recipe(task: Task, algo: str) -> Finding:
    """Finding "recipe <algo>": its options if all are known and valid, else the first error, not raised."""
    try:
        algorithm(algo).check(options(task, algo))
    except OptionError as error:
        return Finding(f"recipe {algo}", False, str(error))
    return Finding(f"recipe {algo}", True, ", ".join(f"{k}={v}" for k, v in task.recipes[algo].items()))


def _planner(task: Task) -> list[Finding]:
    """Finding "planner" of a task that has options for it: as `_recipe`."""
    try:
        steps_of(planner_of(task), task.control_dt)
    except OptionError as error:
        return [Finding("planner", False, str(error))]
    options = ", ".join(f"{k}={v}" for k, v in task.planner.items())
    return [Finding("planner", True, options)] if options else []


def _exports(task: Task, algo: str | None) -> Finding:
    """Finding "export": whether an untrained policy of `algo` passes the gate of the export.

    Without `algo` it is the task's first recipe's.
    """
    algo = algo or next(iter(task.recipes), Setup.algo)
    setup = Setup()
    try:
        env = export_env(task, setup)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.seed)
            rehearse(algorithm(algo).make_actor(env, options(task, algo)), env)
    except (ExportError, TaskError) as error:
        return Finding("export", False, str(error))
    return Finding("export", True, f"an untrained policy of {algo} passes the gate")
