"""Atomic writes of files: to a temporary name, synced to the disk, then renamed."""

import os
from pathlib import Path


def write_synced(path: Path, content: bytes) -> None:
    """Write a file in place and wait until its content is on the disk; for its name see `sync_folder`."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Write or replace a file; a reader finds the old content or the new, even after a kill."""
    write_aside(path, content)
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
        write_synced(temporary, content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def aside(path: Path) -> Path:
    """A random hidden name beside `path`: `.<name>.<8 hex digits>.tmp`. Nothing is made."""
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
