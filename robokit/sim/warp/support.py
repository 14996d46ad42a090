"""Checks of a model's features and of the device before a simulation on Warp."""

import importlib
import operator
from collections.abc import Iterator
from functools import reduce
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from robokit.compute.devices import usable
from robokit.errors import ModelError, OptionError
from robokit.sim.model import names
from robokit.sim.warp.graph import version

wp: Any = importlib.import_module("warp")
mjw: Any = importlib.import_module("mujoco_warp")

ACTUATORS = {  # field of an actuator -> enum in MuJoCo, enum in mujoco_warp
    "trntype": (mujoco.mjtTrn, mjw.TrnType),
    "dyntype": (mujoco.mjtDyn, mjw.DynType),
    "gaintype": (mujoco.mjtGain, mjw.GainType),
    "biastype": (mujoco.mjtBias, mjw.BiasType),
}
CALLBACKS = ("control", "passive", "contactfilter", "sensor", "act_dyn", "act_gain", "act_bias")
ROUNDING = 1e-5  # tolerance in m, or of a quaternion's components
NEWTON = 'put <option solver="Newton"/> into the model'
OUT = "take it out of the model"
ANYWHERE = "sim='mujoco' and device='cpu' run anywhere"


def check_model(model: mujoco.MjModel) -> None:
    """Raise ModelError for the first feature that mujoco_warp refuses or silently ignores."""
    for feature, remedy in _unfit(model):
        raise ModelError(f"mujoco_warp does not simulate {feature}: {remedy}, or take sim='mujoco'")


def _unfit(model: mujoco.MjModel) -> Iterator[tuple[str, str]]:
    """(feature, remedy), texts, for each feature that mujoco_warp refuses or silently ignores."""
    if model.opt.solver == mujoco.mjtSolver.mjSOL_PGS:
        yield "the PGS solver", NEWTON
    for kind in ("body", "geom", "actuator", "sensor"):
        for i in np.flatnonzero(getattr(model, f"{kind}_plugin") >= 0).tolist():
            yield f"plugins, as {_called(model, kind, i)} has one", OUT
    yield from _unfit_actuators(model)
    if model.opt.disableactuator:
        yield (
            "<option actuatorgroupdisable>: all actuators would act",
            "take those actuators out of the model",
        )
    for flags, mark, theirs in (
        (model.opt.disableflags, mujoco.mjtDisableBit, mjw.DisableBit),
        (model.opt.enableflags, mujoco.mjtEnableBit, mjw.EnableBit),
    ):
        for name in _unknown_flags(flags, mark, theirs):
            yield f"<flag {name}>", OUT
    for name in CALLBACKS:
        if getattr(mujoco, f"get_mjcb_{name}")() is not None:
            yield f"callbacks, as mujoco.set_mjcb_{name} has set one", "set None"


def _unfit_actuators(model: mujoco.MjModel) -> Iterator[tuple[str, str]]:
    for field, (kinds, theirs) in ACTUATORS.items():
        for i, value in enumerate(getattr(model, f"actuator_{field}").tolist()):
            kind = kinds(value).name.split("_")[-1].lower()
            if value not in set(map(int, theirs)):
                yield f"{field} {kind} of {_called(model, 'actuator', i)}", OUT
            elif kind == "user":
                yield f"{field} user of {_called(model, 'actuator', i)}: nothing would compute it", OUT


def _unknown_flags(flags: int, mark: Any, theirs: Any) -> list[str]:
    """Names of the set flags that mujoco_warp's enum `theirs` lacks; mark: MuJoCo's enum."""
    unknown = flags & ~reduce(operator.or_, map(int, theirs))
    members = mark.__members__.items()
    return [name.split("_")[-1].lower() for name, bit in members if "_" in name and unknown & int(bit)]


def _called(model: mujoco.MjModel, kind: str, i: int) -> str:
    """Kind and name of an element, as "geom foot"; its number if it is unnamed."""
    return f"{kind} {names(model, kind)[i] or i}"


def warp_device(name: str) -> torch.device:
    """The torch device of a name; "cuda" gets an index. OptionError unless torch and Warp can use it."""
    device = usable(name, ANYWHERE)
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"sim='warp' computes on 'cuda' or 'cpu', not on {name!r}")
    if device.type == "cpu":
        return device
    if fault := cuda_fault(wp.get_cuda_driver_version(), wp.get_cuda_toolkit_version()):
        raise OptionError(f"device {name!r} cannot be used: {fault}; {ANYWHERE}")
    return torch.device("cuda", torch.cuda.current_device()) if device.index is None else device


def cuda_fault(driver: tuple[int, int] | None, toolkit: tuple[int, int] | None) -> str | None:
    """Why Warp cannot use a GPU that torch can use; None if it can.

    The driver's CUDA version must be at least the major version of Warp's toolkit.
    """
    if toolkit is None:
        return "this build of warp-lang has no CUDA: install warp-lang from PyPI"
    if driver is None:
        return "Warp finds no NVIDIA driver: look at the output of nvidia-smi"
    if driver < (toolkit[0], 0):
        needs = f"warp-lang is built with CUDA {version(toolkit)} and needs {toolkit[0]}.0 or newer"
        return f"the NVIDIA driver is too old: it runs CUDA {version(driver)}, {needs}; update the driver"
    return None


def check_unmoved(model: mujoco.MjModel, name: str, value: Tensor) -> None:
    """Raise ModelError if values (N, ...) of geom_ or body_ pos or quat would move geoms fixed to the world.

    mujoco_warp leaves these where they are. Other fields pass.
    """
    kind, _, what = name.partition("_")
    if kind not in ("geom", "body") or what not in ("pos", "quat"):
        return
    rows = _fixed_geoms(model) if kind == "geom" else _fixed_bodies(model)
    nominal = torch.as_tensor(getattr(model, name)[rows], dtype=value.dtype, device=value.device)
    moved = (value[:, rows] - nominal).abs().amax((0, 2)) > ROUNDING
    for i in torch.as_tensor(rows)[moved.cpu()].tolist()[:1]:
        rule = "is fixed to the world, where mujoco_warp leaves its geoms"
        remedy = "make its body a mocap body and move that"
        raise ModelError(f"{name} of {_called(model, kind, i)} {rule}: {remedy}")


def _fixed_geoms(model: mujoco.MjModel) -> np.ndarray:
    """Ids of the geoms welded to the world; those of mocap bodies are not."""
    root = model.body_rootid
    fixed = (model.body_weldid == 0) & (model.body_mocapid[root] == -1)
    return np.flatnonzero(fixed[model.geom_bodyid])


def _fixed_bodies(model: mujoco.MjModel) -> np.ndarray:
    """Ids of the bodies of fixed geoms and of these bodies' ancestors, except the world."""
    found = set[int]()
    for body in model.geom_bodyid[_fixed_geoms(model)].tolist():
        while body:
            found.add(body)
            body = int(model.body_parentid[body])
    return np.array(sorted(found), dtype=np.int64)
