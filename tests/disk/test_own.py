"""Nothing is deleted but what robokit wrote, and nothing through a link."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_segments import fill, flip_a_bit, keep, new, segment
from toy import Remembering, Toy

from robokit.disk.checkpoint import SEGMENTS, load, newest, save, sweep
from robokit.disk.own import CHECKPOINT, discard, is_aside
from robokit.errors import CheckpointError
from robokit.training.loop import train
from robokit.training.run import Run

STATE = {"x": torch.ones(3)}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A person's folder, with names of every kind that robokit deletes in its own."""
    folder = tmp_path / "mine"
    for name in (
        "thesis.tex",
        "00000007-0123456789abcdef.safetensors",
        "000000000001/state.safetensors",
        ".000000000001.0a0a0a0a.tmp/state.safetensors",
        "segments/00000007-0123456789abcdef.safetensors",
        "2024/notes",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    return folder


@pytest.mark.parametrize(
    "link",
    [
        *("checkpoints", "best", "tensorboard", "metrics.jsonl"),
        *("checkpoints/segments", "checkpoints/000000000008", "checkpoints/000000009999"),
    ],
)
def test_a_training_refuses_a_link_in_the_place_of_what_it_writes(tmp_path: Path, mine: Path, link: str):
    run, before = Run.create(tmp_path / "runs", "toy", 16, {"seed": 0}, {}), tree(mine)
    train(Remembering(), run, 16, save_steps=8)
    place = run.path / link
    if os.path.lexists(place):
        place.rename(tmp_path / "elsewhere")
    place.symlink_to(mine if "." not in link else mine / "thesis.tex")
    with pytest.raises(CheckpointError, match=rf"{link} is a link: a training writes and deletes only in"):
        train(Remembering(), run, 64, save_steps=8)
    assert tree(mine) == before


@pytest.mark.parametrize("name", [".000000000008.0a0a0a0a.tmp", ".x.tmp", "notes", "000000000004.old"])
def test_links_with_other_names_are_left_alone(tmp_path: Path, mine: Path, name: str):
    run, before = Run.create(tmp_path / "runs", "toy", 16, {"seed": 0}, {}), tree(mine)
    train(Toy(), run, 8)
    (run.path / "checkpoints" / name).symlink_to(mine)
    train(Toy(), run, 64, save_steps=8)
    assert tree(mine) == before and (run.path / "checkpoints" / name).is_symlink()


def test_a_link_that_is_made_under_way_ends_the_training_at_the_next_save(tmp_path: Path, mine: Path):
    before = tree(mine)
    keep(tmp_path / "run", fill(new(), 11))
    (tmp_path / "run" / SEGMENTS).rename(tmp_path / "elsewhere")
    (tmp_path / "run" / SEGMENTS).symlink_to(mine)
    for act in (lambda: keep(tmp_path / "run", fill(new(), 13)), lambda: sweep(tmp_path / "run")):
        with pytest.raises(CheckpointError, match="segments is a link"):
            act()
    assert tree(mine) == before


def test_other_folders_and_files_beside_checkpoints_and_segments_stay(tmp_path: Path):
    keep(tmp_path, fill(new(), 11))
    others = [
        *("2024/notes", "99/notes", "0000000001/notes", "٠٠٠٠٠٠٠٠٠٠٠١/notes", ".x.tmp/notes", "notes"),
        *(".000000000001.ab.tmp/notes", "segments/notes", "segments/0-1.safetensors", "segments/.a.tmp"),
    ]
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    sweep(tmp_path)
    for position in (13, 15, 17):
        keep(tmp_path, fill(new(), position))
    assert [(tmp_path / name).read_text() for name in others] == ["mine"] * len(others)
    assert newest(tmp_path)[0] is not None


def test_what_a_person_put_into_a_checkpoint_outlives_it_and_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (save(tmp_path, 1, STATE, {}) / "note.txt").write_text("the good one")
    for steps in (2, 3):
        save(tmp_path, steps, STATE, {})
    (kept,) = tmp_path.glob("000000000001-others-*")
    assert [p.name for p in kept.iterdir()] == ["note.txt"]
    assert (
        capsys.readouterr().err
        == f"note: {kept} is not robokit's and stays; what was robokit's there is deleted\n"
    )
    save(tmp_path, 4, STATE, {})
    sweep(tmp_path)
    assert (kept / "note.txt").read_text() == "the good one" and capsys.readouterr().err == ""


def test_a_note_in_a_checkpoint_that_was_being_deleted_outlives_the_kill(tmp_path: Path):
    hidden = tmp_path / ".000000000001.0a0a0a0a.tmp"
    hidden.mkdir()
    (hidden / "note.txt").write_text("mine")
    (hidden / "state.safetensors").write_text("ours")
    (tmp_path / ".000000000002.0a0a0a0a.tmp").write_text("a file")
    sweep(tmp_path)
    assert tree(tmp_path) == {
        "000000000001-others-0a0a0a0a/note.txt": b"mine",
        "000000000002-others-0a0a0a0a": b"a file",
    }


def test_discarding_does_not_follow_links(tmp_path: Path, mine: Path):
    before, hidden = tree(mine), tmp_path / ".a.0a0a0a0a.tmp"
    hidden.symlink_to(mine / "000000000001")
    discard(hidden, ["state.safetensors"])
    hidden.unlink()
    hidden.mkdir()
    (hidden / "state.safetensors").symlink_to(mine / "thesis.tex")
    discard(hidden, ["state.safetensors"])
    assert tree(mine) == before and not hidden.exists()


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        (".000000000001.0a0a0a0a.tmp", True),
        (".1234567890123.0a0a0a0a.tmp", True),
        (".000000000001.0a0a0a0.tmp", False),
        (".0000000000001.0a0a0a0a.tmp", False),
        (".000000000001.0A0A0A0A.tmp", False),
        ("000000000001.0a0a0a0a.tmp", False),
        (".000000000001.0a0a0a0a.tmp\n", False),
    ],
)
def test_names_are_ours_by_their_form(tmp_path: Path, name: str, ours: bool):
    assert is_aside(tmp_path / name, CHECKPOINT) == ours


def cut(path: Path) -> None:
    os.truncate(path, 100)


def replaced(path: Path) -> None:
    path.write_bytes(b"x" * 17)


@pytest.mark.parametrize("harm", [Path.unlink, cut, replaced])
def test_a_segment_that_others_remove_or_change_while_training_is_written_again(
    tmp_path: Path, harm: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
):
    replay = fill(new(), 11)
    keep(tmp_path, replay)
    harm(segment(tmp_path, 2))
    last = keep(tmp_path, fill(replay, 17))
    told = f"note: removed or changed while training, and written again: 1 of 8 segments in {tmp_path}"
    assert capsys.readouterr().err == f"{told}/{SEGMENTS}\n"
    load(last)
    keep(tmp_path, fill(replay, 19))
    assert capsys.readouterr().err == ""


def test_a_flipped_bit_of_a_segment_is_not_looked_for_at_each_save_but_found_at_the_load(tmp_path: Path):
    replay = fill(new(), 11)
    keep(tmp_path, replay)
    flip_a_bit(segment(tmp_path, 2))
    with pytest.raises(CheckpointError, match="segments/00000002-"):
        load(keep(tmp_path, fill(replay, 17)))
