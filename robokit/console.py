"""Messages to the user, on standard error."""

import contextlib
import math
import threading
from collections.abc import Iterator

from robokit.compute.processes import rank
from robokit.errors import tell

SLOW, LEAST_SLOW = 5.0, 1.0  # a slow iteration takes at least SLOW times the fastest, and LEAST_SLOW s


def say(text: str) -> None:
    """Print a line on standard error, in process 0 only; standard output is for results."""
    if not rank():
        tell(text)


class SlowIteration:
    """Finds the first slow iteration: at least SLOW times the fastest one before it, and LEAST_SLOW s.

    Iterations without a gradient step do not count, nor does the first one with any: it may compile.
    """

    def __init__(self) -> None:
        self._fastest: float | None = None  # s; None before the first gradient step
        self._noted = False

    def __call__(self, seconds: float, learned: bool) -> str:
        """A note for the first slow iteration, else ""; it took `seconds`; learned: it had gradient steps."""
        if not learned:
            return ""
        fastest, first = self._fastest or math.inf, self._fastest is None
        self._fastest = math.inf if first else min(fastest, seconds)
        if first or self._noted or seconds < max(SLOW * fastest, LEAST_SLOW):
            return ""
        self._noted = True
        return (
            f"note: an iteration took {seconds:.1f} s, {seconds / fastest:.0f} times as long as the fastest "
            f"one: is the machine busy with something else? Results do not depend on it; where it stays "
            f"busy, a new training is faster with --torch-threads 1"
        )


@contextlib.contextmanager
def raised_once() -> Iterator[None]:
    """Context in which an OSError that ends TensorBoard's thread is not printed: its next call raises it."""
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        theirs = type(failed.thread).__module__.startswith("tensorboard.")
        if not (theirs and isinstance(failed.exc_value, OSError)):
            before(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
