"""Atomic writes: after a failure or a kill, a file has its old or its new content."""

import os
from pathlib import Path

import pytest
from test_checkpoint import largest_file, names

from robokit.disk.write import write_atomically


def test_writing_atomically_leaves_the_old_file_when_it_fails(tmp_path: Path):
    write_atomically(tmp_path / "a.json", b"old")
    with largest_file(10), pytest.raises(OSError, match="too large"):
        write_atomically(tmp_path / "a.json", b"n" * 100)
    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"old"


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[tuple[bytes | None, list[str]]] = []

    def note(descriptor: int) -> None:
        what = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((None if what == tmp_path else what.read_bytes(), names(tmp_path)))

    monkeypatch.setattr(os, "fsync", note)
    write_atomically(tmp_path / "a.json", b"new")
    (content, [aside]), folder = synced
    assert content == b"new" and aside != "a.json"
    assert folder == (None, ["a.json"])
