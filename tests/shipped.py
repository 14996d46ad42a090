"""Shipped tasks as cases of a test: one whose robot is not on this machine is skipped, with the reason."""

from collections.abc import Iterable
from typing import Any

import pytest

from robokit.errors import ModelError
from robokit.task.lookup.find import load_task
from robokit.task.task import Task


def cases(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=absent(name)) for name in names]


def absent(name: str) -> list[pytest.MarkDecorator]:
    """A mark to skip a task whose model cannot be had here: MENAGERIE_ROOT names a checkout of Menagerie."""
    try:
        _ = load_task(name).model
    except ModelError as error:
        return [pytest.mark.skip(reason=f"{name}: {error}")]
    return []


def variants(own: type[Task]) -> list[type[Task]]:
    """The subclasses of a task in its own file, and theirs."""
    direct = [cls for cls in own.__subclasses__() if cls.__module__ == own.__module__]
    return [found for cls in direct for found in (cls, *variants(cls))]
