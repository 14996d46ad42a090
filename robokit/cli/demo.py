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

COMMANDS = {"go2_walk": (0.8, 0.0, 0.0), "arm_lift": ()}  # m/s forward, m/s to the left, rad/s; (): drawn
WORDS = {"go2_walk": ", told to walk forward at 0.8 m/s,", "arm_lift": ""}


@dataclass(frozen=True)
class Demo:
    """Show a shipped robot at work: in a window where there is a screen, else as a film."""

    robot: Positional[Annotated[Literal["go2_walk", "arm_lift"], arg(metavar="ROBOT")]] = "go2_walk"
    output: Annotated[Path | None, OUTPUT] = None  # the film, .mp4 or .gif; default: ROBOT.mp4
    seconds: float | None = None  # s of simulated time; default: 20 s for a film, until the window is closed
    film: bool = False  # a film, even where there is a screen

    def __call__(self) -> int:
        name, output = self.robot, self.output or Path(f"{self.robot}.mp4")
        policy, task = shipped_folder("policies") / f"{name}.onnx", tasks_below(shipped_folder())[name]
        play = Play(str(policy), output, self.seconds, command=COMMANDS[name], task=str(task))
        if has_screen() and not self.film:
            try:
                return replace(play, viewer=True)()
            except RenderError as error:
                say(f"{error}; a film instead")
        say(f"filming {policy.name}{WORDS[name]} to {output}")
        return play()
