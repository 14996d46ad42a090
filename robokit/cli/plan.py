"""The command `robokit plan`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from robokit.calls.planning import plan, planner_of
from robokit.cli.arguments import parsed
from robokit.cli.words import OUTPUT, Trust
from robokit.errors import OptionError
from robokit.planning.planner import Config
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import known_tasks

HELP, DEFAULT = {"-h", "--help"}, Config()


@dataclass(frozen=True)
class Plan:
    """Plan in the simulator itself, without any training: what a task's reward asks for, on film.

    Every control step is planned anew over copies of the simulation: this is no controller for a robot.
    Options of the planner override the task's `planner`, which overrides the defaults.
    """

    planner: OmitArgPrefixes[Config] = DEFAULT
    # a name (see robokit tasks), file.py or file.py:Class
    task: Positional[Annotated[str | None, arg(metavar="TASK")]] = None
    output: Annotated[Path | None, OUTPUT] = None  # a film, .mp4 or .gif; default: none
    seconds: float = 5.0  # s of simulated time, at most one episode
    seed: int = 0  # of the episode, from 0 to 999999; disjoint from the seeds of training
    # constant commands in the task's order, instead of random ones
    command: tuple[float, ...] = ()
    nominal: bool = False  # without randomisation, pushes, delays and sensor noise
    # a run of this task: its policy's actions are among the samples, its critic values the end of each
    guide: Annotated[str | None, arg(name="from")] = None
    threads: int = 0  # threads of the physics; 0: one for each core
    trust: Trust = False
    json: bool = False  # print JSON

    def __call__(self) -> int:
        if self.task is None:
            raise OptionError(f"which task? robokit plan TASK: {', '.join(known_tasks())}, or a file.py")
        names = ("output", "seconds", "seed", "command", "nominal", "guide", "threads", "trust")
        own = {name: getattr(self, name) for name in names}
        planned = plan(self.task, **own, **asdict(self.planner))
        print(json.dumps(asdict(planned)) if self.json else planned.text())
        return 0


def parse_plan(arguments: Sequence[str]) -> Any:
    """A Plan, parsed for the task, then again with the task's options as defaults."""
    plain = [word for word in arguments if word not in HELP]
    task = parsed(Plan, args=plain, prog="robokit plan").task
    default = Plan() if task is None else Plan(planner_of(load_task(task)), task)
    return parsed(Plan, args=arguments, prog="robokit plan", default=default)
