"""Rough ground: its heights are MuJoCo's own, its rims are flat, its levels grow."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest
import torch

from robokit.errors import ModelError, TaskError
from robokit.sim.engines import make_sim
from robokit.sim.terrain import KINDS, Terrain

SCENE = """<mujoco><worldbody><geom name="floor" type="plane" size="9 9 .1" friction=".7 .1 .1" condim="4"/>
  <body name="ball" pos="0 0 3"><freejoint/><geom size=".05"/></body></worldbody></mujoco>"""
OPTION = '<option timestep=".01"/>'
SMALL = Terrain(tuple(KINDS), levels=3, tile=4.0, middle=1.0)


def sim_of(terrain: Terrain, num_envs: int = 2, engine: str = "mujoco"):
    spec = terrain.added(mujoco.MjSpec.from_string(SCENE), floor="floor")
    sim = make_sim(engine, spec, num_envs, {}, **({"device": "cpu"} if engine == "warp" else {}))
    sim.highest = terrain.levels - 1
    return sim


def test_heights_are_those_of_a_ray():
    sim, rng = sim_of(SMALL), np.random.default_rng(0)
    data = mujoco.MjData(sim.model)
    mujoco.mj_forward(sim.model, data)
    points = rng.uniform((-11.9, -5.9), (11.9, 5.9), (400, 2))
    found = SMALL.height(sim, torch.from_numpy(points).expand(2, -1, -1))
    geom, group = np.zeros(1, np.int32), np.array([1, 1, 1, 1, 1, 1], np.uint8)
    ball = sim.model.body("ball").id
    rays = [
        3 - mujoco.mj_ray(sim.model, data, [*xy, 3.0], [0, 0, -1.0], group, 1, ball, geom, None)
        for xy in points
    ]
    np.testing.assert_allclose(found[1].numpy(), rays, atol=1e-6)
    assert np.ptp(rays) > 0.3


def test_a_border_is_flat_ground_around_the_same_tiles():
    wide = replace(SMALL, border=2.0)
    n = round(2.0 / SMALL.cell)
    assert np.array_equal(wide.heights[n:-n, n:-n], SMALL.heights)
    assert wide.heights.sum() == pytest.approx(SMALL.heights.sum())
    tiles = torch.tensor([0, 2]), torch.tensor([1, 3])
    assert torch.equal(wide.start(sim_of(wide), *tiles), SMALL.start(sim_of(SMALL), *tiles))
    with pytest.raises(ModelError, match=r"a border must be a whole number of cells, got 0\.25 m / 0\.1 m"):
        replace(SMALL, border=0.25)


def test_a_ball_rests_on_the_height_below_it():
    sim = sim_of(SMALL, 3)
    start = SMALL.start(sim, torch.tensor([0, 1, 2]), torch.tensor([1, 2, 5]))
    start[:, 2] += 0.06
    sim.reset(None, {"qpos": torch.cat((start, torch.tensor([[1.0, 0, 0, 0]] * 3, dtype=sim.dtype)), -1)})
    for _ in range(300):
        sim.step(sim.ctrl, 1)
    below = SMALL.height(sim, sim.qpos[:, None, :2])[:, 0]
    torch.testing.assert_close(sim.qpos[:, 2], below + 0.05, atol=2e-3, rtol=0)
    assert float(below[0]) == pytest.approx(0.36 / 3 * 1.5, abs=1e-6)  # the slope's top: 1.5 m from the rim


def test_a_start_on_several_levels_needs_a_task_with_levels_and_beyond_the_last_is_the_last():
    sim, tile = sim_of(SMALL), torch.tensor([1, 1])
    beyond, last = (SMALL.start(sim, torch.tensor([at, 0]), tile) for at in (7, 2))
    assert torch.equal(beyond, last)
    sim.highest = None
    with pytest.raises(ModelError, match=r"of 3 levels needs a task with levels: level = Level\(highest=2\)"):
        SMALL.start(sim, tile, tile)


def test_every_rim_is_at_0_and_every_middle_is_flat():
    n = round(SMALL.tile / SMALL.cell)
    heights = SMALL.heights
    assert not heights[::n].any()
    assert not heights[:, ::n].any()
    for row in range(3):
        for column in range(len(KINDS)):
            middle = heights[row * n + 15 : row * n + 26, column * n + 15 : column * n + 26]
            assert np.ptp(middle) == 0


def test_levels_grow_to_the_hardest():
    terrain = Terrain(("steps",), levels=3, tile=4.0, middle=1.0, hardest={"steps": 0.09})
    tiles = terrain.heights.reshape(-1)[: 120 * 41].reshape(3, 40, 41)
    steps = [np.unique(np.diff(np.unique(tile)).round(6)) for tile in tiles]
    np.testing.assert_allclose([float(s[0]) for s in steps], [0.03, 0.06, 0.09], atol=1e-6)


def test_the_terrain_takes_the_floors_contact_properties_and_its_place():
    model = sim_of(SMALL).model
    assert {model.geom(i).name for i in range(model.ngeom)} == {"", "floor"}
    assert model.geom("floor").friction.tolist() == [0.7, 0.1, 0.1]
    assert int(model.geom("floor").condim[0]) == 4


def test_a_broken_simulation_has_height_0_and_others_keep_theirs():
    sim = sim_of(SMALL)
    points = torch.tensor([[[torch.nan, 0.0]], [[1.0, 1.0]]]).double()
    assert SMALL.height(sim, points).isfinite().all()


def test_small_balls_that_land_hard_come_to_rest_on_the_ground():
    """They sink by more than their radius in a timestep: MuJoCo's native collisions keep one in ten there."""
    small = SCENE.replace('size=".05"', 'size=".022" mass="2"').replace("<worldbody>", OPTION + "<worldbody>")
    flat = Terrain(("flat",), levels=1, tile=4.0, cell=0.1, middle=1.0)
    sim = make_sim("mujoco", flat.added(mujoco.MjSpec.from_string(small), floor="floor"), 200, {})
    rng = torch.Generator().manual_seed(0)
    xy = torch.rand(200, 2, generator=rng).double() * 2 - 1
    z = 0.05 + 0.03 * torch.rand(200, 1, generator=rng).double()
    upright = torch.tensor([[1.0, 0, 0, 0]]).double().expand(200, -1)
    down = torch.tensor([[0, 0, -3.0, 0, 0, 0]]).double().expand(200, -1)
    sim.reset(None, {"qpos": torch.cat((xy, z, upright), -1), "qvel": down})
    for _ in range(100):
        sim.step(sim.ctrl, 1)
    torch.testing.assert_close(sim.qpos[:, 2], torch.full((200,), 0.022).double(), atol=2e-3, rtol=0)


def test_a_second_terrain_in_one_model_is_refused():
    spec = SMALL.added(mujoco.MjSpec.from_string(SCENE), floor="floor")
    with pytest.raises(ModelError, match="the model has a height field 'terrain' already"):
        SMALL.added(spec)


def test_a_scan_turns_with_the_robot():
    sim = sim_of(SMALL)
    grid, xy = torch.tensor([[0.5, 0.0], [0.0, 0.3]]), torch.tensor([[1.0, 2.0], [-3.0, 1.0]]).double()
    yaw = torch.tensor([0.0, torch.pi / 2]).double()
    seen = SMALL.scan(sim, xy, yaw, grid)
    by_hand = torch.tensor([[[1.5, 2.0], [1.0, 2.3]], [[-3.0, 1.5], [-3.3, 1.0]]]).double()
    torch.testing.assert_close(seen, SMALL.height(sim, by_hand))


def test_heights_are_traced_into_the_graph_of_a_task():
    sim = sim_of(SMALL)
    points = torch.rand(2, 20, 2).double() * 8 - 4
    eager = SMALL.height(sim, points)
    traced = torch.compile(lambda xy: SMALL.height(sim, xy), fullgraph=True, backend="eager")(points)
    assert torch.equal(eager, traced)


def test_a_floor_elsewhere_puts_the_terrain_there():
    moved = SCENE.replace('type="plane"', 'type="plane" pos="3 -2 .5"')
    sim = make_sim("mujoco", SMALL.added(mujoco.MjSpec.from_string(moved), floor="floor"), 1, {})
    here, there = torch.rand(1, 20, 2).double() * 4, torch.tensor([3.0, -2.0]).double()
    torch.testing.assert_close(SMALL.height(sim, here + there), SMALL.height(sim_of(SMALL, 1), here) + 0.5)


def test_beyond_the_field_the_height_is_0():
    sim = sim_of(SMALL)
    assert not SMALL.height(sim, torch.tensor([[[100.0, 0.0]], [[0.0, -6.1]]]).double()).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kinds": ("stairs",)}, "no kind of terrain 'stairs'; there are"),
        ({"kinds": ("slop",)}, "no kind of terrain 'slop'; did you mean 'slope'"),
        ({"levels": 0}, "a terrain needs a level and a kind, got 0 levels"),
        ({"kinds": ()}, "a terrain needs a level and a kind, got 5 levels of"),
        ({"tile": 2.0}, "a tile needs 0 < cell <= middle < tile - 4 cells, in m, got cell 0.1"),
        ({"hardest": {"hills": 1.0}}, "no kind of terrain 'hills'"),
        ({"cell": 0.15}, "a tile must be a whole number of cells, got 8.0 m / 0.15 m"),
        ({"cell": 0.001}, "a terrain has at most 20,000,000 points, got 960,000,000"),
        ({"kinds": "slope"}, "a terrain has a tuple of kinds and a whole number of levels, got 'slope'"),
        ({"levels": 2.5}, "got .* and 2.5"),
    ],
)
def test_an_impossible_terrain_is_refused(options: dict, words: str):
    with pytest.raises(ModelError, match=words):
        Terrain(**options)


def test_a_robot_that_does_not_fit_on_a_tile_is_refused_and_what_lies_elsewhere_does_not_count():
    tiny = Terrain(("flat",), levels=1, tile=0.8, middle=0.1)
    boxes = [f'<body pos="{x} 0 1"><freejoint/><geom type="box" size="{h} .05 .05"/></body>' for x, h in
             ((0, 0.3), (5, 0.2))]  # fmt: skip
    for more, fits in (("".join(boxes), True), (boxes[0].replace(".05 .05", ".3 .05"), False)):
        scene = SCENE.replace("</worldbody>", more + "</worldbody>")
        sim = make_sim("mujoco", tiny.added(mujoco.MjSpec.from_string(scene), floor="floor"), 1, {})
        if fits:
            assert tiny.start(sim, torch.tensor([0]), torch.tensor([0])).tolist() == [[0.0, 0.0, 0.0]]
        else:
            with pytest.raises(
                TaskError, match=r"a tile must be as large as the robot, 0\.85 m; got tile 0\.8 m"
            ):
                tiny.start(sim, torch.tensor([0]), torch.tensor([0]))


def test_a_floor_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="no geom 'ground' to put the terrain in place of; there are"):
        SMALL.added(mujoco.MjSpec.from_string(SCENE), floor="ground")


@pytest.mark.slow
def test_the_second_engine_stands_on_the_same_ground():
    pytest.importorskip("mujoco_warp")
    mine, theirs = sim_of(SMALL), sim_of(SMALL, engine="warp")
    points = torch.rand(2, 50, 2, dtype=torch.float64) * 8 - 4
    near = SMALL.height(theirs, points.float())
    torch.testing.assert_close(SMALL.height(mine, points).float(), near, atol=1e-5, rtol=0)
