"""The command `robokit adopt`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from robokit.cli.words import OUTPUT
from robokit.console import say
from robokit.errors import OptionError
from robokit.interop.adapted import gate_env
from robokit.interop.adopt import adopt_policy
from robokit.interop.foreign import read_foreign
from robokit.interop.template import draft, write_draft
from robokit.task.lookup.find import load_task


@dataclass(frozen=True)
class Adopt:
    """Write a foreign policy, an ONNX file of mjlab, rsl_rl or Unitree, as a file like our own for a task.

    First a template is written, of what the file does not tell: fill it in and call again. docs/adopt.md.
    """

    file: Positional[Annotated[Path, arg(metavar="FILE.onnx")]]
    task: str  # a name (see robokit tasks), file.py or file.py:Class
    # JSON, written if it is not there; default: <FILE>.json beside the file
    template: Path | None = None
    output: Annotated[Path, OUTPUT] = Path("policies")  # folder for <FILE>.onnx and <FILE>.onnx.sha256
    json: bool = False  # print JSON

    def __call__(self) -> int:
        if self.output.suffix == ".onnx":
            raise OptionError(f"the output must be a folder, for {self.file.name}, got {self.output}")
        template = self.template or self.file.with_suffix(".json")
        if not template.exists():
            write_draft(template, draft(read_foreign(self.file), gate_env(load_task(self.task))))
            say(f"wrote {template}: fill in what is null, check the rest, then call this again")
            return 0
        written, notes = adopt_policy(self.file, self.task, template, self.output / self.file.name)
        for note in notes:
            say(f"note: {note}")
        error = max(p.ctrl_error for p in written.parity)
        facts = {"file": str(written.path), "sha256": written.sha256, "parity_error": error, "notes": notes}
        summary = f"{written.path}: equal within {error:.1e} of the actuators' range"
        print(json.dumps(facts, indent=1) if self.json else summary)
        return 0
