"""`robokit check FILE.onnx`, with numpy and onnxruntime alone, as on a robot."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from robokit.controller import ContractError, describe
from robokit.export.file import exported_at, gaps


def file_check(arguments: Sequence[str]) -> partial[int] | None:
    """The check that `robokit check FILE.onnx [--json]` asks for; None: it asks for something else."""
    files, options = ([a for a in arguments if a.startswith("-") == dash] for dash in (False, True))
    if len(files) == 1 and files[0].endswith(".onnx") and {*options} <= {"--json"}:
        return partial(check_file, Path(files[0]), bool(options))
    return None


def check_file(path: Path, as_json: bool) -> int:
    """Verify an exported file and print what it takes, gives and lacks. Returns 0, or 1 for a bad file.

    Raises OptionError if there is none.
    """
    found, text = verified(path)
    print(json.dumps(found, indent=1) if as_json else text)
    return 0 if found["ok"] else 1


def verified(path: Path) -> tuple[dict[str, Any], str]:
    """What `robokit check` says of an exported file, as JSON values and as text; "ok": it is whole."""
    try:
        contract = exported_at(path).contract
    except ContractError as error:
        return {"ok": False, "error": str(error)}, f"FAIL {error}"
    holes = gaps(contract)
    listed = "\n".join(f"  {hole}" for hole in holes) or "  nothing"
    text = f"ok   {describe(contract)}\nwithout a value:\n{listed}"
    return {"ok": True, "contract": contract, "gaps": [*holes]}, text
