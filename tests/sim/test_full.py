"""When MuJoCo's buffers are full it drops contacts in silence: robokit gives room, or counts what broke."""

from typing import Any

import mujoco
import numpy as np
import pytest
import torch

from robokit.errors import ModelError
from robokit.sim.base import Sim
from robokit.sim.engines import make_sim

BOXES = """
<mujoco>
  <size memory="{memory}"/>
  <option timestep=".004" {option}/>
  <worldbody>
    <geom type="plane" size="9 9 .1"/>
    <replicate count="4" offset="0 .3 0"><replicate count="{row}" offset=".3 0 0">
      <body pos="0 0 .05"><freejoint/><geom type="box" size=".05 .05 .05"/></body>
    </replicate></replicate>
  </worldbody>
</mujoco>
"""


def boxes(memory: str, row: int = 4, option: str = "") -> Sim:
    """Two simulations of 4 x row boxes on the floor, 16 constraint rows each."""
    spec = mujoco.MjSpec.from_string(BOXES.format(memory=memory, row=row, option=option))
    sim = make_sim("mujoco", spec, 2, {"a": 1}, threads=1)
    sim.reset(None, {})
    return sim


def lowest(sim: Sim, steps: int = 30) -> float:
    """Height of the lowest box's centre after some steps, m; at rest 0.05."""
    for _ in range(steps):
        sim.step(sim.ctrl.clone(), 2)
    return float(sim.qpos.view(2, -1, 7)[..., 2].min())


@pytest.mark.parametrize("option", ["", 'cone="elliptic"', 'solver="CG"', 'jacobian="sparse"'])
def test_boxes_stay_on_the_floor_in_the_memory_that_a_sparse_jacobian_needs(option: str):
    sim = boxes("220K", option=option)  # dense takes 380 kB
    assert lowest(sim) == pytest.approx(0.05, abs=1e-3) and not sim.bad().any()


def test_constraints_without_memory_break_a_simulation_by_that_name():
    sim = boxes("64K", row=2, option='jacobian="dense"')
    lowest(sim, 1)
    found = [cause for cause, hit in zip(sim.causes, sim.faults()[0].tolist(), strict=True) if hit]
    assert found == ["no memory for all constraints"] and sim.bad().all()
    assert sim.causes[found[0]] == 'put <size memory="1M"/> or more into the model'
    assert lowest(boxes("1M", row=2, option='jacobian="dense"')) > 0.049


def test_a_model_that_cannot_start_is_refused_with_what_mujoco_says():
    with pytest.raises(ModelError, match=r"cannot start the model.*out of memory"):
        boxes("16K", row=2)


def test_the_memory_of_the_spec_stays_as_it_was():
    spec = mujoco.MjSpec.from_string(BOXES.format(memory="220K", row=4, option=""))
    make_sim("mujoco", spec, 1, {"a": 1})
    assert spec.memory == 220 << 10


def test_many_simulations_of_a_large_model_share_memory():
    plain = make_sim("mujoco", mujoco.MjSpec.from_string(BOXES.format(memory="1M", row=4, option="")), 2, {})
    assert plain._batch.persistent  # pyright: ignore[reportAttributeAccessIssue]
    assert plain.faults().shape == (2, len(plain.causes)) and plain.faults().dtype == torch.bool


def test_an_error_of_mujoco_is_told_in_its_own_words():
    class Failed(Exception):
        ids = np.array([1])

    sim: Any = boxes("2M", row=1)
    for words in ("mj_stackAlloc: insufficient memory\n max = 3", "another"):
        sim._fail(Failed(words))
    assert sim.bad().tolist() == [False, True]
    remedy = sim.causes["an error of MuJoCo"]
    assert remedy.startswith("it says 'mj_stackAlloc: insufficient memory max = 3'; of memory: put <size")
    assert "another" not in remedy
