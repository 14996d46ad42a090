"""Pickles of Stable-Baselines3 read closed: numbers, text and arrays come out, and no code of theirs runs.

A pickle names functions to call. Here six names of numpy mean functions of this file, and an ordered
dictionary is a plain one; every other name means `Stub`, an object that takes anything and does nothing.
"""

import pickle  # noqa: TID251
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from robokit.disk.read import read_bytes
from robokit.errors import DataError, reason

WRONG = (
    *(ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError, RecursionError),
    *(TypeError, ValueError, pickle.UnpicklingError),
)


class Stub:
    """Whatever a pickle names that is not known here: its attributes are what was stored."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Stub":
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> "Stub":
        return Stub()

    def __setstate__(self, state: Any) -> None:
        self.__dict__ |= state if isinstance(state, dict) else {}

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


def unpickle(content: bytes, name: str) -> Any:
    """What a pickle holds. Raises DataError, begun with `name`, for one that cannot be read so."""
    try:
        return _Closed(BytesIO(content)).load()
    except WRONG as error:
        raise DataError(f"{name} cannot be read closed: {type(error).__name__}: {error}") from error


class _Closed(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        # new functions each time: a pickle may write attributes of what it names
        known = {
            "collections.OrderedDict": dict,
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "multiarray._reconstruct": lambda kind, shape, code: np.zeros(0),
            "multiarray.scalar": lambda kind, data=b"": np.frombuffer(data, _plain(kind))[0],
            "numeric._frombuffer": lambda data, kind, shape, order: np.frombuffer(data, _plain(kind)).reshape(
                shape, order=order
            ),
        }
        home = module_name.removeprefix("numpy._core.").removeprefix("numpy.core.")
        return known.get(f"{home}.{global_name}", Stub)


def _plain(kind: Any) -> np.dtype[Any]:
    """A dtype of numbers. Raises TypeError for one of objects."""
    if not isinstance(kind, np.dtype) or kind.hasobject:
        raise TypeError(f"an array of {kind}")
    return kind


@dataclass(frozen=True)
class Normalize:
    """What VecNormalize does to observations: clip((obs - mean) / std, -clip, clip).

    moments: mean and std, (d,) float64 each, by key of a dictionary of observations, "" of plain rows; a key
    that has none is left alone.
    """

    moments: dict[str, tuple[np.ndarray, np.ndarray]]
    clip: float

    @classmethod
    def of(cls, saved: Any, name: str) -> "Normalize | None":
        """Of a VecNormalize, or what `unpickle` makes of one; None: it leaves observations alone."""
        try:
            if not saved.norm_obs:
                return None
            told = saved.obs_rms if isinstance(saved.obs_rms, dict) else {"": saved.obs_rms}
            moments = {str(key): _moments(rms, float(saved.epsilon)) for key, rms in told.items()}
            if not np.isfinite(clip := float(saved.clip_obs)):
                raise ValueError(f"clip_obs must be finite, got {clip}")
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(f"{name} is no VecNormalize over rows of observations: {error}") from error
        return cls(moments, clip)

    def row(self, takes: Mapping[str, int]) -> np.ndarray:
        """(3, D): mean, std and clip of observations {key: width}. Raises DataError for those of another."""
        theirs = {key: len(mean) for key, (mean, _) in self.moments.items()}
        if odd := {key: width for key, width in theirs.items() if takes.get(key) != width}:
            rule = f"VecNormalize has {words(odd)}, the model takes {words(takes)}"
            raise DataError(f"{rule}: it is of another run")
        parts = list[np.ndarray]()
        for key, width in takes.items():
            plain = np.zeros(width), np.ones(width)
            clip = self.clip if key in self.moments else np.finfo(np.float32).max
            parts.append(np.stack((*self.moments.get(key, plain), np.full(width, clip))))
        return np.concatenate(parts, -1)


def _moments(rms: Any, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    mean, var = (np.asarray(x, np.float64) for x in (rms.mean, rms.var))
    std = np.sqrt(var + epsilon)
    if mean.ndim != 1 or mean.shape != var.shape or not np.isfinite([*mean, *std]).all():
        raise ValueError(f"mean {mean.shape} and variance {var.shape} must be a row of finite numbers")
    return mean, std


def words(takes: Mapping[str, int]) -> str:
    """{key: width} in a message."""
    return f"{takes['']} numbers" if [*takes] == [""] else str(dict(takes))


def read_normalize(path: str | Path) -> Normalize | None:
    """The statistics in a file of `VecNormalize.save`, read closed. Raises DataError."""
    try:
        content = read_bytes(path)
    except (OSError, DataError) as error:
        raise DataError(f"cannot read {path}: {reason(error, path)}") from error
    return Normalize.of(unpickle(content, str(path)), str(path))
