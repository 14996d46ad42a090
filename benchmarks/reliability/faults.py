"""Numbered places in a process at which it changes the disk, to kill it or to refuse the change there.

The functions of `os` and `open` that change the disk are wrapped in this process alone. A write of a file
counts twice: before its first half, and between its halves.
"""

import builtins
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Wrapped = Callable[..., Any]


class Event(NamedTuple):
    """A change that is about to happen below the watched folder."""

    kind: str  # create, append, write, fsync, mkdir, rename, unlink, rmdir, symlink, truncate
    path: str
    to: str = ""  # of a rename; of a symlink, what it names
    content: bytes = b""  # of a write


Before = Callable[[Event], None]
Tell = Callable[..., bool]  # (kind, path, to, content, fd) -> whether it is below the watched folder


def watch(folder: Path, before: Before, skip: str = "/tensorboard") -> None:
    """From now on call `before` ahead of each change below `folder`; it may raise, or kill the process."""
    root = os.path.realpath(folder)

    def tell(kind: str, path: Any, to: str = "", content: bytes = b"", fd: int | None = None) -> bool:
        where = _absolute(path, fd)
        inside = where.startswith(root) and skip not in where
        if inside:
            before(Event(kind, where, to, content))
        return inside

    for name in ("mkdir", "unlink", "remove", "rmdir", "truncate", "fsync"):
        setattr(os, name, _of_one("unlink" if name == "remove" else name, getattr(os, name), tell))
    for name in ("rename", "replace", "symlink"):
        setattr(os, name, _of_two("symlink" if name == "symlink" else "rename", getattr(os, name), tell))
    io.open = builtins.open = _opened(io.open, tell)


def _of_one(kind: str, function: Wrapped, tell: Tell) -> Wrapped:
    def wrapped(path: Any, *rest: Any, dir_fd: int | None = None, **more: Any) -> Any:
        tell(kind, path, fd=dir_fd)
        return function(path, *rest, **({} if dir_fd is None else {"dir_fd": dir_fd}), **more)

    return wrapped


def _of_two(kind: str, function: Wrapped, tell: Tell) -> Wrapped:
    def wrapped(source: Any, target: Any, *rest: Any, **more: Any) -> Any:
        if kind == "symlink":
            tell(kind, target, os.fspath(source))
        else:
            tell(kind, source, _absolute(target))
        return function(source, target, *rest, **more)

    return wrapped


def _opened(function: Wrapped, tell: Tell) -> Wrapped:
    def wrapped(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return function(file, mode, *rest, **more)
        inside = tell("append" if "a" in mode or "r" in mode else "create", file)
        there = function(file, mode, *rest, **more)
        return Halves(there, lambda content: tell("write", file, content=content)) if inside else there

    return wrapped


class Halves:
    """A file whose every write is two writes."""

    def __init__(self, file: Any, tell: Callable[[bytes], object]) -> None:
        self._file, self._tell = file, tell

    def write(self, content: Any) -> int:
        half = len(content) // 2
        for part in (content[:half], content[half:]):
            if len(part):
                self._tell(part.encode() if isinstance(part, str) else bytes(part))
                self._file.write(part)
                self._file.flush()  # so that the next place finds this half on the disk
        return len(content)

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]  SB3 asks for a file
        return type(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "Halves":
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self._file.__exit__(*error)


def _absolute(path: Any, fd: int | None = None) -> str:
    """An absolute path, also of a descriptor or relative to one; its last part is not followed."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    base = os.readlink(f"/proc/self/fd/{fd}") if fd is not None else os.getcwd()
    where = os.path.join(base, os.fsdecode(path))
    return os.path.join(os.path.realpath(os.path.dirname(where)), os.path.basename(where))
