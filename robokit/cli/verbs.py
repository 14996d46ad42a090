"""The verbs."""

from robokit.cli.files import Check, Export
from robokit.cli.look import Play, Tasks
from robokit.cli.measure import Evaluate
from robokit.cli.train import Train

COMMANDS: dict[str, type] = {
    "tasks": Tasks,
    "train": Train,
    "evaluate": Evaluate,
    "play": Play,
    "export": Export,
    "check": Check,
}
