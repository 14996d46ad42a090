"""What the Controller reads of a file's bytes before onnxruntime does: as the onnx package, or refused."""

import io
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_controller import CONTRACT, FOLLOW, GOOD, sign, write

from robokit.controller import ContractError, Controller, ObservationError, load, scan

ROOT = Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "policies").glob("*.onnx"))


def value(name: str, kind: int = TensorProto.FLOAT, shape: Any = (1,)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(*nodes: onnx.NodeProto, initializers: Any = (), sparse: Any = ()) -> onnx.GraphProto:
    inputs, outputs = [value("x", shape=["n", 1])], [value("y", shape=["n", 1])]
    return helper.make_graph([*nodes], "g", inputs, outputs, [*initializers], sparse_initializer=[*sparse])


def model(*nodes: onnx.NodeProto, **parts: Any) -> onnx.ModelProto:
    return helper.make_model(
        graph(*nodes, **parts), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )


def node(op: str, inputs: Any = ("x",), outputs: Any = ("y",), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, [*inputs], [*outputs], **attributes)


def array(*dims: int, name: str = "a") -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(dims, np.float32), name)


def outside(name: str = "w") -> onnx.TensorProto:
    """A tensor whose numbers lie in another file."""
    tensor = array(2, name=name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def located() -> onnx.TensorProto:
    """The same by one of its two marks alone."""
    tensor = outside()
    tensor.ClearField("data_location")
    return tensor


def huge() -> onnx.TensorProto:
    tensor = array(1)
    tensor.dims[:] = [1 << 20, 1 << 20]
    return tensor


def sparse(values: onnx.TensorProto, *dims: int) -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    return helper.make_sparse_tensor(values, indices, [*dims])


def functions() -> onnx.ModelProto:
    made = model(node("Identity"))
    made.functions.append(
        helper.make_function("", "Own", ["x"], ["y"], [node("Identity")], [helper.make_opsetid("", 18)])
    )
    return made


def training() -> onnx.ModelProto:
    made = model(node("Identity"))
    made.training_info.add().algorithm.CopyFrom(graph(node("Constant", (), value=outside())))
    return made


BRANCHES = {"then_branch": graph(node("Identity")), "else_branch": graph(node("Identity"))}
REFUSED: dict[str, tuple[onnx.ModelProto, str]] = {
    "external": (model(node("Identity"), initializers=[outside()]), "data outside of the file"),
    "external by its location": (
        model(node("Identity"), initializers=[located()]),
        "data outside of the file",
    ),
    "external in a Constant": (model(node("Constant", (), value=outside())), "data outside of the file"),
    "external in a list": (model(node("Identity", own=[outside()])), "data outside of the file"),
    "external in a sparse one": (
        model(node("Identity"), sparse=[sparse(outside(), 2)]),
        "outside of the file",
    ),
    "external in a sparse attribute": (
        model(node("Constant", (), sparse_value=sparse(outside(), 2))),
        "outside of the file",
    ),
    "external in a branch": (
        model(node("Clip", own=graph(node("Constant", (), value=outside())))),
        "it has a subgraph",
    ),
    "Loop": (model(node("Loop", ("n", "", "x"), body=graph(node("Identity")))), "operator ::Loop"),
    "If": (model(node("If", **BRANCHES)), "operator ::If"),
    "Scan": (model(node("Scan", body=graph(node("Identity")), num_scan_inputs=1)), "operator ::Scan"),
    "SequenceMap": (model(node("SequenceMap", body=graph(node("Identity")))), "operator ::SequenceMap"),
    "subgraphs": (model(node("Identity", own=[graph(node("Identity"))])), "it has subgraphs"),
    **{
        op: (model(node(op, **more)), f"operator ::{op}")
        for op, more in {
            "RandomNormal": {"shape": [1]},
            "RandomNormalLike": {},
            "RandomUniform": {"shape": [1]},
            "RandomUniformLike": {},
            "Multinomial": {},
            "Bernoulli": {},
        }.items()
    },
    "Dropout in training": (model(node("Dropout", ("x", "ratio", "yes"))), "operator ::Dropout"),
    "custom domain": (model(node("Gelu", domain="com.microsoft")), "operator com.microsoft::Gelu"),
    "ai.onnx.ml": (model(node("Scaler", domain="ai.onnx.ml")), "operator ai.onnx.ml::Scaler"),
    "functions": (functions(), "functions of its own"),
    "training": (training(), "training steps"),
    "nodes": (model(*[node("Identity")] * 4097), "more than 4096 nodes"),
    "huge initializer": (model(node("Identity"), initializers=[huge()]), "67,108,864 numbers"),
    "huge sparse one": (model(node("Identity"), sparse=[sparse(array(1), 1 << 40)]), "a size of"),
    "many large ones": (
        model(node("Identity"), sparse=[sparse(array(1), 1 << 25)] * 3),
        "67,108,864 numbers",
    ),
    "huge input": (
        helper.make_model(helper.make_graph([], "g", [value("x", shape=[1, 3 * 10**9])], [])),
        "a size",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_reads_files_loops_draws_or_is_huge_is_refused_by_its_bytes(case: str) -> None:
    made, says = REFUSED[case]
    with pytest.raises(ContractError, match=rf"it\.onnx is no ONNX file that is run here: .*{says}"):
        scan(made.SerializeToString(), "it.onnx")


def test_every_other_standard_operator_is_read() -> None:
    ops = [
        "Conv",
        "GRU",
        "Einsum",
        "Resize",
        "Expand",
        "Where",
        "SequenceAt",
        "Optional",
        "BatchNormalization",
    ]
    nodes = [*map(node, ops), node("Dropout", ("x", "ratio", ""))]
    found = scan(model(*nodes, initializers=[array(8, 0, 3)]).SerializeToString(), "it")
    assert found.ops == [("", op) for op in (*ops, "Dropout")]


def varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def framed(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


PLAIN = model(node("Identity")).SerializeToString()
PART = framed(7, framed(1, framed(4, b"Loop")))  # a second graph: protobuf adds its nodes to the first's
BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no graph in it"),
    "no end": (PLAIN[:-1], "does not end|wire type"),
    "second graph": (PLAIN + PART, "field 7 of a model is there twice"),
    "graph as a number": (PLAIN + varint(7 << 3) + b"\1", "wire type 0"),
    "group": (PLAIN + varint(99 << 3 | 3) + varint(99 << 3 | 4), "wire type 3"),
    "wire type 6": (PLAIN + varint(99 << 3 | 6), "wire type 6"),
    "field 0": (PLAIN + b"\2\0", "field 0"),
    "field 2^29": (PLAIN + varint(1 << 32) + b"\0", "field 536870912"),
    "negative length": (PLAIN + varint(99 << 3 | 2) + varint((1 << 64) - 1), "does not end"),
    "number of 11 bytes": (PLAIN + varint(99 << 3) + b"\xff" * 10 + b"\1", "does not end"),
    "number of 65 bits": (PLAIN + varint(99 << 3) + b"\xff" * 9 + b"\2", "does not end"),
    "two operators": (
        framed(7, framed(1, framed(4, b"Abs") + framed(4, b"Loop"))),
        "field 4 of a node .* twice",
    ),
    "two contracts": (
        PLAIN + framed(14, framed(1, b"k") + framed(2, b"v")) * 2,
        "metadata 'k' is there twice",
    ),
    "no text": (framed(7, framed(1, framed(4, b"\xff"))), "utf-8"),
    "packed sizes": (framed(7, framed(5, framed(1, varint(1 << 40)))), "a size of"),
    "many packed sizes": (
        framed(7, framed(5, framed(1, b"\1" * 10**7))),
        "sizes of wire type 2, 10000000 bytes",
    ),
    "many fields": (PLAIN + b"\x08\x08" * (1 << 24), "more than 262,144 fields"),
    "onnxruntime's format": (b"\x12\x06..ORTM" + PLAIN, "onnxruntime's own format"),
}


@pytest.mark.parametrize("case", BYTES)
def test_bytes_that_are_not_read_exactly_are_refused(case: str) -> None:
    data, says = BYTES[case]
    with pytest.raises(ContractError, match=says):
        scan(data, "it.onnx")


def facts(made: onnx.ModelProto) -> Any:
    """What the onnx package says of a file: its operators, metadata."""
    ops = [(n.domain, n.op_type) for n in made.graph.node]
    return ops, {p.key: p.value for p in made.metadata_props}


def is_outside(made: onnx.ModelProto) -> bool:
    tensors = [*made.graph.initializer, *(a.t for n in made.graph.node for a in n.attribute)]
    return any(t.external_data or t.data_location for t in tensors)


def faulty(data: bytes, rng: random.Random) -> bytes:
    """A file with some bytes changed, cut out, doubled or moved."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, n = rng.randrange(len(out)), rng.choice((1, 2, 7, 16))
        part = bytes(out[at : at + n])
        match rng.randrange(5):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.choice((0, 1, 127, 128, 255))
            case 2:
                del out[at : min(at + n, len(out) - 1)]
            case 3:
                out[at:at] = part
            case _:
                out[rng.randrange(len(out)) :] = part
    return bytes(out)


def seeds() -> list[bytes]:
    small = [m.SerializeToString() for m, _ in REFUSED.values()]
    wide = model(node("Clip"), node("Abs", name="abs"), initializers=[array(3, 2)])
    helper.set_model_props(wide, {"one": "1", "two": "2"})
    return [data for data in small if len(data) < 10_000] + [PLAIN, wide.SerializeToString()] * 20


@pytest.mark.parametrize("count", [200, pytest.param(4000, marks=pytest.mark.slow)])
def test_on_damaged_files_it_agrees_with_the_onnx_package_or_refuses(count: int) -> None:
    rng, kept, read = random.Random(count), seeds(), 0
    for _ in range(count):
        data = faulty(rng.choice(kept), rng)
        began = time.perf_counter()
        try:
            found = scan(data, "it")
        except ContractError:
            continue
        finally:
            assert time.perf_counter() - began < 1
        try:
            made = onnx.load(io.BytesIO(data), load_external_data=False)
        except Exception:  # noqa: BLE001  # protobuf refuses more, like a string that is too long
            continue
        assert (found.ops, found.metadata) == facts(made) and not is_outside(made)
        read += 1
    assert read > count / 20


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_read_as_the_onnx_package_reads_them(path: Path) -> None:
    found = scan(path.read_bytes(), path.name)
    assert (found.ops, found.metadata) == facts(onnx.load(path))


BOMBS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "ConstantOfShape": ([("ConstantOfShape", ["big"], ["z"])], {"big": np.array([10**9])}),
    "Tile": ([("Tile", ["angle", "big"], ["z"])], {"big": np.array([1, 10**9])}),
    "Expand": ([("Expand", ["angle", "big"], ["z"])], {"big": np.array([10**9, 1])}),
    "Range": ([("Range", ["zero", "end", "step"], ["z"])], {"end": np.float32(1e9), "step": np.float32(1)}),
    "Pad": ([("Pad", ["angle", "big"], ["z"])], {"big": np.array([0, 0, 0, 10**9])}),
    "doubling": (
        [("Concat", [f"z{i}" if i else "angle"] * 2, [f"z{i + 1}" if i < 39 else "z"]) for i in range(40)],
        {},
    ),
    "outer": (
        [("Mul", ["a", "b"], ["z"])],
        {"a": np.ones((1, 50000), np.float32), "b": np.ones((50000, 1), np.float32)},
    ),
}


def spun(folder: Path, nodes: list[Any], last: str, constants: dict[str, Any]) -> Path:
    """A file like FOLLOW, whose angle has 0 max(last) added to it."""
    ends = [
        ("ReduceMax", [last], ["m"]),
        ("Mul", ["m", "zero"], ["nothing"]),
        ("Add", ["angle", "nothing"], ["more"]),
    ]
    path = write(folder / "spun.onnx", [*FOLLOW[:3], *nodes, *ends, *FOLLOW[3:]])
    made = onnx.load(path)
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    next(n for n in made.graph.node if n.op_type == "ReduceMax").attribute.add(name="keepdims", type=2, i=0)
    next(n for n in made.graph.node if "doubled" in n.output).input[0] = "more"
    path.write_bytes(made.SerializeToString())
    return sign(path)


@pytest.mark.parametrize("case", BOMBS)
def test_a_small_graph_that_allocates_gigabytes_is_refused(case: str, tmp_path: Path) -> None:
    nodes, constants = BOMBS[case]
    with pytest.raises(
        ContractError, match=r"cannot run on zeros(: .*(memory|Available|bad_alloc)| within 3.0 s)"
    ):
        load(spun(tmp_path, nodes, "z", constants))


def test_the_files_that_carry_the_bombs_run_without_them(tmp_path: Path) -> None:
    path = spun(tmp_path, [("Tile", ["angle", "big"], ["z"])], "z", {"big": np.array([1, 1000])})
    assert Controller(path).step(GOOD).tolist() == [10.5]


@pytest.mark.medium
def test_a_graph_that_takes_hours_is_stopped(tmp_path: Path) -> None:
    products = [("MatMul", ["p0" if i == 0 else f"p{i}", "p0"], [f"p{i + 1}"]) for i in range(4000)]
    path = spun(
        tmp_path, [("Expand", ["angle", "big"], ["p0"]), *products], "p4000", {"big": np.array([1500, 1500])}
    )
    began = time.perf_counter()
    with pytest.raises(ContractError, match="cannot run on zeros within"):
        load(path)
    assert time.perf_counter() - began < 9


def test_weights_that_onnxruntime_would_pack_for_minutes_are_refused(tmp_path: Path) -> None:
    products = [("MatMul", ["side" if i == 0 else f"p{i}", "side"], [f"p{i + 1}"]) for i in range(4000)]
    path = spun(tmp_path, products, "p4000", {"side": np.ones((1000, 1000), np.float32)})
    with pytest.raises(ContractError, match="numbers to pack, at most"):
        load(path)


def test_a_graph_that_fails_on_some_observations_is_refused_by_a_typed_error(tmp_path: Path) -> None:
    """Gather of a row that is not there."""
    row = [
        ("Cast", ["angle"], ["whole"]),
        ("Gather", ["two_rows", "whole"], ["row"]),
        ("Identity", ["row"], ["ctrl"]),
    ]
    path = write(tmp_path / "gather.onnx", [*FOLLOW[:3], *row, ("Concat", ["ctrl", "rate"], ["carry_next"])])
    made = onnx.load(path)
    made.graph.initializer.append(numpy_helper.from_array(np.array([3, 4], np.float32), "two_rows"))
    cast = next(n for n in made.graph.node if n.op_type == "Cast")
    cast.attribute.add(name="to", type=2, i=TensorProto.INT64)
    path.write_bytes(made.SerializeToString())
    policy = Controller(sign(path))
    assert policy.step(GOOD | {"angle": [1.0]}).tolist() == [4.0]
    with pytest.raises(ObservationError, match="the graph cannot run these observations"):
        policy.step(GOOD | {"angle": [7.0]})
    assert policy.step(GOOD).tolist() == [3.0]


@pytest.mark.parametrize("name", ["batch", "carry_next", "column", "angle"])
def test_a_name_that_is_no_text_is_refused_in_one_line(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "spin.onnx")
    path.write_bytes(path.read_bytes().replace(name.encode(), name[:-1].encode() + b"\xee", 2))
    with pytest.raises(ContractError) as refused:
        load(sign(path))
    assert str(refused.value).isprintable() and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["", ".sha256"])
@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "large"])
def test_only_a_regular_file_of_a_bounded_size_is_read(tmp_path: Path, suffix: str, kind: str) -> None:
    file = Path(f"{write(tmp_path / 'spin.onnx')}{suffix}")
    file.unlink()
    match kind:
        case "folder":
            file.mkdir()
        case "fifo":
            os.mkfifo(file)
        case "device":
            file.symlink_to("/dev/zero")
        case _:
            with file.open("wb") as sparse_file:
                sparse_file.truncate((64 << 20) + 1)
    with pytest.raises(ContractError, match=f"spin.onnx{suffix}: (not a regular|more than)"):
        load(tmp_path / "spin.onnx")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested more than 64 deep"),
        ('{"a":' * 100_000, "nested more than 64 deep"),
        ('"' + '\\"' * 1_000_000 + "\\", "no JSON"),
        (json.dumps({**CONTRACT, "more": float("nan")}), "malformed contract: NaN"),
        (json.dumps({**CONTRACT, "more": float("inf")}), "malformed contract: Infinity"),
        (json.dumps(CONTRACT)[:-1] + ', "more": 1e999}', "1e999 is beyond any float"),
        (json.dumps(CONTRACT)[:-1] + f', "more": 1{"0" * 9999}}}', "no JSON"),
        (json.dumps(CONTRACT)[:-1] + ', "robot": "other"}', "key 'robot' is there twice"),
        (json.dumps({**CONTRACT, "more": "x" * (4 << 20)}), "at most 4,194,304"),
    ],
)
def test_json_without_limits_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ContractError, match=says):
        load(write(tmp_path / "spin.onnx", contract=text))
