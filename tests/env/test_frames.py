"""Sensors with frames of their own, and rigid offsets."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from cart import PERIODS, Cart, actions, but, new, refusal, same
from sensors import CPU, DT, hits, play
from torch import Tensor

from robokit.env.sensing import Sensors, moved, rigid
from robokit.errors import TaskError
from robokit.sim.base import Sim
from robokit.task.sense import Sense


class Slow(Cart):
    """An encoder and a camera with frames, noise, delays and dropouts; episodes end early and late."""

    sensing = {
        "slide": Sense(noise=0.1, bias=0.1, delay=(0.0, 0.03), rate=(10.0, 40.0), dropout=0.2, loss=1.0),
        "tip": Sense(noise=0.01, delay=0.02, rate=15.0, offset=0.05, rotation=0.1),
    }


# -- frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "ages"), [(25.0, [0, 1]), (10.0, [0, 1, 2, 3, 4]), (50.0, [0]), (51.0, [0]), ((100, 200), [0])]
)
def test_a_reading_stands_until_the_next_frame(rate: Any, ages: list[int]):
    """Control at 50 Hz; the truth counts the control steps. From 50 Hz on each step has its own."""
    truth = torch.arange(60.0)[:, None, None].expand(-1, 50, 1)
    age = (truth - play({"a": 1}, truth, a=Sense(rate=rate)))[10:, :, 0].long()
    period = len(ages)
    for n in range(50):
        start = int((age[:, n] == 0).nonzero()[0])
        assert age[start:, n].tolist() == [t % period for t in range(50 - start)]
    assert len({int((age[:, n] == 0).nonzero()[0]) for n in range(50)}) == period  # phases differ


def test_frames_are_those_of_a_loop_over_their_times():
    """Between 5 and 45 Hz at a control rate of 50 Hz; two terms, each with its rate and phase."""
    sense, n, steps = Sense(rate=(5.0, 45.0)), 40, 200
    sensors = Sensors({"a": sense, "b": sense}, {"a": 2, "b": 1, "c": 1}, DT, n, CPU)
    rng, truth, seen = torch.Generator().manual_seed(0), torch.randn(steps, n, 4), list[Tensor]()
    sensors.restart(torch.arange(n), rng)
    rate, phase = sensors.rate.clone() / DT, sensors.phase.clone()  # Hz, part of a frame's time
    for t in range(steps):
        if t:
            sensors.advance(rng)
        seen.append(sensors.read(truth[t]))
    assert 5 <= rate[:, :2].min() < 7 and 43 < rate[:, :2].max() <= 45
    assert phase[:, :2].min() < 0.05 and 0.95 < phase[:, :2].max() < 1
    for i in range(n):
        for term, column in ((0, 0), (0, 1), (1, 2)):
            frequency, begun = rate[i, term].item(), phase[i, term].item()
            frames = [0.0] + [(k - begun) / frequency for k in range(1, 400)]  # s; the first at the start
            for t in range(steps):
                last = max(frame for frame in frames if frame <= t * DT + 1e-9)
                assert t * DT - last < 1 / frequency + 1e-9
                taken = math.ceil(last / DT - 1e-6)  # the first control step from then on
                assert seen[t][i, column] == truth[taken, i, column]
    assert torch.equal(torch.stack(seen)[..., 3], truth[..., 3])


def test_noise_is_drawn_for_a_frame_and_held_with_it_and_a_lost_frame_is_not_made_up_for():
    truth = torch.zeros(400, 100, 1)
    seen = play({"a": 1}, truth, a=Sense(noise=1.0, rate=10.0, dropout=0.25))[..., 0]
    new_ones = (seen[1:] != seen[:-1]).float()
    assert new_ones.mean().item() == pytest.approx(0.2 * 0.75, rel=0.03)
    assert seen.std().item() == pytest.approx(1.0, rel=0.03)
    gaps = [int(gap) for column in new_ones.T for gap in column.nonzero()[:, 0].diff()]
    assert {gap % 5 for gap in gaps} == {0} and max(gaps) >= 15


def test_an_episode_begins_with_a_frame_and_draws_its_own_rate_and_phase():
    truth, begins = torch.arange(80.0)[:, None, None].expand(-1, 300, 1), hits(80, 300, {40: slice(0, 150)})
    seen = play({"a": 1}, truth, begins, a=Sense(rate=(10.0, 25.0), delay=2 * DT))[..., 0]
    assert (seen[40, :150] == 40).all() and (seen[40, 150:] < 40).all()
    frames = (seen[1:] != seen[:-1]).float()
    before, after = frames[3:39].sum(0), frames[43:].sum(0)
    assert before.min() > 6.5 and before.max() < 19.5
    first = torch.corrcoef(torch.stack((before, after))[:, :150])[0, 1]
    others = torch.corrcoef(torch.stack((before, after))[:, 150:])[0, 1]
    assert first < 0.3 and others > 0.9


# -- offsets -------------------------------------------------------------------------------------


def test_a_position_and_an_orientation_are_moved_by_hand():
    """A quarter turn about z, then 1 m up: x becomes y, and the identity the turn itself."""
    half = math.sqrt(0.5)
    by = torch.tensor([[0.0, 0, 1, half, 0, 0, half]])
    pose = torch.tensor([[2.0, 0, 0, 1, 0, 0, 0]])
    assert moved(pose, by)[0].tolist() == pytest.approx([0, 2, 1, half, 0, 0, half], abs=1e-6)
    assert torch.equal(moved(pose[:, :3], by), moved(pose, by)[:, :3])
    assert torch.equal(moved(pose[:, 3:], by), moved(pose, by)[:, 3:])
    quarter = torch.tensor([[half, half, 0.0, 0.0]])  # about x; z after x: (1 + i)(1 + k) / 2, times k first
    assert moved(quarter, by)[0].tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5], abs=1e-6)


def test_a_rigid_offset_is_compiled_whole():
    """A call that torch.compile cannot follow would run every observation of such a task eager."""
    pose, by = torch.rand(2, 7), torch.rand(2, 7)
    compiled = torch.compile(moved, fullgraph=True, backend="eager")
    assert torch.equal(compiled(pose, by), moved(pose, by))


def test_an_offset_is_rigid_and_uniform_and_constant_in_an_episode():
    sense, begins = Sense(offset=0.1, rotation=0.5), hits(6, 4000, {3: slice(0, 2000)})
    truth = torch.randn(6, 4000, 3)
    seen = play({"a": 3}, truth, begins, a=sense)
    first = (seen[0] - seen[1]).norm(dim=-1) - (truth[0] - truth[1]).norm(dim=-1)
    assert first.abs().max() < 1e-5  # distances of points stay
    points = play({"a": 3}, torch.zeros(6, 4000, 3), begins, a=sense)
    assert torch.equal(points[0], points[2]) and torch.equal(points[3, 2000:], points[0, 2000:])
    assert not (points[3, :2000] == points[0, :2000]).any()
    radius = points[0].norm(dim=-1)
    assert radius.max() <= 0.1 + 1e-6 and (radius / 0.1).pow(3).mean().item() == pytest.approx(0.5, abs=0.02)
    assert points[0].mean(0).abs().max() < 0.005
    turned = play({"a": 4}, torch.tensor([1.0, 0, 0, 0]).expand(1, 4000, 4), a=sense)[0]
    angle = 2 * turned[:, 0].acos()
    assert angle.max() <= 0.5 + 1e-3 and angle.mean().item() == pytest.approx(0.25, abs=0.01)
    assert turned[:, 1:].mean(0).abs().max() < 0.01


def test_terms_without_an_offset_stay_and_others_have_their_own():
    truth = torch.randn(3, 50, 12)
    seen = play({"a": 2, "pose": 7, "b": 3}, truth, pose=Sense(offset=0.1), b=Sense(offset=0.1))
    assert torch.equal(seen[..., :2], truth[..., :2])
    assert torch.allclose(seen[..., 5:9], truth[..., 5:9])  # no rotation
    shifts = (seen - truth)[0]
    assert (shifts[:, 2:5].norm(dim=-1) > 0).all() and (shifts[:, 9:] - shifts[:, 2:5]).abs().min() > 0


def test_terms_of_one_source_have_one_offset_and_the_first_is_as_it_was_alone():
    """A camera 3 mm off is so for all that it sees; another source, frame or size is another offset."""
    see = Sense(offset=0.1, source="camera")
    others = Sense(offset=0.1, source="lidar"), Sense(offset=0.2, source="camera"), replace(see, frame="hand")
    begins, (c, d, e) = hits(4, 50, {2: slice(0, 25)}), others
    seen = play(dict.fromkeys("abcde", 3), torch.zeros(4, 50, 15), begins, a=see, b=see, c=c, d=d, e=e)
    a, b, *rest = seen[[0, 2, 3]].split(3, -1)  # the last truths before a new episode are NaN
    assert torch.equal(a, b) and not (a[1, :25] == a[0, :25]).any()
    assert not any((a == other).any() for other in rest)
    alone = play({"a": 3}, torch.zeros(4, 50, 3), begins, a=replace(see, source=None))
    assert torch.equal(alone[0], a[0])


def test_a_motion_of_zero_moves_nothing():
    pose = torch.randn(5, 7)
    assert torch.allclose(moved(pose, rigid(Sense(), 5, torch.Generator(), CPU)), pose, atol=1e-6)


# -- of an environment ---------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 7, PERIODS, 33])
def test_a_saved_environment_continues_bit_for_bit_with_frames_and_offsets(cut: int):
    env, other = new(Slow, 4, seed=1), new(Slow, 4, seed=9)
    env.reset(stagger=True)
    for action in actions(cut, 4, seed=1):
        env.step(action)
    for action in actions(5, 4, seed=3):
        other.step(action)
    other.load_state_dict(env.state_dict())
    for action in actions(2 * PERIODS, 4, seed=2):
        assert same(env.step(action), other.step(action))


def test_nominal_is_exact():
    env = new(Slow, 4, nominal=True)
    for action in actions(PERIODS, 4):
        step = env.step(action)
        assert torch.equal(step.obs, step.state[:, : env.obs_dim])


@pytest.mark.medium  # Warp compiles or loads its kernels
def test_warp_has_the_frames_and_offsets_of_mujoco():
    pytest.importorskip("mujoco_warp")

    class Held(Cart):
        """Draws of the model's masses differ between the engines' memory: none here."""

        sensing = Slow.sensing

        def randomize(self, sim: Sim, rng: torch.Generator) -> dict[str, Tensor]:
            return {}

    cpu = new(Held, 3, seed=1)
    warp = type(cpu)(Held(), 3, seed=1, sim="warp")
    off, other = (env.obs[:, 2:5] - env.state[:, 2:5] for env in (cpu, warp))
    assert torch.allclose(off, other, atol=1e-5) and off.abs().min() > 0
    assert torch.equal(cpu.sensors.rate, warp.sensors.rate)
    assert torch.equal(cpu.sensors.phase, warp.sensors.phase)


# -- bad input -----------------------------------------------------------------------------------


NO_RATE: list[Any] = [0, -1.0, math.nan, math.inf, (0.0, 10.0), (20.0, 10.0), (1, 2, 3), True, "10"]


def test_a_figure_that_cannot_be_is_refused():
    for rate in NO_RATE:
        with pytest.raises(TaskError) as error:
            Sense(rate=rate)
        assert str(error.value).startswith("Sense.rate must be Hz > 0, or a range (from, to) of them, got ")
        assert str(error.value).endswith(f"got {rate!r}")


@pytest.mark.parametrize("what", [{"offset": 0.1}, {"rotation": 0.1}])
def test_an_offset_of_what_is_no_pose_is_refused(what: Any):
    said = refusal(but(sensing={"slide": Sense(**what)}))
    rule = (
        "takes an offset or rotation, and is no position (3 numbers), quaternion (4), or both (7): it has 1"
    )
    assert said == f"But.sensing['slide'] {rule}"
