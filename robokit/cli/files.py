"""robokit export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from robokit.cli.resolve import OUTPUT, gamma_of
from robokit.console import say
from robokit.errors import OptionError
from robokit.evaluation.measure import evaluate
from robokit.export.card import write_card
from robokit.export.file import Exported
from robokit.training.restore import export_policy, file_name, restore
from robokit.training.run import Run


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
        learner, steps = restore(run, self.last)
        path = self.output / f"{file_name(run.config['task'])}.onnx"
        if path.exists():
            say(f"note: replacing {path}")
        report = export_policy(run, learner, steps, path)
        file = Exported.open(path)
        card: dict[str, Any] = {"run": run.path.name, "steps": steps}
        if self.episodes:
            options: dict[str, Any] = {"policy": learner.policy, "gamma": gamma_of(run)}
            measured = evaluate(file, learner.env.task, self.episodes, **options)
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
