"""Checkpoints that survive kills, full disks and flipped bits: safetensors, JSON and checksums.

    save(run / "checkpoints", steps, learner.state_dict(), {"steps": steps})
    checkpoint, skipped = newest(run / "checkpoints")

A checkpoint is a folder named after its step. It is written under a temporary name, SHA256SUMS last, synced
to the disk and then renamed, so that a checkpoint is complete or absent.

A replay is too large to write every time. A full segment never changes, so it is written once, to `segments/`
beside the checkpoints, before the first checkpoint that lists it, and deleted with the last. The file name
holds its number and sha256, so that a run resumed from an older checkpoint never overwrites a segment.
Checkpoints share these files: a damaged one damages every checkpoint that lists it.

Only what has a name of this form is deleted, and nothing through a link: files of others that lie in a
checkpoint stay in `<step>-others-<random>`, and a line says so.
"""

import contextlib
import hashlib
import json
import math
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors, save as tensor_bytes
from torch import Tensor

from robokit.disk.own import CHECKPOINT, SEGMENT, check_own, discard, is_aside
from robokit.disk.read import LARGEST_JSON, parse_json, read_bytes
from robokit.disk.write import aside, make_folder, sync_folder, write_aside, write_synced
from robokit.errors import CheckpointError, DataError, reason, tell

TENSORS, FACTS, MANIFEST = "state.safetensors", "facts.json", "SHA256SUMS"
SEGMENTS = "segments"  # the folder beside the checkpoints that share them
OWN = (TENSORS, FACTS, MANIFEST)  # the files of a checkpoint
LINE = re.compile(rf"([0-9a-f]{{64}})\s+({re.escape(TENSORS)}|{re.escape(FACTS)}|\.\./{SEGMENTS}/{SEGMENT})")
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
                name = _segment_name(number, digest)
                replay.load_segment(number, _tensors(self.path / name, _content(self.path, name, digest)))
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

    Raises CheckpointError if the disk is full or not writable, or a folder is a link; earlier checkpoints
    still load.
    """
    check_own(_own(parent))
    target = parent / f"{steps:012d}"
    temporary = aside(target)
    contents = {
        TENSORS: tensor_bytes(packed(tensors)),
        FACTS: json.dumps(facts, indent=1, allow_nan=False).encode(),
    }
    try:
        make_folder(parent)
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
        discard(temporary, OWN)
        _drop_unlisted(parent)
        why = error.strerror or error
        raise CheckpointError(f"cannot save {target}: {why}; earlier checkpoints are untouched") from error
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
        known = parse_json(facts, FACTS)
        if not isinstance(known, dict):
            raise DataError(f"{FACTS} must hold a JSON object, got {type(known).__name__}")
    except DataError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    return Checkpoint(path, _tensors(path, tensors), known, segments)


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
    for path in reversed([path for path in kept(parent) if int(path.name) <= steps]):
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
    for path in kept(parent):
        try:
            load(path, verified=verified)
            found[path.name] = None
        except CheckpointError as error:
            if path.exists():
                found[path.name] = str(error)
    return found


def sweep(parent: Path) -> None:
    """Delete a killed save's .tmp folders and unlisted segments; only for the process that writes here.

    Raises CheckpointError as `check_own`.
    """
    check_own(_own(parent))
    for path in parent.glob(".*.tmp"):
        if is_aside(path, CHECKPOINT):
            discard(path, OWN)
    _drop_unlisted(parent)


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU; safetensors refuses tensors that share storage."""
    return {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}


def _own(parent: Path) -> list[Path]:
    """A folder of checkpoints, and what has the name of one of them or of their segments in it."""
    inside = (p for p in parent.glob("*") if p.name == SEGMENTS or re.fullmatch(CHECKPOINT, p.name))
    return [parent, *inside]


def kept(parent: Path) -> list[Path]:
    """Folders named like checkpoints, by step. Raises CheckpointError if they cannot be listed."""
    try:
        named = [p for p in parent.iterdir() if re.fullmatch(CHECKPOINT, p.name)] if parent.is_dir() else []
    except OSError as error:
        raise CheckpointError(f"cannot read {parent}: {reason(error, parent)}") from error
    return sorted(named, key=lambda path: int(path.name))


def _write_segments(parent: Path, replay: Segmented) -> dict[int, str]:
    """Write and sync segments not on disk yet; sets replay.digests to the sha256 of all, and returns that.

    A line says how many were there before and have gone, or have another size now.
    """
    (parent / SEGMENTS).mkdir(exist_ok=True)
    digests, lost = dict[int, str](), 0
    for number, tensors in replay.segments().items():
        digest = replay.digests.get(number)
        if digest is None or not _is_whole(_segment_path(parent, number, digest), tensors):
            lost += digest is not None
            content = tensor_bytes(packed(tensors))
            digest = _sha256(content)
            write_aside(_segment_path(parent, number, digest), content)
        digests[number] = digest
    sync_folder(parent / SEGMENTS)
    replay.digests = digests
    if lost:
        what = f"{lost} of {len(digests)} segments in {parent / SEGMENTS}"
        tell(f"note: removed or changed while training, and written again: {what}")
    return digests


def _is_whole(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a segment is a regular file of the size that these tensors need; its content is not read."""
    try:
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode):
            return False
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        return about.st_size == 8 + header + sum(x.nbytes for x in tensors.values())
    except OSError:
        return False


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
    lines = read_bytes(path / MANIFEST, LARGEST_JSON).decode("ascii").splitlines()
    if wrong := [line for line in lines if not LINE.fullmatch(line)]:
        raise ValueError(f"{MANIFEST} lists no file of a checkpoint in the line {wrong[0][:99]!r}")
    return {name: digest for digest, name in (line.split() for line in lines)}


def _content(path: Path, name: str, digest: str | None) -> bytes:
    """Bytes of a checkpoint's file. Raises CheckpointError if unreadable or its sha256 is not `digest`."""
    try:
        content = read_bytes(path / name)
    except (OSError, DataError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {reason(error)}") from error
    if _sha256(content) != digest:
        rule = f"{name} ({len(content)} bytes) has sha256 {_sha256(content)[:12]}.., {MANIFEST} says"
        raise CheckpointError(f"checkpoint {path} is damaged: {rule} {str(digest)[:12]}..")
    return content


def _tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError, with `path`, for what is none."""
    try:
        return read_tensors(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error!r}") from error


def prune(parent: Path, steps: int, keep: int = KEEP) -> None:
    """Delete all but the newest `keep` up to `steps`, and unlisted segments. An OSError only ends it early.

    Those after `steps` are deleted too: a run that resumed from an older checkpoint has skipped them.
    """
    folders = kept(parent)
    stay = [p for p in folders if int(p.name) <= steps][-keep:]
    with contextlib.suppress(OSError):
        for path in {path for path in folders if not path.is_symlink()} - set(stay):
            _delete(path)
        if (parent / SEGMENTS).exists():
            sync_folder(parent)  # first: a power cut must not restore a checkpoint without its segments
            _drop_unlisted(parent)


def _drop_unlisted(parent: Path) -> None:
    """Delete unlisted and partly written segments; nothing while any checkpoint's list cannot be read."""
    if (folder := parent / SEGMENTS).is_symlink():
        return
    with contextlib.suppress(OSError, ValueError):
        listed = {Path(name).name for path in kept(parent) for name in _listed(path)}
        for path in folder.glob("*"):
            ours = re.fullmatch(SEGMENT, path.name) and not path.is_symlink()
            if path.name not in listed and (ours or is_aside(path, SEGMENT)):
                path.unlink()


def _delete(folder: Path) -> None:
    """Delete a folder, renamed first: a kill must not leave part of a checkpoint under its name."""
    renamed = aside(folder)
    folder.rename(renamed)
    discard(renamed, OWN)
