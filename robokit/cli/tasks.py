"""The command `robokit tasks`."""

import json
from dataclasses import dataclass

from robokit.task.lookup.source import known_tasks, summary, variants


@dataclass(frozen=True)
class Tasks:
    """List the known tasks: shipped ones, and those in ./tasks, with the variants in their files."""

    json: bool = False  # print JSON

    def __call__(self) -> int:
        rows = [
            {"name": n, "file": str(file), "doc": summary(file) or "", "variants": variants(file)}
            for n, file in known_tasks().items()
        ]
        lines = [line for row in rows for line in ((row["name"], row["doc"]), *row["variants"].items())]
        print(json.dumps(rows, indent=1) if self.json else "\n".join(f"{n:<38}{doc}" for n, doc in lines))
        return 0
