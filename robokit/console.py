"""Messages to the user, on standard error."""

from robokit.compute.processes import rank
from robokit.errors import tell


def say(text: str) -> None:
    """Print a line on standard error, in process 0 only; standard output is for results."""
    if not rank():
        tell(text)
