"""Row `hostile`: contracts, graphs, filters and run folders that were changed and signed again."""

import hashlib
import itertools
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from reliability import damage
from reliability.child import Ended, forked
from reliability.record import Facts, Place, Row, bad, judged
from reliability.steps import POLICIES

KEY = "robokit.contract"  # of the ONNX file's metadata
TURNS = ("contract", "graph", "contract", "folder", "filter", "contract", "graph", "folder")
SECONDS, MEGABYTES, STEPS = 10.0, 4096.0, 5
HUGE = 1 << 62


def prepare(home: Path, size: str) -> None:
    prepared = home.parent / damage.ROW.name
    if prepared.exists():  # by the row before
        shutil.copytree(prepared, home, symlinks=True, dirs_exist_ok=True)
    else:
        damage.prepare(home, size)
    make_filter(home)


def make_filter(home: Path) -> None:
    from robokit.export.bounds import filter_for, write_filter
    from robokit.export.file import exported_at

    (home / "numbers.json").write_text(json.dumps({"slew": 5.0, "soft_start": 0.1}))
    file = exported_at(POLICIES / "go2_walk.onnx")
    write_filter(filter_for(file, home / "numbers.json"), home / "table.json")


def trial(place: Place) -> Facts:
    return {"contract": _contract, "graph": _graph, "filter": _filter, "folder": _folder}[
        TURNS[place.number % len(TURNS)]
    ](place)


# -- exported files ----------------------------------------------------------------------------------


def _source(place: Place) -> Path:
    """A shipped file, or the one of a run here."""
    own = sorted(place.home.glob("*/runs/*/2*/policy.onnx"))
    return place.rng.choice([*sorted(POLICIES.glob("*.onnx")), *own])


def sign(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    Path(f"{path}.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")


def _contract(place: Place) -> Facts:
    source, rng = _source(place), place.rng
    model = onnx.load(source)
    text = next(entry for entry in model.metadata_props if entry.key == KEY)
    if rng.random() < 0.1:
        text.value, what = damage.deep(rng)[:1_000_000], "deep"
    elif rng.random() < 0.1:
        text.value, what = rng.choice(('{"schema": 1}', "[]", "null", '{"a": NaN}', "", "\0")), "another"
    else:
        tree = json.loads(text.value)
        what = ", ".join(damage.mutate(tree, rng) for _ in range(rng.choice((1, 1, 1, 2, 5))))
        text.value = json.dumps(tree)
    return _opened(place, model.SerializeToString(), f"{source.name}, contract: {what}")


def _opened(place: Place, content: bytes, what: str) -> Facts:
    """What a Controller makes of a file: refused with its own error, or commands within a sound range."""
    path = place.folder / "evil.onnx"
    sign(path, content)
    ended = forked(lambda: _stepped(path), place.folder, SECONDS, MEGABYTES)
    return judged(what, _faults(ended), refused=bool(ended.value and "refused" in ended.value))


def _faults(ended: Ended) -> list[str]:
    if ended.crash:
        return [ended.crash]
    return [ended.value["fault"]] if ended.value and "fault" in ended.value else []


def _stepped(path: Path) -> Facts:
    from robokit.controller import ContractError, Controller, ObservationError

    rng = np.random.default_rng(0)
    try:
        policy = Controller(path)
    except ContractError as error:
        return {"refused": _one_line(error)} if "\n" not in str(error) else {"fault": f"lines: {error}"}
    for _ in range(STEPS):
        try:
            ctrl = policy.step({name: rng.normal(0, 0.5, size) for name, size in policy.inputs.items()})
        except ObservationError as error:
            return {"refused": _one_line(error)}
        if fault := _unsound(policy.contract, ctrl):
            return {"fault": fault}
    return {}


def _one_line(error: Exception) -> str:
    return str(error)[:80]


def _unsound(contract: dict[str, Any], ctrl: np.ndarray) -> str:
    """What is wrong with a command, or with the range that an accepted contract gives it."""
    if not np.isfinite(ctrl).all():
        return f"a bad command: {ctrl}"
    for row, value in zip(contract["actuators"], ctrl, strict=True):
        low, high = row.get("low"), row.get("high")
        low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
        numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (low, high))
        if not numbers or not low <= high:
            return f"accepted: a range from {low!r} to {high!r}"[:120]
        if not np.float32(low) <= value <= np.float32(high):
            return f"a bad command: {value} outside {low} .. {high}"[:120]
    return ""


# -- graphs ------------------------------------------------------------------------------------------


def _graph(place: Place) -> Facts:
    source, rng = _source(place), place.rng
    kind = rng.choice((*GRAPHS, *RAW))
    if kind in RAW:
        content = RAW[kind](source.read_bytes(), rng)
    else:
        model = onnx.load(source)
        GRAPHS[kind](model, rng)
        content = model.SerializeToString()
    (place.folder / "weights.bin").write_bytes(bytes(1 << 20))
    facts = _opened(place, content, f"{source.name}, graph: {kind}")
    if facts["ok"] and kind in UNUSABLE and not facts["refused"]:
        return bad(facts["what"], "accepted: no robot's policy needs it", refused=False)
    return facts


def _before_ctrl(model: Any, *nodes: Any) -> None:
    """Put nodes, whose first input may be "raw" and last output must be "ctrl", behind the policy."""
    for node in model.graph.node:
        for k, name in enumerate(node.output):
            if name == "ctrl":
                node.output[k] = "raw"
    model.graph.node.extend(nodes)


def _constant(model: Any, name: str, value: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def _times(value: float) -> Callable[[Any, random.Random], None]:
    def change(model: Any, rng: random.Random) -> None:
        _constant(model, "factor", np.float32(value))
        _before_ctrl(model, helper.make_node("Mul", ["raw", "factor"], ["ctrl"]))

    return change


def _external(model: Any, rng: random.Random) -> None:
    tensor = rng.choice([*model.graph.initializer])
    place = rng.choice(("weights.bin", "../weights.bin", "/etc/passwd", "/dev/zero"))
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)


def _loop(model: Any, rng: random.Random) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    _constant(model, "times", np.int64(HUGE))
    _constant(model, "yes", np.bool_(True))
    _before_ctrl(model, helper.make_node("Loop", ["times", "yes", "raw"], ["ctrl"], body=body))


def _if(model: Any, rng: random.Random) -> None:
    value = helper.make_tensor_value_info("same", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", ["raw"], ["same"])], "branch", [], [value])
    _constant(model, "yes", np.bool_(True))
    _before_ctrl(model, helper.make_node("If", ["yes"], ["ctrl"], then_branch=branch, else_branch=branch))


def _random(model: Any, rng: random.Random) -> None:
    _before_ctrl(model, helper.make_node("RandomNormalLike", ["raw"], ["ctrl"]))


def _foreign(model: Any, rng: random.Random) -> None:
    model.opset_import.append(helper.make_opsetid("evil", 1))
    _before_ctrl(model, helper.make_node("Run", ["raw"], ["ctrl"], domain="evil"))


def _memory(model: Any, rng: random.Random) -> None:
    """40 GB of zeros, whose mean is added."""
    _constant(model, "shape", np.array([10_000_000_000], np.int64))
    nodes = (
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceMean", ["zeros"], ["mean"], keepdims=0),
        helper.make_node("Add", ["raw", "mean"], ["ctrl"]),
    )
    _before_ctrl(model, *nodes)


def _work(model: Any, rng: random.Random) -> None:
    """10^13 multiplications in a step."""
    _constant(model, "shape", np.array([20_000, 20_000], np.int64))
    nodes = (
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("MatMul", ["zeros", "zeros"], ["product"]),
        helper.make_node("ReduceMean", ["product"], ["mean"], keepdims=0),
        helper.make_node("Add", ["raw", "mean"], ["ctrl"]),
    )
    _before_ctrl(model, *nodes)


def _chain(model: Any, rng: random.Random) -> None:
    size = 20_000
    names = ["raw", *(f"n{k}" for k in range(size)), "ctrl"]
    pairs = itertools.pairwise(names)
    _before_ctrl(model, *(helper.make_node("Abs", [one], [other]) for one, other in pairs))


def _not_finite(model: Any, rng: random.Random) -> None:
    tensors = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    tensor = rng.choice(tensors)
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[:1] = rng.choice((math.nan, math.inf, -math.inf))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _wide(model: Any, rng: random.Random) -> None:
    """An input of 3e9 numbers, in the graph and in the contract."""
    size, name = 3_000_000_000, model.graph.input[0].name
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = size
    entry = next(entry for entry in model.metadata_props if entry.key == KEY)
    contract = json.loads(entry.value)
    for row in contract["inputs"]:
        row["size"] = size if row["name"] == name else row["size"]
    entry.value = json.dumps(contract)


def _heavy(model: Any, rng: random.Random) -> None:
    _constant(model, "heavy", np.zeros(30_000_000, np.float32))  # 120 MB
    _before_ctrl(model, helper.make_node("Identity", ["raw"], ["ctrl"]))


GRAPHS: dict[str, Callable[[Any, random.Random], None]] = {
    "1e30 times": _times(1e30),
    "NaN times": _times(math.nan),
    "1.01 times": _times(1.01),
    "external data": _external,
    "loop": _loop,
    "if": _if,
    "random": _random,
    "foreign": _foreign,
    "memory": _memory,
    "work": _work,
    "chain": _chain,
    "not finite": _not_finite,
    "wide": _wide,
    "heavy": _heavy,
}
UNUSABLE = ("external data", "loop", "if", "random", "foreign", "memory", "chain", "wide", "heavy")
RAW: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flipped": lambda content, rng: damage.BYTES["flip"](content, rng.randrange(len(content)), rng),
    "flipped early": lambda content, rng: damage.BYTES["flip"](content, rng.randrange(2_000), rng),
    "cut": lambda content, rng: content[: rng.randrange(len(content))],
    "garbage": lambda content, rng: rng.randbytes(10_000),
    "nothing": lambda content, rng: b"",
}


# -- filters and folders -----------------------------------------------------------------------------


def _filter(place: Place) -> Facts:
    from robokit.filter import digest

    tree, rng = json.loads((place.home / "table.json").read_text()), place.rng
    what = ", ".join(damage.mutate(tree, rng) for _ in range(rng.choice((1, 1, 2))))
    path = place.folder / "table.json"
    tree.pop("digest", None)
    path.write_text(damage.deep(rng) if rng.random() < 0.1 else json.dumps({"digest": digest(tree), **tree}))
    ended = forked(lambda: _filtered(path), place.folder, SECONDS, MEGABYTES)
    return judged(f"filter: {what}", _faults(ended), refused=bool(ended.value and "refused" in ended.value))


def _filtered(path: Path) -> Facts:
    from robokit.controller import Controller, ObservationError
    from robokit.filter import Filter, Filtered, FilterError

    rng = np.random.default_rng(0)
    try:
        policy = Filtered(Controller(POLICIES / "go2_walk.onnx"), Filter.open(path))
    except FilterError as error:
        return {"refused": _one_line(error)}
    for _ in range(STEPS):
        try:
            inputs = policy.policy.contract["inputs"]
            ctrl = policy.step({i["name"]: rng.normal(0, 0.5, i["size"]) for i in inputs})
        except (FilterError, ObservationError) as error:
            return {"refused": _one_line(error)}
        if not np.isfinite(ctrl).all():
            return {"fault": f"a bad command: {ctrl}"}
    return {}


def _folder(place: Place) -> Facts:
    """A run folder whose JSON was changed, its lists signed again."""
    rng, job = place.rng, place.rng.choice(damage.JOBS)
    whole = json.loads((place.home / f"{job.name}.json").read_text())
    folder, verb = place.folder / "copy", rng.choice((*damage.VERBS, "evaluate", "check"))
    shutil.copytree(place.home / job.name, folder, symlinks=True)
    run = folder / whole["run"]
    path = rng.choice([run / "config.json", run / "metrics.jsonl", *sorted(run.rglob("facts.json"))])
    what = f"{job.name}, {verb}: {path.relative_to(run)} {damage.json_changed(path, rng)}"
    for sums in run.rglob("SHA256SUMS"):
        rows = [line.split() for line in sums.read_text().splitlines()]
        files = [(name, (sums.parent / name).read_bytes()) for _, name in rows]
        sums.write_text("".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files))
    ended = damage.call(verb, whole["run"], folder, 3 * whole[verb]["seconds"] + SECONDS)
    faults = [ended.crash] if ended.crash else []
    refused = [line for line in ended.text.splitlines() if line.startswith("robokit: ")]
    faults += ["no one-line error"] if ended.code == 2 and len(refused) != 1 else []
    return judged(what, faults, refused=bool(ended.code), said=ended.last[-80:])


def figure(found: list[Facts]) -> str:
    refused = sum(facts.get("refused", False) for facts in found)
    why = [facts["why"] for facts in found if not facts["ok"]]
    kinds = ("traceback", "bad command", "accepted", "over its time", "over its memory", "signal")
    counted = [f"{kind} {count}" for kind in kinds if (count := sum(kind in text for text in why))]
    return ", ".join([f"{refused} refused, the others harmless", *counted])


ROW = Row(
    "hostile",
    "1,000 re-signed folders, contracts, graphs, filters within 4 GB and 10 s: all typed or harmless",
    {"small": 16, "medium": 1000, "night": 10_000},
    trial,
    prepare=prepare,
    figure=figure,
)
