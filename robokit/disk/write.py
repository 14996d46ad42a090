"""Atomic writes: to a temporary name, synced to the disk, then renamed.

What is under a temporary name is locked by the process that writes there, so that what a killed process has
left is known, and deleted by the next one that writes the same file.
"""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from robokit.disk.own import discard, is_aside


def write_synced(path: Path, content: bytes) -> None:
    """Write a file in place and wait until its content is on the disk; for its name see `sync_folder`."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Write or replace a file; a reader finds the old content or the new, even after a kill."""
    drop_dead(path)
    write_aside(path, content)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents; the names of those that are made are on the disk afterwards."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until names created, renamed or deleted in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_aside(path: Path, content: bytes) -> None:
    """Like `write_atomically`, but without `sync_folder` at the end: a power cut may undo the rename.

    The content is on the disk before the rename, so that `path` never has a part of it.
    """
    temporary = aside(path)
    try:
        with temporary.open("xb") as file:
            _hold(file.fileno(), temporary)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def staging(path: Path, names: Collection[str]) -> Iterator[Path]:
    """A hidden folder beside `path`, to write files of these names in; it is deleted at the end.

    What killed processes have left of such folders is deleted first. The folder of `path` must exist.
    """
    drop_dead(path, names)
    folder = aside(path)
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _hold(descriptor, folder)
        yield folder
    finally:
        discard(folder, names)
        os.close(descriptor)


def drop_dead(path: Path, names: Collection[str] = ()) -> None:
    """Delete what killed processes left under temporary names of `path`; of a folder, the files `names`.

    Nothing that a living process holds, no link, and nothing where the system cannot lock.
    """
    with contextlib.suppress(OSError):
        for dead in [other for other in path.parent.iterdir() if is_aside(other, re.escape(path.name))]:
            _drop(dead, names)


def aside(path: Path) -> Path:
    """A random hidden name beside `path`: `.<name>.<8 hex digits>.tmp`. Nothing is made."""
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")


def _drop(dead: Path, names: Collection[str]) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(dead, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if dead.is_dir():
                discard(dead, names)
            elif dead.is_file():
                dead.unlink()
        finally:
            os.close(descriptor)


def _hold(descriptor: int, temporary: Path) -> None:
    """Lock what is written under a temporary name, where the system can lock.

    Raises FileNotFoundError if another process took it for a dead one's before it was locked.
    """
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not os.path.lexists(temporary):
        raise FileNotFoundError(errno.ENOENT, "another process writes the same file", str(temporary))
