"""N simulations on MuJoCo Warp in float32, with the interface of `robokit.sim.base`.

Runs on CUDA, or on one CPU core for tests. Warp compiles kernels at their first use, in about a minute, and
caches them; from the second call on `step` and a masked `reset` replay recorded kernels (see graph.py). These
two and `bad` never wait for the device.

Differences from MuJoCo: a simulation that is not finite stays so until it is reset; fields that need
mj_setConst change only in a reset of all simulations; geoms fixed to the world cannot be moved. A capsule
steeper than 60 degrees on a plane has other contact tangents, which matters with a pyramidal friction cone
(the ant's feet). <size nconmax> limits contacts per simulation, in the mean over the batch; <size njmax>
limits constraint rows in each simulation.

Tested on Warp's CPU device: agreement with `mujoco.batch` on every shipped task; replays equal plain calls, a
seed repeats its rollout and a saved state continues, all bit for bit. Not yet tested on CUDA, where sums have
no fixed order: see tests/sim/test_warp_cuda.py.
"""

import importlib
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import mujoco
import torch
from torch import Tensor

from robokit.errors import ModelError, did_you_mean
from robokit.sim.base import SMALLER, STATE, Sim, model_field_names
from robokit.sim.drawn import check_drawn
from robokit.sim.model import compile_model, nominal
from robokit.state import put

try:
    wp: Any = importlib.import_module("warp")
    wp.config.log_level = wp.LOG_WARNING  # before mujoco_warp initialises it: no banner, no kernel messages
    mjw: Any = importlib.import_module("mujoco_warp")
    from robokit.sim.warp.graph import Graphs
    from robokit.sim.warp.support import check_model, check_unmoved, warp_device
except ImportError as error:
    how = "pip install 'robokit[gpu]', in a checkout pip install -c constraints.txt -e '.[gpu]'"
    raise ModelError(f"sim='warp' needs mujoco_warp: {how} ({error})") from error

MAX_STATE = mujoco.mjMAXVAL  # a larger value is bad, as in MuJoCo
MOST_CONTACTS = 64  # per simulation, in the mean: upper bound of nconmax for models without it
ROUND = {  # largest number of contacts of a pair with such a geom; 8 for other pairs
    mujoco.mjtGeom.mjGEOM_SPHERE: 1,
    mujoco.mjtGeom.mjGEOM_ELLIPSOID: 1,
    mujoco.mjtGeom.mjGEOM_CAPSULE: 2,
}
ROUGH = (mujoco.mjtGeom.mjGEOM_HFIELD, mujoco.mjtGeom.mjGEOM_SDF)  # such pairs have mjMAXCONPAIR
CAUSES = {  # in the order of `faults`
    "no room for all contacts": "put a larger <size nconmax=.../> into the model",
    "no room for all constraint rows": "put a larger <size njmax=.../> into the model",
    **{f"{name} not finite or above 1e10": SMALLER for name in ("qpos", "qvel")},
    "ctrl not finite or above 1e10": "look at the action",
}
NO_ROOM = {  # option of <size> -> overflow flags; a larger value avoids them
    "nconmax": int(mjw.OverflowType.BROADPHASE | mjw.OverflowType.NARROWPHASE | mjw.OverflowType.CCD),
    "njmax": int(mjw.OverflowType.NEFC | mjw.OverflowType.NJMAX_NNZ),
}
CUT = {  # what is lost in other overflows -> their flag
    "contacts with a height field": int(mjw.OverflowType.HFIELD),
    "contacts that a contact sensor reports": int(mjw.OverflowType.CONTACT_MATCH),
    "contacts that a tactile sensor feels": int(mjw.OverflowType.TACTILE),
}
SET_CONST = model_field_names()
WRITTEN = (*STATE, "memory")  # all other fields are computed from these
SIGNATURE = int(mjw.State.INTEGRATION)
CONSTANTS = (  # fields that set_const computes: one row per simulation
    *("body_subtreemass", "geom_size", "geom_aabb", "geom_rbound", "tendon_length0", "eq_data"),
    *("cam_pos0", "cam_poscom0", "cam_mat0", "light_pos0", "light_poscom0", "light_dir0"),
    *("dof_invweight0", "body_invweight0", "tendon_invweight0", "actuator_acc0"),
)


class WarpSim(Sim):
    """A `Sim` on MuJoCo Warp. device: "cuda", "cuda:1"... or "cpu"; threads: ignored; lag: as in MujocoSim.

    Raises OptionError for an unusable device, ModelError for a feature that mujoco_warp does not simulate.
    """

    engine, causes = "warp", CAUSES

    def __init__(
        self,
        spec: mujoco.MjSpec,
        num_envs: int,
        memory: Mapping[str, int],
        threads: int = 0,
        lag: bool = False,
        device: str = "cuda",
    ) -> None:
        self.device = warp_device(device)
        model = compile_model(spec)
        model.opt.jacobian = spec.option.jacobian  # undo compile_model's choice for MuJoCo's solver
        check_model(model)
        self._graphs = Graphs(self.device)
        with self._graphs.scope():
            self._model = _put(model)
            self.nconmax, self.njmax = _room(model, self._model.nxn_geom_pair_filtered.numpy().tolist())
            room = {"nconmax": self.nconmax, "njmax": self.njmax}
            self._data = mjw.make_data(model, num_envs, **room)
            self._state = wp.zeros((num_envs, mujoco.mj_stateSize(model, SIGNATURE)))
        self._lag = lag
        self._late = torch.empty(0, device=self.device)  # (nstep, N, A) of targets that differ in a period
        self._bound = {"memory": torch.zeros(num_envs, sum(memory.values()), device=self.device)}
        self._fields: dict[str, Tensor] = {}  # model fields with a row per simulation
        self._overflow = wp.to_torch(self._data.overflow)
        self._chosen = torch.ones(num_envs, dtype=torch.bool, device=self.device)  # simulations to reset
        self._found = torch.zeros(1, dtype=torch.int32, device=self.device)  # overflow flags so far
        self._mail = Mail(self._found)
        self._warned = 0
        super().__init__(model, num_envs, memory, self.device)
        self.reset(None, {})

    def field(self, name: str) -> Tensor:
        if name not in self._bound:
            array: Any = getattr(self._data, name, None)
            if not isinstance(array, wp.array) or array.shape[0] != self._data.nworld:
                known = [n for n, a in vars(self._data).items() if isinstance(a, wp.array)]
                raise ModelError(f"mujoco_warp has no MjData field {name!r}{did_you_mean(name, known)}")
            self._bound[name] = wp.to_torch(array)
            if self._bound[name].ndim == 4:  # (N, n, 3, 3); MuJoCo's matrices are rows of 9
                self._bound[name] = self._bound[name].flatten(2)
        return self._bound[name]

    def step(self, ctrl: Tensor, nstep: int) -> None:
        self._report()
        late = ctrl.dim() == 3
        if late and ctrl.shape != self._late.shape:
            self._late = torch.empty_like(ctrl)  # kept, as a recording holds its address
        (self._late if late else self.ctrl).copy_(ctrl)
        self._graphs.run(("step", nstep, late), lambda: self._step(nstep, late))
        self._mail.send()

    def _step(self, nstep: int, late: bool) -> None:
        model, data = self._model, self._data
        for k in range(nstep):
            if late:
                wp.copy(data.ctrl, wp.from_torch(self._late[k]))
            mjw.step(model, data)
        if not self._lag:
            mjw.fwd_position(model, data, factorize=False)
            mjw.sensor_pos(model, data)
            mjw.fwd_velocity(model, data)
            mjw.sensor_vel(model, data)
        found = wp.from_torch(self._found)
        wp.launch(_gather, dim=self.num_envs, inputs=[data.overflow], outputs=[found])

    def faults(self) -> Tensor:
        full = [self._overflow.bitwise_and(flags) != 0 for flags in NO_ROOM.values()]
        state = (self.qpos, self.qvel, self.ctrl)
        return torch.stack([*full, *(~(value.abs() < MAX_STATE).all(-1) for value in state)], -1)  # also NaN

    def reset(self, which: Tensor | None, values: Mapping[str, Tensor]) -> None:
        chosen = self._chosen.fill_(which is None)
        if which is not None:
            put(chosen, which, True)
        derived = {name: live for name, live in self._bound.items() if name not in WRITTEN}
        before = {} if which is None else {name: live.clone() for name, live in derived.items()}
        targets = {n: self._target(n) for n in values if which is None or not self._is_constant(n)}
        for name in targets if which is None else ():
            check_unmoved(self.model, name, values[name])
        own = self._model, self._data
        self._graphs.run("reset", lambda: mjw.reset_data(*own, wp.from_torch(self._chosen)))
        self._bound["memory"].masked_fill_(chosen[:, None], 0.0)
        for name, target in targets.items():
            put(target, chosen if which is None else which, values[name])
        self._forward(any(map(self._is_constant, targets)))
        for name, value in before.items():  # forward has no mask: restore the others
            put(derived[name], ~chosen, value)

    def _forward(self, changed: bool) -> None:
        """Compute all fields from the state; changed: first recompute the model's constants."""
        if changed:
            with self._graphs.scope():
                mjw.set_const(self._model, self._data, restore=False)
        self._graphs.run("forward", lambda: mjw.forward(self._model, self._data))

    def _is_constant(self, name: str) -> bool:
        return name not in self.memory and name in SET_CONST

    def _target(self, name: str) -> Tensor:
        if name in self.memory or name in STATE:
            return self.written(name)
        if name not in self._fields:
            self._fields[name] = self._field_of_model(name)
        return self._fields[name]

    def _field_of_model(self, name: str) -> Tensor:
        """A live view (N, ...) of a model field, in MuJoCo's shape, with a row for every simulation.

        Raises ModelError for a field that mujoco_warp keeps once for all simulations.
        """
        check_drawn(self.model, name)
        shape, rows = nominal(self.model, name).shape, self._rows(name)
        if rows is None or rows.ndim <= len(shape) or rows[0].numel() != math.prod(shape):
            raise ModelError(f"mujoco_warp keeps one {name!r} for all simulations: it cannot be written")
        for constant in CONSTANTS if self._is_constant(name) else ():
            self._expand(constant)
        return self._expand(name).view(self.num_envs, *shape)

    def _rows(self, name: str) -> Tensor | None:
        """A model field's array, (1 or N, ...); None if mujoco_warp has no such array."""
        array = getattr(*self._place(name), None)
        return wp.to_torch(array) if isinstance(array, wp.array) else None

    def _place(self, name: str) -> tuple[Any, str]:
        """(object, attribute) that hold a model field: `opt.gravity` is `gravity` of the model's options."""
        return (self._model.opt, name[4:]) if name.startswith("opt.") else (self._model, name)

    def _expand(self, name: str) -> Tensor:
        """Replace a model field's array of one row by one with a row per simulation, and return that.

        Recordings are dropped, as they hold the old array's address.
        """
        array, rows = getattr(*self._place(name)), self._rows(name)
        assert rows is not None
        if rows.shape[0] != self.num_envs and rows.numel():
            rows = rows.expand(self.num_envs, *rows.shape[1:]).contiguous()
            self._graphs.drop()
            setattr(*self._place(name), wp.from_torch(rows, dtype=array.dtype))
        return rows

    def _report(self) -> None:
        """Raise ModelError for too many contacts, warn once of each other overflow; may lag some steps."""
        found = self._mail.read()
        if found & NO_ROOM["nconmax"]:
            have = f"{self.nconmax} contacts a simulation on average"
            raise ModelError(f"{have} are not enough: put a larger <size nconmax=.../> into the model")
        new, self._warned = found & ~self._warned, self._warned | found
        if new & NO_ROOM["njmax"]:
            have = f"{self.njmax} constraint rows are not enough for some simulation, which counts as bad"
            warnings.warn(f"{have}: put a larger <size njmax=.../> into the model", stacklevel=3)
        for lost in (what for what, bit in CUT.items() if new & bit):
            warnings.warn(f"mujoco_warp has no room for some of the {lost}: they are left out", stacklevel=3)

    def copy(self, other: Sim, rows: Tensor) -> None:
        state = {name: value[rows] for name, value in other.state_dict().items()}
        own = {f"field.{n}": self.nominal(n).expand_as(x) for n, x in self._fields.items()}
        self.load_state_dict(own | state)

    def state_dict(self) -> dict[str, Tensor]:
        self.check_saved()
        with self._graphs.scope():
            mjw.get_state(self._model, self._data, self._state, SIGNATURE)
        fields = {f"field.{name}": value.clone() for name, value in self._fields.items()}
        return {"state": wp.to_torch(self._state).clone(), "memory": self._bound["memory"].clone(), **fields}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        fields = {name[6:]: value for name, value in state.items() if name.startswith("field.")}
        for name, value in fields.items():
            self._target(name).copy_(value)
        wp.to_torch(self._state).copy_(state["state"])
        self._bound["memory"].copy_(state["memory"])
        self._overflow.zero_()
        with self._graphs.scope():
            if any(map(self._is_constant, fields)):
                mjw.set_const(self._model, self._data, restore=False)
            mjw.set_state(self._model, self._data, self._state, SIGNATURE)
        self._forward(False)


class Mail:
    """Copies of one number from the device to Python, without waiting and without partial reads."""

    def __init__(self, number: Tensor) -> None:
        on_cuda = number.device.type == "cuda"
        self._number = number
        self._here = torch.zeros(1, dtype=number.dtype, pin_memory=on_cuda)
        self._sent = torch.cuda.Event() if on_cuda else None

    def _arrived(self) -> bool:
        return self._sent is None or self._sent.query()

    def send(self) -> None:
        """Queue a copy, unless an earlier one is still pending and would be overwritten."""
        if self._arrived():
            self._here.copy_(self._number, non_blocking=True)
            if self._sent is not None:
                self._sent.record(torch.cuda.current_stream(self._number.device))

    def read(self) -> int:
        """The last number received; 0 while a copy is pending."""
        return int(self._here) if self._arrived() else 0


@wp.kernel(enable_backward=False)
def _gather(overflow: wp.array[int], found: wp.array[int]):  # pyright: ignore[reportInvalidTypeForm]
    wp.atomic_or(found, 0, overflow[wp.tid()])


def _put(model: mujoco.MjModel) -> Any:
    """mujoco_warp's model on the current device; ModelError for a feature that it refuses."""
    try:
        put = mjw.put_model(model)
    except (NotImplementedError, ValueError) as error:
        feature = str(error).rstrip(".")
        raise ModelError(f"mujoco_warp: {feature}: change the model, or take sim='mujoco'") from error
    put.opt.warn_overflow = 0  # no prints from kernels: see _report
    return put


def _room(model: mujoco.MjModel, pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """(nconmax, njmax) from <size>, else from the worst case of the geom `pairs` that may touch.

    nconmax: contacts per simulation, in the mean, at most MOST_CONTACTS without <size>; njmax: rows in each.
    """
    kinds = [mujoco.mjtGeom(int(kind)) for kind in model.geom_type]
    worst = MOST_CONTACTS if model.nflex else sum(_contacts(kinds[a], kinds[b]) for a, b in pairs)
    contacts = model.nconmax if model.nconmax > 0 else max(1, min(worst, MOST_CONTACTS))
    pyramid = model.opt.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL
    width = int(max((*model.geom_condim, *model.pair_dim), default=1))
    rows = 2 * (width - 1) if pyramid and width > 1 else width
    joints = 6 * model.neq + model.nv + 2 * model.njnt + 3 * model.ntendon
    return contacts, model.njmax if model.njmax > 0 else joints + rows * contacts


def _contacts(*pair: mujoco.mjtGeom) -> int:
    """Largest number of contacts between two geoms of these types."""
    return mujoco.mjMAXCONPAIR if set(pair) & set(ROUGH) else min(ROUND.get(kind, 8) for kind in pair)
