"""N simulations on CPU threads: `mujoco.batch` behind the tensors of `robokit.sim.base`.

Results equal a loop over one MjData per simulation bit for bit, with any number of threads. MuJoCo's warnings
are counted, not written: see `MujocoSim.causes`.
"""

import functools
import warnings
from collections.abc import Mapping

import mujoco
import numpy as np
import torch
from mujoco.batch import Batch, SimulationError
from torch import Tensor

from robokit.errors import ModelError, did_you_mean
from robokit.sim.base import SMALLER, STATE, Sim, model_field_names, unsaved_flags
from robokit.sim.drawn import check_drawn
from robokit.sim.model import compile_model

BAD = slice(int(mujoco.mjtWarning.mjWARN_CONTACTFULL), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
ERROR = "an error of MuJoCo"
CANNOT_START = "MuJoCo cannot start the model: {}"
PERSISTENT_BYTES = 4e9  # of one MjData per simulation with dense constraints, about 48 nv^2 each
NO_STAGE = int(mujoco.mjtStage.mjSTAGE_NONE)
PERSISTENT_LIMIT = 1024  # simulations; above it, one MjData each needs too much memory for the time saved


class MujocoSim(Sim):
    """See `Sim`. After a step accelerations are one timestep old; with `lag` all derived fields (mj_step).

    threads: 0 for all cores. device: None or "cpu", else ModelError.
    """

    engine = "mujoco"

    def __init__(
        self,
        spec: mujoco.MjSpec,
        num_envs: int,
        memory: Mapping[str, int],
        threads: int = 0,
        lag: bool = False,
        device: str | None = None,
    ) -> None:
        if device not in (None, "cpu"):
            raise ModelError(f"sim='mujoco' computes on the CPU, not on {device!r}")
        model = compile_model(spec)
        self.causes = _causes(model)
        self._raised = torch.zeros(num_envs, dtype=torch.bool)  # with an error of MuJoCo, since the reset
        persistent = bool(unsaved_flags(model)) or _persistent(model, num_envs)
        self._batch = Batch(model, num_envs, threads, persistent=persistent)
        self.threads = self._batch.nthread
        self._stage = mujoco.mjtStage.mjSTAGE_NONE if lag else mujoco.mjtStage.mjSTAGE_VEL
        # not in MuJoCo's userdata: writing that would discard the stages that a persistent batch continues
        self._bound = {"memory": torch.zeros(num_envs, sum(memory.values()), dtype=torch.float64)}
        self._fields: dict[str, Tensor] = {}  # model fields with a row for each simulation
        self._warned = torch.from_numpy(self._batch.warning[:, BAD, 1])  # live (N, 6): counts since the reset
        super().__init__(model, num_envs, memory, torch.device("cpu"))
        try:
            self._batch.reset()
        except (SimulationError, ValueError) as error:
            raise ModelError(CANNOT_START.format(" ".join(str(error).split()))) from error

    def field(self, name: str) -> Tensor:
        if name not in self._bound:
            try:
                array = self._batch.bind(name)
            except (ValueError, AttributeError, KeyError) as error:
                raise ModelError(str(error)) from error
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # derived fields are read-only, and never written
                self._bound[name] = torch.from_numpy(array)
        return self._bound[name]

    def step(self, ctrl: Tensor, nstep: int) -> None:
        each = ctrl if ctrl.dim() == 3 else (ctrl,)
        stages = [NO_STAGE] * (len(each) - 1) + [int(self._stage)]
        for now, stage in zip(each, stages, strict=True):
            self.ctrl.copy_(now)
            try:
                self._batch.step(nstep=nstep // len(each), stage=stage)
            except SimulationError as error:
                self._fail(error)

    def _fail(self, error: SimulationError) -> None:
        """Mark the simulations of an error of MuJoCo; the first one's words go before the remedy."""
        self._raised[torch.from_numpy(error.ids)] = True
        if not self.causes[ERROR].startswith("it says"):
            said = f"it says {' '.join(str(error).split())[:200]!r}"
            self.causes[ERROR] = f"{said}; of memory: {self.causes[ERROR]}"

    def faults(self) -> Tensor:
        return torch.cat((self._warned != 0, self._raised[:, None]), -1)

    def bad(self) -> Tensor:
        return self._warned.any(-1) | self._raised

    def reset(self, which: Tensor | None, values: Mapping[str, Tensor]) -> None:
        masked = which is not None and which.dtype == torch.bool
        ids = None if which is None else np.flatnonzero(which.numpy()) if masked else which.numpy()
        rows = slice(None) if ids is None else ids
        self._batch.reset(ids, stage=NO_STAGE)
        self._bound["memory"].numpy()[rows] = 0  # numpy writes a few rows in a third of torch's time
        for name, value in values.items():
            self._target(name).numpy()[rows] = value.numpy()[rows] if masked else value.numpy()
        if _needs_set_const(tuple(values)):
            self._batch.set_const(ids)
        self._raised.numpy()[rows] = False
        try:
            self._batch.forward(ids)
        except SimulationError as error:
            if which is None and len(error.ids) == self.num_envs:
                raise ModelError(CANNOT_START.format(" ".join(str(error).split()))) from error
            self._fail(error)  # the next step ends these episodes

    def _target(self, name: str) -> Tensor:
        return self.written(name) if name in self.memory or name in STATE else self._field_of_model(name)

    def _field_of_model(self, name: str) -> Tensor:
        if name not in self._fields:
            check_drawn(self.model, name)
            try:
                self._fields[name] = torch.from_numpy(self._batch.expand(name))
            except (ValueError, AttributeError, KeyError) as error:
                known = (*STATE, *self.memory, *dir(self.model))
                message = f"reset or randomize cannot write {name!r}{did_you_mean(name, known)}"
                raise ModelError(message) from error
        return self._fields[name]

    def copy(self, other: Sim, rows: Tensor) -> None:
        assert isinstance(other, MujocoSim)
        self.check_saved()
        ids = rows.numpy()
        changed = list[str]()
        for name in self._fields.keys() | other._fields.keys():
            own, theirs = self._field_of_model(name), other._fields.get(name)
            value = self.nominal(name).expand_as(own) if theirs is None else theirs[rows]
            if not torch.equal(own, value):
                own.copy_(value)
                changed.append(name)
        if _needs_set_const(tuple(changed)):
            self._batch.set_const()
        self._batch.state[:] = other._batch.state[ids]
        if changed:  # a persistent batch would go on from stages of the old fields
            self._batch.forward()
            self._batch.state[:] = other._batch.state[ids]
        self._bound["memory"].copy_(other.field("memory")[rows])
        self._batch.warning[:] = other._batch.warning[ids]
        self._raised.copy_(other._raised[rows])
        for name, value in self._derived().items():
            value.copy_(other.field(name)[rows])

    def state_dict(self) -> dict[str, Tensor]:
        self.check_saved()
        fields = {f"field.{name}": value.clone() for name, value in self._fields.items()}
        derived = {f"derived.{name}": value.clone() for name, value in self._derived().items()}
        state, memory = torch.from_numpy(np.array(self._batch.state)), self._bound["memory"].clone()
        return {"state": state, "memory": memory, **fields, **derived}

    def _derived(self) -> dict[str, Tensor]:
        """All derived fields read so far: a forward does not reproduce accelerations, nor with lag any."""
        return {
            name: value
            for name, value in self._bound.items()
            if name != "memory" and not self._batch.bind(name).flags.writeable
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in state.items():
            if name.startswith("field."):
                self._field_of_model(name.removeprefix("field.")).copy_(value)
        if _needs_set_const(tuple(self._fields)):
            self._batch.set_const()
        self._batch.state[:] = state["state"].numpy()
        self._bound["memory"].copy_(state["memory"])
        self._batch.forward()
        for name, value in state.items():
            if name.startswith("derived."):
                self.field(name.removeprefix("derived.")).copy_(value)


def _persistent(model: mujoco.MjModel, num_envs: int) -> bool:
    """Whether one MjData per simulation is worth its memory: with RK4 it saves no time."""
    few = num_envs <= PERSISTENT_LIMIT and num_envs * 48 * model.nv**2 <= PERSISTENT_BYTES
    return few and model.opt.integrator != mujoco.mjtIntegrator.mjINT_RK4


def _causes(model: mujoco.MjModel) -> dict[str, str]:
    """Causes, in the order of MuJoCo's warnings from CONTACTFULL on, then its errors."""
    room = f'put <size memory="{max(2 * model.narena >> 20, 1)}M"/> or more into the model'
    large = "not finite or above 1e10"
    return {
        "no memory for all contacts": room,
        "no memory for all constraints": room,
        **{f"{name} {large}": SMALLER for name in ("qpos", "qvel", "qacc")},
        f"ctrl {large}": "look at the action",
        ERROR: room,
    }


@functools.cache
def _needs_set_const(names: tuple[str, ...]) -> bool:
    """Whether constants of the model depend on any of these fields: mj_setConst's inputs, `opt.` fields."""
    known = model_field_names()
    return any(name in known or name.startswith("opt.") for name in names)
