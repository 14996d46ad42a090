"""A learned model as one ONNX file of kind "dynamics": checked to equal the model, refused by a Controller.

    in    now.<term> (B, d) for each term of the frame, action (B, A)
    out   next.<term> (B, d), noise and disagreement (B, P) of the sensed terms' changes, reward (B, 1),
          cost (B, K) if there are limits, end (B, 1): its probability, 0 or 1 where the task tells

All in the units of the task, as `Model.predict`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from robokit.compute.compile import torch_threads
from robokit.controller import METADATA_KEY, open_session
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
TINY = 1e-6  # a column whose values are smaller has this scale
SPREAD = 2.0  # times the deviations of the training's inputs, with which the gate tries the graph


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
def write_dynamics(
    model: Model, policy: Policy, env: Env, path: Path, commit: str | None = None, steps: int = 0
) -> tuple[str, float]:
    """Write `path` and `<path>.sha256` after all checks; return the sha256 (hex), and `_error` to torch.

    policy: moves `env` for the inputs' ranges. commit, steps: of the training. ExportError names the check.
    """
    frames, costs = model.frames, [*env.task.limits][: len(model.largest)]
    if policy.belief_size:
        rule = "a model is exported only for a policy without memory"
        raise ExportError(f"{rule}: {type(env.task).__name__}'s takes a belief of {policy.belief_size} too")
    if broken := [name for name, value in model.net.state_dict().items() if not value.isfinite().all()]:
        raise ExportError(f"the model's {broken[0]} is not finite; go back to a checkpoint before it")
    sizes = {f"next.{name}": width for name, width in frames.widths.items()}
    sizes |= {"noise": frames.predicted, "disagreement": frames.predicted, "reward": 1}
    sizes |= ({"cost": len(costs)} if costs else {}) | {"end": 1}
    terms = tuple(torch.zeros(2, width) for width in frames.widths.values())
    names = [*(f"now.{name}" for name in frames.widths), "action"]
    graph = Graph(model).eval()
    proto = traced(graph, (terms, torch.zeros(2, frames.act_dim)), names, [*sizes])
    parity = gate(proto, graph, names, [*sizes])
    contract = _contract(model, policy, env, commit) | {
        "outputs": [{"name": name, "size": size} for name, size in sizes.items()],
        "members": model.net.members,
        "ends": "task" if model.known else "learned",
        "costs": costs,
        "steps": steps,
        "parity": parity,
    }
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(contract, allow_nan=False)})
    data = proto.SerializeToString()
    digest = install(data, path, check=lambda staged: open_session(staged.read_bytes(), staged.name))
    return digest, max(row["error"] for row in parity)


def _contract(model: Model, policy: Policy, env: Env, commit: str | None) -> dict[str, Any]:
    """The envelope of a policy's contract, with this graph's inputs."""
    facts = write_contract(policy, env, record(policy, env, RECORDED), commit)
    known = {row["name"]: row for row in facts["inputs"]}
    kinds = model.frames.kinds
    own = {n: {"name": f"now.{n}", "size": size, "kind": kinds[n]} for n, size in model.frames.widths.items()}
    rows = [known.get(name, {}) | row for name, row in own.items()]
    action = {"name": "action", "size": env.act_dim, "kind": "action"}
    shared = {key: value for key, value in facts.items() if key not in ("carried", "needs")}
    return shared | {"kind": KIND, "inputs": [*rows, action]}


@torch.no_grad()
def gate(proto: onnx.ModelProto, graph: Graph, names: list[str], outputs: list[str]) -> list[dict[str, Any]]:
    """Check that a graph is portable and equals the model around what it was trained on; rows of "parity".

    A column may differ by TOLERANCE of its largest value. Raises ExportError; ContractError as open_session.
    """
    check_graph(proto)
    session = open_session(proto.SerializeToString(), "the graph")
    frames, scale, rng = graph.model.frames, graph.net.inp, torch.Generator().manual_seed(0)
    rows = list[dict[str, Any]]()
    for batch in BATCHES:
        noise = torch.randn(RUNS * batch, scale.mean.numel(), generator=rng)
        frame, action = scale.back(SPREAD * noise).split((frames.size, frames.act_dim), -1)
        given = (*frames.split(frame).values(), action.clamp(-1.0, 1.0))
        parts = zip(*(x.numpy().reshape(RUNS, batch, -1) for x in given), strict=True)
        runs = [dict(zip(names, part, strict=True)) for part in parts]
        found = zip(*(session.run(outputs, run) for run in runs), strict=True)
        pairs = zip(found, graph(given[:-1], given[-1]), outputs, strict=True)
        error, name = max((_error(np.concatenate(ours), said.numpy()), name) for ours, said, name in pairs)
        if not error <= TOLERANCE:
            rule = f"by {error:.3g} of its largest value, at most {TOLERANCE:g}, in {name!r}"
            raise ExportError(f"the ONNX graph differs from the model at batch {batch} {rule}")
        rows.append({"batch": batch, "error": error})
    return rows


def _error(found: Any, truth: Any) -> float:
    """Largest difference of two arrays (M, d), as a share of the column's largest value."""
    off = np.abs(found - truth).max(0) / np.maximum(np.abs(truth).max(0), TINY)
    return float(np.nan_to_num(off, nan=np.inf).max())
