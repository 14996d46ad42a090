"""An exported file in memory.

file = Exported.open("policies/hopper.onnx")
file.contract["control_dt"], file.sha256
Controller(file)  # the same session; the file is not read again
"""

from pathlib import Path

from robokit.controller import Loaded, load


class Exported(Loaded):
    """An exported file: opened, verified and hashed once, by `controller.load`.

    `session` takes a batch: session.run(OUTPUTS, {name: (B, size), ..., "carry": (B, S), "reset": (B,)}).
    """

    __slots__ = ()

    @classmethod
    def open(cls, file: "str | Path | Exported") -> "Exported":
        """Open the file at a path; an Exported is returned itself. Raises ContractError, like `load`."""
        return file if isinstance(file, Exported) else cls(*load(file))
