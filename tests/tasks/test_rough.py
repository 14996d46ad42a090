"""Rough ground: levels are heights, evaluation is at the top, clearance and scan are of the ground below."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import robokit
from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.networks.mirror import reflections
from robokit.tasks import go2_walk
from robokit.training.setup.build import Setup, build_learner, options

LEVELS, Rough, RoughScan = go2_walk.LEVELS, go2_walk.Rough, go2_walk.RoughScan
SLOPE, STEPS, ROUGH = range(3)  # columns of the ground
TOP = LEVELS - 1


def tile_of(place: Tensor) -> tuple[Tensor, Tensor]:
    """(level, kind) of the tiles that places (N, 2 or 3) of the world lie on."""
    ground = Rough.ground
    edge = torch.tensor([len(ground.kinds), ground.levels]) * ground.tile / 2
    kind, level = ((place[:, :2] + edge) / ground.tile).floor().long().unbind(-1)
    return level, kind


def at(level: int, kind: int, x: float = 0.0, y: float = 0.0) -> list[float]:
    """A place (x, y) from the middle of a tile, in the world."""
    ground = Rough.ground
    column, row = kind - (len(ground.kinds) - 1) / 2, level - (ground.levels - 1) / 2
    return [column * ground.tile + x, row * ground.tile + y]


def poses(env: Env, places: list[list[float]], yaws: list[float], above: float = 0.5) -> Tensor:
    """(N, 19) qpos at home, with the base above the ground of its place, m, and turned, rad."""
    qpos = env.sim.keyframe("home").qpos.repeat(len(places), 1)
    qpos[:, :2] = torch.tensor(places)
    ground = env.task.ground  # pyright: ignore[reportAttributeAccessIssue]
    qpos[:, 2] = above + (ground.height(env.sim, qpos[:, None, :2])[:, 0] if ground else 0.0)
    half = torch.tensor(yaws).double() / 2
    qpos[:, 3], qpos[:, 6] = half.cos(), half.sin()
    return qpos


# -- levels --------------------------------------------------------------------------------------------------


def test_the_top_level_has_steps_of_8_cm_slopes_of_15_degrees_and_heights_within_4_cm():
    ground, n = Rough.ground, round(Rough.ground.tile / Rough.ground.cell)
    border = round(ground.border / ground.cell)
    heights = ground.heights[border:-border, border:-border]
    for level in range(LEVELS):
        rows = heights[level * n : (level + 1) * n + 1]
        share, middle = (level + 1) / LEVELS, n // 2
        slope, steps, rough = (rows[:, k * n : (k + 1) * n + 1] for k in range(3))
        grade = np.diff(slope[middle])[: round(4.5 / ground.cell)] / ground.cell  # up to the flat middle
        np.testing.assert_allclose(grade, math.tan(math.radians(15)) * share, rtol=1e-3)
        risers = np.diff(steps[middle])
        np.testing.assert_allclose(abs(risers[risers != 0]), 0.08 * share, rtol=1e-3)
        assert (risers > 0).sum() == (risers < 0).sum() == 15  # each within one cell, up and down
        assert 0.9 * 0.04 * share < abs(rough).max() <= 0.04 * share
    assert ground.cell <= 0.1


def test_in_evaluation_every_episode_begins_on_the_top_level_on_all_kinds_facing_anywhere():
    sim = Env(Rough(), 90, threads=1, seed=1).sim
    level, kind = tile_of(sim.qpos)
    assert (level == TOP).all()
    assert sorted(set(kind.tolist())) == [SLOPE, STEPS, ROUGH]
    assert (torch.bincount(kind) > 15).all()
    turned = sim.body("base").xmat
    assert torch.atan2(turned[:, 3], turned[:, 0]).abs().max() > 3.0


def test_in_training_an_episode_begins_on_the_tile_of_its_level():
    env = Env(Rough(), 60, threads=1, training=True)
    assert (tile_of(env.sim.qpos)[0] == 0).all()
    wanted = torch.arange(60) % LEVELS
    env.sim.memory["level"][:, 0] = wanted
    start = env.task.reset(env.sim, torch.Generator().manual_seed(0))["qpos"]
    assert torch.equal(tile_of(start)[0], wanted)


def test_feet_start_above_the_ground_and_near_it():
    env = Env(Rough(), 200, threads=1, nominal=True)
    lowest = env.task._feet_height(env.sim).amin(-1)  # pyright: ignore[reportAttributeAccessIssue]
    assert (lowest > -0.03).all()
    assert (lowest < 0.15).all()
    assert (lowest < 0).double().mean() < 0.05


# -- the ground below ----------------------------------------------------------------------------------------


def test_rewards_terminations_and_clearance_are_those_of_a_plane_at_the_height_of_the_ground():
    """The flat middle of a pyramid, 1.2 m high, is a plane to the robot on it."""
    rough, plane = (Env(task, 3, nominal=True, threads=1) for task in (Rough(), go2_walk.Go2Walk()))
    plane.task.swing = Rough.swing  # pyright: ignore[reportAttributeAccessIssue]
    found = []
    for env in (rough, plane):
        places = [at(TOP, kind) if env is rough else [0.0, 0.0] for kind in (SLOPE, STEPS, SLOPE)]
        qpos = poses(env, places, [0.0, 0.0, 0.0])
        for i, height in enumerate((0.289, 0.4, 0.1)):
            qpos[i, 2] += height - 0.5
        command = {"velocity": torch.tensor([[0.5, 0.0, 0.0]]).repeat(3, 1)}
        clock = {"clock": torch.tensor([[1.0, 0.0]]).repeat(3, 1)}  # two feet in the middle of their swing
        env.sim.reset(None, {"qpos": qpos, **command, **clock})
        task: Any = env.task
        terms = task.rewards(env.sim, torch.zeros(3, 12))
        found.append((terms["gait"], terms["height"], task._feet_height(env.sim), task.terminated(env.sim)))
    height = poses(rough, [at(TOP, STEPS)], [0.0], 0.0)[0, 2]
    assert float(height) == pytest.approx(15 * 0.08, abs=1e-6)
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), atol=1e-6, rtol=0)
    assert found[0][3].tolist() == [False, False, True]


def test_a_scan_turns_with_the_robot_and_is_the_ground_above_the_base():
    env = Env(RoughScan(), 3, nominal=True, threads=1)
    places = [at(TOP, STEPS, 2.0, 1.0), at(TOP, SLOPE, -2.0, 1.5), at(TOP, ROUGH, 2.0, 2.0)]
    yaws = [0.0, 0.7, -2.5]
    qpos = poses(env, places, yaws)
    env.sim.reset(None, {"qpos": qpos})
    grid = torch.tensor(go2_walk.AROUND).view(-1, 2).tolist()
    by_hand = torch.zeros(3, len(grid)).double()
    for i, ((x, y), yaw) in enumerate(zip(places, yaws, strict=True)):
        c, s = math.cos(yaw), math.sin(yaw)
        world = [[x + c * a - s * b, y + s * a + c * b] for a, b in grid]
        below = env.task.ground.height(env.sim, torch.tensor(world).double().repeat(3, 1, 1))  # pyright: ignore[reportAttributeAccessIssue]
        by_hand[i] = below[0] - qpos[i, 2]
    torch.testing.assert_close(env.task.observe(env.sim)["scan"], by_hand, atol=1e-5, rtol=0)
    assert (by_hand.std(-1) > 0.01).all()


def test_a_mirrored_place_has_the_mirrored_scan():
    """A pyramid is the same left and right of its middle."""
    env = Env(RoughScan(), 2, nominal=True, threads=1)
    places = [at(TOP, STEPS, 1.3, side * 0.8) for side in (1, -1)]
    env.sim.reset(None, {"qpos": poses(env, places, [0.4, -0.4])})
    scan = env.task.observe(env.sim)["scan"]
    widths = {"scan": scan.shape[1]}
    of_scan, _ = reflections({k: env.task.mirror[k] for k in ("scan", "action")}, widths)
    torch.testing.assert_close(of_scan(scan[0]), scan[1], atol=1e-5, rtol=0)
    assert (scan[0] - scan[1]).abs().max() > 0.05


def test_blind_it_observes_what_the_flat_task_does_and_with_a_scan_40_heights_more():
    plane, blind, seeing = (
        Env(task, 2, threads=1).names for task in (go2_walk.Go2Walk(), Rough(), RoughScan())
    )
    assert blind.obs == plane.obs
    assert seeing.obs == {**plane.obs, "scan": 40}
    assert blind.state["privileged scan"] == 40
    assert "privileged scan" not in seeing.state


def test_a_map_reads_late_and_off():
    env = Env(RoughScan(), 64, threads=1, seed=2)
    for _ in range(10):
        env.step(torch.zeros(64, 12))
    off = env.terms()["scan"] - env.task.observe(env.sim)["scan"]
    assert 0.01 < float(off.std()) < 0.2


# -- success -------------------------------------------------------------------------------------------------


def test_success_is_to_stand_and_to_have_followed_the_command_of_late():
    env = Env(Rough(), 8, threads=1, seed=4)
    error, column = np.ones(8), env.names.metrics.index("success")
    for _ in range(60):
        command = env.sim.memory["velocity"].clone()
        step = env.step(torch.zeros(8, 12))
        off = (env.sim.sensor("velocity")[:, :2] - command[:, :2]).norm(dim=-1).numpy()
        error += (off - error) * 0.02 / 4.0
        on = ~step.done.numpy()
        np.testing.assert_allclose(env.sim.memory["error"][on, 0].numpy(), error[on], rtol=1e-5)
        error[~on] = 1.0
        assert not step.metrics[:, column].any()  # no episode has lasted
    home = env.sim.keyframe("home").qpos.expand(8, -1) + torch.tensor([0.0] * 2 + [9.0] + [0.0] * 16)
    still = torch.zeros(8, 3)
    env.sim.reset(None, {"qpos": home, "velocity": still, "error": torch.tensor([[0.24, 0.26] * 4]).T})
    assert env.task.metrics(env.sim)["success"].tolist() == [True, False] * 4


def test_a_robot_that_lies_has_no_success():
    env = Env(Rough(), 2, threads=1)
    qpos = poses(env, [at(TOP, STEPS)] * 2, [0.0, 0.0], 0.3)
    qpos[1, 3:7] = torch.tensor([0.5, 0.866, 0.0, 0.0])
    env.sim.reset(None, {"qpos": qpos, "velocity": torch.zeros(2, 3), "error": torch.zeros(2, 1)})
    metrics = env.task.metrics(env.sim)
    assert metrics["fell"].tolist() == [False, True]
    assert metrics["success"].tolist() == [True, False]


# -- bad input -----------------------------------------------------------------------------------------------


def test_a_tile_smaller_than_the_robot_is_refused_before_training():
    class Small(Rough):
        ground = replace(Rough.ground, tile=0.6, middle=0.1)

    said = r"a tile must be as large as the robot, 0\.70 m; got tile 0\.6 m"
    with pytest.raises(TaskError, match=said):
        Env(Small(), 2, threads=1)
    with pytest.raises(TaskError, match=said):
        build_learner(Small(), Setup(threads=1), options(Small(), "ppo"))


def test_the_task_is_there_by_its_name():
    assert type(robokit.make("go2_walk:Rough", 2, threads=1).task).__name__ == "Rough"
