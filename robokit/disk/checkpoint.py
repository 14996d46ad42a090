"""Checkpoints that survive kills, full disks and flipped bits: safetensors, JSON and checksums.

    save(run / "checkpoints", steps, learner.state_dict(), {"steps": steps})
    checkpoint, skipped = newest(run / "checkpoints")

A checkpoint is a folder named after its step. It is written under a temporary name, SHA256SUMS last, synced
to the disk and then renamed, so that a checkpoint is complete or absent.

A replay is too large to write every time. A full segment never changes, so it is written once, to `segments/`
beside the checkpoints, before the first checkpoint that lists it, and deleted with the last. The file name
holds its number and sha256, so that a run resumed from an older checkpoint never overwrites a segment.
Checkpoints share these files: a damaged one damages every checkpoint that lists it.
"""

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors, save as tensor_bytes
from torch import Tensor

from robokit.disk.write import aside, sync_folder, write_aside, write_synced
from robokit.errors import CheckpointError, reason

TENSORS, FACTS, MANIFEST = "state.safetensors", "facts.json", "SHA256SUMS"
SEGMENTS = "segments"  # the folder beside the checkpoints that share them
KEEP = 2  # checkpoints of one run: the newest, and one to fall back on


class Segmented(Protocol):
    """A replay memory saved in segments; the rest of its state is among the checkpoint's tensors."""

    digests: dict[int, str]  # sha256 by segment; set by `save` and `load_segments`, {} after load_state_dict

    def segments(self) -> Mapping[int, Mapping[str, Tensor]]: ...

    def load_segment(self, number: int, tensors: Mapping[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: tensors by name, on the CPU, and facts from JSON."""

    path: Path
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    segments: dict[int, str] = field(default_factory=dict)  # sha256 by number; not loaded

    @property
    def steps(self) -> int:
        return int(self.path.name)

    def load_segments(self, replay: Segmented | None) -> None:
        """Load the segments of `replay`, whose other state is already loaded, one at a time.

        Raises ValueError if `replay` expects others (None expects none), CheckpointError for a damaged one.
        """
        kept = [] if replay is None else [*replay.segments()]
        if {*kept} != {*self.segments}:
            raise ValueError(f"segments {sorted(self.segments)} were saved, the replay expects {kept}")
        if replay is not None:
            for number, digest in self.segments.items():
                content = _content(self.path, _segment_name(number, digest), digest)
                replay.load_segment(number, read_tensors(content))
            replay.digests = dict(self.segments)


def save(
    parent: Path,
    steps: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    keep: int = KEEP,
    replay: Segmented | None = None,
) -> Path:
    """Write and return `parent/<steps:012d>`; delete all but the newest `keep` up to it, and any after it.

    Segments of `replay` are written unless they are on disk already, and its `digests` are set.

    Raises CheckpointError if the disk is full or not writable; earlier checkpoints still load.
    """
    target = parent / f"{steps:012d}"
    temporary = aside(target)
    contents = {
        TENSORS: tensor_bytes(packed(tensors)),
        FACTS: json.dumps(facts, indent=1, allow_nan=False).encode(),
    }
    try:
        parent.mkdir(parents=True, exist_ok=True)
        segments = {} if replay is None else _write_segments(parent, replay)
        temporary.mkdir()
        listed = {_segment_name(*pair): pair[1] for pair in segments.items()}
        listed |= {name: _sha256(content) for name, content in contents.items()}  # last: missing if cut
        sums = "".join(f"{digest}  {name}\n" for name, digest in listed.items())
        for name, content in {**contents, MANIFEST: sums.encode()}.items():
            write_synced(temporary / name, content)
        sync_folder(temporary)
        if target.exists():  # damaged, or the run would have resumed from it
            _delete(target)
        temporary.rename(target)
        sync_folder(parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _drop_unlisted(parent)
        reason = error.strerror or error
        raise CheckpointError(f"cannot save {target}: {reason}; earlier checkpoints are untouched") from error
    prune(parent, steps, keep)
    return target


def load(path: Path, shared: bool = True, verified: set[tuple[str, str]] | None = None) -> Checkpoint:
    """Read and verify the checkpoint in a folder; shared: verify its segments too, but those in `verified`.

    verified: names and sha256 of segments; those that are found to be whole are added.

    Raises CheckpointError if a file is missing or truncated, or has one flipped bit.
    """
    try:
        listed = _listed(path)
        segments = {_number(name): listed[name] for name in listed if name not in (TENSORS, FACTS)}
    except (OSError, ValueError) as error:  # ValueError: a malformed manifest
        raise CheckpointError(f"checkpoint {path} is damaged: {reason(error)}") from error
    tensors, facts = (_content(path, name, listed.get(name)) for name in (TENSORS, FACTS))
    verified = set() if verified is None else verified
    for name in listed.keys() - {TENSORS, FACTS} if shared else ():
        if (name, listed[name]) not in verified:
            _content(path, name, listed[name])  # by the listed name: a flipped bit in it is found too
            verified.add((name, listed[name]))
    try:
        return Checkpoint(path, read_tensors(tensors), json.loads(facts), segments)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error


def newest(
    parent: Path,
    fits: Callable[[Checkpoint], None] = lambda checkpoint: None,
    shared: bool = True,
    steps: float = math.inf,
) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint up to `steps` that `fits` accepts, and reasons for skipping newer ones.

    `fits` raises CheckpointError for a checkpoint of another task or configuration. Returns (None, []) if
    there is no checkpoint up to `steps`. shared: verify segments too.

    Raises CheckpointError with all reasons if there are checkpoints and none is good.
    """
    skipped: list[str] = []
    for path in reversed([path for path in _folders(parent) if int(path.name) <= steps]):
        try:
            checkpoint = load(path, shared)
            fits(checkpoint)
        except CheckpointError as error:
            skipped.append(str(error))
        else:
            return checkpoint, skipped
    if skipped:
        raise CheckpointError(f"no good checkpoint in {parent}: " + "; ".join(skipped))
    return None, []


def damaged(parent: Path) -> dict[str, str | None]:
    """Every checkpoint in a folder, by name -> what is wrong with it, None: nothing.

    Each segment is read once. Checkpoints that the run deletes meanwhile are left out.
    """
    found: dict[str, str | None] = {}
    verified: set[tuple[str, str]] = set()
    for path in _folders(parent):
        try:
            load(path, verified=verified)
            found[path.name] = None
        except CheckpointError as error:
            if path.exists():
                found[path.name] = str(error)
    return found


def sweep(parent: Path) -> None:
    """Delete a killed save's .tmp folders and unlisted segments; only for the process that writes here."""
    for path in parent.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    _drop_unlisted(parent)


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU; safetensors refuses tensors that share storage."""
    return {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}


def _folders(parent: Path) -> list[Path]:
    named = [p for p in parent.iterdir() if p.name.isdecimal()] if parent.is_dir() else []
    return sorted(named, key=lambda path: int(path.name))


def _write_segments(parent: Path, replay: Segmented) -> dict[int, str]:
    """Write and sync segments not on disk yet; sets replay.digests to the sha256 of all, and returns that."""
    (parent / SEGMENTS).mkdir(exist_ok=True)
    digests: dict[int, str] = {}
    for number, tensors in replay.segments().items():
        digest = replay.digests.get(number)
        if digest is None or not _segment_path(parent, number, digest).exists():
            content = tensor_bytes(packed(tensors))
            digest = _sha256(content)
            write_aside(_segment_path(parent, number, digest), content)
        digests[number] = digest
    sync_folder(parent / SEGMENTS)
    replay.digests = digests
    return digests


def _segment_path(parent: Path, number: int, digest: str) -> Path:
    return parent / SEGMENTS / f"{number:08d}-{digest[:16]}.safetensors"


def _segment_name(number: int, digest: str) -> str:
    """The segment's path relative to a checkpoint's folder: ../segments/<number>-<sha256>.safetensors."""
    return str(_segment_path(Path(".."), number, digest))


def _number(name: str) -> int:
    """The segment's number from its path. Raises ValueError for another file."""
    return int(name.removeprefix(f"../{SEGMENTS}/").partition("-")[0])


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _listed(path: Path) -> dict[str, str]:
    """File name -> sha256 from a checkpoint's manifest. Raises OSError, or ValueError if it is malformed."""
    lines = (path / MANIFEST).read_text("ascii").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def _content(path: Path, name: str, digest: str | None) -> bytes:
    """Bytes of a checkpoint's file. Raises CheckpointError if unreadable or its sha256 is not `digest`."""
    try:
        content = (path / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {reason(error)}") from error
    if _sha256(content) != digest:
        rule = f"{name} ({len(content)} bytes) has sha256 {_sha256(content)[:12]}.., {MANIFEST} says"
        raise CheckpointError(f"checkpoint {path} is damaged: {rule} {str(digest)[:12]}..")
    return content


def prune(parent: Path, steps: int, keep: int = KEEP) -> None:
    """Delete all but the newest `keep` up to `steps`, and unlisted segments. An OSError only ends it early.

    Those after `steps` are deleted too: a run that resumed from an older checkpoint has skipped them.
    """
    folders = _folders(parent)
    kept = [p for p in folders if int(p.name) <= steps][-keep:]
    with contextlib.suppress(OSError):
        for path in set(folders) - set(kept):
            _delete(path)
        if (parent / SEGMENTS).exists():
            sync_folder(parent)  # first: a power cut must not restore a checkpoint without its segments
            _drop_unlisted(parent)


def _drop_unlisted(parent: Path) -> None:
    """Delete unlisted and partly written segments; nothing while any checkpoint's list cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        listed = {Path(name).name for path in _folders(parent) for name in _listed(path)}
        for path in (parent / SEGMENTS).glob("*"):
            if path.name not in listed:
                path.unlink()


def _delete(folder: Path) -> None:
    """Delete a folder, renamed first: a kill must not leave part of a checkpoint under its name."""
    renamed = aside(folder)
    folder.rename(renamed)
    shutil.rmtree(renamed, ignore_errors=True)
