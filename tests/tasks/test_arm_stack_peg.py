"""Stack and peg: success is the deed, starts are far from it, and files are what they are called."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from robokit.env.env import Env
from robokit.task.lookup.find import load_task
from robokit.task.states import load_libraries

CUBE, BASE = slice(9, 12), slice(16, 19)  # places in qpos of the first body and of the second
EDGE, PEG, GRIP, TALL = 0.04, 0.08, 0.015, 0.05  # m; GRIP: from the peg's middle up to its origin


def put(env: Env, qpos: Tensor) -> dict[str, Tensor]:
    """The metrics of a state at rest."""
    env.sim.reset(None, {"qpos": qpos, "qvel": torch.zeros_like(env.sim.qvel)})
    return env.task.metrics(env.sim)


def at_home(env: Env) -> Tensor:
    return env.sim.keyframe("home").qpos.repeat(env.num_envs, 1)


def test_a_stack_is_a_cube_on_the_other_let_go_still_and_alone():
    env = Env(load_task("arm_stack"), 7, threads=1, nominal=True)
    qpos = at_home(env)
    qpos[:, CUBE] = qpos[:, BASE] + torch.tensor([0.0, 0.0, EDGE])
    qpos[1, 9] += 0.021  # m aside: beyond the middle of the lower one
    qpos[2, 11] += 0.009  # in the air
    qpos[3, CUBE] = qpos[3, BASE] + torch.tensor([EDGE, 0.0, 0.0])  # beside it
    qpos[4, 9:16], qpos[4, 16:23] = qpos[4, 16:23].clone(), qpos[4, 9:16].clone()  # the other way round
    found = put(env, qpos)
    assert found["success"].tolist() == [True] + [False] * 4 + [True] * 2
    tip = env.sim.sensor("tip")[5]
    qpos[5, CUBE] = tip - torch.tensor([0.0, 0.0, 0.05])  # the hand is 5 cm above
    qpos[5, BASE] = qpos[5, CUBE] - torch.tensor([0.0, 0.0, EDGE])
    found = put(env, qpos)
    assert found["on"][5] and not found["success"][5]
    fast = torch.zeros_like(env.sim.qvel)
    fast[6, 9] = 0.06  # m/s
    env.sim.reset(None, {"qpos": qpos, "qvel": fast})
    assert not env.task.metrics(env.sim)["success"][6]


def test_a_cube_that_is_held_on_the_other_is_no_stack():
    env = Env(load_task("arm_stack"), 8, threads=1, nominal=True)
    picked = library(env, "placed")[:8]
    put(env, picked)
    env.sim.step(torch.cat((picked[:, :7], torch.zeros(8, 1)), -1), 40)
    found = env.task.metrics(env.sim)
    assert found["on"].all() and found["grasped"].all()
    assert not found["released"].any() and not found["success"].any()


def test_a_peg_is_in_if_its_lower_end_is_3_cm_deep():
    env = Env(load_task("arm_peg"), 6, threads=1, nominal=True)
    qpos, low = at_home(env), PEG / 2 + GRIP
    qpos[:, 9:11] = qpos[:, 16:18]
    depth = torch.tensor([0.05, 0.031, 0.029, 0.05, 0.05, -0.002])
    qpos[:, 11] = TALL - depth + low
    qpos[3, 12:16], qpos[3, 11] = torch.tensor([0.0, 1.0, 0.0, 0.0]), PEG - low  # upside down, on the table
    qpos[4, 9] += 0.06  # beside the block, on the table
    found = put(env, qpos)
    assert found["success"].tolist() == [True, True, False, False, False, False]
    task: Any = env.task
    assert task.depth(env.sim).tolist() == pytest.approx([0.05, 0.031, 0.029, 0, 0, 0], abs=1e-6)


@pytest.mark.parametrize(("angle", "counts"), [(4.0, True), (6.0, False)])
@pytest.mark.parametrize("body", ["peg", "block"])
def test_a_peg_is_not_in_if_it_or_the_block_leans(body: str, angle: float, counts: bool):
    """By more than the 4 degrees that a hole of 22 mm leaves a peg of 20 mm that is 3 cm deep."""
    env = Env(load_task("arm_peg"), 2, threads=1, nominal=True)
    qpos, low = at_home(env), PEG / 2 + GRIP
    half = math.radians(angle) / 2
    tilted = torch.tensor([math.cos(half), math.sin(half), 0.0, 0.0])
    turn, lean = (slice(12, 16), low) if body == "peg" else (slice(19, 23), 0.0)
    qpos[1, turn] = tilted
    qpos[:, 9:11] = qpos[:, 16:18]
    qpos[:, 11] = TALL - 0.035 + low
    qpos[1, 10] -= lean * math.sin(2 * half)  # the lower end stays on the axis
    found = put(env, qpos)
    task: Any = env.task
    assert (task.away(env.sim) < 0.001).all() and (task.depth(env.sim) >= 0.03).all()
    assert found["success"].tolist() == [True, counts]


@pytest.mark.parametrize(("name", "least", "most"), [("arm_stack", 0.1, 0.16), ("arm_peg", 0.13, 0.2)])
def test_an_episode_begins_with_both_on_the_table_apart_and_the_hand_away(
    name: str, least: float, most: float
):
    env = Env(load_task(name), 200, threads=1)
    first, second = (env.sim.sensor(f"{body}_pos") for body in env.task.cubes)  # pyright: ignore
    apart = (first - second)[:, :2].norm(dim=-1)
    assert least - 1e-6 < apart.min() < least + 0.01
    assert most - 0.01 < apart.max() < most + 1e-6
    assert (env.sim.sensor("tip") - first).norm(dim=-1).min() > 0.05
    assert not env.task.metrics(env.sim)["success"].any()


def library(env: Env, kind: str) -> Tensor:
    files = {
        states.file.stem.partition("_")[2]: rows
        for states, (_, rows) in load_libraries(env.task, env.sim).items()
    }
    return files[kind]["qpos"]


HELD = {"arm_stack": ("held", "lifted", "over", "placed"), "arm_peg": ("held", "lifted", "over", "inside")}


@pytest.mark.parametrize("name", HELD)
def test_a_file_has_hand_and_bodies_where_its_name_says(name: str):
    env = Env(load_task(name), 16, threads=1, nominal=True)
    task: Any = env.task
    for kind in task.starts:
        rows, held = library(env, kind), kind in HELD[name]
        picked = rows[:: len(rows) // 16][:16]
        put(env, picked)
        env.sim.step(torch.cat((picked[:, :7], torch.full((16, 1), 0.0 if held else 0.04)), -1), 40)  # .2 s
        found = task.metrics(env.sim)
        assert len(rows) >= 600
        assert (found["grasped"] == held).all(), kind
        if name == "arm_stack":
            assert (found["on"] == (kind in ("placed", "released"))).all(), kind
            assert (found["released"] == (kind == "released")).all(), kind
        else:
            depth, away = task.depth(env.sim), task.away(env.sim)
            assert ((depth > 0.003) == (kind == "inside")).all(), kind
            assert ((away < 0.005) == (kind in ("over", "inside"))).all(), kind
            assert not found["success"].any(), kind
