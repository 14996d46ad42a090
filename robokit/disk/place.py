"""The place of a run folder: found, made, linked, and locked by the process that trains in it."""

import contextlib
import fcntl
import os
import sys
from datetime import datetime
from pathlib import Path

from robokit.disk.write import make_folder, staging, sync_folder
from robokit.errors import RunError, tell


def check_place(folder: Path) -> None:
    """Raise RunError unless `folder` can be made: its nearest existing ancestor must be a writable folder."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        what = "a link to nothing" if there.is_symlink() else "no folder"
        raise RunError(f"cannot create a run in {folder}: {there} is {what}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"cannot create a run in {folder}: {there} may not be written into")


def new_folder(parent: Path) -> Path:
    """Make and return `parent/<date>`, or the first of `<date>-2`, `-3`... that is free."""
    make_folder(parent)
    date = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for n in range(1, sys.maxsize):
        folder = parent / (date if n == 1 else f"{date}-{n}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            sync_folder(parent)
            return folder
    raise AssertionError


def point(link: Path, target: str) -> None:
    """Point `link` to `target` beside it, atomically; a file or folder of its name stays, with a note."""
    if link.exists() and not link.is_symlink():
        tell(f"note: {link} is no link and stays as it is; it does not point to {target}")
        return
    with staging(link, [link.name]) as folder:
        (folder / link.name).symlink_to(target)
        (folder / link.name).replace(link)
    sync_folder(link.parent)


class Held:
    """An open folder, locked by one process until that ends, and whether it still has its place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._descriptor)

    def take(self) -> bool:
        """Lock it; False: another process has. Raises OSError where the system cannot lock."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    def lost(self) -> str:
        """What has happened to the folder, in words; "": it is still at its place."""
        ours = os.fstat(self._descriptor)
        with contextlib.suppress(OSError):
            if os.path.samestat(ours, os.stat(self.folder)):
                return ""
        with contextlib.suppress(OSError):
            now = os.readlink(f"/proc/self/fd/{self._descriptor}")
            if not now.endswith(" (deleted)"):
                return f"moved to {now}"
        return "removed"

    def renew(self) -> bool:
        """Make the folder again if nothing is at its place, and lock what is there; as `take`."""
        make_folder(self.folder)
        old, self._descriptor = self._descriptor, os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        os.close(old)
        return self.take()
