"""The command `robokit play`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from robokit.cli.names import locate, path_of
from robokit.cli.resolve import OUTPUT, What, held_commands, policy_of
from robokit.env.env import Env
from robokit.seeds import seed
from robokit.show.film import write_film
from robokit.show.window import watch
from robokit.training.folder import POLICY
from robokit.training.run import Run


@dataclass(frozen=True)
class Play:
    """Film the exported file in simulation, or show it in MuJoCo's viewer."""

    what: What  # a name (its newest run, else policy), a run folder, or an exported file
    # .mp4 or .gif; default: play.mp4 in the run folder, an mp4 beside the file, or here for a named policy
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

    def __call__(self) -> int:
        drawing = seed("evaluation", self.seed)
        place = locate(self.what)
        file, task, _ = policy_of(place, self.task)
        env = Env(task, seed=drawing, threads=1, nominal=self.nominal)
        env.hold(held_commands(task, self.command))
        if self.viewer:
            watch(file, env, self.seconds)
            return 0
        output = self.output or self._beside(place)
        write_film(file, env, output, self.seconds, self.width, self.height)
        print(output)
        return 0

    def _beside(self, place: Path) -> Path:
        """The film without --output; that of a policy given by its name is put into the current folder."""
        if place.suffix != ".onnx":
            return Run.open(place).path / "play.mp4"
        film = place.with_name("play.mp4" if place.name == POLICY else f"{place.stem}.mp4")
        return film if path_of(self.what) else Path(film.name)
