"""Lines for the person in front of a run, on standard error."""

from robokit.compute.processes import rank
from robokit.errors import tell


def say(text: str) -> None:
    """A line for the person in front of it, of the first process: standard output is for results."""
    if not rank():
        tell(text)
