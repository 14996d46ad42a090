"""robokit export, check."""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from robokit.cli.resolve import OUTPUT, gamma_of
from robokit.console import say
from robokit.controller import ContractError, describe
from robokit.env.laws import Finding, check_task
from robokit.errors import OptionError, TaskError
from robokit.evaluation.measure import evaluate
from robokit.export.card import inspect, write_card
from robokit.task.lookup.find import find_task, load_task
from robokit.task.task import Task
from robokit.training.build import algorithm, options
from robokit.training.provenance import file_name
from robokit.training.restore import POLICY, export_policy, restore_policy
from robokit.training.run import CONFIG, Run


@dataclass(frozen=True)
class Export:
    """Write a run's policy, the best that held its limits or the last, as one ONNX file that was checked."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]  # a run folder
    # folder for <task>.onnx, <task>.onnx.sha256 and the card <task>.json
    output: Annotated[Path, OUTPUT] = Path("policies")
    episodes: int = 300  # that the card's return is measured in; 0: none
    last: bool = False  # the last policy, even if an earlier one was the best that held the limits
    json: bool = False  # for machines

    def __call__(self) -> int:
        if self.output.suffix == ".onnx":
            raise OptionError(f"--output is the folder that <task>.onnx is written into, got {self.output}")
        if self.episodes < 0 or self.episodes == 1:
            raise OptionError(f"episodes must be at least 2, or 0 for none, got {self.episodes}")
        run = Run.open(self.run)
        restored = restore_policy(run, self.last)
        path = self.output / f"{file_name(run.config['task'])}.onnx"
        if path.exists():
            say(f"note: replacing {path}")
        report = export_policy(run, restored, path)
        card: dict[str, Any] = {"run": run.path.name, "steps": restored.steps}
        if self.episodes:
            options: dict[str, Any] = {"policy": restored.policy, "gamma": gamma_of(run)}
            measured = evaluate(path, restored.env.task, self.episodes, **options)
            costs = {name: summary.mean for name, summary in measured.costs.items()}
            card |= {
                "return": measured.returns.mean,
                "costs": costs,
                "evaluation": {**measured.facts(), "file": path.name},
            }
        beside = write_card(path, card)
        error = max(p.ctrl_error for p in report.parity)
        print(
            beside.read_text() if self.json else f"{path}: equal within {error:.1e} of the actuators' range"
        )
        return 0


@dataclass(frozen=True)
class Check:
    """Check a task file against the task contract, or an exported file against its own."""

    # a task (its name, file.py or file.py:Class), an exported file, or the run folder that it lies in
    what: Positional[Annotated[str, arg(metavar="TASK|RUN|FILE.onnx")]]
    json: bool = False  # for machines

    def __call__(self) -> int:
        if self.what.endswith(".onnx"):
            return self._file(Path(self.what))
        if Path(self.what, CONFIG).is_file():
            return self._file(Path(self.what, POLICY))
        find_task(self.what)
        try:
            task = load_task(self.what)
            findings = [*check_task(task), *map(partial(_recipe, task), task.recipes)]
        except TaskError as error:
            findings = [Finding("import", False, str(error))]
        rows = [f"{'ok' if f.ok else 'FAIL':<5}{f.name:<15}{' '.join(f.detail.split())}" for f in findings]
        print(json.dumps([asdict(f) for f in findings], indent=1) if self.json else "\n".join(rows))
        return 0 if all(f.ok for f in findings) else 1

    def _file(self, path: Path) -> int:
        if not path.is_file():
            raise OptionError(f"no file {path}")
        try:
            found = inspect(path)
        except ContractError as error:
            print(json.dumps({"ok": False, "error": str(error)}) if self.json else f"FAIL {error}")
            return 1
        gaps = "\n".join(f"  {gap}" for gap in found["gaps"]) or "  nothing"
        text = f"ok   {describe(found['contract'])}\nnot said:\n{gaps}"
        print(json.dumps({"ok": True, **found}, indent=1) if self.json else text)
        return 0


def _recipe(task: Task, algo: str) -> Finding:
    """Whether a recipe names options that there are, with values that can work."""
    try:
        algorithm(algo).check(options(task, algo))
    except OptionError as error:
        return Finding(f"recipe {algo}", False, str(error))
    return Finding(f"recipe {algo}", True, ", ".join(f"{k}={v}" for k, v in task.recipes[algo].items()))
