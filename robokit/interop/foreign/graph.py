"""A foreign policy's ONNX graph: what it takes and gives, run by onnxruntime, placed in another graph.

Exporters write it for one row at a time, with weights in a file beside it, and of any opset.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import compose, numpy_helper, version_converter
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data
from torch import Tensor

from robokit.controller import METADATA_KEY, MOST_BYTES, open_session
from robokit.disk.read import read_bytes
from robokit.errors import DataError, OptionError, reason
from robokit.export.gate import OPSET
from robokit.export.graph import stripped

DOMAIN, PREFIX = "foreign", "/foreign/"
AXIS = {2: 0, 3: 1}  # rank -> axis of the batch, as in torch's layers and their h and c
ROWS, CLOSE = 3, 1e-4  # rows tried at once, and how far they may differ from each alone, of max(1, |x|)
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
        """Outputs by name for inputs of n rows, by onnxruntime; while a graph is traced, a node for them."""
        if torch.onnx.is_in_onnx_export():
            rows, of = next(iter(feed.values())).shape[0], [torch.float32] * len(names)
            shapes = [_with(self.outputs[name], rows) for name in names]
            ends: Any = {"takes": [*feed], "gives": [*names]}
            node, taken = f"{DOMAIN}::graph", tuple(feed.values())
            made = torch.onnx.ops.symbolic_multi_out(node, taken, ends, dtypes=of, shapes=shapes, version=1)
            return [*made]
        arrays = {name: x.contiguous().numpy() for name, x in feed.items()}
        return [torch.from_numpy(x) for x in _session(self.data, str(self.path)).run([*names], arrays)]

    def placed(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """`model`, changed: this graph's nodes in the place of the node that `run` left."""
        at, node = next((i, n) for i, n in enumerate(model.graph.node) if n.domain == DOMAIN)
        ends = {a.name: [PREFIX + name.decode() for name in a.strings] for a in node.attribute}
        graph = compose.add_prefix(onnx.load_from_string(self.data), PREFIX).graph
        outer = dict(zip(ends["takes"] + ends["gives"], [*node.input, *node.output], strict=True))
        for inner in graph.node:
            inner.input[:] = [outer.get(name, name) for name in inner.input]
            inner.output[:] = [outer.get(name, name) for name in inner.output]
        nodes = [*model.graph.node[:at], *graph.node, *model.graph.node[at + 1 :]]
        known = [opset for opset in model.opset_import if opset.domain != DOMAIN]
        del model.graph.node[:], model.graph.value_info[:], model.opset_import[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(graph.initializer)
        model.opset_import.extend(known)
        return model


def read_foreign(path: Path) -> ForeignGraph:
    """A foreign file, with the weights beside it, as a graph of any number of rows.

    Raises OptionError for a file of robokit; DataError for one that cannot be read, takes or gives other than
    rows of float32 and states of torch's recurrent layers, or whose rows depend on each other.
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
        inputs = [v for v in model.graph.input if v.name not in {t.name for t in model.graph.initializer}]
        takes, gives = ({v.name: _shape(v, path) for v in of} for of in (inputs, model.graph.output))
        _loosen(model.graph)
        data = stripped(model).SerializeToString()
        _session(data, str(path))
    except (OptionError, DataError):
        raise
    except Exception as error:  # protobuf's, onnx's and onnxruntime's share no base class
        why = " ".join(reason(error, path).split())[:300] or "damaged"
        raise DataError(f"{path} cannot be read as ONNX of opset {OPSET}: {why}") from error
    made = ForeignGraph(path, hashlib.sha256(content).hexdigest(), data, takes, gives, metadata)
    _check_rows(made)
    return made


@cache
def _session(data: bytes, name: str) -> Any:
    return open_session(data, name)


def _with(shape: Shape, rows: Any) -> list[Any]:
    """A shape with its batch."""
    axis = AXIS[len(shape) + 1]
    return [*shape[:axis], rows, *shape[axis:]]


def _take_in(model: onnx.ModelProto, path: Path) -> None:
    """Take in weights from files beside. Raises DataError for a place elsewhere, OSError."""
    for place in {ExternalDataInfo(t).location for t in model.graph.initializer if uses_external_data(t)}:
        if Path(place).name != place:
            raise DataError(f"{path} keeps weights in {place!r}: they must lie beside it")
        read_bytes(path.with_name(place), MOST_BYTES["file"])  # a regular file of such a size
    load_external_data_for_model(model, str(path.parent))


def _shape(value: onnx.ValueInfoProto, path: Path) -> Shape:
    of = value.type.tensor_type
    dims = [d.dim_value for d in of.shape.dim]
    axis = AXIS.get(len(dims), len(dims))
    shape = (*dims[:axis], *dims[axis + 1 :])
    if of.elem_type != onnx.TensorProto.FLOAT or len(dims) not in AXIS or min(shape) < 1:
        kind = onnx.TensorProto.DataType.Name(of.elem_type)
        rule = "must be rows of float32, (B, d), or a state, (L, B, d), of fixed d"
        raise DataError(f"{path}: {value.name!r} {rule}; it is {kind} {dims}")
    return shape


def _loosen(graph: onnx.GraphProto) -> None:
    """Let a graph that was written for one row take any number: its ends, and shapes that it names."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) in AXIS:
            dims[AXIS[len(dims)]].dim_param = "batch"
    fixed = {t.name: t for t in graph.initializer}
    constants = [node for node in graph.node if node.op_type == "Constant"]
    fixed |= {node.output[0]: a.t for node in constants for a in node.attribute if a.name == "value"}
    for i, node in enumerate(graph.node):
        if node.op_type == "Reshape" and node.input[1] in fixed:
            shape = numpy_helper.to_array(fixed[node.input[1]]).copy()
            if len(shape) in AXIS and (shape > 0).all() and shape[AXIS[len(shape)]] == 1:
                shape[AXIS[len(shape)]] = -1
                node.input[1] = f"{node.input[1]}/rows{i}"
                graph.initializer.append(numpy_helper.from_array(shape, node.input[1]))


def _check_rows(made: ForeignGraph) -> None:
    """Raise DataError unless rows at once give what each gives alone."""
    rng, names = np.random.default_rng(0), [*made.outputs]
    drawn = {n: rng.standard_normal(_with(s, ROWS), np.float32) for n, s in made.inputs.items()}
    feed = {name: torch.from_numpy(x) for name, x in drawn.items()}
    rule = f"{made.path} takes one row alone: write it with a dynamic batch; of {ROWS} rows"
    try:
        each = [{n: x.narrow(AXIS[x.ndim], i, 1) for n, x in feed.items()} for i in range(ROWS)]
        whole, alone = made.run(names, feed), [made.run(names, one) for one in each]
    except Exception as error:  # onnxruntime's errors share no base class
        raise DataError(f"{rule}: {' '.join(str(error).split())[:300]}") from error
    for name, x, *rows in zip(names, whole, *alone, strict=True):
        one = torch.cat(rows, AXIS[x.ndim])
        if one.shape != x.shape or not bool(((one - x).abs() < CLOSE * one.abs().clamp(min=1.0)).all()):
            raise DataError(f"{rule} {name!r} differs from each row's")
