"""Segments of a replay: written once, shared between checkpoints, and never confused."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_checkpoint import largest_file, without_root

import robokit.disk.checkpoint
from robokit.disk.checkpoint import MANIFEST, SEGMENTS, Checkpoint, damaged, load, newest, save, sweep
from robokit.errors import CheckpointError
from robokit.learning.offpolicy.replay import Replay


def new() -> Replay:
    """65 segments of two control steps at most."""
    return Replay({"number": 3}, belief_size=1, num_envs=2, capacity=260)


def fill(replay: Replay, position: int, seed: int = 0) -> Replay:
    """Random numbers up to `position`; those of a control step depend on the seed and on nothing else."""
    for step in range(replay.position, position):
        number = torch.randn(2, 3, generator=torch.Generator().manual_seed(1000 * seed + step))
        replay.add({"number": number}, number[:, 1:2])
    return replay


def keep(parent: Path, replay: Replay, keep: int = 2) -> Path:
    return save(parent, replay.position, replay.state_dict(), {}, keep, replay)


def restored(checkpoint: Checkpoint | None) -> Replay:
    assert checkpoint is not None
    replay = fill(new(), 37, seed=9)  # what was there before is gone
    replay.load_state_dict(checkpoint.tensors)
    checkpoint.load_segments(replay)
    return replay


def assert_equal(one: Replay, other: Replay) -> None:
    assert one.position == other.position
    slots = [step % one.steps for step in range(one.oldest, one.position)]
    assert torch.equal(one.rows[slots], other.rows[slots])
    assert torch.equal(one.beliefs[slots], other.beliefs[slots])


def files(parent: Path) -> dict[str, tuple[int, int]]:
    """Segments on the disk: inode and time of writing."""
    found = {p.name: p.stat() for p in (parent / SEGMENTS).iterdir()}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in sorted(found.items())}


def numbers(parent: Path) -> list[int]:
    return [int(name.partition("-")[0]) for name in files(parent)]


def segment(parent: Path, number: int) -> Path:
    (path,) = (parent / SEGMENTS).glob(f"{number:08d}-*.safetensors")
    return path


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_saved_at_random_times_comes_back_bit_for_bit(tmp_path: Path, seed: int):
    rng, replay = random.Random(seed), new()
    for _ in range(8):  # up to three times around
        fill(replay, replay.position + rng.choice([0, 1, 3, 20, 47, 131]))
        assert_equal(restored(load(keep(tmp_path, replay))), fill(new(), replay.position))
        if rng.random() < 0.3:
            replay = restored(newest(tmp_path)[0])  # and goes on from there


def test_a_second_save_writes_what_is_new_and_nothing_else(tmp_path: Path):
    replay = fill(new(), 11)
    keep(tmp_path, replay)
    before = files(tmp_path)
    assert numbers(tmp_path) == [0, 1, 2, 3, 4]  # the eleventh step is in the state
    keep(tmp_path, fill(replay, 17))
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before
    assert numbers(tmp_path) == [0, 1, 2, 3, 4, 5, 6, 7]
    keep(tmp_path, restored(newest(tmp_path)[0]))  # another process knows what is there
    assert files(tmp_path) == after


def test_segments_that_no_checkpoint_lists_are_deleted(tmp_path: Path):
    replay = fill(new(), 130)  # full: segments 0 to 64
    keep(tmp_path, replay)
    keep(tmp_path, fill(replay, 140))
    assert numbers(tmp_path) == [*range(70)]
    keep(tmp_path, fill(replay, 200))  # the first checkpoint goes; the second needs 5 and later ones
    assert numbers(tmp_path) == [*range(5, 100)]
    keep(tmp_path, fill(replay, 400))
    keep(tmp_path, fill(replay, 401))  # has entered segment 200, where 135 was; the other still lists it
    assert numbers(tmp_path) == [*range(135, 200)]


def test_the_checksums_of_segments_are_those_that_sha256sum_checks(tmp_path: Path):
    folder = keep(tmp_path, fill(new(), 5))
    assert (folder / MANIFEST).read_text().count("  ../segments/0000000") == 2
    subprocess.run(
        ["sha256sum", "--strict", "--check", MANIFEST], cwd=folder, check=True, capture_output=True
    )


def test_without_a_replay_there_are_no_segments(tmp_path: Path):
    loaded = load(save(tmp_path, 1, {"x": torch.zeros(1)}, {}))
    assert loaded.segments == {} and not (tmp_path / SEGMENTS).exists()
    loaded.load_segments(None)


@pytest.mark.parametrize("harm", [flip_a_bit, Path.unlink, lambda path: os.truncate(path, 100)])
def test_a_damaged_or_missing_segment_makes_way_for_the_older_checkpoint(tmp_path: Path, harm):
    replay = fill(new(), 11)
    keep(tmp_path, replay)
    keep(tmp_path, fill(replay, 17))
    harm(segment(tmp_path, 6))
    checkpoint, (reason,) = newest(tmp_path)
    assert "000000000017 is damaged" in reason and "segments/00000006-" in reason
    assert_equal(restored(checkpoint), fill(new(), 11))
    harm(segment(tmp_path, 2))  # both need it
    with pytest.raises(CheckpointError, match="no good checkpoint"):
        newest(tmp_path)


def test_all_checkpoints_are_verified_with_one_look_at_each_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    replay, looks = fill(new(), 11), list[str]()
    keep(tmp_path, replay)
    keep(tmp_path, fill(replay, 17))
    (tmp_path / "000000000023").symlink_to("gone")  # as a checkpoint that is deleted after it was listed
    read = robokit.disk.checkpoint.read_bytes

    def look(path: Path, *most: int) -> bytes:
        looks.append(path.name)
        return read(path, *most)

    monkeypatch.setattr(robokit.disk.checkpoint, "read_bytes", look)
    assert damaged(tmp_path) == {"000000000011": None, "000000000017": None}
    assert [sum(look.startswith(f"{n:08d}-") for look in looks) for n in range(8)] == [1] * 8
    (tmp_path / "000000000023").unlink()
    flip_a_bit(segment(tmp_path, 2))
    first, second = damaged(tmp_path).values()
    assert "segments/00000002-" in str(first) and "segments/00000002-" in str(second)


def test_a_list_of_segments_that_was_cut_is_seen(tmp_path: Path):
    path = keep(tmp_path, fill(new(), 11)) / MANIFEST
    whole = path.read_bytes()
    ends = [size for size in range(len(whole) - 1) if whole[size : size + 1] == b"\n"]
    for size in {*range(0, len(whole) - 1, 29), *ends, *(end + 1 for end in ends)}:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="is damaged"):
            load(path.parent)


def test_no_flipped_bit_in_the_list_loses_a_segment(tmp_path: Path):
    path = keep(tmp_path, fill(new(), 5)) / MANIFEST
    whole = path.read_bytes()
    name = range(8 * whole.index(b"../"), 8 * whole.index(b"\n"))  # of segment 0: here each bit
    for bit in {*range(0, 8 * len(whole), 7), *name}:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            loaded = load(path.parent)
        except CheckpointError:
            continue
        assert_equal(restored(loaded), fill(new(), 5))  # one blank may stand for another


def test_a_future_that_was_given_up_is_never_taken_for_the_present(tmp_path: Path):
    replay = fill(new(), 11)
    keep(tmp_path, replay)
    given_up = keep(tmp_path, fill(replay, 17))
    (given_up / "facts.json").unlink()
    theirs = files(tmp_path)
    again = fill(restored(newest(tmp_path)[0]), 17, seed=1)  # the same steps came out otherwise
    assert_equal(restored(load(keep(tmp_path, again))), again)
    ours = files(tmp_path)
    assert numbers(tmp_path) == [*range(8)]
    assert [theirs.get(name) == ours[name] for name in ours] == [True] * 5 + [False] * 3


def test_an_equal_future_is_written_again_where_its_file_was_damaged(tmp_path: Path):
    replay = fill(new(), 11)
    keep(tmp_path, replay)
    keep(tmp_path, fill(replay, 17))
    flip_a_bit(segment(tmp_path, 6))
    again = fill(restored(newest(tmp_path)[0]), 17)  # bit for bit, so under the same name
    assert_equal(restored(load(keep(tmp_path, again))), again)


def test_a_replay_that_goes_back_does_not_keep_the_files_of_its_future(tmp_path: Path):
    replay = fill(new(), 11)
    early = {name: value.clone() for name, value in replay.state_dict().items()}
    keep(tmp_path, fill(replay, 17))
    replay.load_state_dict(early)
    keep(tmp_path, fill(replay, 18, seed=1))
    assert_equal(restored(newest(tmp_path)[0]), replay)


def test_one_replay_goes_into_two_folders(tmp_path: Path):
    replay = fill(new(), 11)
    for name in ("one", "other"):
        assert_equal(restored(load(keep(tmp_path / name, replay))), replay)


def test_an_empty_replay_is_a_replay(tmp_path: Path):
    assert_equal(restored(load(keep(tmp_path, new()))), new())
    assert files(tmp_path) == {}  # that the folder can be made is found out at the start


def test_a_replay_of_another_size_is_refused(tmp_path: Path):
    checkpoint, larger = load(keep(tmp_path, fill(new(), 300))), Replay({"number": 3}, 1, 2, 262)
    assert larger.segment == 2
    larger.load_state_dict(checkpoint.tensors)
    for replay in (larger, None):
        with pytest.raises(ValueError, match=r"segments \[85, .* were saved, the replay expects"):
            checkpoint.load_segments(replay)


def test_a_segment_that_is_damaged_after_it_was_verified_is_not_loaded(tmp_path: Path):
    checkpoint = load(keep(tmp_path, fill(new(), 11)))
    flip_a_bit(segment(tmp_path, 2))
    with pytest.raises(CheckpointError, match=r"segments/00000002-.* has sha256"):
        restored(checkpoint)


@pytest.mark.parametrize("size", [0, 100, 2000])
def test_a_disk_that_fills_up_costs_nothing_and_leaves_nothing(tmp_path: Path, size: int):
    """0: not one byte. 100: half a segment. 2000: the segments, and half of the state."""
    replay = fill(new(), 11)
    keep(tmp_path, replay)
    before = files(tmp_path)
    fill(replay, 17)
    state = {**replay.state_dict(), "weight": torch.zeros(1000)}
    with (
        largest_file(size),
        pytest.raises(CheckpointError, match=r"cannot save .*000000000017: File too large"),
    ):
        save(tmp_path, 17, state, {}, replay=replay)
    assert files(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000000011", SEGMENTS]
    assert_equal(restored(newest(tmp_path)[0]), fill(new(), 11))
    assert_equal(restored(load(keep(tmp_path, replay))), replay)  # with the disk free again it goes on


def test_a_read_only_folder_of_segments_is_a_clear_error_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    replay = fill(new(), 11)
    keep(tmp_path / "checkpoints", replay)
    before = files(tmp_path / "checkpoints")
    for folder, mode in ((tmp_path / "checkpoints/segments", 0o555), (tmp_path / "checkpoints", 0o777)):
        folder.chmod(mode)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the way here is closed to others
    with without_root(), pytest.raises(CheckpointError, match=r"cannot save .*Permission denied"):
        keep(Path("checkpoints"), fill(replay, 17))
    assert files(tmp_path / "checkpoints") == before
    load(tmp_path / "checkpoints/000000000011")


def test_sweeping_deletes_halves_and_segments_without_a_checkpoint(tmp_path: Path):
    replay = fill(new(), 11)
    keep(tmp_path, replay)
    before = files(tmp_path)
    (tmp_path / SEGMENTS / ".00000005-0123456789abcdef.safetensors.cdcdcdcd.tmp").write_bytes(b"half")
    (tmp_path / SEGMENTS / "00000005-0123456789abcdef.safetensors").write_bytes(
        b"whole, but the process died"
    )
    sweep(tmp_path)
    assert files(tmp_path) == before


def test_nothing_is_deleted_while_a_list_cannot_be_read(tmp_path: Path):
    keep(tmp_path, fill(new(), 11))
    before = files(tmp_path)
    (tmp_path / "000000000011" / MANIFEST).rename(tmp_path / "elsewhere")
    sweep(tmp_path)
    assert files(tmp_path) == before


LARGE = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from robokit.disk.checkpoint import load, newest, save, sweep
from robokit.learning.offpolicy.replay import Replay

torch.set_num_threads(1)
WIDTHS = {"obs": 17, "final_obs": 17, "action": 6, "reward": 1, "terminated": 1, "first": 1}
COLUMNS = torch.arange(17.0) / 7
parent = Path(sys.argv[1])


def new():
    return Replay(WIDTHS, 0, num_envs=1000, capacity=1_000_000)  # 67 segments of 15 control steps


def fill(replay, position):
    for step in range(replay.position, position):
        columns = {name: (step + COLUMNS[:width]).expand(1000, -1) for name, width in WIDTHS.items()}
        replay.add(columns, torch.empty(1000, 0))
    return replay


def keep(replay):
    save(parent, replay.position, replay.state_dict(), {"n": replay.position}, replay=replay)


def restored(checkpoint):
    replay = new()
    if checkpoint is not None:
        replay.load_state_dict(checkpoint.tensors)
        checkpoint.load_segments(replay)
    return replay


def size(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
"""

KILLED = """
random.seed(0)
keep(fill(new(), 5))
cut, at = 0, 5
for _ in range(int(sys.argv[2])):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        sweep(parent)
        replay = fill(restored(newest(parent)[0]), max(at, 1100))  # full
        os.write(writer, b"go")
        while True:
            fill(replay, replay.position + random.randint(1, 40))
            keep(replay)
            os.write(writer, replay.position.to_bytes(8, "little"))
    os.close(writer)
    os.read(reader, 2)
    time.sleep(random.uniform(0, 1.0))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    promised = at
    while told := os.read(reader, 8):
        promised = int.from_bytes(told, "little")
    os.close(reader)
    cut += any(parent.rglob("*.tmp"))
    checkpoint, skipped = newest(parent)
    assert not skipped, skipped
    assert checkpoint.steps >= promised, (checkpoint.steps, promised)
    replay = restored(checkpoint)
    at = checkpoint.steps
    assert replay.position == at and checkpoint.facts == {"n": at}
    for step in range(replay.oldest, at):
        row, start = replay.rows[step % replay.steps], 0
        for width in WIDTHS.values():
            assert bool((row[:, start : start + width] == step + COLUMNS[:width]).all()), step
            start += width
    random.seed(at)
sweep(parent)
listed = "".join(path.read_text() for path in parent.glob("*/SHA256SUMS"))
assert all(f"{path.name}\\n" in listed for path in (parent / "segments").iterdir())
print(json.dumps({"cut": cut, "at": at}))
"""

MEASURED = """
if sys.argv[2] == "save":
    replay = fill(new(), 1005)
    before = size("VmRSS")
    began = time.perf_counter()
    keep(replay)
    whole = time.perf_counter() - began
    fill(replay, 1005 + 30)
    began = time.perf_counter()
    keep(replay)
    again = time.perf_counter() - began
else:
    before, began, again = size("VmRSS"), time.perf_counter(), 0
    replay = restored(newest(parent)[0])
    before += replay.rows.nbytes
    whole = time.perf_counter() - began
print(json.dumps({"more": size("VmHWM") - before, "all": replay.rows.nbytes, "seconds": [whole, again]}))
"""


def run(program: str, *arguments: str) -> dict[str, int]:
    command = [sys.executable, "-c", LARGE + program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_twenty_kills_while_a_million_transitions_are_saved_lose_nothing(tmp_path: Path):
    seen = run(KILLED, str(tmp_path), "20")
    assert seen["cut"] >= 2  # kills that hit a save, and not the moment between two


@pytest.mark.slow
def test_saving_and_loading_take_little_memory_beside_the_replay(tmp_path: Path):
    for what in ("save", "load"):
        seen = run(MEASURED, str(tmp_path), what)
        assert seen["all"] == 172 * 1_005_000
        assert seen["more"] < 0.15 * seen["all"], what
