"""One MuJoCo model: loaded from MJCF or an MjSpec, checked before anything runs, and read by name."""

import copy
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import mujoco
import numpy as np

from robokit.errors import ModelError, did_you_mean
from robokit.sim.mjcf.files import ARCHIVES, model_files, shown

MAX_TIMESTEP = 0.1  # s
SPARSE_NV = 60  # degrees of freedom from which MuJoCo's automatic Jacobian is sparse
DENSE_ROWS = 32  # constraint rows per degree of freedom with room in a dense Jacobian; heaps of boxes: 20
DENSE_BYTES = 4 << 30  # at most: 4,000 degrees of freedom
FINITE = (
    *("body_mass", "body_inertia", "body_pos", "body_quat", "body_ipos", "jnt_pos", "jnt_axis"),
    *("geom_pos", "geom_size", "site_pos", "qpos0", "key_qpos", "key_ctrl", "opt.gravity"),
)
KINDS = ("body", "joint", "sensor", "actuator", "geom", "site", "key")  # named elements
DEPRECATED = "compiler attribute '.*' is deprecated"  # still works, and the user may not own the model

Source = Path | str | mujoco.MjSpec

# without a callback for warnings, MuJoCo writes MUJOCO_LOG.TXT into the current folder
mujoco.set_mju_user_warning(lambda message: None)


_files = WeakKeyDictionary[mujoco.MjSpec, str]()  # what a spec was loaded from, for messages
_kept: ContextVar[dict[Any, Any] | None] = ContextVar("_kept", default=None)


@contextmanager
def compiled_once() -> Iterator[None]:
    """Within it, `load` loads the model of one owner once, and compile_model compiles a spec once.

    So nobody may change these specs. An inner one joins an outer one.
    """
    if _kept.get() is not None:
        yield
        return
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def load(source: Source, owner: object = None) -> mujoco.MjSpec:
    """An editable copy of the model in a file (MJCF, URDF, a .mjz archive) or an MjSpec.

    owner: the task whose model it is; within `compiled_once` all get one copy, which nobody may then edit.
    Raises ModelError for a missing or malformed file, and for what `model_files` refuses: a NaN, a file that
    includes itself, too many <replicate>.
    """
    kept = _kept.get()
    if kept is None or owner is None:
        return _load(source)
    if id(owner) not in kept:
        kept[id(owner)] = owner, _load(source)  # an owner that is kept keeps its id
    return kept[id(owner)][1]


def _load(source: Source) -> mujoco.MjSpec:
    if not isinstance(source, Path | str):
        if not isinstance(source, mujoco.MjSpec):
            kind = type(source).__name__
            hint = ", which cannot be edited: give its file" if kind == "MjModel" else ""
            raise ModelError(f"a model is an MJCF file or an MjSpec, got {kind}{hint}")
        return source.copy()
    path = Path(source)
    if not os.path.isfile(path):
        if str(source).lstrip().startswith("<"):
            raise ModelError("a model is an MJCF file or an MjSpec, got XML: mujoco.MjSpec.from_string(text)")
        raise ModelError(f"no model file {shown(path)}")
    path = _encodable(path)
    model_files(path)
    try:
        spec = _parse(path)
    except (ValueError, mujoco.FatalError) as error:
        utf16 = path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")
        why = "it is UTF-16, which MuJoCo does not read: save it as UTF-8" if utf16 else _line(error)
        raise ModelError(f"{shown(path)} is not valid MJCF: {why}") from error
    _files[spec] = shown(path)
    return spec


def _encodable(path: Path) -> Path:
    """The path, if need be from the current folder: MuJoCo's bindings take UTF-8. Else ModelError."""
    for way in (path, Path(os.path.relpath(path))):
        if str(way).isascii() or os.fsencode(way).decode("utf-8", "replace") == str(way):
            return way
    raise ModelError(f"MuJoCo opens no path that is not UTF-8: rename {shown(path)}, or work in its folder")


def _parse(path: Path) -> mujoco.MjSpec:
    """MuJoCo goes by the ending, .xml or .urdf; any other text that begins like XML is given such a name."""
    if path.suffix in (".xml", ".urdf", *ARCHIVES):
        return mujoco.MjSpec.from_file(str(path))
    text = path.read_bytes()
    if not text.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        kinds = "MJCF or URDF (XML), or an archive (.mjz)"
        raise ModelError(f"{shown(path)} is no {kinds}: MuJoCo's compiled .mjb files cannot be edited")
    name = f"{path}.xml"
    return mujoco.MjSpec.from_file(name, include={name: text})


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def compile_model(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """Compile and check a model; where MuJoCo 4.0.0's sparse Newton solver is wrong, `_dense` replaces it.

    Raises ModelError naming its file if MuJoCo refuses it, and for faults that MuJoCo loads without an error:
    a timestep outside (0, MAX_TIMESTEP] s, or a number in FINITE (masses, positions, ...) that is not finite.
    """
    kept, file = _kept.get(), _files.get(spec)
    try:
        if kept is None:
            return _checked(spec)
        if id(spec) not in kept:
            kept[id(spec)] = spec, _checked(spec)
    except ModelError as error:
        raise ModelError(f"{file}: {error}" if file else str(error)) from error
    return copy.copy(kept[id(spec)][1])


def _checked(spec: mujoco.MjSpec) -> mujoco.MjModel:
    model = _compile(spec)
    if not 0.0 < model.opt.timestep <= MAX_TIMESTEP:
        raise ModelError(f"timestep must be in (0, {MAX_TIMESTEP}] s, got {model.opt.timestep}")
    for field in FINITE:
        _check_finite(model, field)
    sparse = model.opt.jacobian != mujoco.mjtJacobian.mjJAC_DENSE and model.nv >= SPARSE_NV
    if mujoco.__version__ == "4.0.0" and model.opt.solver == mujoco.mjtSolver.mjSOL_NEWTON and sparse:
        model = _dense(spec, model)  # 4.0.0's sparse Newton is wrong; fixed in 4.0.1
    model.vis.global_.bvactive = 0  # only for display, and it costs a third of the step
    return model


def _compile(spec: mujoco.MjSpec) -> mujoco.MjModel:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", DEPRECATED, UserWarning)
        try:
            return spec.compile()
        except (ValueError, mujoco.FatalError) as error:
            raise ModelError(f"the model does not compile: {_line(error)}") from error


def _dense(spec: mujoco.MjSpec, model: mujoco.MjModel) -> mujoco.MjModel:
    """The same model with a dense Jacobian, and memory for it, if it has less: docs/decisions/024.

    The memory is reserved; only what a simulation uses is taken.
    """
    memory, stack = spec.memory, spec.nstack
    rows, number = DENSE_ROWS * model.nv, np.dtype(np.float64).itemsize
    room = min(number * model.nv * rows, DENSE_BYTES)
    if room <= model.narena / 4:  # to compile again takes seconds with meshes
        model.opt.jacobian = mujoco.mjtJacobian.mjJAC_DENSE
        return model
    spec.memory, spec.nstack = int(model.narena) + room, -1  # only one of them can be set
    try:
        model = _compile(spec)
    finally:
        spec.memory, spec.nstack = memory, stack
    model.opt.jacobian = mujoco.mjtJacobian.mjJAC_DENSE
    return model


def _check_finite(model: mujoco.MjModel, field: str) -> None:
    values = nominal(model, field)
    for row in np.argwhere(~np.isfinite(values))[:1, 0]:
        kind = {"jnt": "joint"}.get(field.split("_")[0], field.split("_")[0])
        owner = names(model, kind)[row] if kind in KINDS else ""
        raise ModelError(f"{field} of {owner or f'number {row}'} is not finite: {values[row]}")


def nominal(model: mujoco.MjModel, field: str) -> np.ndarray:
    """An MjModel field or `opt.` field (`opt.gravity`) by name, an array that may be a view of the model.

    Raises ModelError for another name.
    """
    owner, name = (model.opt, field[4:]) if field.startswith("opt.") else (model, field)
    value = getattr(owner, name, None)
    if value is None or callable(value):
        known = [n for n in dir(owner) if not n.startswith("_")]
        raise ModelError(f"no model field {field!r}{did_you_mean(name, known)}")
    return np.asarray(value)


def names(model: mujoco.MjModel, kind: str) -> list[str]:
    """Names of all elements of a kind (one of KINDS), in MuJoCo's order; "" for an unnamed one."""
    obj = getattr(mujoco.mjtObj, f"mjOBJ_{kind.upper()}")
    count = getattr(model, {"joint": "njnt"}.get(kind, f"n{kind}"))
    return [name_of(model, obj, i) for i in range(count)]


def name_of(model: mujoco.MjModel, kind: mujoco.mjtObj, i: int) -> str:
    """Name of one element, "" if it has none; not UTF-8, it counts as Latin-1."""
    try:
        return mujoco.mj_id2name(model, kind, i) or ""
    except UnicodeDecodeError as error:
        return error.object.decode("latin-1")


def index(model: mujoco.MjModel, kind: str, name: str | int) -> int:
    """Index of the element of this kind and name, or index. Raises ModelError listing the known names."""
    known = names(model, kind)
    if isinstance(name, int) and 0 <= name < len(known):
        return name
    if name not in known:
        by_index = ", and those without a name by index" if "" in known else ""
        hint = did_you_mean(str(name), known, f"it has {known}{by_index}")
        raise ModelError(f"no {kind} {name!r} in the model{hint}")
    return known.index(name)
