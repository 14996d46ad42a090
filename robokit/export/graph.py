"""A trained policy as an ONNX graph."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from robokit.controller import OUTPUTS
from robokit.env.env import Env
from robokit.export.gate import IR, OPSET
from robokit.learning.protocols import Foreign
from robokit.networks.policy import Policy
from robokit.task.columns import supplied


class Graph(nn.Module):
    """The exported module: terms (B, d), carry (B, S), reset (B,) bool -> ctrl (B, nu), next carry (B, S).

    terms: a tuple, those that the robot supplies, in the order of obs. carry: [carried terms | belief].
    """

    def __init__(self, policy: Policy | Foreign, env: Env) -> None:
        super().__init__()
        self.policy, self.columns, self.carried = policy, env.columns, env.carried
        self.sizes = [*(term.size for term in env.carried), policy.belief_size]
        self.commands = tuple(env.task.commands)
        own = env.map.to("cpu", torch.float32)
        self.map = replace(own, lowest=own.low, highest=own.high)  # actions are in [-1, 1]

    def forward(self, terms: tuple[Tensor, ...], carry: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        *kept, belief = carry.split(self.sizes, -1)
        names = (*supplied(self.columns), *(term.name for term in self.carried))
        seen = dict(zip(names, (*terms, *kept), strict=True))
        here = self.map.start(self._obs(seen))
        commands = [seen[name] for name in self.commands if name in seen]
        for term, value in zip(self.carried, kept, strict=True):
            seen[term.name] = term.now(torch.where(reset[:, None], term.start(here), value), commands)
        obs = self._obs(seen)
        action, belief = self.policy(obs, belief, reset)
        ctrl = self.map.target(action, seen.get("target"), obs)
        carried = (term.next(seen[term.name], action, ctrl) for term in self.carried)
        return ctrl, torch.cat((*carried, belief), -1)

    def _obs(self, seen: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([seen[column.name] for column in self.columns], -1)


def trace(graph: Graph, env: Env) -> onnx.ModelProto:
    """The graph, on the CPU, as ONNX with a symbolic batch size; inputs: terms by name, "carry", "reset"."""
    widths = supplied(env.columns)
    carry = torch.zeros(2, sum(graph.sizes))  # a batch of 1 would become static
    terms = tuple(torch.zeros(2, width) for width in widths.values())
    shapes = (terms, carry, torch.ones(2, dtype=torch.bool))
    model = traced(graph, shapes, [*widths, "carry", "reset"], OUTPUTS)
    return graph.policy.placed(model) if isinstance(graph.policy, Foreign) else model


def traced(
    module: nn.Module, inputs: tuple[Any, ...], names: list[str], outputs: list[str]
) -> onnx.ModelProto:
    """A module, on the CPU, as ONNX; inputs: tensors (2, d), the first a tuple of them; names of them all."""
    batch = {0: torch.export.Dim("batch", min=1)}
    terms, *others = inputs
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            inputs,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(tuple(batch for _ in terms), *(batch for _ in others)),
            verbose=False,
        )
    assert program is not None
    _rename(program.model.graph, names, outputs)
    return stripped(program.model_proto)


def _rename(graph: Any, inputs: list[str], outputs: list[str]) -> None:
    """Name inputs and outputs in place, and prefix all inner names, so that none equals a term's name."""
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
    """Silence the exporter's deprecation warnings and its notes about optional packages."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    log.setLevel(level)


def stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as IR, without metadata_props and doc_string, which contain folder names of this machine."""
    model.ir_version = IR
    graph = model.graph
    values = (*graph.value_info, *graph.input, *graph.output, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model
