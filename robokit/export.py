"""A trained policy as one ONNX file with its contract inside, written only when it has been checked to be equal.

    report = export(policy, robokit.make("hopper", num_envs=64), "policies/hopper.onnx")

The graph is the whole controller. In: every named observation term, raw, (B, d); `carry` (B, S) float32, which
is [previous action | belief]; `reset` (B,) bool, which clears it. Out: `ctrl` (B, A), actuator targets in
MuJoCo's order; `carry_next` (B, S). A term called "action" is the previous action: carried, not supplied.
"""

import copy
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from robokit import __version__
from robokit.controller import METADATA_KEY, OUTPUTS, SCHEMA, load
from robokit.env import Env
from robokit.errors import ExportError
from robokit.gate import PREVIOUS, Parity, Rollout, check_refusal, gate, record
from robokit.policy import Policy
from robokit.sim.facts import actuators, channels, model_hashes, model_name

OPSET = 18
PACKAGES = ("torch", "mujoco", "onnx", "onnxscript", "onnxruntime", "numpy")
SAME_READING = 0.9  # of the samples; an observation may clip what it reads


@dataclass(frozen=True)
class Report:
    """What was written, and what is known about it."""

    path: Path
    sha256: str
    parity: tuple[Parity, ...]
    gaps: tuple[str, ...]  # facts that the contract has no value for


class Graph(nn.Module):
    """The trained policy itself, between named terms and ctrl."""

    center: Tensor
    half: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, policy: Policy, env: Env) -> None:
        super().__init__()
        self.policy, self.names = policy, tuple(env.names.obs)
        for name in ("center", "half", "low", "high"):
            self.register_buffer(name, getattr(env, f"action_{name}").float().cpu().clone())

    def forward(self, terms: tuple[Tensor, ...], carry: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        previous = torch.where(reset[:, None], 0.0, carry[:, : self.policy.act_dim])
        supplied = iter(terms)
        obs = torch.cat([previous if n == PREVIOUS else next(supplied) for n in self.names], -1)
        action, belief = self.policy(obs, carry[:, self.policy.act_dim :], reset)
        ctrl = torch.clamp(self.center + self.half * action, self.low, self.high)
        return ctrl, torch.cat((action, belief), -1)


def export(
    policy: Policy,
    env: Env,
    path: str | Path,
    *,
    commit: str | None = None,
    limits: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> Report:
    """Write `path` and its sha256 once every check has passed; `env`, of the policy's task, is reset and stepped.

    Raises ExportError that names the failed check and its figure, or the disk's error. Nothing is left behind
    then, and an older export at `path` stays whole.
    """
    policy = copy.deepcopy(policy).cpu().eval()
    model = trace(policy, env)
    rollout = record(policy, env)
    parity = gate(model, policy, env, rollout)
    facts = {"limits": limits, "evaluation": evaluation, "parity": [asdict(p) for p in parity]}
    contract = write_contract(policy, env, rollout, commit) | facts
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(contract, allow_nan=False)})
    digest = _install(model.SerializeToString(), Path(path))
    return Report(Path(path), digest, parity, gaps(contract))


def trace(policy: Policy, env: Env) -> onnx.ModelProto:
    """The ONNX graph of a policy on the CPU, with a symbolic batch."""
    supplied = _supplied(env)
    if taken := [n for n in supplied if n in (*OUTPUTS, "carry", "reset")]:
        raise ExportError(f"observations may not be called {taken}: the graph's own inputs and outputs are")
    carry = torch.zeros(2, policy.act_dim + policy.belief_size)  # a batch of 1 would be taken for a constant
    terms = tuple(torch.zeros(2, width) for width in supplied.values())
    batch = {0: torch.export.Dim("batch", min=1)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            Graph(policy, env).eval(),
            (terms, carry, torch.ones(2, dtype=torch.bool)),
            dynamo=True,
            opset_version=OPSET,
            input_names=[*supplied, "carry", "reset"],
            output_names=OUTPUTS,
            dynamic_shapes={"terms": tuple(batch for _ in terms), "carry": batch, "reset": batch},
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def write_contract(policy: Policy, env: Env, rollout: Rollout, commit: str | None) -> dict[str, Any]:
    """What a robot needs to know, as JSON values; None where nobody said."""
    task, supplied = env.task, _supplied(env)
    commands = {name: c for name, c in task.commands.items() if supplied.get(name) == len(c.low)}
    action, belief = policy.act_dim, policy.belief_size
    return {
        "schema": SCHEMA,
        "task": type(task).__name__,
        "robot": model_name(env.sim),
        "control_dt": float(task.control_dt),
        "inputs": [_input(name, env, rollout) for name in supplied],
        "actuators": _actuators(env),
        "carry": {"size": action + belief, "action": action, "belief": belief},
        "commands": {n: {"low": list(c.low), "high": list(c.high)} for n, c in commands.items()},
        "versions": {"robokit": __version__} | {name: _version(name) for name in PACKAGES},
        "hashes": {"model": model_hashes(task.model), "commit": commit},
    }


def inspect(path: str | Path) -> dict[str, Any]:
    """{"contract": ..., "gaps": [...]} of a file. Raises ContractError when it is not whole."""
    contract = load(path)[1]
    return {"contract": contract, "gaps": list(gaps(contract))}


def gaps(contract: Mapping[str, Any]) -> tuple[str, ...]:
    """Dotted names of everything the contract has no value for."""
    return tuple(_holes(contract, ""))


def write_card(path: str | Path, evaluation: Mapping[str, Any]) -> Path:
    """`<policy>.json` beside a file: task, commit, sha256, parity error, and what evaluating it gave.

    Raises ContractError when the file is not whole.
    """
    contract, path = load(path)[1], Path(path)
    card = {
        "task": contract["task"],
        "robot": contract["robot"],
        "commit": contract["hashes"]["commit"],
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "parity_error": max(p["ctrl_error"] for p in contract["parity"]),
        **evaluation,
    }
    beside = path.with_suffix(".json")
    with tempfile.TemporaryDirectory(prefix=f".{beside.name}.", dir=beside.parent) as folder:
        text = json.dumps(card, indent=2, allow_nan=False) + "\n"
        os.replace(_write(Path(folder) / beside.name, text.encode()), beside)
    return beside


def _holes(value: Any, place: str) -> Iterator[str]:
    if value is None:
        yield place
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _holes(inner, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            name = inner["name"] if isinstance(inner, Mapping) and "name" in inner else i
            yield from _holes(inner, f"{place}.{name}")


def _supplied(env: Env) -> dict[str, int]:
    return {name: width for name, width in env.names.obs.items() if name != PREVIOUS}


def _input(name: str, env: Env, rollout: Rollout) -> dict[str, Any]:
    """One observation term; `seen` is its range in the rollout that checked the export."""
    start = sum(width for _, width in _before(name, env))
    values = rollout.obs[..., start : start + env.names.obs[name]].flatten(0, 1)  # (T * n, d)
    sources = _sources(values, rollout.readings.flatten(0, 1))
    known = channels(env.sim)
    facts = {
        key: _once([None if i is None else getattr(known[i], key) for i in sources])
        for key in ("source", "unit", "frame")
    }
    low, high = values.amin(0).tolist(), values.amax(0).tolist()
    return {
        "name": name,
        "size": values.shape[1],
        **facts,
        "seen": {"low": low, "high": high},
        "max_age": None,
    }


def _before(name: str, env: Env) -> list[tuple[str, int]]:
    terms = list(env.names.obs.items())
    return terms[: [n for n, _ in terms].index(name)]


def _sources(values: Tensor, readings: Tensor) -> list[int | None]:
    """Which reading each column is: equal to the last bit in most samples that are not 0, and not constant."""
    found: list[int | None] = []
    for column in values.unbind(-1):
        moving = column != 0
        same = (readings[moving] == column[moving, None]).float().mean(0)
        known = len(same) > 0 and bool(column.std() > 0) and bool(same.max() >= SAME_READING)
        found.append(int(same.argmax()) if known else None)
    return found


def _once(values: list[Any]) -> Any:
    """One value where all are equal."""
    return values[0] if all(v == values[0] for v in values) else values


def _actuators(env: Env) -> list[dict[str, Any]]:
    """`default` is ctrl at action 0; a range that is not limited is None."""
    bounds = zip(env.action_low.tolist(), env.action_high.tolist(), env.action_center.tolist(), strict=True)
    return [
        fact | {"low": _finite(low), "high": _finite(high), "default": default}
        for fact, (low, high, default) in zip(actuators(env.sim), bounds, strict=True)
    ]


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _install(data: bytes, path: Path) -> str:
    """Both files at once or none: staged beside, read back by a Controller, then renamed into place."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            staged = _write(Path(folder) / path.name, data)
            listing = _write(Path(f"{staged}.sha256"), f"{digest}  {path.name}\n".encode())
            check_refusal(staged)
            _swap(staged, listing, path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error}") from error
    return digest


def _swap(staged: Path, listing: Path, path: Path) -> None:
    """In between, the sha256 of the old and of the new file both stand in the listing: a kill breaks neither."""
    target = Path(f"{path}.sha256")
    old = target.read_bytes() if path.exists() and target.exists() else b""
    os.replace(_write(listing.with_suffix(".both"), old + listing.read_bytes()), target)
    try:
        os.replace(staged, path)
    except OSError:
        target.write_bytes(old) if old else target.unlink()
        raise
    os.replace(listing, target)


def _write(path: Path, data: bytes) -> Path:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path
