"""The command `robokit dynamics`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from robokit.calls.dynamics import judge
from robokit.cli.words import OUTPUT, Trust
from robokit.console import say
from robokit.disk.write import write_atomically
from robokit.show.plots import writable
from robokit.show.quality import draw_quality


@dataclass(frozen=True)
class Dynamics:
    """Judge a run's learned model by control steps that it never trained on: text, JSON and a picture."""

    run: Positional[Annotated[str, arg(metavar="NAME|RUN")]]  # a run of --algo svg, or a name: its newest run
    output: Annotated[Path | None, OUTPUT] = None  # folder for dynamics.json and dynamics.png
    seed: int = 0  # of the control steps that are drawn from the replay, from 0 to 999999
    task: str | None = None  # where the run's own task is now: a name, or file.py:Class
    trust: Trust = False
    json: bool = False  # print JSON

    def __call__(self) -> int:
        folder = None if self.output is None else writable(self.output)
        quality = judge(self.run, seed=self.seed, task=self.task, trust=self.trust)
        text = json.dumps(asdict(quality), indent=1)
        print(text if self.json else quality.text())
        if folder is not None:
            write_atomically(folder / "dynamics.json", f"{text}\n".encode())
            draw_quality(quality, folder / "dynamics.png")
            say(f"wrote {folder / 'dynamics.json'} and {folder / 'dynamics.png'}")
        return 0
