"""The command `robokit tasks`."""

import json
from dataclasses import dataclass

from robokit.task.lookup.find import known_tasks, summary


@dataclass(frozen=True)
class Tasks:
    """List the known tasks: shipped ones, and those in ./tasks."""

    json: bool = False  # print JSON

    def __call__(self) -> int:
        rows = [
            {"name": n, "file": str(file), "doc": summary(file) or ""} for n, file in known_tasks().items()
        ]
        text = "\n".join(f"{row['name']:<26}{row['doc']}" for row in rows)
        print(json.dumps(rows, indent=1) if self.json else text)
        return 0
