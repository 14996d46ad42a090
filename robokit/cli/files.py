"""The commands `robokit export` and `robokit filter`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from robokit.calls.dynamics import export_dynamics
from robokit.calls.names import is_shipped, locate, path_of
from robokit.calls.policies import export_policy, file_of
from robokit.cli.words import OUTPUT, Trust, What
from robokit.errors import OptionError
from robokit.export.bounds import filter_for, write_filter
from robokit.export.file import exported_at


@dataclass(frozen=True)
class Export:
    """Write a run's policy, the best that held its limits or the last, as one checked ONNX file.

    Or that of a model.zip of Stable-Baselines3, read without running any code of it: docs/from-sb3.md.
    """

    # a run folder, or a name: its newest run; or a model.zip
    run: Positional[Annotated[str, arg(metavar="NAME|RUN|MODEL.zip")]]
    # folder for <task>.onnx, <task>.onnx.sha256 and the card <task>.json
    output: Annotated[Path, OUTPUT] = Path("policies")
    episodes: int = 300  # to measure the card's return and costs; 0: none
    last: bool = False  # the last policy, even if an earlier one was the best that held the limits
    # where the run's own task is now: a name, or file.py:Class; of a model.zip: the task it is for
    task: str | None = None
    normalize: str | None = None  # of a model.zip: the file of its VecNormalize, or "none"
    # of the run: its policy, or the model that --algo svg learned, as <task>.dynamics.onnx without a card
    part: Literal["policy", "dynamics"] = "policy"
    trust: Trust = False
    json: bool = False  # print JSON

    def __call__(self) -> int:
        if self.part == "dynamics":
            if self.normalize is not None:
                raise OptionError(
                    f"--normalize is of a model.zip's policy, got {self.normalize!r} for a model"
                )
            path, sha256, error = export_dynamics(self.run, self.output, task=self.task, trust=self.trust)
            facts = {"file": str(path), "sha256": sha256, "parity_error": error}
            line = f"{path}: equal within {error:.1e} of each column's largest value"
            print(json.dumps(facts, indent=1) if self.json else line)
            return 0
        options = {"episodes": self.episodes, "last": self.last, "task": self.task, "trust": self.trust}
        written = export_policy(self.run, self.output, normalize=self.normalize, **options)
        error = max(p.ctrl_error for p in written.parity)
        summary = f"{written.path}: equal within {error:.1e} of the actuators' range"
        print(written.path.with_suffix(".json").read_text() if self.json else summary)
        return 0


@dataclass(frozen=True)
class MakeFilter:
    """Resolve a person's filter numbers for an exported file into the table for its robot."""

    what: What  # a name (its newest run, else policy), a run folder, or an exported file
    # a JSON object with the numbers of docs/filter.md
    numbers: Positional[Annotated[Path, arg(metavar="numbers.json")]]
    # path of the table; default: <name>.filter.json beside the file, or here for a named or shipped policy
    output: Annotated[Path | None, OUTPUT] = None

    def __call__(self) -> int:
        place = locate(self.what)
        file = file_of(place)
        filter = filter_for(exported_at(file), self.numbers)
        beside = file.with_suffix(".filter.json")
        here = file == place and (path_of(self.what) is None or is_shipped(file))
        output = self.output or (Path(beside.name) if here else beside)
        write_filter(filter, output)
        print(output)
        return 0
