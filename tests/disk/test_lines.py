"""metrics.jsonl: a hash that runs along notices damage; the next sync, what others do to the file."""

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from robokit.disk.lines import Lines


def write(path: Path, first: int = 8, last: int = 40, known: Any = None) -> dict[str, Any]:
    """A line every 8 steps; what the last sync says."""
    lines = Lines(path, first - 8, known)
    for steps in range(first, last + 8, 8):
        lines.append({"steps": steps, "loss": steps / 3})
    known = lines.sync()
    lines.close()
    return known


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def steps(path: Path) -> list[int]:
    return [json.loads(line)["steps"] for line in path.read_text().splitlines()]


def test_the_hash_is_that_of_the_file_and_the_file_is_not_read_for_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    known = write(path)
    assert known == {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    lines = Lines(path, 40, known)
    monkeypatch.setattr(Lines, "_content", lambda self: pytest.fail("read again"))
    lines.append({"steps": 48})
    assert lines.sync()["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    lines.close()


def test_a_resumed_file_drops_what_came_after_the_save_and_goes_on(
    path: Path, capsys: pytest.CaptureFixture[str]
):
    known = write(path, last=24)
    write(path, first=32, last=40, known=known)
    path.write_bytes(path.read_bytes() + b'{"steps": 4')
    write(path, first=32, last=32, known=known)
    assert steps(path) == [8, 16, 24, 32]
    assert capsys.readouterr().err == f"note: {path} goes on from step 24: 2 later lines are dropped\n"


def test_no_random_damage_before_the_save_is_taken_in_silence(path: Path, capsys: pytest.CaptureFixture[str]):
    known, rng = write(path), random.Random(0)
    whole = path.read_bytes()
    for _ in range(300):
        content = bytearray(whole)
        place = rng.randrange(len(content))
        kind = rng.choice(["bit", "byte", "cut", "gone", "more", "end"])
        if kind == "bit":
            content[place] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            content[place] = rng.choice(sorted({0, 10, 13, 34, 48, 57, 125} - {content[place]}))
        elif kind == "cut":
            del content[place:]
        elif kind == "gone":
            del content[place : place + rng.randrange(1, 99)]
        elif kind == "more":
            content[place:place] = b"7"
        else:
            content[place:] = b"\n" * (len(content) - place + (content[place:] == b"\n"))
        path.write_bytes(content)
        lines = Lines(path, 40, known)
        lines.append({"steps": 48})
        assert b'{"steps": 48}\n' in path.read_bytes().splitlines(keepends=True)
        lines.close()
        assert f"note: {path} is not as it was saved at step 40" in capsys.readouterr().err


def test_a_damaged_line_is_named_and_stays(path: Path, capsys: pytest.CaptureFixture[str]):
    known = write(path)
    damaged = path.read_bytes().replace(b'{"steps": 16', b'{"steps": 1x')
    path.write_bytes(damaged)
    Lines(path, 40, known).close()
    assert path.read_bytes() == damaged
    assert "line 2 is damaged; what is left of it stays" in capsys.readouterr().err


def test_a_file_that_was_removed_before_a_resume_is_told_and_begun_anew(
    path: Path, capsys: pytest.CaptureFixture[str]
):
    known = write(path)
    path.unlink()
    write(path, first=48, last=48, known=known)
    assert steps(path) == [48]
    assert f"it had {known['bytes']} bytes, and has 0" in capsys.readouterr().err


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_removed_or_replaced_is_written_again_whole(
    path: Path, replaced: bool, capsys: pytest.CaptureFixture[str]
):
    lines = Lines(path, 0)
    lines.append({"steps": 8})
    path.unlink()
    if replaced:
        path.write_text("somebody's\n")
    lines.append({"steps": 16})
    known = lines.sync()
    lines.append({"steps": 24})
    assert lines.sync()["bytes"] == path.stat().st_size > known["bytes"]
    assert steps(path) == [8, 16, 24]
    others = [p.read_text() for p in path.parent.iterdir() if p != path]
    assert others == (["somebody's\n"] if replaced else [])
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"note: {path} was {'replaced by' if replaced else 'removed'}" in told
    lines.close()


@pytest.mark.parametrize("size", [0, 5, 12])
def test_a_file_that_others_cut_is_told_and_goes_on_with_whole_lines(
    path: Path, size: int, capsys: pytest.CaptureFixture[str]
):
    lines = Lines(path, 0)
    lines.append({"steps": 8})
    os.truncate(path, size)
    lines.append({"steps": 16})
    known = lines.sync()
    assert f"was changed while training: it has {size + 14} bytes instead of 27" in capsys.readouterr().err
    lines.append({"steps": 24})
    lines.sync()
    lines.close()
    assert path.read_text().endswith('{"steps": 24}\n')
    assert hashlib.sha256(path.read_bytes()[: known["bytes"]]).hexdigest() == known["sha256"]
    assert capsys.readouterr().err == ""
