"""A trained policy as one ONNX file with its contract inside, written only once it is known to be equal.

    report = export(policy, robokit.make("hopper", num_envs=64), "policies/hopper.onnx")

The graph is the whole controller. In: every named observation term, raw, (B, d); `carry` (B, S), which is
[previous action | clock, if the task has one | belief]; `reset` (B,) bool, which clears it. Out: `ctrl`
(B, A), actuator targets in MuJoCo's order; `carry_next` (B, S). Terms called "action" (the previous one) and
"clock" are carried, not supplied.
"""

import contextlib
import copy
import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from robokit.export.card import gaps, supplied, write_contract
from robokit.disk.checkpoint import sync_folder, write_synced
from robokit.task.clock import NOON, rest, tick
from robokit.controller import METADATA_KEY, OUTPUTS
from robokit.env.env import Env
from robokit.errors import ExportError
from robokit.export.gate import CARRIED, Parity, check_refusal, gate, record
from robokit.networks.policy import Policy

OPSET = 18


@dataclass(frozen=True)
class Report:
    """What was written, and what is known about it."""

    path: Path
    sha256: str
    parity: tuple[Parity, ...]
    gaps: tuple[str, ...]  # facts that the contract has no value for


class Graph(nn.Module):
    """The trained policy itself, between named terms and ctrl."""

    noon: Tensor
    action_center: Tensor
    action_half: Tensor
    action_low: Tensor
    action_high: Tensor

    def __init__(self, policy: Policy, env: Env) -> None:
        super().__init__()
        self.policy, self.names = policy, tuple(env.names.obs)
        self.turn = env.task.clock * env.task.control_dt  # revolutions of the clock in a control period
        self.kept = [policy.act_dim, *([2] if env.task.clock else []), policy.belief_size]
        self.commands = tuple(env.task.commands)
        self.register_buffer("noon", torch.tensor(NOON), persistent=False)
        for name in ("action_center", "action_half", "action_low", "action_high"):
            self.register_buffer(name, getattr(env, name).float().cpu().clone())

    def forward(self, terms: tuple[Tensor, ...], carry: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        action, *clock, belief = carry.split(self.kept, -1)
        supplied = [n for n in self.names if n not in CARRIED]
        seen = dict(zip(supplied, terms, strict=True))
        seen["action"] = torch.where(reset[:, None], 0.0, action)
        ticked = []
        if clock:
            commands = [seen[name] for name in self.commands if name in seen]
            seen["clock"] = rest(torch.where(reset[:, None], self.noon, clock[0]), *commands)
            ticked = [tick(seen["clock"], self.turn)]
        action, belief = self.policy(torch.cat([seen[n] for n in self.names], -1), belief, reset)
        ctrl = torch.clamp(self.action_center + self.action_half * action, self.action_low, self.action_high)
        return ctrl, torch.cat((action, *ticked, belief), -1)


def export(
    policy: Policy,
    env: Env,
    path: str | Path,
    *,
    commit: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> Report:
    """Write `path` and its sha256 once every check has passed; `env`, of its task, is reset and stepped.

    Raises ExportError that names the failed check and its figure, or the disk's error. Nothing is left behind
    then, and an older export at `path` stays whole.
    """
    policy = copy.deepcopy(policy).cpu().eval()
    if broken := [name for name, value in policy.state_dict().items() if not value.isfinite().all()]:
        raise ExportError(f"the policy's {broken[0]} is not finite; go back to a checkpoint before it")
    model = trace(Graph(policy, env), env)
    rollout = record(policy, env)
    parity = gate(model, policy, env, rollout)
    facts = {"evaluation": evaluation, "parity": [asdict(p) for p in parity]}
    contract = write_contract(policy, env, rollout, commit) | facts
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(contract, allow_nan=False)})
    digest = install(model.SerializeToString(), Path(path))
    return Report(Path(path), digest, parity, gaps(contract))


def trace(graph: Graph, env: Env) -> onnx.ModelProto:
    """The graph of a policy on the CPU as ONNX, with a symbolic batch."""
    widths = supplied(env)
    carry = torch.zeros(2, sum(graph.kept))  # a batch of 1 would become static
    terms = tuple(torch.zeros(2, width) for width in widths.values())
    batch = {0: torch.export.Dim("batch", min=1)}
    with _quiet():
        program = torch.onnx.export(
            graph.eval(),
            (terms, carry, torch.ones(2, dtype=torch.bool)),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes={"terms": tuple(batch for _ in terms), "carry": batch, "reset": batch},
            verbose=False,
        )
    assert program is not None
    _rename(program.model.graph, [*widths, "carry", "reset"], OUTPUTS)
    return _stripped(program.model_proto)


def _rename(graph: Any, inputs: list[str], outputs: list[str]) -> None:
    """Name the ends, and put before all names within what no end begins with: terms are called anything."""
    prefix = "/"
    while any(name.startswith(prefix) for name in (*inputs, *outputs)):
        prefix += "/"
    ends = {id(value) for value in (*graph.inputs, *graph.outputs)}
    within = [value for node in graph.all_nodes() for value in (*node.inputs, *node.outputs)]
    for value in {id(v): v for v in (*graph.initializers.values(), *within) if v is not None}.values():
        if id(value) not in ends:
            value.name = prefix + value.name
    for value, name in zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True):
        value.name = name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own deprecations, and its notes about packages that are not needed."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    log.setLevel(level)


def _stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes, which tell the folders of the machine that it ran on."""
    graph = model.graph
    values = (*graph.value_info, *graph.input, *graph.output, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


def install(data: bytes, path: Path) -> str:
    """Write an exported file and its sha256, or neither, and return the sha256.

    Staged beside, read back by a Controller, then renamed: a kill leaves the old export or the new.

    Raises ExportError when the disk is full or may not be written.
    """
    digest = hashlib.sha256(data).hexdigest()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            staged = Path(folder) / path.name
            write_synced(staged, data)
            write_synced(Path(f"{staged}.sha256"), f"{digest}  {path.name}\n".encode())
            check_refusal(staged)
            _swap(staged, path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error}") from error
    return digest


def _swap(staged: Path, path: Path) -> None:
    """In between the listing holds the sha256 of the old file and of the new one: a kill breaks neither."""
    listing, both = Path(f"{path}.sha256"), Path(f"{staged}.both")
    new = Path(f"{staged}.sha256")
    old = listing.read_bytes() if path.exists() and listing.exists() else b""
    write_synced(both, old + new.read_bytes())
    both.replace(listing)
    try:
        staged.replace(path)
    except OSError:
        listing.write_bytes(old) if old else listing.unlink()
        raise
    with contextlib.suppress(OSError):  # it only tidies: the new file already stands and is listed
        new.replace(listing)
        sync_folder(path.parent)
