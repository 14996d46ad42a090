"""The CPU engine equals plain loops over MjData bit for bit."""

import os
from collections.abc import Callable
from pathlib import Path

import cart
import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

import robokit.sim.cpu
from robokit.sim.base import Sim
from robokit.sim.engines import make_sim
from robokit.sim.model import compile_model

N, NSTEP = 3, 4
FRESH = ("slide", "hinge_speed", "tip", "speed")  # sensors of the position and velocity stages
LATE = ("acceleration", "touch")  # sensors of the acceleration stage
INTEGRATORS = ("Euler", "implicitfast", "RK4")
ALL = torch.ones(N, dtype=torch.bool)


def sim_of(integrator: str = "implicitfast", num_envs: int = N, **options: object) -> Sim:
    return make_sim("mujoco", spec_of(integrator), num_envs, {"a": 1, "b": 2}, **options)


def spec_of(integrator: str = "implicitfast") -> mujoco.MjSpec:
    spec = cart.spec()
    spec.option.integrator = getattr(mujoco.mjtIntegrator, f"mjINT_{integrator.upper()}")
    return spec


def starts(sim: Sim) -> dict[str, Tensor]:
    """Another state for each simulation; the ball of the last one is in the air."""
    rng = torch.Generator().manual_seed(0)
    qpos = sim.nominal("qpos0").repeat(sim.num_envs, 1)
    qpos[:, :2] += torch.rand(sim.num_envs, 2, generator=rng) - 0.5
    qpos[-1, 4] = 0.5
    return {"qpos": qpos, "qvel": torch.rand(sim.num_envs, sim.model.nv, generator=rng) - 0.5}


def controls(steps: int, num_envs: int = N) -> Tensor:
    return cart.actions(steps, num_envs).double()


class Loop:
    """One simulation the plain way."""

    def __init__(self, model: mujoco.MjModel, values: dict[str, Tensor], row: int) -> None:
        self.model, self.data = model, mujoco.MjData(model)
        for name, value in values.items():
            getattr(self.data, name)[:] = value[row].numpy()
        mujoco.mj_forward(model, self.data)

    def step(self, ctrl: Tensor, nstep: int = NSTEP) -> None:
        self.data.ctrl[:] = ctrl.numpy()
        for _ in range(nstep):
            mujoco.mj_step(self.model, self.data)

    def sensor(self, name: str, data: mujoco.MjData | None = None) -> np.ndarray:
        return (data or self.data).sensor(name).data

    def forwarded(self) -> mujoco.MjData:
        """Everything brought up to date, in a copy."""
        data = mujoco.MjData(self.model)
        state = mujoco.mjtState.mjSTATE_INTEGRATION
        values = np.empty(mujoco.mj_stateSize(self.model, state))
        mujoco.mj_getState(self.model, self.data, values, state)
        mujoco.mj_setState(self.model, data, values, state)
        mujoco.mj_forward(self.model, data)
        return data


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_n_simulations_with_lag_are_n_loops(integrator: str):
    sim = sim_of(integrator, lag=True)
    names, tip = FRESH + LATE, sim.site("tip").xpos
    values = starts(sim)
    sim.reset(ALL, values)
    loops = [Loop(sim.model, values, i) for i in range(N)]
    for ctrl in controls(40):
        sim.step(ctrl, NSTEP)
        for i, loop in enumerate(loops):
            loop.step(ctrl[i])
            assert np.array_equal(sim.qpos[i], loop.data.qpos)
            assert np.array_equal(sim.qvel[i], loop.data.qvel)
            assert np.array_equal(tip[i], loop.data.site("tip").xpos)
            for name in names:
                assert np.array_equal(sim.sensor(name)[i], loop.sensor(name))
    assert sim.sensor("touch").max() > 0  # there was contact


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_without_lag_the_state_is_the_same_and_what_depends_on_it_is_current(integrator: str):
    sim = sim_of(integrator)
    tip = sim.site("tip").xpos
    values = starts(sim)
    sim.reset(ALL, values)
    loops = [Loop(sim.model, values, i) for i in range(N)]
    for ctrl in controls(40):
        sim.step(ctrl, NSTEP)
        for i, loop in enumerate(loops):
            loop.step(ctrl[i])
            now = loop.forwarded()
            assert np.array_equal(sim.qpos[i], loop.data.qpos)
            assert np.array_equal(sim.qvel[i], loop.data.qvel)
            assert np.array_equal(tip[i], now.site("tip").xpos)
            for name in FRESH:
                assert np.array_equal(sim.sensor(name)[i], loop.sensor(name, now))
            for name in LATE:  # with the forces of the last substep
                assert np.array_equal(sim.sensor(name)[i], loop.sensor(name))


@pytest.mark.parametrize("lag", [False, True])
def test_writes_between_steps_are_seen_by_the_next(lag: bool):
    """A step continues from the stages that the one before it computed; a write must end that."""
    sim = sim_of(lag=lag)
    values = starts(sim)
    sim.reset(ALL, values)
    loops = [Loop(sim.model, values, i) for i in range(N)]
    for t, ctrl in enumerate(controls(30)):
        if t % 3 == 0:
            sim.qvel[:, 0] += 0.25
            sim.written("xfrc_applied")[:, 1, 0] = 0.5 * t
            for loop in loops:
                loop.data.qvel[0] += 0.25
                loop.data.xfrc_applied[1, 0] = 0.5 * t
        sim.memory["a"].add_(1)
        sim.step(ctrl, NSTEP)
        for i, loop in enumerate(loops):
            loop.step(ctrl[i])
            assert np.array_equal(sim.qpos[i], loop.data.qpos)


def test_more_simulations_than_are_kept_in_memory_come_out_the_same(monkeypatch: pytest.MonkeyPatch):
    kept = sim_of()
    monkeypatch.setattr(robokit.sim.cpu, "PERSISTENT_LIMIT", 1)
    shared = sim_of()
    for sim in (kept, shared):
        sim.reset(ALL, starts(sim))
    for ctrl in controls(30):
        for sim in (kept, shared):
            sim.step(ctrl, NSTEP)
        assert torch.equal(kept.qpos, shared.qpos)
        assert torch.equal(kept.field("sensordata"), shared.field("sensordata"))


def test_the_number_of_threads_changes_nothing():
    sims = [sim_of(num_envs=7, threads=threads) for threads in (1, 2)]
    for sim in sims:
        sim.reset(torch.ones(7, dtype=torch.bool), starts(sim))
    for ctrl in controls(50, 7):
        for sim in sims:
            sim.step(ctrl, NSTEP)
    assert torch.equal(sims[0].qpos, sims[1].qpos)
    assert torch.equal(sims[0].field("sensordata"), sims[1].field("sensordata"))


# -- restarts ------------------------------------------------------------------------------------


def test_a_restart_touches_the_masked_simulations_only():
    sim = sim_of()
    sim.reset(ALL, starts(sim) | {"body_mass": sim.nominal("body_mass").repeat(N, 1)})
    for ctrl in controls(10):
        sim.step(ctrl, NSTEP)
        sim.memory["b"].add_(1)
    before, sensed = sim.state_dict(), sim.field("sensordata").clone()
    mask = torch.tensor([False, True, False])
    sim.reset(mask, starts(sim) | {"body_mass": 2 * sim.nominal("body_mass").repeat(N, 1)})
    after = sim.state_dict()
    for name, value in before.items():
        assert torch.equal(value[~mask], after[name][~mask])
        assert not torch.equal(value[mask], after[name][mask])
    assert torch.equal(sensed[~mask], sim.field("sensordata")[~mask])


def test_a_restart_forgets_memory_forces_and_warm_starts():
    sim, fresh = sim_of(), sim_of()
    values = starts(sim)
    for one in (sim, fresh):
        one.reset(ALL, values)
    sim.written("xfrc_applied")[:] = 1.0
    sim.memory["b"].fill_(3.0)
    for ctrl in controls(10):
        sim.step(ctrl, NSTEP)
    sim.reset(ALL, values)
    assert torch.equal(sim.state_dict()["state"], fresh.state_dict()["state"])
    assert not sim.memory["b"].any()


def test_a_mask_of_none_restarts_every_simulation():
    one, other = sim_of(), sim_of()
    one.reset(ALL, starts(one))
    other.reset(None, starts(other))
    assert torch.equal(one.state_dict()["state"], other.state_dict()["state"])


CHANGES: dict[str, Callable[[mujoco.MjModel], object]] = {
    "body_mass": lambda m: m.body_mass * 1.5,
    "body_pos": lambda m: m.body_pos + np.eye(4, 3) * 0.1,
    "geom_friction": lambda m: m.geom_friction * 0.3,
    "dof_damping": lambda m: m.dof_damping + 0.2,
    "opt.gravity": lambda m: m.opt.gravity * 0.5,
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_model_field_gives_what_a_model_with_that_value_gives(field: str):
    """In the sensors right after the restart, and in every step from there."""
    sim = sim_of()
    changed = compile_model(spec_of())
    value = np.asarray(CHANGES[field](changed))
    owner, name = (changed.opt, field[4:]) if field.startswith("opt.") else (changed, field)
    getattr(owner, name)[:] = value
    mujoco.mj_setConst(changed, mujoco.MjData(changed))
    values, row = starts(sim), 1
    mixed = sim.nominal(field).repeat(N, *[1] * value.ndim)
    mixed[row] = torch.as_tensor(value)
    sim.reset(ALL, values | {field: mixed})
    loops = [Loop(changed if i == row else sim.model, values, i) for i in range(N)]
    for i, loop in enumerate(loops):
        for sensor in FRESH + LATE:
            assert np.array_equal(sim.sensor(sensor)[i], loop.sensor(sensor))
    for ctrl in controls(20):
        sim.step(ctrl, NSTEP)
        for i, loop in enumerate(loops):
            loop.step(ctrl[i])
            assert np.array_equal(sim.qpos[i], loop.data.qpos)
    assert not np.array_equal(sim.qpos[row], Loop(sim.model, values, row).data.qpos)


# -- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["qpos", "qvel", "ctrl"])
def test_a_broken_simulation_is_reported_and_reaches_no_other(where: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sim, well = sim_of(), sim_of()
    for one in (sim, well):
        one.reset(ALL, starts(one))
    for t, ctrl in enumerate(controls(20)):
        if t == 5:
            broken = ctrl.clone()
            (broken if where == "ctrl" else sim.written(where))[1, 0] = torch.nan
            sim.step(broken, NSTEP)
        else:
            sim.step(ctrl, NSTEP)
        well.step(ctrl, NSTEP)
        assert sim.bad().tolist() == [False, t >= 5, False]
        assert torch.equal(sim.qpos[[0, 2]], well.qpos[[0, 2]])
        assert torch.equal(sim.field("sensordata")[[0, 2]], well.field("sensordata")[[0, 2]])
    sim.reset(torch.tensor([False, True, False]), starts(sim))
    assert not sim.bad().any()
    assert os.listdir(tmp_path) == []  # MuJoCo would leave a MUJOCO_LOG.TXT


def test_a_simulation_in_which_mujoco_raises_is_bad_until_it_restarts():
    spec = spec_of()
    spec.memory = 3000  # bytes: no room for the ball's contact with the floor
    spec.body("ball").pos = [0.5, 0.0, 0.5]
    sim = make_sim("mujoco", spec, N, {"a": 1})
    values = starts(sim)
    values["qpos"][:, 4] = torch.tensor([0.5, 0.051, 0.5])
    values["qvel"][:, 4] = -1.0
    sim.reset(None, values)
    for broken in (False, True, True):
        assert sim.bad().tolist() == [False, broken, False]
        sim.step(controls(1)[0], NSTEP)
    values["qpos"][:, 4] = 0.5
    sim.reset(torch.tensor([False, True, False]), values)
    assert not sim.bad().any()


# -- save and continue ---------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [False, True])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_a_saved_simulation_continues_bit_for_bit(integrator: str, lag: bool):
    sim, other = (sim_of(integrator, lag=lag) for _ in range(2))
    mass = sim.nominal("body_mass") * torch.tensor([[1.0], [1.1], [0.8]])
    sim.reset(ALL, starts(sim) | {"body_mass": mass})
    for ctrl in controls(15):
        sim.step(ctrl, NSTEP)
        sim.memory["b"].add_(ctrl)
    other.load_state_dict(sim.state_dict())
    assert torch.equal(sim.field("sensordata"), other.field("sensordata"))
    for ctrl in controls(15):
        for one in (sim, other):
            one.step(ctrl, NSTEP)
            one.memory["b"].add_(ctrl)
        assert torch.equal(sim.state_dict()["state"], other.state_dict()["state"])
        assert torch.equal(sim.field("sensordata"), other.field("sensordata"))


@pytest.mark.parametrize("lag", [False, True])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_a_copied_simulation_continues_bit_for_bit(integrator: str, lag: bool):
    sim, other = (sim_of(integrator, lag=lag) for _ in range(2))
    mass = sim.nominal("body_mass") * torch.tensor([[1.0], [1.1], [0.8]])
    sim.reset(ALL, starts(sim) | {"body_mass": mass})
    for ctrl in controls(15):
        sim.step(ctrl, NSTEP)
        sim.memory["b"].add_(ctrl)
    rows = torch.tensor([2, 0, 2])
    other.copy(sim, rows)
    for ctrl in controls(15):
        assert torch.equal(sim.state_dict()["state"][rows], other.state_dict()["state"])
        assert torch.equal(sim.memory["b"][rows], other.memory["b"])
        assert torch.equal(sim.field("sensordata")[rows], other.field("sensordata"))
        sim.step(ctrl, NSTEP)
        other.step(ctrl[rows], NSTEP)
        sim.memory["b"].add_(ctrl)
        other.memory["b"].add_(ctrl[rows])
