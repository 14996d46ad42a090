"""N simulations on CPU threads: `mujoco.batch` behind the tensors of `robokit.sim.base`.

Results equal a loop over one MjData per simulation bit for bit, with any number of threads.
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
from robokit.sim.base import STATE, Sim, model_field_names
from robokit.sim.model import compile_model

BAD = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
RESET_STAGE = int(mujoco.mjtStage.mjSTAGE_NONE)
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
        persistent = model.opt.integrator != mujoco.mjtIntegrator.mjINT_RK4 and num_envs <= PERSISTENT_LIMIT
        self._batch = Batch(model, num_envs, threads, persistent=persistent)
        self.threads = self._batch.nthread
        self._stage = mujoco.mjtStage.mjSTAGE_NONE if lag else mujoco.mjtStage.mjSTAGE_VEL
        # not in MuJoCo's userdata: writing that would discard the stages that a persistent batch continues
        self._bound = {"memory": torch.zeros(num_envs, sum(memory.values()), dtype=torch.float64)}
        self._fields: dict[str, Tensor] = {}  # model fields with a row for each simulation
        self._warned = torch.from_numpy(self._batch.warning[:, BAD, 1])  # live (N, 3): counts since the reset
        super().__init__(model, num_envs, memory, torch.device("cpu"))
        self._batch.reset()

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
        self.ctrl.copy_(ctrl)
        try:
            self._batch.step(nstep=nstep, stage=int(self._stage))
        except SimulationError as error:
            self._batch.warning[error.ids, BAD, 1] = 1  # cleared by a reset, like MuJoCo's own warnings

    def bad(self) -> Tensor:
        return self._warned.any(-1)

    def reset(self, which: Tensor | None, values: Mapping[str, Tensor]) -> None:
        masked = which is not None and which.dtype == torch.bool
        ids = None if which is None else np.flatnonzero(which.numpy()) if masked else which.numpy()
        rows = slice(None) if ids is None else ids
        self._batch.reset(ids, stage=RESET_STAGE)
        self._bound["memory"].numpy()[rows] = 0  # numpy writes a few rows in a third of torch's time
        for name, value in values.items():
            self._target(name).numpy()[rows] = value.numpy()[rows] if masked else value.numpy()
        if _needs_set_const(tuple(values)):
            self._batch.set_const(ids)
        self._batch.forward(ids)

    def _target(self, name: str) -> Tensor:
        return self.written(name) if name in self.memory or name in STATE else self._field_of_model(name)

    def _field_of_model(self, name: str) -> Tensor:
        if name not in self._fields:
            try:
                self._fields[name] = torch.from_numpy(self._batch.expand(name))
            except (ValueError, AttributeError, KeyError) as error:
                known = (*STATE, *self.memory, *dir(self.model))
                message = f"reset or randomize cannot write {name!r}{did_you_mean(name, known)}"
                raise ModelError(message) from error
        return self._fields[name]

    def state_dict(self) -> dict[str, Tensor]:
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


@functools.cache
def _needs_set_const(names: tuple[str, ...]) -> bool:
    """Whether constants of the model depend on any of these fields: mj_setConst's inputs, `opt.` fields."""
    known = model_field_names()
    return any(name in known or name.startswith("opt.") for name in names)
