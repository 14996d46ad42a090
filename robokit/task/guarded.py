"""Calls of a task's own functions: what they raise is told with the function, the file and the line."""

import functools
from collections.abc import Callable
from pathlib import Path
from traceback import extract_tb
from typing import Any

from torch import Generator, Tensor

from robokit.errors import Error, TaskError
from robokit.sim.base import Sim
from robokit.task.task import Task


def call(task: Task, function: str, *arguments: Sim | Tensor | Generator) -> Any:
    """The return value: Tensor for `terminated`, else dict. TaskError for another type or an exception."""
    values = guarded(task, function, lambda: getattr(task, function)(*arguments))
    expected = Tensor if function == "terminated" else dict
    if not isinstance(values, expected):
        got = type(values).__name__
        raise TaskError(f"{type(task).__name__}.{function} must return a {expected.__name__}, got {got}")
    return values


def guarded(task: Task, part: str, read: Callable[[], Any]) -> Any:
    """The value of `read()`. An exception names the task's part and line; all but Error become TaskError."""
    try:
        return read()
    except Error as error:
        if not (line := _line(error)):
            raise
        raise type(error)(f"{type(task).__name__}.{part}{line}: {error}") from error
    except Exception as error:
        where = f"{type(task).__name__}.{part}{_line(error)}"
        raise TaskError(f"{where} raised {type(error).__name__}: {error}") from error


def _line(error: Exception) -> str:
    """` (task.py, line 3)`: last frame of `error` in the task's file, the first file but this one; or ""."""
    frames = [f for f in extract_tb(error.__traceback__) if f.filename not in (__file__, functools.__file__)]
    lines = [frame.lineno for frame in frames if frame.filename == frames[0].filename]
    return f" ({Path(frames[0].filename).name}, line {lines[-1]})" if lines else ""
