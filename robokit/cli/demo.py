"""The command `robokit demo`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from robokit.cli.look import Play
from robokit.cli.words import OUTPUT
from robokit.console import say
from robokit.sim.render import RenderError, has_screen
from robokit.task.lookup.source import shipped_folder, tasks_below

ROBOT = "go2_walk"
FORWARD = (0.8, 0.0, 0.0)  # m/s forward, m/s to the left, rad/s


@dataclass(frozen=True)
class Demo:
    """Show the shipped quadruped at work: in a window where there is a screen, else as a film."""

    output: Annotated[Path, OUTPUT] = Path(f"{ROBOT}.mp4")  # the film, .mp4 or .gif
    seconds: float | None = None  # s of simulated time; default: 20 s for a film, until the window is closed
    film: bool = False  # a film, even where there is a screen

    def __call__(self) -> int:
        policy, task = shipped_folder("policies") / f"{ROBOT}.onnx", tasks_below(shipped_folder())[ROBOT]
        play = Play(str(policy), self.output, self.seconds, command=FORWARD, task=str(task))
        if has_screen() and not self.film:
            try:
                return replace(play, viewer=True)()
            except RenderError as error:
                say(f"{error}; a film instead")
        say(f"filming {policy.name}, told to walk forward at {FORWARD[0]} m/s, to {self.output}")
        return play()
