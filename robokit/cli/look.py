"""The command `robokit play`."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from robokit.calls.policies import play
from robokit.cli.words import OUTPUT, Trust, What


@dataclass(frozen=True)
class Play:
    """Film the exported file in simulation, or show it in MuJoCo's viewer."""

    what: What  # a name (its newest run, else policy), a run folder, or an exported file
    # .mp4 or .gif; default: play.mp4 in the run folder, an mp4 beside the file, or here for a named
    # or shipped policy
    output: Annotated[Path | None, OUTPUT] = None
    seconds: float | None = None  # s of simulated time; default: one episode, for a film at most 20 s
    seed: int = 0  # of the episodes, from 0 to 999999; disjoint from the seeds of training
    width: int = 640  # pixels from left to right
    height: int = 480  # pixels from top to bottom
    # constant commands in the task's order, instead of random ones
    command: tuple[float, ...] = ()
    viewer: bool = False  # MuJoCo's own window, in real time, instead of a film
    nominal: bool = False  # without randomisation, pushes and sensor noise
    # shown on this task instead: a name, or file.py:Class, with the same inputs, actuators and rate
    task: str | None = None
    trust: Trust = False

    def __call__(self) -> int:
        film = play(**{field.name: getattr(self, field.name) for field in fields(self)})
        if film is not None:
            print(film)
        return 0
