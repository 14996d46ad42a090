"""Atomic writes: after a failure or a kill, a file has its old or new content, and nothing is left over."""

import os
from pathlib import Path

import pytest
from test_checkpoint import largest_file, names
from toy import Toy

from robokit.disk.write import aside, drop_dead, staging, write_atomically
from robokit.training.loop import train
from robokit.training.run import Run


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


def test_what_a_killed_process_left_is_deleted_by_the_next_that_writes_the_same_file(tmp_path: Path):
    dead = aside(tmp_path / "a.json")
    dead.write_bytes(b"a part")
    write_atomically(tmp_path / "a.json", b"new")
    dead = aside(tmp_path / "a.onnx")
    dead.mkdir()
    (dead / "a.onnx").write_bytes(b"a part")
    with staging(tmp_path / "a.onnx", ["a.onnx"]) as folder:
        assert names(tmp_path) == sorted([folder.name, "a.json"])
        (folder / "a.onnx").write_bytes(b"")
    assert names(tmp_path) == ["a.json"]


def test_what_a_living_process_writes_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[list[str]] = []
    there: list[str] = []

    def sweeps(descriptor: int) -> None:
        drop_dead(tmp_path / "a.json", ["b"])
        synced.append(names(tmp_path))

    with staging(tmp_path / "a.json", ["b"]) as folder:
        (folder / "b").write_bytes(b"")
        monkeypatch.setattr(os, "fsync", sweeps)
        write_atomically(tmp_path / "a.json", b"new")
        there = names(tmp_path)
        assert names(folder) == ["b"]
    assert len(synced[0]) == 2 and there == sorted([folder.name, "a.json"])


@pytest.mark.parametrize(
    "name", [".b.json.0a0a0a0a.tmp", ".a.json.0A0A0A0A.tmp", ".a.json.0a0a0a0a", "a.json.0a0a0a0a.tmp", "x"]
)
def test_what_has_another_name_is_a_link_or_holds_files_of_others_stays(tmp_path: Path, name: str):
    mine, link, full = tmp_path / name, tmp_path / ".a.json.00000000.tmp", tmp_path / ".a.json.11111111.tmp"
    full.mkdir()
    for path in (mine, full / "thesis.tex", full / "b"):
        path.write_bytes(b"mine")
    link.symlink_to(mine)
    os.mkfifo(pipe := tmp_path / ".a.json.22222222.tmp")
    drop_dead(tmp_path / "a.json", ["b"])
    assert names(tmp_path) == sorted([name, link.name, pipe.name, "a.json-others-11111111"])
    assert mine.read_bytes() == b"mine" and names(tmp_path / "a.json-others-11111111") == ["thesis.tex"]


def test_the_names_of_all_that_a_training_makes_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    safe, fsync = set[int](), os.fsync

    def note(descriptor: int) -> None:
        what = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        safe.update(p.lstat().st_ino for p in (what.iterdir() if what.is_dir() else []))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    run = Run.create(tmp_path / "a" / "runs", "toy", 16, {"seed": 0}, {})
    train(Toy(), run, 16, save_steps=8)
    made = [p for p in tmp_path.rglob("*") if "tensorboard" not in str(p)]
    assert len(made) > 8 and [p for p in made if p.lstat().st_ino not in safe] == []
