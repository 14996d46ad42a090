"""Export of a trained policy: one ONNX file with its contract inside, written after all checks have passed.

    report = export(policy, robokit.make("hopper", num_envs=64), "policies/hopper.onnx")

The graph is the whole controller. Inputs: every observation term by name, raw, (B, d), except "action" (the
previous one) and "clock", which are carried; `carry` (B, S), [previous action | clock, if the task has one |
belief]; `reset` (B,) bool, which clears it. Outputs: `ctrl` (B, A), actuator targets in MuJoCo's order;
`carry_next` (B, S). Beside the file lie its sha256 and its weights, for another training to start from.
"""

import contextlib
import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from robokit.compute.compile import torch_threads
from robokit.controller import METADATA_KEY, ContractError, check_contract
from robokit.disk.write import make_folder, staging, sync_folder, write_synced
from robokit.env.env import Env
from robokit.errors import ExportError, reason
from robokit.export.fields import write_contract
from robokit.export.file import gaps
from robokit.export.gate import Parity, Recording, check_refusal, gate, record
from robokit.export.graph import Graph, trace
from robokit.export.weights import weights_bytes, weights_path
from robokit.learning.layouts import policy_layout
from robokit.learning.protocols import Foreign
from robokit.networks.policy import Policy


@dataclass(frozen=True)
class Written:
    """The exported file, how far its outputs in onnxruntime differ from torch's, what its contract lacks."""

    path: Path
    sha256: str  # of the file, hex
    parity: tuple[Parity, ...]  # one for each batch size
    gaps: tuple[str, ...]  # fields of the contract that are None, as "inputs.imu.frame"


@torch_threads(1)  # a step has too little work to share, and the physics uses the cores
def export(
    policy: Policy | Foreign,
    env: Env,
    path: str | Path,
    *,
    commit: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
    recording: Recording | None = None,
    parent: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Written:
    """Write `path`, `<path>.sha256` and its weights after all checks. `env`, of its task, is reset, stepped.

    commit, evaluation, parent (what the training started from), origin (where a Foreign policy comes from; it
    has no weights file): for the contract only. recording: for the gate's replays; None: a new one of STEPS.
    Raises ExportError naming the failed check and its figure, or the disk's error. In that case no new file
    remains, and an older export at `path` still loads.
    """
    policy = copy.deepcopy(policy).cpu().eval()
    if broken := [name for name, value in policy.state_dict().items() if not value.isfinite().all()]:
        raise ExportError(f"the policy's {broken[0]} is not finite; go back to a checkpoint before it")
    model = trace(Graph(policy, env), env)
    recording = record(policy, env) if recording is None else recording
    parity = gate(model, policy, env, recording)
    facts = {"evaluation": evaluation, "parity": [asdict(p) for p in parity]}
    facts |= {} if parent is None else {"parent": dict(parent)}
    facts |= {} if origin is None else {"origin": dict(origin)}
    contract, weights = write_contract(policy, env, recording, commit) | facts, None
    if isinstance(policy, Policy):
        weights = weights_bytes(policy.state_dict(), policy_layout(policy, env))
        contract["hashes"]["weights"] = hashlib.sha256(weights).hexdigest()
    try:
        check_contract(contract, "the file")
    except ContractError as error:
        raise ExportError(str(error)) from error
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(contract, allow_nan=False)})
    digest = install(model.SerializeToString(), Path(path), weights)
    return Written(Path(path), digest, parity, gaps(contract))


def install(
    data: bytes, path: Path, weights: bytes | None = None, check: Callable[[Path], object] = check_refusal
) -> str:
    """Write an exported file, `<path>.sha256` and its weights, or none; return the sha256 (hex).

    Written to a temporary folder, read back by `check` (a Controller), then renamed: a kill leaves the old
    export or the new; between two renames the old one without its weights, which `--init-from` refuses.
    Raises ExportError if the disk is full or not writable.
    """
    digest = hashlib.sha256(data).hexdigest()
    try:
        make_folder(path.parent)
        with staging(path, [p.name for p in _staged(path)]) as folder:
            staged = folder / path.name
            write_synced(staged, data)
            write_synced(Path(f"{staged}.sha256"), f"{digest}  {path.name}\n".encode())
            if weights is not None:
                write_synced(weights_path(staged), weights)
            check(staged)
            _swap(staged, path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {reason(error, path)}") from error
    return digest


def _staged(path: Path) -> tuple[Path, Path, Path, Path]:
    """What is written before it is renamed: the file, its sha256, that with the older one's, its weights."""
    return path, Path(f"{path}.sha256"), Path(f"{path}.both"), weights_path(path)


def _swap(staged: Path, path: Path) -> None:
    """Rename `staged` to `path`; meanwhile the .sha256 lists both files, so that a kill breaks neither."""
    listing = Path(f"{path}.sha256")
    _, new, both, _ = _staged(staged)
    old = listing.read_bytes() if path.is_file() and listing.is_file() else b""
    write_synced(both, old + new.read_bytes())
    both.replace(listing)
    weights = weights_path(path)
    before = weights.read_bytes() if weights.is_file() else b""
    try:
        if weights_path(staged).exists():
            weights_path(staged).replace(weights)
        staged.replace(path)
    except OSError:
        listing.write_bytes(old) if old else listing.unlink()
        weights.write_bytes(before) if before else weights.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # only tidies up: the new file is in place and listed
        new.replace(listing)
        sync_folder(path.parent)
