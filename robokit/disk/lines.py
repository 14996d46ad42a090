"""A file of JSON lines, one per iteration, that notices damage, and others that remove or change it.

    lines = Lines(run / "metrics.jsonl", steps=0)
    lines.append({"steps": 8, "loss": 0.5})
    known = lines.sync()       # into the checkpoint, for the Lines of a training that goes on from it

The sha256 runs along with the lines that are written: the file is not read again.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robokit.disk.read import EACH, check_types, parse_json, read_bytes
from robokit.disk.write import drop_dead, sync_folder, write_atomically
from robokit.errors import DataError, tell


class Lines:
    """The lines of at most `steps`, open to append; later ones are dropped, and a line without an end.

    known: what `sync` returned when that step was saved; a line tells if the file differs. None: saved by an
    earlier version. Raises OSError, and DataError for what is no regular file.
    """

    def __init__(self, path: Path, steps: int, known: Mapping[str, Any] | None = None) -> None:
        self.path = path
        drop_dead(path)
        kept = _kept(path, steps, known)
        if path.exists():
            with path.open("rb") as there:
                there.seek(len(kept))
                later = there.read().count(b"\n")
            if later:  # of a training that was killed, or whose newest checkpoints somebody took away
                tell(f"note: {path} goes on from step {steps:,}: {later} later lines are dropped")
            os.truncate(path, len(kept))
        self._hash, self._size = hashlib.sha256(kept), len(kept)
        self._file = path.open("a+b", buffering=0)
        sync_folder(path.parent)  # its name, which a checkpoint counts on

    def close(self) -> None:
        self._file.close()

    def append(self, metrics: Mapping[str, float]) -> None:
        """Append a line, without a buffer. Raises OSError, and ValueError for NaN or inf."""
        self._write(json.dumps(metrics, allow_nan=False).encode() + b"\n")

    def sync(self) -> dict[str, Any]:
        """Wait until all lines are on the disk; returns their number of bytes and sha256.

        If others removed or replaced the file, a line says so and it is written again; if they changed it, a
        line says so and it stays.
        """
        ours, there = os.fstat(self._file.fileno()), None
        with contextlib.suppress(FileNotFoundError):
            there = self.path.lstat()
        if there is None or not os.path.samestat(ours, there):
            self._again(there is not None)
        elif ours.st_size != self._size:
            self._changed(ours.st_size)
        os.fsync(self._file.fileno())
        return {"bytes": self._size, "sha256": self._hash.hexdigest()}

    def _write(self, line: bytes) -> None:
        if self._file.write(line) != len(line):  # a short write: the disk is full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._hash.update(line)
        self._size += len(line)

    def _again(self, replaced: bool) -> None:
        """Write all lines, which the open file still has; what is in the file's place is renamed."""
        what = "removed"
        if replaced:
            other = self.path.with_name(f"{self.path.stem}-others-{os.urandom(4).hex()}{self.path.suffix}")
            self.path.rename(other)
            what = f"replaced by what is now {other.name}"
        tell(f"note: {self.path} was {what} while training; it is written again")
        write_atomically(self.path, self._content())
        self._file.close()
        self._file = self.path.open("a+b", buffering=0)

    def _changed(self, size: int) -> None:
        tell(f"note: {self.path} was changed while training: it has {size:,} bytes instead of {self._size:,}")
        content = self._content()
        self._hash, self._size = hashlib.sha256(content), len(content)
        if content and not content.endswith(b"\n"):
            self._write(b"\n")

    def _content(self) -> bytes:
        self._file.seek(0)
        return self._file.readall()


def lines_of(content: bytes) -> Iterator[tuple[bytes, dict[str, float] | None]]:
    """Each whole line of metrics.jsonl with its metrics, None if it is damaged; not a line without an end."""
    for line in content.split(b"\n")[:-1]:
        metrics = None
        with contextlib.suppress(DataError):
            check_types(found := parse_json(line, "a line"), {"steps": float, EACH: float}, "a line")
            metrics = found if "steps" in found else None
        yield line + b"\n", metrics


def _kept(path: Path, steps: int, known: Mapping[str, Any] | None) -> bytes:
    """The content of metrics.jsonl up to `steps`; a line says if it is damaged, or not as it was saved.

    known: bytes and sha256 at that step; None: saved by an earlier version.
    """
    content = read_bytes(path) if os.path.lexists(path) else b""
    if known is not None:
        head = content[: known["bytes"]]
        if len(head) == known["bytes"] and hashlib.sha256(head).hexdigest() == known["sha256"]:
            return head
    kept, damaged = _until(content, steps)
    if known is None and not damaged:
        return kept
    what = "some bytes of it are others"
    if known is not None and len(content) < known["bytes"]:
        what = f"it had {known['bytes']:,} bytes, and has {len(content):,}"
    what = f"line {damaged[0]} is damaged" if damaged else what
    told = f"note: {path} is not as it was saved at step {steps}: {what}"
    tell(f"{told}; what is left of it stays, and the learner goes on as saved")
    return kept


def _until(content: bytes, steps: int) -> tuple[bytes, list[int]]:
    """(content up to the last line of at most `steps` and damaged ones after it, numbers of all damaged)."""
    end = place = 0
    late, damaged = False, list[int]()
    for number, (line, metrics) in enumerate(lines_of(content), 1):
        place += len(line)
        damaged += [number] if metrics is None else []
        late = late if metrics is None else metrics["steps"] > steps
        end = end if late else place
    return content[:end], damaged
