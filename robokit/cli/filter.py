"""robokit filter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from robokit.cli.resolve import OUTPUT, exported_at
from robokit.export.bounds import filter_for, write_filter


@dataclass(frozen=True)
class MakeFilter:
    """Resolve a person's filter numbers for an exported file, into the table that its robot reads."""

    file: Positional[Annotated[Path, arg(metavar="FILE.onnx")]]  # an exported file
    # a JSON object of the numbers in docs/filter.md
    numbers: Positional[Annotated[Path, arg(metavar="numbers.json")]]
    # where the table is written; default: <name>.filter.json beside the file
    output: Annotated[Path | None, OUTPUT] = None

    def __call__(self) -> int:
        filter = filter_for(exported_at(self.file), self.numbers)
        output = self.output or self.file.with_suffix(".filter.json")
        write_filter(filter, output)
        print(output)
        return 0
