"""The replay buffer: steps kept, the distribution of sampled windows, checkpoints, memory limits."""

import math
import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

import robokit.learning.offpolicy.replay
from robokit.errors import OptionError
from robokit.learning.offpolicy.replay import Replay, check_fits, free_memory

STEPS = 195  # T of `filled`: 64 segments of S = 3 control steps and one more, as 194 were asked for
ENVS = 2
Window = tuple[tuple[int, ...], int]  # control steps, simulation


def filled(position: int, replay: Replay | None = None) -> Replay:
    """What it holds says where it belongs: (control step, simulation, even) and a belief of (step, -step)."""
    if replay is None:
        replay = Replay({"step": 1, "place": 2}, 2, ENVS, capacity=194 * ENVS)
    simulation = torch.arange(float(ENVS))
    for step in range(replay.position, position):
        now = torch.full((ENVS,), float(step))
        place = torch.stack([simulation, now % 2 == 0], -1)
        replay.add({"step": now, "place": place}, torch.stack([now, -now], -1))
    return replay


def kept(position: int) -> list[int]:
    """A plain list of the control steps: a new segment of a full ring forgets the oldest three."""
    steps: list[int] = []
    for step in range(position):
        if len(steps) > STEPS - 3 and step % 3 == 0:
            del steps[:3]
        steps.append(step)
    return steps


def windows(rows: Tensor) -> Iterator[Window]:
    for m in range(rows.shape[1]):
        (simulation,) = set(rows[:, m, 1].int().tolist())
        yield tuple(rows[:, m, 0].int().tolist()), simulation


POSITIONS = [1, 7, 194, 195, 196, 198, 200, 389, 390, 391, 1000]


@pytest.mark.parametrize("position", POSITIONS)
def test_what_is_kept_is_the_last_whole_segments_and_the_one_being_filled(position: int):
    replay, steps = filled(position), kept(position)
    assert (replay.oldest, len(replay)) == (steps[0], len(steps))
    assert len(steps) >= min(position, STEPS - 2)  # T - S + 1 at least
    for step in steps:
        assert replay.rows[step % STEPS].tolist() == [[step, n, step % 2 == 0] for n in range(ENVS)]
        assert replay.beliefs[step % STEPS].tolist() == [[step, -step]] * ENVS


@pytest.mark.parametrize("length", [1, 4, 190])
@pytest.mark.parametrize("position", [190, 195, 196, 200, 391])
def test_every_window_that_is_kept_comes_equally_often_and_no_other(position: int, length: int):
    steps = kept(position)
    possible = {
        (tuple(steps[i : i + length]), n) for i in range(len(steps) - length + 1) for n in range(ENVS)
    }
    draws = 50 * len(possible)
    rows, belief = filled(position).sample(draws, length, torch.Generator().manual_seed(position))
    assert rows.shape == (length, draws, 3) and belief.shape == (draws, 2)
    counted = Counter(windows(rows))
    assert counted.keys() == possible
    assert all(after - before == 1 for window, _ in counted for before, after in pairwise(window))
    excess = sum((count - 50) ** 2 / 50 for count in counted.values())  # chi squared
    freedom = len(possible) - 1
    assert abs(excess - freedom) < 4 * math.sqrt(2 * freedom) + 4


def test_the_belief_is_that_before_the_first_step_of_its_window():
    rows, belief = filled(300).sample(500, 5, torch.Generator().manual_seed(0))
    assert torch.equal(belief[:, 0], rows[0, :, 0])
    assert torch.equal(belief[:, 1], -rows[0, :, 0])


def test_a_window_longer_than_what_is_kept_is_refused():
    replay, rng = filled(7), torch.Generator()
    assert set(windows(replay.sample(9, 7, rng)[0])) <= {(tuple(range(7)), n) for n in range(ENVS)}
    for length in (0, 8):
        with pytest.raises(ValueError, match=f"1 to the 7 control steps kept, got {length}"):
            replay.sample(1, length, rng)
    with pytest.raises(ValueError, match="0 control steps kept, got 1"):
        filled(0).sample(1, 1, rng)


def test_equal_generators_give_equal_windows():
    one, other = (filled(250).sample(50, 3, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_numbers_come_back_bit_for_bit_flags_as_0_and_1_without_a_belief():
    replay = Replay({"obs": 3, "reward": 1, "done": 1}, 0, num_envs=4, capacity=8)
    rng = torch.Generator().manual_seed(0)
    added = [
        (torch.randn(4, 3, generator=rng), torch.randn(4, generator=rng), torch.tensor([True, False] * 2))
        for _ in range(5)
    ]
    for obs, reward, done in added:
        replay.add({"done": done, "reward": reward, "obs": obs}, torch.empty(4, 0))  # any order
    for step in (3, 4):  # two are kept
        obs, reward, done = added[step]
        assert torch.equal(
            replay.rows[step % 2], torch.cat([obs, reward[:, None], done[:, None].float()], -1)
        )
    rows, belief = replay.sample(6, 1, rng)
    assert rows.dtype == torch.float32 and belief.shape == (6, 0)


@pytest.mark.parametrize(
    ("num_envs", "capacity", "steps", "segment"),
    [
        (1, 1, 1, 1),
        (3, 10, 4, 1),
        (1, 127, 127, 1),
        (1, 128, 128, 2),
        (1, 129, 130, 2),
        (1, 10**6, 10**6, 15_625),
        (1024, 10**6, 990, 15),  # 977 were asked for
    ],
)
def test_the_ring_holds_what_was_asked_for_rounded_up_to_whole_segments(
    num_envs: int, capacity: int, steps: int, segment: int
):
    replay = Replay({"obs": 1}, 0, num_envs, capacity)
    assert (replay.steps, replay.segment, len(replay.rows)) == (steps, segment, steps)


def test_a_transition_takes_four_bytes_a_number():
    replay = Replay({"obs": 17, "final_obs": 17, "action": 6, "reward": 1}, 8, num_envs=2, capacity=8)
    assert replay.bytes_per_transition == 4 * (17 + 17 + 6 + 1 + 8)
    assert replay.rows.nbytes + replay.beliefs.nbytes == 8 * replay.bytes_per_transition


def test_a_size_that_does_not_fit_is_refused_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch):
    free = 172 * 1005  # 1000 are rounded up to 67 segments of 15
    monkeypatch.setattr(robokit.learning.offpolicy.replay, "free_memory", lambda device: free)
    check_fits({"obs": 40}, 3, 1, 1000)
    words = r"replay \(1006 transitions of 172 bytes\) takes 0.000175 GB; 0.000173 GB are free on cpu"
    with pytest.raises(OptionError, match=words):
        Replay({"obs": 40}, 3, 1, 1006)
    monkeypatch.setattr(robokit.learning.offpolicy.replay, "free_memory", lambda device: None)
    check_fits({"obs": 40}, 3, 1, 10**15)  # nobody can tell


@pytest.mark.parametrize(("num_envs", "capacity"), [(1, 0), (1, -5), (8, 7)])
def test_a_replay_without_a_step_of_each_simulation_is_refused(num_envs: int, capacity: int):
    words = rf"replay must hold at least one control step of each simulation \({num_envs}\), got {capacity}"
    with pytest.raises(OptionError, match=words):
        Replay({"obs": 1}, 0, num_envs, capacity)


def test_free_memory_is_that_of_the_machine():
    free = free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert free_memory(torch.device("meta")) is None


@pytest.mark.parametrize(
    ("most", "free"),
    [
        ("8000000", 8_000_000 - 7_900_000 + 6_000_000),  # what is cached of files is given up on demand
        ("1000000", 0),
        ("90000000000", 10_000 * 1024),  # of the machine there is less
        ("max", 10_000 * 1024),
        (None, 10_000 * 1024),
    ],
)
def test_a_container_may_have_less_memory_than_its_machine(
    most: str | None, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "meminfo").write_text("MemTotal: 20000 kB\nMemAvailable: 10000 kB\n")
    files = {"max": most, "current": "7900000", "stat": "anon 1900000\ninactive_file 6000000\n"}
    for name, text in files.items():
        if text is not None:
            (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(robokit.learning.offpolicy.replay, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(robokit.learning.offpolicy.replay, "CGROUP", tmp_path)
    assert free_memory(torch.device("cpu")) == free


def copied(replay: Replay) -> Replay:
    """Another one, from its state and its segments alone."""
    other = filled(50)  # that was somewhere else
    other.load_state_dict({name: value.clone() for name, value in replay.state_dict().items()})
    for number, tensors in replay.segments().items():
        other.load_segment(number, {name: value.clone() for name, value in tensors.items()})
    return other


@pytest.mark.parametrize("position", [0, *POSITIONS, 197, *random.Random(0).sample(range(2, 800), 20)])
def test_state_and_segments_bring_back_every_bit_that_is_kept(position: int):
    replay = filled(position)
    other = copied(replay)
    assert (other.position, other.oldest) == (position, replay.oldest)
    slots = [step % STEPS for step in kept(position)]
    assert torch.equal(other.rows[slots], replay.rows[slots])
    assert torch.equal(other.beliefs[slots], replay.beliefs[slots])
    draws = [
        filled(position + 250, r).sample(100, 3, torch.Generator().manual_seed(1)) for r in (replay, other)
    ]  # they go on alike
    assert torch.equal(draws[0][0], draws[1][0]) and torch.equal(draws[0][1], draws[1][1])


def test_segments_and_tail_are_views_and_together_all_that_is_kept():
    replay = filled(200)  # steps 6 to 199: the ring is in segment 66, which is not whole
    segments = replay.segments()
    assert [*segments] == list(range(2, 66))
    assert [*segments[65]["rows"][:, 0, 0]] == [195, 196, 197]
    assert replay.state_dict()["tail"][:, 0, 0].tolist() == [198, 199]
    views = [*segments[2].values(), *segments[65].values(), replay.state_dict()["tail"]]
    storages = {kept.untyped_storage().data_ptr() for kept in (replay.rows, replay.beliefs)}
    assert {view.untyped_storage().data_ptr() for view in views} == storages
    assert all(view.is_contiguous() for view in views)


def test_a_whole_segment_never_changes_until_it_is_forgotten():
    replay, seen = filled(0), dict[int, Tensor]()
    for position in range(0, 600, 7):
        filled(position, replay)
        for number, tensors in replay.segments().items():
            assert torch.equal(seen.setdefault(number, tensors["rows"].clone()), tensors["rows"])
    assert len(seen) == 595 // 3


def test_going_to_another_position_forgets_which_files_hold_the_segments():
    replay = filled(9)
    replay.digests = {0: "abc"}
    replay.load_state_dict(filled(6).state_dict())
    assert replay.digests == {}


def test_what_a_replay_of_this_size_cannot_have_saved_is_refused():
    replay, larger = filled(8), Replay({"step": 1, "place": 2}, 2, ENVS, 1000)
    filled(200, larger)
    with pytest.raises(
        ValueError, match=r"tail of a replay of this size is \(2, 2, 3\) torch.float32, got \(4"
    ):
        replay.load_state_dict(larger.state_dict())
    with pytest.raises(ValueError, match=r"no segment 2 is kept at control step 8; it keeps \[0, 1\]"):
        replay.load_segment(2, replay.segments()[1])
    with pytest.raises(ValueError, match=r"rows of segment 1 of a replay of this size is \(3, 2, 3\)"):
        replay.load_segment(1, larger.segments()[1])
