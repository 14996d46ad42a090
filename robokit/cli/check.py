"""The command `robokit check`."""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from robokit.cli.resolve import exported_at
from robokit.controller import ContractError, describe
from robokit.env.laws import Finding, check_task
from robokit.errors import OptionError, TaskError
from robokit.export.fields import gaps
from robokit.task.lookup.find import find_task, load_task
from robokit.task.task import Task
from robokit.training.build import Setup, algorithm, options
from robokit.training.init_from import Parent, open_parent, preview, report
from robokit.training.restore import POLICY
from robokit.training.run import CONFIG


@dataclass(frozen=True)
class Check:
    """Check a task file against the task contract, or an exported file against its own."""

    # a task (its name, file.py or file.py:Class), an exported file, or a run folder
    what: Positional[Annotated[str, arg(metavar="TASK|RUN|FILE.onnx")]]
    json: bool = False  # print JSON
    # list what training the task from this run or exported file would take over, and train nothing
    init_from: str | None = None
    algo: str = Setup.algo  # of that training

    def __call__(self) -> int:
        if self.init_from is not None:
            return self._start(open_parent(self.init_from))
        if self.what.endswith(".onnx"):
            return self._file(Path(self.what))
        if Path(self.what, CONFIG).is_file():
            return self._file(Path(self.what, POLICY))
        file, name = find_task(self.what)
        try:
            task = load_task(f"{file}:{name}" if name else file)
            findings = [*check_task(task), *map(partial(_recipe, task), task.recipes)]
        except TaskError as error:
            findings = [Finding("import", False, str(error))]
        rows = [f"{'ok' if f.ok else 'FAIL':<5}{f.name:<15}{' '.join(f.detail.split())}" for f in findings]
        print(json.dumps([asdict(f) for f in findings], indent=1) if self.json else "\n".join(rows))
        return 0 if all(f.ok for f in findings) else 1

    def _start(self, parent: Parent) -> int:
        start = preview(load_task(self.what), self.algo, parent)
        found = {"parent": parent.facts, **asdict(start)}
        print(json.dumps(found, indent=1) if self.json else "\n".join(report(parent, start)))
        return 0

    def _file(self, path: Path) -> int:
        try:
            contract = exported_at(path).contract
        except ContractError as error:
            print(json.dumps({"ok": False, "error": str(error)}) if self.json else f"FAIL {error}")
            return 1
        holes = gaps(contract)
        listed = "\n".join(f"  {hole}" for hole in holes) or "  nothing"
        text = f"ok   {describe(contract)}\nwithout a value:\n{listed}"
        found = {"ok": True, "contract": contract, "gaps": list(holes)}
        print(json.dumps(found, indent=1) if self.json else text)
        return 0


def _recipe(task: Task, algo: str) -> Finding:
    """Finding "recipe <algo>": its options if all are known and valid, else the first error, not raised."""
    try:
        algorithm(algo).check(options(task, algo))
    except OptionError as error:
        return Finding(f"recipe {algo}", False, str(error))
    return Finding(f"recipe {algo}", True, ", ".join(f"{k}={v}" for k, v in task.recipes[algo].items()))
