"""What is robokit's own to delete: by the names that it gives, and never through a link."""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from robokit.errors import CheckpointError, tell

CHECKPOINT = r"[0-9]{12}|[1-9][0-9]{12,17}"  # names, as regular expressions
SEGMENT = r"[0-9]{8,18}-[0-9a-f]{16}\.safetensors"


def is_aside(path: Path, name: str) -> bool:
    """Whether `write.aside` could have named `path`, which is no link, after a name with this expression."""
    return bool(re.fullmatch(rf"\.(?:{name})\.[0-9a-f]{{8}}\.tmp", path.name)) and not path.is_symlink()


def check_own(places: Iterable[Path]) -> None:
    """Raise CheckpointError for a link: what it leads to may be another's, and a training deletes there."""
    if link := next((path for path in places if path.is_symlink()), None):
        rule = "is a link: a training writes and deletes only in folders of its own"
        remedy = "put what it leads to in its place, or a link in place of the whole run"
        raise CheckpointError(f"{link} {rule}; {remedy}")


def discard(hidden: Path, names: Iterable[str]) -> None:
    """Delete a folder under its temporary name, `.<name>.<random>.tmp`, and the files with these names in it.

    What else is in it stays, in `<name>-others-<random>`, and a line says so.
    """
    with contextlib.suppress(OSError):
        if hidden.is_symlink() or not os.path.lexists(hidden):
            return
        for name in names:
            with contextlib.suppress(OSError):
                (hidden / name).unlink()
        if hidden.is_dir() and not [*hidden.iterdir()]:
            hidden.rmdir()
            return
        name, part, _ = hidden.name.removeprefix(".").rsplit(".", 2)
        hidden.rename(kept := hidden.with_name(f"{name}-others-{part}"))
        tell(f"note: {kept} is not robokit's and stays; what was robokit's there is deleted")
