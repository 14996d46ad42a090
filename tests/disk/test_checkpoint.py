"""A checkpoint is complete or absent after a kill, a full disk or damage to its files."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from robokit.disk.checkpoint import FACTS, MANIFEST, TENSORS, load, newest, save, sweep
from robokit.errors import CheckpointError

STATE = {
    "weight": torch.tensor([[0.1, -2.0]]),
    "qpos": torch.tensor([1 / 3], dtype=torch.float64),
    "age": torch.tensor(7),
    "first": torch.tensor([True, False]),
    "rng": torch.Generator().manual_seed(3).get_state(),
    "empty": torch.zeros(2, 0),
}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path):
    loaded = load(save(tmp_path, 8, STATE, {"seconds": 0.1}))
    assert loaded.steps == 8
    assert loaded.facts == {"seconds": 0.1}
    assert loaded.tensors.keys() == STATE.keys()
    for name, value in STATE.items():
        assert loaded.tensors[name].dtype == value.dtype
        assert torch.equal(loaded.tensors[name], value)


def test_tensors_that_share_storage_are_saved_apart(tmp_path: Path):
    base = torch.arange(4.0)
    loaded = load(save(tmp_path, 1, {"all": base, "tail": base[2:], "turned": base.view(2, 2).T}, {}))
    assert loaded.tensors["tail"].tolist() == [2.0, 3.0]
    assert loaded.tensors["turned"].tolist() == [[0.0, 2.0], [1.0, 3.0]]


def test_the_two_newest_are_kept(tmp_path: Path):
    for steps in (5, 10, 1000):
        save(tmp_path, steps, STATE, {})
    assert names(tmp_path) == ["000000000010", "000000001000"]


def test_the_checksums_are_those_that_sha256sum_checks(tmp_path: Path):
    folder = save(tmp_path, 1, STATE, {})
    assert names(folder) == [MANIFEST, FACTS, TENSORS]
    subprocess.run(
        ["sha256sum", "--strict", "--check", MANIFEST], cwd=folder, check=True, capture_output=True
    )


@pytest.mark.parametrize("file", [TENSORS, FACTS, MANIFEST])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, file: str):
    path = save(tmp_path, 1, STATE, {"seconds": 1.0}) / file
    whole = path.read_bytes()
    for size in {0, 1, len(whole) // 2, len(whole) - 2}:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"000000000001 is damaged"):
            load(path.parent)


@pytest.mark.parametrize("file", [TENSORS, FACTS, MANIFEST])
def test_no_flipped_bit_changes_what_is_loaded(tmp_path: Path, file: str):
    path = save(tmp_path, 1, STATE, {"seconds": 1.0}) / file
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 7 + len(whole) // 50):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            loaded = load(path.parent)
        except CheckpointError:
            continue
        assert file == MANIFEST  # one blank may stand for another there
        assert all(torch.equal(loaded.tensors[name], value) for name, value in STATE.items())


@pytest.mark.parametrize("file", [TENSORS, FACTS, MANIFEST])
def test_a_missing_file_is_named(tmp_path: Path, file: str):
    folder = save(tmp_path, 1, STATE, {})
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        load(folder)


def test_the_newest_good_one_is_taken_and_the_others_are_named(tmp_path: Path):
    for steps in (10, 20, 30):
        save(tmp_path, steps, STATE, {"n": steps}, keep=3)
    os.truncate(tmp_path / "000000000030" / TENSORS, 100)

    def fits(checkpoint):
        if checkpoint.facts["n"] == 20:
            raise CheckpointError("000000000020 belongs to somebody else")

    checkpoint, skipped = newest(tmp_path, fits)
    assert checkpoint is not None
    assert checkpoint.steps == 10
    assert [s.count("000000000030 is damaged") or s for s in skipped] == [
        1,
        "000000000020 belongs to somebody else",
    ]


def test_all_damaged_is_an_error_and_none_is_not(tmp_path: Path):
    assert newest(tmp_path / "missing") == (None, [])
    os.truncate(save(tmp_path, 1, STATE, {}) / FACTS, 0)
    with pytest.raises(CheckpointError, match="no good checkpoint"):
        newest(tmp_path)


def test_a_damaged_future_does_not_push_out_the_present(tmp_path: Path):
    for steps in (10, 20, 30):
        save(tmp_path, steps, STATE, {}, keep=3)
    for steps in (20, 30):  # a resumed run went on from 10
        os.truncate(tmp_path / f"{steps:012d}" / TENSORS, 0)
    save(tmp_path, 15, STATE, {})
    assert names(tmp_path) == ["000000000010", "000000000015"]


def test_saving_over_a_damaged_one_replaces_it(tmp_path: Path):
    os.truncate(save(tmp_path, 10, {"x": torch.zeros(1)}, {}) / TENSORS, 0)
    save(tmp_path, 10, {"x": torch.ones(1)}, {})
    assert load(tmp_path / "000000000010").tensors["x"].tolist() == [1.0]
    assert names(tmp_path) == ["000000000010"]


def test_what_is_not_a_number_is_not_written_as_json(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        save(tmp_path, 1, STATE, {"return": float("nan")})
    assert names(tmp_path) == []


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel lets nobody in this process write a file beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def without_root() -> Iterator[None]:
    """File permissions hold, as they do not for root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("size", [0, 1000, 39_999])
def test_a_disk_that_fills_up_during_a_save_costs_nothing(tmp_path: Path, size: int):
    save(tmp_path, 1, STATE, {})
    with (
        largest_file(size),
        pytest.raises(CheckpointError, match=r"cannot save .*000000000002: File too large"),
    ):
        save(tmp_path, 2, {"x": torch.zeros(10_000)}, {})
    assert names(tmp_path) == ["000000000001"]
    assert torch.equal(load(tmp_path / "000000000001").tensors["weight"], STATE["weight"])


def test_a_read_only_folder_is_a_clear_error_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save(tmp_path / "checkpoints", 1, STATE, {})
    (tmp_path / "checkpoints").chmod(0o555)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the way here is closed to others
    with without_root(), pytest.raises(CheckpointError, match=r"cannot save .*Permission denied"):
        save(Path("checkpoints"), 2, STATE, {})
    assert names(tmp_path / "checkpoints") == ["000000000001"]
    load(tmp_path / "checkpoints/000000000001")


def test_a_file_in_the_way_is_a_clear_error(tmp_path: Path):
    (tmp_path / "checkpoints").write_text("not a folder")
    with pytest.raises(CheckpointError, match="cannot save"):
        save(tmp_path / "checkpoints", 1, STATE, {})


KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from robokit.disk.checkpoint import newest, save, sweep

parent, kills = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
random.seed(0)
cut, steps = 0, 0
for _ in range(kills):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        sweep(parent)
        for n in range(steps + 1, steps + 1000):
            save(parent, n, {"x": torch.full((200_000,), float(n))}, {"n": n})
            os.write(writer, n.to_bytes(8, "little"))
    os.close(writer)
    os.read(reader, 8)  # the first save has returned
    time.sleep(random.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    rest = os.read(reader, 8 * 1000)
    promised = max([steps + 1, *(int.from_bytes(rest[i : i + 8], "little") for i in range(0, len(rest), 8))])
    os.close(reader)
    cut += any(parent.glob(".*.tmp"))
    checkpoint, skipped = newest(parent)
    assert not skipped, skipped
    assert checkpoint.steps >= promised, (checkpoint.steps, promised)
    assert checkpoint.facts == {"n": checkpoint.steps}
    assert bool((checkpoint.tensors["x"] == checkpoint.steps).all())
    steps = checkpoint.steps
sweep(parent)
print(json.dumps({"steps": steps, "cut": cut, "left": sorted(p.name for p in parent.iterdir())}))
"""


@pytest.mark.medium
def test_fifty_kills_of_a_saving_process_lose_nothing(tmp_path: Path):
    command = [sys.executable, "-c", KILLED, str(tmp_path), "50"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["cut"] >= 5  # kills that hit a save, and not the moment between two
    assert seen["left"][-2:] == [f"{seen['steps'] - 1:012d}", f"{seen['steps']:012d}"]
    assert len(seen["left"]) <= 3  # the last kill may have come before the third was deleted


def test_sweeping_leaves_what_is_whole(tmp_path: Path):
    save(tmp_path, 1, STATE, {})
    (tmp_path / ".000000000002.ab12ab12.tmp").mkdir()
    (tmp_path / ".000000000002.ab12ab12.tmp" / TENSORS).write_bytes(b"half")
    sweep(tmp_path)
    assert names(tmp_path) == ["000000000001"]
