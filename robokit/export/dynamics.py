"""A learned model as one ONNX file of kind "dynamics": checked to equal the model, refused by a Controller.

    in    now.<term> (B, d) for each column of the frame, action (B, A)
    out   next.<term> (B, d), noise and disagreement (B, P) of the sensed terms' changes, reward (B, 1),
          cost (B, K) if there are limits, end (B, 1): its probability, 0 or 1 where the task tells

All in the units of the task: what `Model.predict` says, by the mean of the members.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from robokit.compute.compile import torch_threads
from robokit.controller import METADATA_KEY, ContractError, open_session, read_bytes, scan
from robokit.dynamics.imagine import Model
from robokit.env.env import Env
from robokit.errors import ExportError
from robokit.export.fields import write_contract
from robokit.export.gate import BATCHES, TOLERANCE, check_graph, record
from robokit.export.graph import traced
from robokit.export.write import install
from robokit.networks.policy import Policy

KIND = "dynamics"
RECORDED, RUNS = 200, 64  # control periods for the ranges of the inputs; runs of the gate at each batch size
SPREAD = 2.0  # deviations of the training's inputs around which the gate tries the graph
MOST_BYTES = 64 << 20  # as in a Controller
POLICYS = ("carried", "needs")  # what the contract of a policy has, and this one not


class WrittenModel(NamedTuple):
    """The exported file, and the largest difference from torch, as a share of its column's largest value."""

    path: Path
    sha256: str
    error: float


class Graph(nn.Module):
    """terms (B, d), a tuple by the columns of the frame, and actions (B, A) -> the outputs, in order."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.net = model, model.net
        self.costs = bool(len(model.largest))

    def forward(self, terms: tuple[Tensor, ...], action: Tensor) -> tuple[Tensor, ...]:
        frame = torch.cat(terms, -1)
        said = self.model.predict(frame, frame[:, :0], action)
        cost = (said.cost,) if self.costs else ()
        parts = *self.model.frames.split(said.frame).values(), said.noise, said.disagreement
        return *parts, said.reward[:, None], *cost, said.end[:, None]


@torch_threads(1)
def export_dynamics(
    model: Model, policy: Policy, env: Env, path: Path, *, commit: str | None = None, steps: int = 0
) -> WrittenModel:
    """Write `path` and `<path>.sha256` after all checks. policy: moves `env` for the ranges of the inputs.

    commit, steps: of the training, for the contract. Raises ExportError naming the failed check.
    """
    frames = model.frames
    if policy.belief_size:
        rule = "is a model of a policy's beliefs, and is exported only for a policy without memory"
        raise ExportError(
            f"{type(env.task).__name__}'s model {rule}; this one's belief has {policy.belief_size}"
        )
    if broken := [name for name, value in model.net.state_dict().items() if not value.isfinite().all()]:
        raise ExportError(f"the model's {broken[0]} is not finite; go back to a checkpoint before it")
    sizes = {f"next.{name}": width for name, width in frames.widths.items()}
    sizes |= {"noise": frames.predicted, "disagreement": frames.predicted, "reward": 1}
    sizes |= ({"cost": len(model.largest)} if len(model.largest) else {}) | {"end": 1}
    terms = tuple(torch.zeros(2, width) for width in frames.widths.values())
    names = [*(f"now.{name}" for name in frames.widths), "action"]
    graph = Graph(copy.copy(model)).eval()
    proto = traced(graph, (terms, torch.zeros(2, frames.act_dim)), names, [*sizes])
    parity = gate(proto, graph, names, [*sizes])
    contract = _contract(model, policy, env, commit) | {
        "outputs": [{"name": name, "size": size} for name, size in sizes.items()],
        "members": model.net.members,
        "ends": "task" if model.known else "learned",
        "costs": [*env.task.limits][: len(model.largest)],
        "steps": steps,
        "parity": parity,
    }
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(contract, allow_nan=False)})
    digest = install(proto.SerializeToString(), path, check=read_back)
    return WrittenModel(path, digest, max(row["error"] for row in parity))


def _contract(model: Model, policy: Policy, env: Env, commit: str | None) -> dict[str, Any]:
    """The envelope of a policy's contract, with this graph's inputs."""
    facts = write_contract(policy, env, record(policy, env, RECORDED), commit)
    known = {row["name"]: row for row in facts["inputs"]}
    rows = [
        known.get(name, {}) | {"name": f"now.{name}", "size": width, "kind": model.frames.kinds[name]}
        for name, width in model.frames.widths.items()
    ]
    action = {"name": "action", "size": env.act_dim, "kind": "action"}
    return {k: v for k, v in facts.items() if k not in POLICYS} | {"kind": KIND, "inputs": [*rows, action]}


@torch.no_grad()
def gate(proto: onnx.ModelProto, graph: Graph, names: list[str], outputs: list[str]) -> list[dict[str, Any]]:
    """Check that a graph is portable and equals the model around what it was trained on; rows of "parity".

    The difference of each column may be TOLERANCE of the column's largest value. Raises ExportError.
    """
    check_graph(proto)
    try:
        session = open_session(proto.SerializeToString(), "the graph")
    except ContractError as error:
        raise ExportError(str(error)) from error
    scale, rng, rows = graph.net.inp, torch.Generator().manual_seed(0), list[dict[str, Any]]()
    widths = [*graph.model.frames.widths.values()]
    for batch in BATCHES:
        noise = torch.randn(RUNS * batch, scale.mean.numel(), generator=rng)
        frame, action = scale.back(SPREAD * noise).split((sum(widths), graph.model.frames.act_dim), -1)
        terms, action = frame.split(widths, -1), action.clamp(-1.0, 1.0)
        truth = graph(terms, action)
        given: Mapping[str, Any] = dict(zip(names, (x.numpy() for x in (*terms, action)), strict=True))
        cut = [slice(i, i + batch) for i in range(0, RUNS * batch, batch)]
        found = [session.run(outputs, {name: x[rows_] for name, x in given.items()}) for rows_ in cut]
        errors = dict[str, float]()
        for i, name in enumerate(outputs):
            ours, theirs = truth[i].numpy(), np.concatenate([np.asarray(run[i]) for run in found])
            off = np.abs(theirs - ours).max(0) / np.maximum(np.abs(ours).max(0), 1e-6)
            errors[name] = float(np.nan_to_num(off, nan=np.inf).max(initial=0.0))
        worst = max(errors, key=lambda name: errors[name])
        if not errors[worst] <= TOLERANCE:
            rule = (
                f"at batch {batch} by {errors[worst]:.3g} of its scale, at most {TOLERANCE:g}, in {worst!r}"
            )
            raise ExportError(f"the ONNX graph differs from the model {rule}")
        rows.append({"batch": batch, "error": errors[worst]})
    return rows


def read_back(path: Path) -> None:
    """Raise ExportError unless a file is an ONNX graph that runs here, with a contract of this kind."""
    data = read_bytes(path, MOST_BYTES)
    try:
        contract = json.loads(scan(data, str(path)).metadata[METADATA_KEY])
        open_session(data, str(path))
    except (ContractError, LookupError, ValueError) as error:
        raise ExportError(f"{path} cannot be read back: {error}") from error
    if contract.get("kind") != KIND:
        raise ExportError(f"{path} must hold a {KIND!r}, got {contract.get('kind')!r}")
