"""One MuJoCo model: loaded from MJCF or an MjSpec, checked before anything runs, and read by name."""

import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import mujoco
import numpy as np

from robokit.errors import ModelError, did_you_mean

MAX_TIMESTEP = 0.1  # s
SPARSE_NV = 60  # degrees of freedom from which MuJoCo's automatic Jacobian is sparse
DENSE_ROWS = (
    32  # constraint rows per degree of freedom with room in a dense Jacobian; boxes in a heap have 20
)
DENSE_BYTES = 4 << 30  # at most: 4,000 degrees of freedom
MAX_REPLICAS = 5_000  # copies from nested <replicate>: MuJoCo's compile time grows with their square
FINITE = (
    *("body_mass", "body_inertia", "body_pos", "body_quat", "body_ipos", "jnt_pos", "jnt_axis"),
    *("geom_pos", "geom_size", "site_pos", "qpos0", "key_qpos", "key_ctrl", "opt.gravity"),
)
KINDS = ("body", "joint", "sensor", "actuator", "geom", "site", "key")  # named elements
DEPRECATED = "compiler attribute '.*' is deprecated"  # still works, and the user may not own the model

Source = Path | str | mujoco.MjSpec

# without a callback for warnings, MuJoCo writes MUJOCO_LOG.TXT into the current folder
mujoco.set_mju_user_warning(lambda message: None)


def load(source: Source) -> mujoco.MjSpec:
    """An editable copy of the model in an MJCF file or an MjSpec.

    Raises ModelError for a missing or malformed file, a NaN in it, an <include> or <model> from outside the
    model's folder, or nested <replicate> with more than MAX_REPLICAS copies.
    """
    if not isinstance(source, Path | str):
        if not isinstance(source, mujoco.MjSpec):
            raise ModelError(f"a model is an MJCF file or an MjSpec, got {type(source).__name__}")
        return source.copy()
    path = Path(source)
    if not path.is_file():
        raise ModelError(f"no model file {path}")
    _scan(path, path.resolve().parent, 1, ())
    try:
        return mujoco.MjSpec.from_file(str(path))
    except ValueError as error:
        raise ModelError(f"{path} is not valid MJCF: {error}") from error


def _scan(path: Path, folder: Path, replicas: int, parents: tuple[Path, ...]) -> None:
    """Raise ModelError for the faults that `load` names, in this file and its includes.

    folder: of the model. replicas: copies of the include that <replicate> makes. parents: including files.
    """
    if path in parents:
        raise ModelError(f"{path} includes itself")
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not XML: {error}") from error
    _scan_element(root, path, folder, replicas, (*parents, path))


def _scan_element(
    element: ElementTree.Element, path: Path, folder: Path, replicas: int, parents: tuple[Path, ...]
) -> None:
    count = element.get("count", "1") if element.tag == "replicate" else "1"
    replicas *= int(count) if count.isdecimal() else 1
    if replicas > MAX_REPLICAS:
        raise ModelError(f"{path}: nested <replicate> asks for {replicas} copies; at most {MAX_REPLICAS}")
    for attribute, text in element.items():
        if attribute != "name" and "nan" in text.lower().split():  # MuJoCo would use its default
            raise ModelError(f"{path}: <{element.tag} {attribute}={text!r}> is not a number")
    if element.tag in ("include", "model") and (file := element.get("file")):
        target = (folder / file).resolve()
        if not target.is_relative_to(folder):
            raise ModelError(f"{path}: <{element.tag} file={file!r}> leaves the model's folder {folder}")
        if element.tag == "include" and target.is_file():
            _scan(target, folder, replicas, parents)
    for child in element:
        _scan_element(child, path, folder, replicas, parents)


def compile_model(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """Compile and check a model; where MuJoCo 4.0.0's sparse Newton solver is wrong, `_dense` replaces it.

    Raises ModelError if MuJoCo refuses it, and for faults that MuJoCo loads without an error: a timestep
    outside (0, MAX_TIMESTEP] s, or a number in FINITE (masses, positions, sizes, ...) that is not finite.
    """
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
        except ValueError as error:
            raise ModelError(f"the model does not compile: {error}") from error


def _dense(spec: mujoco.MjSpec, model: mujoco.MjModel) -> mujoco.MjModel:
    """The same model with a dense Jacobian, and memory for it: docs/decisions/024.

    The memory is reserved; only what a simulation uses is taken.
    """
    memory, stack = spec.memory, spec.nstack
    rows, number = DENSE_ROWS * model.nv, np.dtype(np.float64).itemsize
    room = min(number * model.nv * rows, DENSE_BYTES)
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
    count = getattr(model, {"joint": "njnt", "actuator": "nu"}.get(kind, f"n{kind}"))
    return [mujoco.mj_id2name(model, obj, i) or "" for i in range(count)]


def index(model: mujoco.MjModel, kind: str, name: str) -> int:
    """Index of the element of this kind and name. Raises ModelError listing the known names."""
    known = names(model, kind)
    if name not in known:
        raise ModelError(f"no {kind} {name!r} in the model{did_you_mean(name, known)}; it has {known}")
    return known.index(name)
