"""Some rows of a simulation, read as if there were no others."""

import pytest
import torch
from cart import spec

from robokit.sim.base import Sim
from robokit.sim.engines import make_sim
from robokit.sim.rows import Rows

IDS = torch.tensor([1, 3])


def a_sim(n: int = 4) -> Sim:
    sim = make_sim("mujoco", spec(), n, {"x": 1, "y": 2}, threads=1)
    for name in ("sensordata", "xpos"):
        sim.field(name)  # bound before the step, so it is filled
    sim.memory["y"].copy_(torch.arange(2.0 * n).view(n, 2))
    sim.reset(None, {"qvel": torch.randn(n, sim.model.nv, dtype=sim.dtype), "y": sim.memory["y"].clone()})
    sim.step(torch.randn(n, sim.model.nu, dtype=sim.dtype), 2)
    return sim


@pytest.mark.parametrize(
    "read",
    [
        lambda s: s.qpos,
        lambda s: s.qvel,
        lambda s: s.ctrl,
        lambda s: s.memory["y"],
        lambda s: s.sensor("tip"),
        lambda s: s.body("ball").xpos,
        lambda s: s.joint("free").qvel,
        lambda s: s.field("sensordata"),
    ],
)
def test_they_are_those_rows_and_copies(read):
    sim = a_sim()
    rows = Rows(sim, IDS)
    seen, all_rows = read(rows), read(sim)
    assert torch.equal(seen, all_rows[IDS]) and rows.num_envs == 2
    before = all_rows.clone()
    seen += 1
    assert torch.equal(read(sim), before)


def test_what_the_model_says_is_the_same_for_some():
    sim = a_sim()
    rows = Rows(sim, IDS)
    assert torch.equal(rows.nominal("body_mass"), sim.nominal("body_mass"))
    assert rows.keyframe("home") is sim.keyframe("home")
    assert torch.equal(rows.constant(1.0, 2.0), torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert (rows.model, rows.timestep, rows.device, rows.dtype) == (
        *(sim.model, sim.timestep, sim.device, sim.dtype),
    )


def test_they_are_only_read():
    rows = Rows(a_sim(), IDS)
    for write in (lambda: rows.step(torch.zeros(2, 2), 1), lambda: rows.reset(None, {})):
        with pytest.raises(TypeError, match="copies to read"):
            write()
    with pytest.raises(AttributeError):
        _ = rows.qposs  # pyright: ignore[reportAttributeAccessIssue]


def test_a_reset_by_row_numbers_is_the_reset_by_a_mask():
    sims = [a_sim() for _ in range(2)]
    for sim in sims:
        sim.load_state_dict(sims[0].state_dict())
    qpos = sims[0].nominal("qpos0") + 0.01 * torch.arange(4.0, dtype=torch.float64)[:, None]
    mass = sims[0].nominal("body_mass") * (1 + torch.arange(4.0, dtype=torch.float64))[:, None]
    mask = torch.zeros(4, dtype=torch.bool)
    mask[IDS] = True
    sims[0].reset(mask, {"qpos": qpos, "body_mass": mass})
    sims[1].reset(IDS, {"qpos": qpos[IDS], "body_mass": mass[IDS]})
    for sim in sims:
        sim.step(torch.ones(4, 2), 3)
    first, second = (sim.state_dict() for sim in sims)
    assert all(torch.equal(first[k], second[k]) for k in first)
