"""metrics.jsonl and TensorBoard's events: the metrics of each iteration.

metrics.jsonl is the record: `add` writes without a buffer. TensorBoard's SummaryWriter writes in a thread, so
a killed process may lose its last events.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robokit.console import raised_once, say
from robokit.disk.lines import Lines
from robokit.disk.own import check_own
from robokit.errors import DataError, RunError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS, BOARD = "metrics.jsonl", "tensorboard"
WALL_CLOCK = ("seconds", "steps_per_second")  # metrics that differ between equal runs


class Log:
    """Writer of metrics.jsonl and TensorBoard's events after step `steps`; existing later lines are dropped.

    known: what `sync` returned when that step was saved; see `Lines`. Raises RunError if they cannot be
    written, CheckpointError for a link in their place.
    """

    def __init__(self, folder: Path, steps: int, known: Mapping[str, Any] | None = None) -> None:
        self._folder = folder
        with contextlib.ExitStack() as opened, self._disk():
            check_own([folder / METRICS, folder / BOARD])
            self._lines = Lines(folder / METRICS, steps, known)
            opened.callback(self._lines.close)
            opened.enter_context(raised_once())
            self._board = self._new_board(steps + 1 if steps else None)
            opened.callback(self._close_board)
            self._opened = opened.pop_all()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def add(self, metrics: dict[str, float]) -> None:
        """Append a JSON line, and events at metrics["steps"]. Raises ValueError for NaN or inf."""
        with self._disk():
            self._lines.append(metrics)
            self._show(lambda board: _add(board, metrics))

    def sync(self) -> dict[str, Any]:
        """Sync all lines to the disk, as `Lines.sync`, and flush the events; returns what it says of them."""
        with self._disk():
            known = self._lines.sync()
            self._show(lambda board: board.flush())
        return known

    def _show(self, write: "Callable[[SummaryWriter], object]") -> None:
        """Write events; if their folder has gone, a line says so, and it is made again."""
        try:
            write(self._board)
        except FileNotFoundError:
            say(f"note: {self._folder / BOARD} was removed while training; {METRICS} has its numbers")
            self._close_board()
            self._board = self._new_board(None)
            write(self._board)

    def _new_board(self, purge: int | None) -> "SummaryWriter":
        """A writer of events; purge: hides a killed process's events from this step on."""
        from torch.utils.tensorboard import SummaryWriter  # slow, and only a training needs it

        return SummaryWriter(str(self._folder / BOARD), purge_step=purge)

    def _close_board(self) -> None:
        with contextlib.suppress(OSError):  # metrics.jsonl has the same numbers
            self._board.close()

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except (OSError, DataError) as error:
            why = getattr(error, "strerror", None) or error
            raise RunError(f"cannot write metrics into {self._folder}: {why}") from error


def _add(board: "SummaryWriter", metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
        board.add_scalar(name, value, int(metrics["steps"]))
