"""The interface of every engine: N simulations of one model as live tensors, read by name.

    sim = make_sim("mujoco", model.load("hopper.xml"), num_envs=64, memory={"action": 3})
    sim.reset(None, {"qpos": qpos})
    sim.step(ctrl, nstep=4)
    sim.qpos, sim.sensor("gyro"), sim.body("torso").xpos

Tensors keep their storage for the life of the Sim and have the engine's precision (float64 on the
CPU, float32 on Warp). A step overwrites them: clone values to keep. Only Env and Sim write.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import torch
from mujoco.batch import DATA_FIELDS, MODEL_FIELDS
from torch import Tensor

from robokit.errors import ModelError, did_you_mean
from robokit.sim.model import index, names, nominal

STATE = ("qpos", "qvel", "act", "ctrl", "qfrc_applied", "xfrc_applied", "mocap_pos", "mocap_quat", "time")
SMALLER = "a smaller timestep may help"  # against what diverges
_OF_BODY = ("xpos", "xquat", "xmat", "xipos", "ximat", "cvel", "cacc", "cfrc_int", "cfrc_ext", "xfrc_applied")
_FIELDS = {
    "body": {f: f for f in (*_OF_BODY, "subtree_com", "subtree_linvel", "subtree_angmom")},
    "geom": {"xpos": "geom_xpos", "xmat": "geom_xmat"},
    "site": {"xpos": "site_xpos", "xmat": "site_xmat"},
}
_HABITS = {  # names of MuJoCo's bindings and other toolkits -> what a task reads in their place
    "data": "sim.qpos and others of the Sim itself, or sim.field('qacc')",
    "key": "sim.keyframe(name)",
    "tendon": "sim.field('ten_length')[:, index]",
    "actuator": "sim.field('actuator_force')[:, index]",
    "dt": "sim.timestep, or control_dt of the task",
}
_OF_JOINT = ("qpos", "qvel", "qacc", "qfrc_actuator", "qfrc_applied", "qfrc_constraint", "qfrc_passive")


@dataclass(frozen=True)
class Keyframe:
    """One keyframe of the model: the state that a reset can return."""

    qpos: Tensor  # (nq,)
    qvel: Tensor  # (nv,)
    ctrl: Tensor  # (nu,)
    act: Tensor  # (na,) of actuators with a state
    mocap_pos: Tensor  # (nmocap, 3)
    mocap_quat: Tensor  # (nmocap, 4)
    time: Tensor  # () s

    def __getattr__(self, name: str) -> Any:
        raise MissingError(f"a keyframe has no {name!r}; it has {[*self.__dataclass_fields__]}")


class MissingError(ModelError, AttributeError):
    """A Sim has no such attribute; `hasattr` and `getattr` with a default work as ever."""


class Named:
    """One body, geom, site or joint in all simulations; attributes are live views (N, ...) of MjData fields.

    Names as in MuJoCo's bindings: geom("foot").xpos, not geom_xpos. ModelError for another name.
    """

    def __init__(self, sim: "Sim", kind: str, name: str | int) -> None:
        self._sim, self._kind, self._name = sim, kind, name
        self._id = index(sim.model, kind, name)

    def __getattr__(self, attribute: str) -> Tensor:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        known = _OF_JOINT if self._kind == "joint" else _FIELDS[self._kind]
        if attribute not in known:
            near = did_you_mean(attribute, known, f"it has {sorted(known)}")
            hint = ": a joint has it" if attribute in _OF_JOINT else near
            raise ModelError(f"a {self._kind} has no {attribute!r}{hint}")
        value = self._joint(attribute) if self._kind == "joint" else self._row(attribute)
        if not torch.compiler.is_compiling():
            self.__dict__[attribute] = value  # next time without this method
        return value

    def _row(self, attribute: str) -> Tensor:
        return self._sim.field(_FIELDS[self._kind][attribute])[:, self._id]

    def _joint(self, attribute: str) -> Tensor:
        model, free_or_ball = self._sim.model, {0: (7, 6), 1: (4, 3)}
        nq, nv = free_or_ball.get(int(model.jnt_type[self._id]), (1, 1))
        in_qpos = attribute == "qpos"
        start = int((model.jnt_qposadr if in_qpos else model.jnt_dofadr)[self._id])
        return self._sim.field(attribute)[:, start : start + (nq if in_qpos else nv)]


class Sim(ABC):
    """N simulations of one model; the engines differ only in the abstract methods."""

    engine: str  # its name in `make_sim`
    # why a simulation breaks -> what to do; in the order of the columns of `faults`
    causes: dict[str, str]
    qpos: Tensor  # (N, nq)
    qvel: Tensor  # (N, nv)
    ctrl: Tensor  # (N, nu), actuator order
    highest: int | None = None  # level of the task, see task/level.py; None: it has no levels
    libraries: Any = None  # of the task, see task/states.py; None outside of training

    def __init__(self, model: mujoco.MjModel, num_envs: int, memory: Mapping[str, int], device: torch.device):
        self.model = model
        self.num_envs = num_envs
        self.device = device
        self.timestep = float(model.opt.timestep)  # s
        self._named: dict[tuple[str, str | int], Named] = {}
        self._nominal: dict[str, Tensor] = {}
        self._keyframes: dict[str | int, Keyframe] = {}
        self._constants: dict[tuple[float, ...], Tensor] = {}
        self.qpos, self.qvel, self.ctrl = (self.field(f) for f in ("qpos", "qvel", "ctrl"))
        self.dtype = self.qpos.dtype  # float64, or the engine's float32
        parts = self.field("memory").split(list(memory.values()), -1)
        self.memory = dict(zip(memory, parts, strict=True))  # (N, d) each; a restart zeroes them
        sensordata = self.field("sensordata")
        starts, widths = (x.tolist() for x in (model.sensor_adr, model.sensor_dim))
        ranges = (slice(start, start + width) for start, width in zip(starts, widths, strict=True))
        self._columns = dict(zip(names(model, "sensor"), ranges, strict=True))
        self._sensors = {name: sensordata[:, columns] for name, columns in self._columns.items()}

    @property
    def act(self) -> Tensor:
        """(N, na) states of the actuators that have one."""
        return self.field("act")

    @property
    def time(self) -> Tensor:
        """(N,) s since the reset."""
        return self.field("time")

    @property
    def mocap_pos(self) -> Tensor:
        """(N, nmocap, 3) m."""
        return self.field("mocap_pos")

    @property
    def mocap_quat(self) -> Tensor:
        """(N, nmocap, 4)."""
        return self.field("mocap_quat")

    def __getattr__(self, name: str) -> Any:
        """Of a name that a Sim does not have: ModelError that says how it is read."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise MissingError(f"sim has no {name!r}{_how(name)}")

    def sensor(self, name: str) -> Tensor:
        """Live readings of one sensor, (N, dim), unit and frame as MuJoCo defines the sensor's type."""
        if name not in self._sensors:
            index(self.model, "sensor", name)  # raises, listing the sensors
        if torch.compiler.is_compiling():  # a view in the graph is free, as an input of it it is not
            return self.field("sensordata")[:, self._columns[name]]
        return self._sensors[name]

    def body(self, name: str | int) -> Named:
        return self._view("body", name)

    def geom(self, name: str | int) -> Named:
        return self._view("geom", name)

    def site(self, name: str | int) -> Named:
        return self._view("site", name)

    def joint(self, name: str | int) -> Named:
        return self._view("joint", name)

    def _view(self, kind: str, name: str | int) -> Named:
        if (kind, name) not in self._named:
            self._named[kind, name] = Named(self, kind, name)
        return self._named[kind, name]

    def nominal(self, field: str) -> Tensor:
        """The compiled model's value of an MjModel field or `opt.` field, without N; to randomise around."""
        if field not in self._nominal:
            value = torch.as_tensor(np.array(nominal(self.model, field)), device=self.device)
            self._nominal[field] = value.to(self.dtype) if value.is_floating_point() else value
        return self._nominal[field]

    def constant(self, *numbers: float) -> Tensor:
        """The numbers as one tensor (d,) of qpos's precision, made once: a copy to a GPU blocks the host."""
        if numbers not in self._constants:
            self._constants[numbers] = torch.tensor(numbers, dtype=self.dtype, device=self.device)
        return self._constants[numbers]

    def made_once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A tensor that `make` computes from the model at the first call, which cannot be a compiled one."""
        if name not in self._nominal:
            self._nominal[name] = make()
        return self._nominal[name]

    def keyframe(self, name: str | int) -> Keyframe:
        """A keyframe of the model by name or index, on the simulation's device."""
        if name not in self._keyframes:
            row = index(self.model, "key", name)
            fields = ("qpos", "qvel", "ctrl", "act", "mpos", "mquat", "time")
            values = dict(zip(fields, (self.nominal(f"key_{f}")[row] for f in fields), strict=True))
            values |= {"mpos": values["mpos"].view(-1, 3), "mquat": values["mquat"].view(-1, 4)}
            self._keyframes[name] = Keyframe(*values.values())
        return self._keyframes[name]

    def written(self, name: str) -> Tensor:
        """The live tensor of a state field or memory by name. Raises ModelError for another name."""
        if name in self.memory:
            return self.memory[name]
        if name not in STATE:
            known = (*STATE, *self.memory)
            hint = did_you_mean(name, known, f"it has {known}")
            raise ModelError(f"no state or memory {name!r} to write{hint}")
        return self.field(name)

    def chosen(self, mask: Tensor) -> Tensor:
        """Row numbers (n,) where mask (N,) bool; on a GPU the mask itself: reading it blocks the host."""
        return mask.nonzero()[:, 0] if self.device.type == "cpu" else mask

    @abstractmethod
    def field(self, name: str) -> Tensor:
        """A live (N, ...) view of an MjData field, or "memory" (N, sum of widths).

        A derived field that was never read before may be zero until the next step or reset.
        """

    @abstractmethod
    def step(self, ctrl: Tensor, nstep: int) -> None:
        """Advance by `nstep` timesteps with `ctrl` (N, nu), or with each timestep's own (nstep, N, nu)."""

    @abstractmethod
    def reset(self, which: Tensor | None, values: Mapping[str, Tensor]) -> None:
        """Restart some simulations, or all: reset the engine, zero memory, write `values`, full forward.

        which, values {name: tensor}: row numbers (n,), ascending, and tensors (n, ...); or a mask (N,) bool,
        or None for all, and tensors (N, ...), of which the rows in the mask are written. A name is a state
        field, memory, or else a model field. On Warp a model field that needs mj_setConst (masses, inertias,
        lengths) is written only for None.
        """

    @abstractmethod
    def copy(self, other: "Sim", rows: Tensor) -> None:
        """Simulation i goes on as `rows[i]` of `other` does, bit for bit; rows (N,): numbers, also repeated.

        other: of the same engine and model, with the same memory; not checked. All is copied that a step
        depends on: MuJoCo's integration state (time, actuators, mocap bodies, warm start), memory, faults and
        model fields that differ between simulations. On Warp faults are cleared, and the accelerations are
        computed anew. Raises ModelError for a model with state that the engine neither gives nor takes.
        """

    @abstractmethod
    def faults(self) -> Tensor:
        """(N, number of causes) bool: by which of `causes` a simulation broke since its last reset."""

    def bad(self) -> Tensor:
        """(N,) bool: simulations that broke since their last reset, by any of `causes`."""
        return self.faults().any(-1)

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Copies of everything needed for a bit-equal continuation.

        Raises ModelError for a model with state that the engine neither gives nor takes.
        """

    def check_saved(self) -> None:
        """Raise ModelError for a flag with which a simulation holds more than the state that is saved."""
        for flag in unsaved_flags(self.model):
            rule = "holds more than the state that MuJoCo saves, so no training could be resumed bit for bit"
            raise ModelError(f'<flag {flag}="enable"/> {rule}: take it out of the model')

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict()` of a Sim of the same engine, model and num_envs; not checked."""


def unsaved_flags(model: mujoco.MjModel) -> list[str]:
    """The flags that are on and with which MuJoCo keeps more from step to step than it saves."""
    bits = mujoco.mjtEnableBit.__members__
    return [f for f in ("sleep", "ipc") if model.opt.enableflags & bits.get(f"mjENBL_{f.upper()}", 0)]


def model_field_names() -> frozenset[str]:
    """MjModel fields whose change needs mj_setConst before the next forward."""
    return frozenset(mujoco.MjModel._setconst_inputs)  # pyright: ignore[reportAttributeAccessIssue]


def is_field(name: str) -> bool:
    """Whether a name that a task writes means a state or model field."""
    of_model = isinstance(getattr(mujoco.MjModel, name, None), property)
    return of_model or name in STATE or name.startswith("opt.")


def _how(name: str) -> str:
    """How a task reads what is no attribute of a Sim: `: read it with sim.field('qacc')`, or a close name."""
    if name == "contact" or name.startswith("efc_"):
        return ": contacts and constraints are read through sensors of the model"
    if name in _HABITS:
        return f": read {_HABITS[name]}"
    if name in DATA_FIELDS:
        return f": read it with sim.field({name!r})"
    if name in MODEL_FIELDS:
        return f": read the model's with sim.nominal({name!r})"
    if f"opt.{name}" in MODEL_FIELDS:
        return f": read the option with sim.nominal('opt.{name}')"
    if hasattr(mujoco.MjModel, name):
        return f": read sim.model.{name}"
    known = (*Sim.__annotations__, *dir(Sim), *DATA_FIELDS)
    return did_you_mean(name, (one for one in known if not one.startswith("_")))
