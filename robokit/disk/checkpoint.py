"""Checkpoints that a kill, a full disk or a flipped bit cannot spoil: safetensors, JSON and checksums.

    save(run / "checkpoints", steps, learner.state_dict(), {"steps": steps})
    checkpoint, skipped = newest(run / "checkpoints")

A checkpoint is a folder named after its step. It is written under a temporary name, its SHA256SUMS last;
everything is synced to the disk, then renamed: the name appears whole or not at all.

A replay is too large to write anew each time. Its segments never change once they are whole, so each is
written once, into `segments/` beside the checkpoints, before the first checkpoint that lists it; the last
one that lists it takes it along. A file's name holds the segment's number and its sha256: one from a future
that was given up is another file. Checkpoints share what they have in common, also its damage.
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
from robokit.errors import CheckpointError

TENSORS, FACTS, MANIFEST = "state.safetensors", "facts.json", "SHA256SUMS"
SEGMENTS = "segments"  # the folder beside the checkpoints that share them
KEEP = 2  # checkpoints of one run: the newest, and one to fall back on


class Segmented(Protocol):
    """What is asked of a memory to be saved in segments; the rest of its state is among the tensors."""

    digests: dict[int, str]  # sha256 of the files of its segments; set here, cleared where it loads a state

    def segments(self) -> Mapping[int, Mapping[str, Tensor]]: ...

    def load_segment(self, number: int, tensors: Mapping[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: tensors by name, on the CPU, and what JSON says beside them."""

    path: Path
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    segments: dict[int, str] = field(default_factory=dict)  # sha256 of each, verified but not in memory

    @property
    def steps(self) -> int:
        return int(self.path.name)

    def load_segments(self, replay: Segmented | None) -> None:
        """Give `replay`, whose other state is loaded, its segments; one at a time is read into memory.

        Raises ValueError where it keeps others than were saved.
        """
        kept = [] if replay is None else [*replay.segments()]
        if {*kept} != {*self.segments}:
            raise ValueError(f"segments {sorted(self.segments)} of a replay were saved, it keeps {kept}")
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
    """Write `parent/<steps>`, then delete all but the newest `keep` up to it, and any after it.

    Of the segments of a `replay` those are written that are not there yet.

    Raises CheckpointError when the disk is full or may not be written; what was saved before still loads.
    """
    target = parent / f"{steps:012d}"
    temporary = aside(target)
    contents = {
        TENSORS: tensor_bytes({name: _packed(t) for name, t in tensors.items()}),
        FACTS: json.dumps(facts, indent=1, allow_nan=False).encode(),
    }
    try:
        parent.mkdir(parents=True, exist_ok=True)
        segments = {} if replay is None else _write_segments(parent, replay)
        temporary.mkdir()
        listed = {_segment_name(*pair): pair[1] for pair in segments.items()}
        listed |= {name: _sha256(content) for name, content in contents.items()}  # last: seen if it is cut
        sums = "".join(f"{digest}  {name}\n" for name, digest in listed.items())
        for name, content in {**contents, MANIFEST: sums.encode()}.items():
            write_synced(temporary / name, content)
        sync_folder(temporary)
        if target.exists():  # damaged, or the loader would have gone on from it
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


def load(path: Path, shared: bool = True) -> Checkpoint:
    """The checkpoint in a folder.

    Raises CheckpointError when a file is missing, truncated or differs from its checksum by one bit; so for
    the segments it shares, unless they are not asked for.
    """
    try:
        listed = _listed(path)
        segments = {_number(name): listed[name] for name in listed if name not in (TENSORS, FACTS)}
    except (OSError, ValueError) as error:  # ValueError: a manifest that is no list of sums and names
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error
    tensors, facts = (_content(path, name, listed.get(name)) for name in (TENSORS, FACTS))
    for name in listed.keys() - {TENSORS, FACTS} if shared else ():
        _content(path, name, listed[name])  # under the name it is listed by, of which no bit may differ
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
    """The newest checkpoint up to `steps` that is whole and that `fits` accepts, and why newer were skipped.

    `fits` raises CheckpointError for a checkpoint that belongs to something else. None: there never was one.
    shared: whether the segments that it shares must be whole too.

    Raises CheckpointError with all reasons when there are checkpoints and none is good.
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


def sweep(parent: Path) -> None:
    """Delete what a killed save left behind; only for the one process that writes here."""
    for path in parent.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    _drop_unlisted(parent)


def _packed(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares storage with no other, as safetensors asks for."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _folders(parent: Path) -> list[Path]:
    named = [p for p in parent.iterdir() if p.name.isdecimal()] if parent.is_dir() else []
    return sorted(named, key=lambda path: int(path.name))


def _write_segments(parent: Path, replay: Segmented) -> dict[int, str]:
    """The sha256 of each segment, whose files are all on the disk when this returns."""
    (parent / SEGMENTS).mkdir(exist_ok=True)
    digests: dict[int, str] = {}
    for number, tensors in replay.segments().items():
        digest = replay.digests.get(number)
        if digest is None or not _segment_path(parent, number, digest).exists():
            content = tensor_bytes({name: _packed(t) for name, t in tensors.items()})
            digest = _sha256(content)
            write_aside(_segment_path(parent, number, digest), content)
        digests[number] = digest
    sync_folder(parent / SEGMENTS)
    replay.digests = digests
    return digests


def _segment_path(parent: Path, number: int, digest: str) -> Path:
    return parent / SEGMENTS / f"{number:08d}-{digest[:16]}.safetensors"


def _segment_name(number: int, digest: str) -> str:
    """As seen from a checkpoint's folder."""
    return str(_segment_path(Path(".."), number, digest))


def _number(name: str) -> int:
    """Of the segment in a file. Raises ValueError for what is none."""
    return int(name.removeprefix(f"../{SEGMENTS}/").partition("-")[0])


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _listed(path: Path) -> dict[str, str]:
    """sha256 by name, as a checkpoint's manifest says. Raises OSError or ValueError."""
    lines = (path / MANIFEST).read_text("ascii").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def _content(path: Path, name: str, digest: str | None) -> bytes:
    """A file of a checkpoint. Raises CheckpointError for one that differs from its sha256."""
    try:
        content = (path / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error
    if _sha256(content) != digest:
        rule = f"{name} ({len(content)} bytes) has sha256 {_sha256(content)[:12]}.., {MANIFEST} says"
        raise CheckpointError(f"checkpoint {path} is damaged: {rule} {str(digest)[:12]}..")
    return content


def prune(parent: Path, steps: int, keep: int = KEEP) -> None:
    """Delete all but the newest `keep` up to `steps`.

    What lies after `steps` is of a future that was given up: its damaged end was skipped on resuming.
    """
    folders = _folders(parent)
    kept = [p for p in folders if int(p.name) <= steps][-keep:]
    with contextlib.suppress(OSError):
        for path in set(folders) - set(kept):
            _delete(path)
        if (parent / SEGMENTS).exists():
            sync_folder(parent)  # no power cut may bring a checkpoint back without its segments
            _drop_unlisted(parent)


def _drop_unlisted(parent: Path) -> None:
    """Delete the segments that no checkpoint lists, and halves; nothing while a list cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        listed = {Path(name).name for path in _folders(parent) for name in _listed(path)}
        for path in (parent / SEGMENTS).glob("*"):
            if path.name not in listed:
                path.unlink()


def _delete(folder: Path) -> None:
    """Renamed first, so that a kill cannot leave half a checkpoint under a checkpoint's name."""
    renamed = aside(folder)
    folder.rename(renamed)
    shutil.rmtree(renamed, ignore_errors=True)
