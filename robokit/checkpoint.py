"""Checkpoints that a kill, a full disk or a flipped bit cannot spoil: safetensors, JSON and checksums.

    save(run / "checkpoints", steps, learner.state_dict(), {"steps": steps})
    checkpoint, skipped = newest(run / "checkpoints")

A checkpoint is a folder named after its step. It is written under a temporary name, its SHA256SUMS last;
everything is synced to the disk, then renamed: the name appears whole or not at all.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from robokit.errors import CheckpointError

TENSORS, FACTS, MANIFEST = "state.safetensors", "facts.json", "SHA256SUMS"
KEEP = 2  # checkpoints of one run: the newest, and one to fall back on


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: tensors by name, on the CPU, and what JSON says beside them."""

    path: Path
    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    @property
    def steps(self) -> int:
        return int(self.path.name)


def save(
    parent: Path, steps: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], keep: int = KEEP
) -> Path:
    """Write `parent/<steps>`, then delete all but the newest `keep` up to it, and any after it.

    Raises CheckpointError when the disk is full or may not be written; what was saved before still loads.
    """
    target = parent / f"{steps:012d}"
    temporary = _aside(target)
    contents = {
        TENSORS: tensor_bytes({name: _packed(t) for name, t in tensors.items()}),
        FACTS: json.dumps(facts, indent=1, allow_nan=False).encode(),
    }
    sums = "".join(f"{hashlib.sha256(c).hexdigest()}  {name}\n" for name, c in contents.items())
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        for name, content in {**contents, MANIFEST: sums.encode()}.items():
            write_synced(temporary / name, content)
        sync_folder(temporary)
        if target.exists():  # damaged, or the loader would have gone on from it
            _delete(target)
        temporary.rename(target)
        sync_folder(parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror or error
        raise CheckpointError(f"cannot save {target}: {reason}; earlier checkpoints are untouched") from error
    _prune(parent, steps, keep)
    return target


def load(path: Path) -> Checkpoint:
    """The checkpoint in a folder.

    Raises CheckpointError when a file is missing, truncated or differs from its checksum by one bit.
    """
    contents = _verified(path)
    try:
        return Checkpoint(path, read_tensors(contents[TENSORS]), json.loads(contents[FACTS]))
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error


def newest(
    parent: Path, fits: Callable[[Checkpoint], None] = lambda checkpoint: None
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole and that `fits` accepts, and why newer ones were skipped.

    `fits` raises CheckpointError for a checkpoint that belongs to something else. None: there never was one.

    Raises CheckpointError with all reasons when there are checkpoints and none is good.
    """
    skipped: list[str] = []
    for path in reversed(_folders(parent)):
        try:
            checkpoint = load(path)
            fits(checkpoint)
        except CheckpointError as error:
            skipped.append(str(error))
        else:
            return checkpoint, skipped
    if skipped:
        raise CheckpointError(f"no good checkpoint in {parent}: " + "; ".join(skipped))
    return None, []


def sweep(parent: Path) -> None:
    """Delete what a killed save left behind; only for the one process that writes here."""
    for path in parent.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file; when this returns it is on the disk, not only on its way there."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Write or replace a file: a reader, or a kill at any time, finds the old content or the new."""
    temporary = _aside(path)
    try:
        write_synced(temporary, content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Names created, renamed or deleted in `folder` are on the disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _packed(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares storage with no other, as safetensors asks for."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _folders(parent: Path) -> list[Path]:
    named = [p for p in parent.iterdir() if p.name.isdecimal()] if parent.is_dir() else []
    return sorted(named, key=lambda path: int(path.name))


def _verified(path: Path) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    try:
        lines = (path / MANIFEST).read_text("ascii").splitlines()
        listed = {name: digest for digest, name in (line.split() for line in lines)}
        for name in (TENSORS, FACTS):
            contents[name] = (path / name).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a manifest that is no list of sums and names
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error
    for name, content in contents.items():
        digest = hashlib.sha256(content).hexdigest()
        if digest != listed.get(name):
            rule = f"{name} ({len(content)} bytes) has sha256 {digest[:12]}.., {MANIFEST} says"
            raise CheckpointError(f"checkpoint {path} is damaged: {rule} {str(listed.get(name))[:12]}..")
    return contents


def _prune(parent: Path, steps: int, keep: int) -> None:
    """What lies after `steps` is of a future that was given up: its damaged end was skipped on resuming."""
    folders = _folders(parent)
    kept = [p for p in folders if int(p.name) <= steps][-keep:]
    with contextlib.suppress(OSError):
        for path in set(folders) - set(kept):
            _delete(path)


def _delete(folder: Path) -> None:
    """Renamed first, so that a kill cannot leave half a checkpoint under a checkpoint's name."""
    aside = _aside(folder)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
