"""The commands `robokit export` and `robokit filter`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from robokit.cli.contract import exported_at
from robokit.cli.names import locate
from robokit.cli.resolve import OUTPUT, gamma_of
from robokit.console import say
from robokit.errors import OptionError
from robokit.evaluation.measure import evaluate
from robokit.export.bounds import filter_for, write_filter
from robokit.export.card import write_card
from robokit.export.file import Exported
from robokit.training.folder import file_name
from robokit.training.restore import export_policy, restore_policy
from robokit.training.run import Run


@dataclass(frozen=True)
class Export:
    """Write a run's policy, the best that held its limits or the last, as one checked ONNX file."""

    run: Positional[Annotated[str, arg(metavar="NAME|RUN")]]  # a run folder, or a name: its newest run
    # folder for <task>.onnx, <task>.onnx.sha256 and the card <task>.json
    output: Annotated[Path, OUTPUT] = Path("policies")
    episodes: int = 300  # to measure the card's return and costs; 0: none
    last: bool = False  # the last policy, even if an earlier one was the best that held the limits
    json: bool = False  # print JSON

    def __call__(self) -> int:
        if self.output.suffix == ".onnx":
            raise OptionError(f"--output must be a folder, for <task>.onnx, got {self.output}")
        if self.episodes < 0 or self.episodes == 1:
            raise OptionError(f"episodes must be at least 2, or 0 for none, got {self.episodes}")
        run = Run.open(locate(self.run, only_run=True))
        restored = restore_policy(run, self.last)
        path = self.output / f"{file_name(run.config['task'])}.onnx"
        if path.exists():
            say(f"note: replacing {path}")
        say(f"exporting the policy of step {restored.steps} to {path}")
        report = export_policy(run, restored, path)
        file = Exported.open(path)
        card: dict[str, Any] = {"run": run.path.name, "steps": restored.steps}
        if self.episodes:
            options: dict[str, Any] = {"policy": restored.policy, "gamma": gamma_of(run)}
            say(f"measuring {self.episodes} episodes of {path}")
            measured = evaluate(file, restored.env.task, self.episodes, **options)
            costs = {name: summary.mean for name, summary in measured.costs.items()}
            card |= {
                "return": measured.returns.mean,
                "costs": costs,
                "evaluation": {**measured.facts(), "file": path.name},
            }
        beside = write_card(file, card)
        error = max(p.ctrl_error for p in report.parity)
        print(
            beside.read_text() if self.json else f"{path}: equal within {error:.1e} of the actuators' range"
        )
        return 0


@dataclass(frozen=True)
class MakeFilter:
    """Resolve a person's filter numbers for an exported file into the table for its robot."""

    file: Positional[Annotated[Path, arg(metavar="FILE.onnx")]]  # an exported file
    # a JSON object with the numbers of docs/filter.md
    numbers: Positional[Annotated[Path, arg(metavar="numbers.json")]]
    # path of the table; default: <name>.filter.json beside the file
    output: Annotated[Path | None, OUTPUT] = None

    def __call__(self) -> int:
        filter = filter_for(exported_at(self.file), self.numbers)
        output = self.output or self.file.with_suffix(".filter.json")
        write_filter(filter, output)
        print(output)
        return 0
