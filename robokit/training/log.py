"""metrics.jsonl and TensorBoard's events: the metrics of each iteration.

metrics.jsonl is the record: `add` writes without a buffer. TensorBoard's SummaryWriter writes in a thread, so
a killed process may lose its last events.
"""

import contextlib
import errno
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from robokit.errors import RunError

METRICS, BOARD = "metrics.jsonl", "tensorboard"
WALL_CLOCK = ("seconds", "steps_per_second")  # metrics that differ between equal runs


class Log:
    """Writer of metrics.jsonl and TensorBoard's events after step `steps`; existing later lines are dropped.

    Raises RunError if they cannot be written, or if an existing line is damaged.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow, and only a training needs it

        self._folder = folder
        with contextlib.ExitStack() as opened, self._disk():
            _cut(folder / METRICS, steps)
            self._metrics = opened.enter_context((folder / METRICS).open("ab", buffering=0))
            opened.enter_context(_raised_once())
            purge = steps + 1 if steps else None  # hides a killed process's events after `steps`
            self._board = SummaryWriter(str(folder / BOARD), purge_step=purge)
            opened.callback(self._close_board)
            self._opened = opened.pop_all()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def add(self, metrics: dict[str, float]) -> None:
        """Append a JSON line, and events at metrics["steps"]. Raises ValueError for NaN or inf."""
        with self._disk():
            _write(self._metrics, json.dumps(metrics, allow_nan=False).encode() + b"\n")
            for name, value in metrics.items():
                self._board.add_scalar(name, value, int(metrics["steps"]))

    def sync(self) -> None:
        """Sync all lines to the disk, and flush the events to the operating system."""
        with self._disk():
            os.fsync(self._metrics.fileno())
            self._board.flush()

    def _close_board(self) -> None:
        with contextlib.suppress(OSError):  # metrics.jsonl has the same numbers
            self._board.close()

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"cannot write metrics into {self._folder}: {error.strerror or error}") from error


@contextlib.contextmanager
def _raised_once() -> Iterator[None]:
    """Context in which an OSError that ends a thread is not printed: SummaryWriter's next call raises it."""
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not isinstance(failed.exc_value, OSError):
            before(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _write(file: io.FileIO, content: bytes) -> None:
    if file.write(content) != len(content):  # a short write: the disk is full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _cut(path: Path, steps: int) -> None:
    """Cut a file before its first line after `steps` or without an end. Raises RunError if one is damaged."""
    size = 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True) if path.exists() else (), 1):
        if not line.endswith(b"\n"):
            break
        try:
            late = json.loads(line)["steps"] > steps
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"line {number} of {path} is damaged: mend or delete it ({error!r})") from error
        if late:
            break
        size += len(line)
    if path.exists():
        os.truncate(path, size)
