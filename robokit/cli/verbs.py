"""The commands of `robokit` in one table: `robokit --help` imports nothing else."""

from importlib import import_module
from typing import NamedTuple


class Verb(NamedTuple):
    """A command: its line in `robokit --help`, and `module:class`, whose fields are its options."""

    line: str
    place: str

    def load(self) -> type:
        module, _, name = self.place.partition(":")
        return getattr(import_module(f"robokit.cli.{module}"), name)


VERBS = {
    "tasks": Verb(
        "List the known tasks: shipped ones, and those in ./tasks, with the variants in their files.",
        "tasks:Tasks",
    ),
    "train": Verb(
        "Train a policy on a task, or resume a run; the policy is exported to the run folder.",
        "train:Train",
    ),
    "evaluate": Verb(
        "Measure the exported file itself in fresh episodes: return, metrics, and a verdict on each limit.",
        "measure:Evaluate",
    ),
    "play": Verb("Film the exported file in simulation, or show it in MuJoCo's viewer.", "look:Play"),
    "export": Verb(
        "Write a run's policy, the best that held its limits or the last, as one checked ONNX file.",
        "files:Export",
    ),
    "adopt": Verb(
        "Write a foreign policy, an ONNX file of mjlab, rsl_rl or Unitree, as a file like our own.",
        "adopt:Adopt",
    ),
    "check": Verb(
        "Check a task file against the task contract, an exported file against its own, or a run's files.",
        "check:Check",
    ),
    "demo": Verb(
        "Show a shipped robot at work: in a window where there is a screen, else as a film.",
        "demo:Demo",
    ),
    "plan": Verb(
        "Plan in the simulator itself, without any training: what a task's reward asks for, on film.",
        "plan:Plan",
    ),
    "states": Verb(
        "Write a file of states that episodes of a training begin from, for `States` of a task.",
        "states:MakeStates",
    ),
    "dynamics": Verb(
        "Judge a run's learned model by control steps that it never trained on: text, JSON and a picture.",
        "dynamics:Dynamics",
    ),
    "sweep": Verb(
        "Search an algorithm's options on a task, by trainings that are judged by their exported files.",
        "sweep:Sweep",
    ),
    "filter": Verb(
        "Resolve a person's filter numbers for an exported file into the table for its robot.",
        "files:MakeFilter",
    ),
}
