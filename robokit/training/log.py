"""metrics.jsonl and TensorBoard: what a training says of each iteration."""

import contextlib
import errno
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from robokit.errors import RunError

METRICS, BOARD = "metrics.jsonl", "tensorboard"
WALL_CLOCK = ("seconds", "steps_per_second")  # keys of a metrics line that no two runs share


class Log:
    """metrics.jsonl and TensorBoard, from `steps` on: what lies after it was lost with the process.

    Raises RunError when they cannot be written.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self._folder = folder
        with self._disk():
            _cut(folder / METRICS, steps)
            (folder / BOARD).mkdir(exist_ok=True)
            self._metrics = (folder / METRICS).open("ab", buffering=0)
            events = f"events.out.tfevents.{time.time_ns()}"  # TensorBoard reads them in this order
            self._events = (folder / BOARD / events).open("xb", buffering=0)
            self._add_event(file_version="brain.Event:2")
            if steps:  # hides the events of a lost process from here on
                self._add_event(step=steps + 1, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        self._metrics.close()
        self._events.close()

    def add(self, metrics: dict[str, float]) -> None:
        """One line; `steps` is among them."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        with self._disk():
            _write(self._metrics, json.dumps(metrics, allow_nan=False).encode() + b"\n")
            self._add_event(step=int(metrics["steps"]), summary=Summary(value=values))

    def sync(self) -> None:
        """All lines so far are on the disk when this returns."""
        with self._disk():
            os.fsync(self._metrics.fileno())

    def _add_event(self, **content: Any) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **content).SerializeToString())
        _write(self._events, record.getvalue())

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"cannot write metrics into {self._folder}: {error.strerror or error}") from error


def _write(file: io.FileIO, content: bytes) -> None:
    if file.write(content) != len(content):  # as much as the disk still held
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _cut(path: Path, steps: int) -> None:
    """Drop the lines of metrics after `steps`, and one that a kill left unfinished."""
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
