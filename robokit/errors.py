"""What robokit raises when a person's input is wrong: the thing, the rule, the value got, and the remedy."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterable
from difflib import get_close_matches


class Error(ValueError):
    """Any mistake in what robokit was given; the command line prints it without a traceback."""


class ModelError(Error):
    """An MJCF model that is missing, broken or not fit to simulate, or lacks what was asked of it."""


class TaskError(Error):
    """A task file that cannot be found, imported or told apart, or breaks the task contract."""


class OptionError(Error):
    """An option that does not exist or has an impossible value."""


class RunError(Error):
    """A folder that is no run, or a run that cannot go on."""


class CheckpointError(RunError):
    """A checkpoint that is damaged, or belongs to another task or configuration."""


class ExportError(Error):
    """A policy that may not be exported, because its file would not equal it."""


def tell(text: str) -> None:
    """A line on standard error; nothing where nobody can read it any more, which is no reason to stop."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.EIO):  # what is left in its buffer would spoil the exit code
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def did_you_mean(name: str, known: Iterable[str], alike: float = 0.6) -> str:
    """`; did you mean 'x'?` for the closest known name that is at least so much alike (of 1), or nothing."""
    close = get_close_matches(name, list(known), n=1, cutoff=alike)
    return f"; did you mean {close[0]!r}?" if close else ""
