"""The command `robokit adopt`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from robokit.cli.words import OUTPUT
from robokit.console import say
from robokit.errors import OptionError
from robokit.interop.adapted import gate_env
from robokit.interop.foreign.adopt import adopt_policy
from robokit.interop.foreign.graph import read_foreign
from robokit.interop.foreign.template import draft, write_draft
from robokit.task.lookup.find import load_task


@dataclass(frozen=True)
class Adopt:
    """Write a foreign policy, an ONNX file of mjlab, rsl_rl or Unitree, as a file like our own.

    The first call writes a template of what the policy sees and moves: fill it in and call again.
    """

    file: Positional[Annotated[Path, arg(metavar="FILE.onnx")]]
    task: str | None = None  # the task that it is for: a name (see robokit tasks), file.py or file.py:Class
    # JSON, docs/adopt.md; written if it is not there; default: <FILE>.template.json beside the file
    template: Path | None = None
    output: Annotated[Path, OUTPUT] = Path("policies")  # folder for <FILE>.onnx and <FILE>.onnx.sha256

    def __call__(self) -> int:
        if self.output.suffix == ".onnx":
            raise OptionError(f"the output must be a folder, for {self.file.name}, got {self.output}")
        if self.task is None:
            raise OptionError(f"{self.file} does not name its task: give it, --task TASK")
        template = self.template or self.file.with_suffix(".template.json")
        if not template.exists():
            write_draft(template, draft(read_foreign(self.file), gate_env(load_task(self.task))))
            say(f"wrote {template}: fill in what is null, check the rest, and call this again")
            return 0
        written, notes = adopt_policy(self.file, self.task, template, self.output / self.file.name)
        for note in notes:
            say(f"note: {note}")
        error = max(parity.ctrl_error for parity in written.parity)
        print(f"{written.path}: equal within {error:.1e} of the actuators' range")
        return 0
