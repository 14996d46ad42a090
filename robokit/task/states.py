"""Reset states: a file of states that a share of the episodes of a training begin from.

    lift = States("lift.npz", share=0.5)  # a class attribute of the task; made by `robokit states`

    def reset(self, sim, rng):
        start = {"qpos": sim.nominal("qpos0") + uniform(sim, rng, sim.model.nq, 0.01)}
        return self.lift.draw(sim, rng, start)

The file is an .npz: an array (n, width) for each name, and what the states were made from as JSON.
"""

import hashlib
import inspect
import io
import json
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from robokit.disk.read import EACH, check_types, parse_json, read_bytes, short
from robokit.errors import DataError, TaskError, reason
from robokit.sim.base import Sim
from robokit.sim.facts.readings import model_hashes
from robokit.task.task import Task, Terms

SOURCE = "source"  # memory (N, 1): number of the library that the episode began from; 0: none
ABOUT = "robokit"  # name of the JSON in a file
LARGEST = 1 << 30  # bytes of a file, and of what is unpacked from it
FAULTS = OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error


class States:
    """States from a file, which lies beside the task's; class attribute of a task. See docs/tasks.md.

    share: probability of an episode in training to begin from one of them. Env puts the states on the
    simulation in training alone: everywhere else, as in evaluation and validation, there are none, and the
    share is 0. method: the task's that makes them, for `robokit states`. Raises TaskError for an impossible
    value.
    """

    _owner: type = object  # the class that has this attribute

    def __init__(self, file: str | Path, share: float = 0.5, method: str = "states") -> None:
        if not isinstance(file, str | Path):
            raise TaskError(f"States takes the name of an .npz file, got {file!r}")
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise TaskError(f"States.share must be a probability in [0, 1], got {share!r}")
        if not isinstance(method, str):
            raise TaskError(f"States.method must be the name of a method of the task, got {method!r}")
        self.file, self.share, self.method = Path(file), share, method

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner

    @property
    def path(self) -> Path:
        """The file; a relative path is one from the folder of the class that has this attribute."""
        return _file_of(self._owner).parent / self.file

    def is_of(self, task: Task) -> bool:
        """Whether a class of the task's own file names it; otherwise the file is another task's to make."""
        return _file_of(self._owner) == _file_of(type(task))

    def draw(self, sim: Sim, rng: Generator, own: Terms) -> Terms:
        """What `reset` returns: `own`, the task's start of the simulations, with states in some of its rows.

        Names of the file that `own` lacks are qpos0 or 0 in the other rows. Outside of training: `own`.
        """
        if sim.libraries is None:
            return own
        if self not in sim.libraries:
            raise TaskError(f"States({str(self.file)!r}) must be an attribute of the task's class")
        number, library = sim.libraries[self]
        draws = torch.empty(2, sim.num_envs, dtype=torch.float64, device=sim.device)
        chance, place = draws.uniform_(generator=rng)
        taken, start = (chance < self.share)[:, None], {"qpos": sim.nominal("qpos0"), **own}
        at = (place * len(library["qpos"])).long()
        values = {n: torch.where(taken, rows[at], start.get(n, 0.0)) for n, rows in library.items()}
        source = torch.where(taken, float(number), own.get(SOURCE, 0.0)).to(sim.dtype)
        return {**own, **values, SOURCE: source}

    def load(self, task: Task, sim: Sim) -> Terms:
        """{name: (n, width)} on the simulation's device. Raises TaskError for a file that does not fit."""
        again = f"robokit states {_file_of(type(task))}:{type(task).__name__} -o {self.path}"
        try:
            arrays, hashes, made = _read(self.path)
            _check(arrays, sim, task)
        except FAULTS as error:
            why = f"it lacks {error}" if isinstance(error, KeyError) else reason(error, self.path)
            rule = f"no reset states of {type(task).__name__} in {self.path}: {why}"
            raise TaskError(f"{rule}; make them with: {again}") from error
        if hashes != (here := model_hashes(task.model)):
            rule = f"{_shown(hashes)} when they were made ({short(made)}), {_shown(here)} now"
            remedy = f"make them again: {again}{_options(made)}"
            if not self.is_of(task):
                remedy = f"they are {self._owner.__name__}'s: give {type(task).__name__} States of its own"
            raise TaskError(f"{self.path} has states of another model: {rule}; {remedy}")
        return {name: torch.as_tensor(x, dtype=sim.dtype, device=sim.device) for name, x in arrays.items()}


def libraries(task: Task) -> dict[str, States]:
    """The class attributes of a task that are States, by name."""
    found = {name: inspect.getattr_static(type(task), name) for name in dir(type(task))}
    return {name: value for name, value in found.items() if isinstance(value, States)}


def load_libraries(task: Task, sim: Sim) -> dict[States, tuple[int, Terms]]:
    """All of a task's libraries with their numbers, from 1 on. Raises TaskError as `States.load`."""
    return {x: (number, x.load(task, sim)) for number, x in enumerate(libraries(task).values(), 1)}


def state_hashes(task: Task) -> dict[str, str]:
    """{"states lift.npz": sha256} of the files of a task's libraries; "" of one that is not there."""
    paths = {f"states {states.file}": states.path for states in libraries(task).values()}
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "" for n, p in paths.items()}


def pack(rows: Mapping[str, Tensor], task: Task, made: str) -> bytes:
    """The content of a file of states {name: (n, width)}. made: how, in words."""
    about, file = json.dumps({"model": model_hashes(task.model), "made": made}), io.BytesIO()
    arrays: dict[str, Any] = {name: x.cpu().double().numpy() for name, x in rows.items()}
    np.savez_compressed(file, **{ABOUT: np.array(about), **arrays})
    return file.getvalue()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str], str]:
    """(arrays by name, hashes of the model, how they were made) of a file. Raises one of FAULTS."""
    content = read_bytes(path, LARGEST)
    if not content.startswith(b"PK"):
        raise DataError("it is no .npz file")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        if (size := sum(member.file_size for member in file.zip.infolist())) > LARGEST:
            raise DataError(f"it may unpack to {LARGEST:,} bytes, and has {size:,}")
        arrays = {name: file[name] for name in file.files}
    about = parse_json(str(arrays.pop(ABOUT)), f"its entry {ABOUT!r}")
    check_types(about, {"model": {EACH: str}, "made": str}, ABOUT)
    return arrays, about["model"], about["made"]


def _check(arrays: Mapping[str, Any], sim: Sim, task: Task) -> None:
    """Raise DataError unless arrays are (n, width) finite numbers with one n > 0, by names of the state."""
    known, count = ("qpos", "qvel", "act", *task.memory), arrays["qpos"].shape[:1]
    if count in ((), (0,)):
        raise DataError("it is empty")
    for name, array in arrays.items():
        if name not in known:
            raise DataError(f"{name!r} is no state or memory; there are {known}")
        shape, got = (*count, *sim.written(name).shape[1:]), f"{array.dtype} of shape {array.shape}"
        if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise DataError(f"{name!r} must be finite numbers of shape {shape}, got {got}")


def _file_of(cls: type) -> Path:
    """The file of a class; of one in a notebook a place in the working folder."""
    return Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or "notebook")


def _options(made: str) -> str:
    """The options of `robokit states` that made a file, from its words for it."""
    for words, option in (("settled for ", "--settle"), ("of the policy ", "--policy")):
        if made.startswith(words):
            return f" {option} {made.removeprefix(words).removesuffix(' s')}"
    return ""


def _shown(hashes: Mapping[str, str]) -> str:
    return ", ".join(f"{short(name)} {digest[:8]}" for name, digest in hashes.items())
