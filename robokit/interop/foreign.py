"""A foreign policy's ONNX graph: what it takes and gives, run by onnxruntime, placed in another graph.

As others write them: one row at a time, with weights in a file beside, of any opset.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import compose, numpy_helper, version_converter
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data
from torch import Tensor

from robokit.controller import METADATA_KEY, MOST_BYTES, ContractError, open_session
from robokit.disk.read import read_bytes
from robokit.errors import DataError, OptionError, reason
from robokit.export.gate import OPSET
from robokit.export.graph import stripped

DOMAIN, PREFIX = "foreign", "/foreign/"
AXIS = {2: 0, 3: 1}  # rank -> axis of the batch, as of torch's layers and their h and c
ROWS, CLOSE = (
    3,
    1e-4,
)  # rows that are tried at once, and how far they may differ from each alone, of max(1, |x|)
Shape = tuple[int, ...]  # without the batch


class ForeignGraph(NamedTuple):
    """A graph that takes any number of rows; `data` is it as bytes."""

    path: Path
    sha256: str  # of the file, hex
    data: bytes
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    metadata: dict[str, str]

    def run(self, names: Sequence[str], feed: dict[str, Tensor]) -> list[Tensor]:
        """Outputs by name for inputs of n rows, by onnxruntime alone; nodes of a graph while one is traced."""
        if torch.onnx.is_in_onnx_export():
            rows = next(iter(feed.values())).shape[0]
            shapes = [_with(self.outputs[name], rows) for name in names]
            ends = {"takes": [*feed], "gives": [*names]}
            kinds = [torch.float32] * len(names)
            made = torch.onnx.ops.symbolic_multi_out(
                f"{DOMAIN}::graph", tuple(feed.values()), ends, dtypes=kinds, shapes=shapes, version=1
            )
            return [*made]
        arrays = {name: x.contiguous().numpy() for name, x in feed.items()}
        return [torch.from_numpy(x) for x in _session(self.data, str(self.path)).run([*names], arrays)]

    def placed(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """`model`, changed: this graph's nodes in the place that `run` left for them."""
        at, node = next((i, n) for i, n in enumerate(model.graph.node) if n.domain == DOMAIN)
        ends = {a.name: [name.decode() for name in a.strings] for a in node.attribute}
        graph = compose.add_prefix(onnx.load_from_string(self.data), PREFIX).graph
        outer = dict(zip((PREFIX + name for name in ends["takes"]), node.input, strict=True))
        outer |= dict(zip((PREFIX + name for name in ends["gives"]), node.output, strict=True))
        for inner in graph.node:
            inner.input[:] = [outer.get(name, name) for name in inner.input]
            inner.output[:] = [outer.get(name, name) for name in inner.output]
        nodes = [*model.graph.node[:at], *graph.node, *model.graph.node[at + 1 :]]
        del model.graph.node[:], model.graph.value_info[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(graph.initializer)
        known = [o for o in model.opset_import if o.domain != DOMAIN]
        del model.opset_import[:]
        model.opset_import.extend(known)
        return model


def read_foreign(path: Path) -> ForeignGraph:
    """A foreign file with the weights beside it, as a graph of any number of rows.

    Raises OptionError for a file of robokit, DataError for one that cannot be read, takes or gives other than
    rows of float32 (or states of torch's recurrent layers), or does not treat each row by itself.
    """
    try:
        content = read_bytes(path, MOST_BYTES["file"])
        model = onnx.load_from_string(content)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        if METADATA_KEY in metadata:
            rule = "is a file of robokit already: evaluate, play, check and Controller take it as it is"
            raise OptionError(f"{path} {rule}")
        _take_in(model, path)
        opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=OPSET)
        model = model if opset == OPSET else version_converter.convert_version(model, OPSET)
        onnx.checker.check_model(model, full_check=True)
    except (OSError, DecodeError, onnx.checker.ValidationError, RuntimeError, UnicodeDecodeError) as error:
        why = " ".join(reason(error, path).split())[:300]
        raise DataError(f"{path} cannot be read as ONNX of opset {OPSET}: {why or 'damaged'}") from error
    held = {tensor.name for tensor in model.graph.initializer}  # older files list them as inputs too
    inputs = [v for v in model.graph.input if v.name not in held]
    _loosen(model)
    shapes = [{v.name: _shape(v, path) for v in values} for values in (inputs, model.graph.output)]
    data = stripped(model).SerializeToString()
    made = ForeignGraph(path, hashlib.sha256(content).hexdigest(), data, *shapes, metadata)
    try:
        _check_rows(made)
    except ContractError as error:
        raise DataError(str(error)) from error
    return made


@cache
def _session(data: bytes, name: str) -> Any:
    return open_session(data, name)


def _with(shape: Shape, rows: Any) -> list[Any]:
    """A shape with its batch."""
    axis = AXIS[len(shape) + 1]
    return [*shape[:axis], rows, *shape[axis:]]


def _take_in(model: onnx.ModelProto, path: Path) -> None:
    """Take in the weights that lie in files beside. Raises DataError for one elsewhere, OSError."""
    outside = {ExternalDataInfo(t).location for t in model.graph.initializer if uses_external_data(t)}
    for name in outside:
        if Path(name).name != name:
            raise DataError(f"{path} keeps its weights in {name!r}: they must lie beside it")
        read_bytes(path.with_name(name), MOST_BYTES["file"])  # a regular file of that size
    load_external_data_for_model(model, str(path.parent))


def _loosen(model: onnx.ModelProto) -> None:
    """Let a graph that was written for one row take any number: its ends, and shapes that it names."""
    graph = model.graph
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) in AXIS:
            dims[AXIS[len(dims)]].dim_param = "batch"
    known = {t.name: t for t in graph.initializer}
    constants = [n for n in graph.node if n.op_type == "Constant"]
    known |= {n.output[0]: a.t for n in constants for a in n.attribute if a.name == "value"}
    for i, node in enumerate(graph.node):
        if node.op_type == "Reshape" and node.input[1] in known:
            shape = numpy_helper.to_array(known[node.input[1]]).copy()
            if len(shape) in AXIS and (shape > 0).all() and shape[AXIS[len(shape)]] == 1:
                shape[AXIS[len(shape)]] = -1
                node.input[1] = f"{node.input[1]}/rows{i}"
                graph.initializer.append(numpy_helper.from_array(shape, node.input[1]))


def _shape(value: onnx.ValueInfoProto, path: Path) -> Shape:
    kind = value.type.tensor_type
    dims = [d.dim_value for d in kind.shape.dim]
    if kind.elem_type != onnx.TensorProto.FLOAT or len(dims) not in AXIS:
        what = f"{onnx.TensorProto.DataType.Name(kind.elem_type)} of {len(dims)} dimensions"
        raise DataError(
            f"{path}: {value.name!r} must be rows of float32, (B, d), or a state, (L, B, d); is {what}"
        )
    shape = tuple(dims[: AXIS[len(dims)]] + dims[AXIS[len(dims)] + 1 :])
    if min(shape) < 1:
        raise DataError(f"{path}: {value.name!r} has no fixed size")
    return shape


def _check_rows(made: ForeignGraph) -> None:
    """Raise DataError unless each of several rows gives what it gives alone, ContractError if it cannot run."""
    rng, names = np.random.default_rng(0), [*made.outputs]
    draw = {n: rng.standard_normal(_with(s, ROWS), np.float32) for n, s in made.inputs.items()}
    feed = {name: torch.from_numpy(x) for name, x in draw.items()}
    _session(made.data, str(made.path))
    try:
        rows = [
            made.run(names, {n: x.narrow(AXIS[x.ndim], i, 1) for n, x in feed.items()}) for i in range(ROWS)
        ]
        together = made.run(names, feed)
    except Exception as error:  # onnxruntime's errors share no base class
        why = " ".join(str(error).split())[:300]
        raise DataError(f"{made.path} runs one row alone; write it with a dynamic batch: {why}") from error
    for name, *alone, all_ in zip(names, *rows, together, strict=True):
        one = torch.cat(alone, AXIS[all_.ndim])
        apart = (one - all_).abs() / one.abs().clamp(min=1.0)
        if one.shape != all_.shape or not bool((apart < CLOSE).all()):
            raise DataError(
                f"{made.path}: rows of {name!r} depend on each other: write it with a dynamic batch"
            )
