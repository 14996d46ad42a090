"""Errors for wrong input; each message names the thing, the rule, the value got and the remedy."""

import contextlib
import errno
import importlib.util
import os
import sys
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 20_000  # characters of a message


class Error(ValueError):
    """Wrong input; the command line prints the message without a traceback."""


class ModelError(Error):
    """An MJCF model is missing, malformed or unfit to simulate, or has no part or field of a given name."""


class TaskError(Error):
    """A task file is missing, ambiguous or cannot be imported, or a task breaks the task contract."""


class OptionError(Error):
    """An option is unknown or has an invalid value."""


class DataError(Error):
    """A file is no regular file, too large, no JSON that is read here, or has a value of another type.

    Or a model of another package cannot be read here, or is not of the task that it is to be exported for.
    """


class RunError(Error):
    """A folder is not a run, or a run cannot continue."""


class CheckpointError(RunError):
    """A checkpoint is damaged, cannot be written, or belongs to another task or configuration."""


class ExportError(Error):
    """A policy cannot be exported: a check of its graph failed, or the file cannot be written."""


class ParityError(ExportError):
    """A graph's ctrl differs from the policy's. excess: the largest difference over what is allowed."""

    def __init__(self, message: str, excess: float) -> None:
        super().__init__(message)
        self.excess = excess


def tell(text: str) -> None:
    """Print a line on standard error. If that fails (closed, disk full), print nothing and continue.

    What is not printable, as a terminal's commands in a file's name, is escaped; of a long text the start.
    """
    shown = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text[:LONGEST])
    text = "".join(shown) + " ..." * (len(text) > LONGEST)
    try:
        print(text, file=sys.stderr, flush=True)
    except UnicodeEncodeError:  # a path of bytes that are no text
        print(text.encode("ascii", "backslashreplace").decode(), file=sys.stderr, flush=True)
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.EIO):  # unwritten text would fail again at exit
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def require(package: str, extra: str) -> None:
    """Raise OptionError if `package`, of one of robokit's extras, is not installed."""
    if importlib.util.find_spec(package) is None:
        raise OptionError(f"{package} is not installed: pip install 'robokit[{extra}]'")


def reason(error: Exception, path: object = None) -> str:
    """The text of an error; of "FILE: words" or "FILE words", without FILE if that is `path`."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error).removeprefix(f"{path} ")
    file = error.filename
    return error.strerror if file is None or str(file) == str(path) else f"{file}: {error.strerror}"


def did_you_mean(name: str, known: Iterable[str], then: str = "", alike: float = 0.6) -> str:
    """`; did you mean 'x'? Then` for the closest known name, or `; then` without; "" if there is neither.

    then: what the message says next, as "there are ['x', 'y']". alike: least difflib ratio, of 1.
    """
    if close := get_close_matches(name, list(known), n=1, cutoff=alike):
        return f"; did you mean {close[0]!r}? {then[:1].upper()}{then[1:]}".rstrip()
    return then and f"; {then}"
