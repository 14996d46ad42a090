"""An exported file in memory, and what its contract lacks.

file = Exported.open("policies/hopper.onnx")
file.contract["control_dt"], file.sha256
Controller(file)  # the same session; the file is not read again
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robokit.controller import Loaded, load
from robokit.errors import OptionError

ON_THE_CARD = ("evaluation",)  # measured after the file was written


class Exported(Loaded):
    """An exported file: opened, verified and hashed once, by `controller.load`.

    `session` takes a batch: session.run(OUTPUTS, {name: (B, size), ..., "carry": (B, S), "reset": (B,)}).
    """

    __slots__ = ()

    @classmethod
    def open(cls, file: "str | Path | Exported") -> "Exported":
        """Open the file at a path; an Exported is returned itself. Raises ContractError, like `load`."""
        return file if isinstance(file, Exported) else cls(*load(file))


def exported_at(path: Path) -> Exported:
    """The exported file. Raises OptionError if there is none, ContractError if it is damaged."""
    if not path.is_file():
        raise OptionError(f"{path} is no regular file" if path.exists() else f"no file {path}")
    return Exported.open(path)


def gaps(contract: Mapping[str, Any]) -> tuple[str, ...]:
    """Dotted names of the contract's fields that are None, like "inputs.imu.frame"; not of "evaluation"."""
    return tuple(_holes({key: value for key, value in contract.items() if key not in ON_THE_CARD}, ""))


def _holes(value: Any, place: str) -> Iterator[str]:
    if value is None:
        yield place
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "max_age" or (key == "source" and "measured_by" in value):
                continue  # no age: one control period; what no sensor of the model reads, the task has said
            yield from _holes(inner, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            name = inner["name"] if isinstance(inner, Mapping) and "name" in inner else i
            yield from _holes(inner, f"{place}.{name}")
