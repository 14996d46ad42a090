"""The command `robokit demo`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from robokit.cli.look import Play
from robokit.cli.words import OUTPUT
from robokit.console import say
from robokit.sim.render import RenderError, has_screen
from robokit.task.lookup.source import shipped_folder, tasks_below

SHOWN = {  # the variant, the command (m/s forward, m/s to the left, rad/s; (): drawn), what is said of it
    "go2_walk": ("", (0.8, 0.0, 0.0), ", told to walk forward at 0.8 m/s,"),
    "arm_lift": ("Clean", (), ""),
}


@dataclass(frozen=True)
class Demo:
    """Show a shipped robot at work: in a window where there is a screen, else as a film."""

    robot: Positional[Annotated[Literal["go2_walk", "arm_lift"], arg(metavar="ROBOT")]] = "go2_walk"
    output: Annotated[Path | None, OUTPUT] = None  # the film, .mp4 or .gif; default: ROBOT.mp4
    seconds: float | None = None  # s of simulated time; default: 20 s for a film, until the window is closed
    film: bool = False  # a film, even where there is a screen

    def __call__(self) -> int:
        variant, command, told = SHOWN[self.robot]
        output = self.output or Path(f"{self.robot}.mp4")
        policy = shipped_folder("policies") / f"{'-'.join(filter(None, (self.robot, variant)))}.onnx"
        task = ":".join(filter(None, (str(tasks_below(shipped_folder())[self.robot]), variant)))
        play = Play(str(policy), output, self.seconds, command=command, task=task)
        if has_screen() and not self.film:
            try:
                return replace(play, viewer=True)()
            except RenderError as error:
                say(f"{error}; a film instead")
        say(f"filming {policy.name}{told} to {output}")
        return play()
