"""The contract's table: what it refuses, and that the page and the JSON schema are made from it."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from test_controller import CONTRACT, write
from test_packaging import ROOT
from test_supply import load as load_tool

from robokit.controller import FIELDS, TYPES, ContractError, Controller, check_contract, describe, load

SCHEMA = load_tool(ROOT / "tools/schema.py")
MISSING = object()
RICH = CONTRACT | {
    "commands": {"angle": {"low": [-0.5], "high": [0.1], "unit": "rad", "frame": ["world"]}},
    "inputs": [
        CONTRACT["inputs"][0] | {"seen": {"low": [-1.0], "high": [1.0]}, "source": ["hinge"]},
        CONTRACT["inputs"][1] | {"frame": [None, "site imu"], "max_age": None},
    ],
    "actuators": [
        CONTRACT["actuators"][0]
        | {"default": 0.1, "kp": 4.0, "kd": None, "time_constant": 0.05, "delay": 0.02, "input": "position"}
        | {"joint": None, "joint_range": [-1, 1], "force_range": None}
        | {"map": "delta", "scale": 0.1, "leash": None, "sensed": {"input": "rate", "column": 1}}
    ],
    "action_delay": [0.0, 0.02],
    "needs": ["actuators[].delay", "kind"],
    "hashes": {"model": {"arm": "00"}, "commit": None, "weights": "00"},
    "parent": {"name": "arm/1"},
    "origin": None,
    "parity": [{"batch": 1}],
    "unknown": {"kept": [1, "two", None]},
}


def changed(place: str, value: Any) -> Any:
    """RICH with another value at a place like "inputs.0.size", or without it."""
    contract = copy.deepcopy(RICH)
    *path, last = (int(p) if p.isdigit() else p for p in place.split("."))
    inside: Any = contract
    for part in path:
        inside = inside[part]
    if value is MISSING:
        del inside[last]
    else:
        inside[last] = value
    return contract


def test_a_contract_with_every_kind_of_key_is_taken_and_unknown_keys_are_kept(tmp_path: Path) -> None:
    loaded = load(write(tmp_path / "rich.onnx", contract=RICH))
    assert loaded.contract == RICH
    assert "time_constant 0.05, delay 0.02, input position" in describe(loaded.contract)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("schema", True, "schema must be one that is known here, 1 to 2, got true"),
        ("schema", 2.0, "schema must be one that is known here"),
        ("kind", "dynamics", "holds a 'dynamics', and a Controller runs a 'policy': a learned model"),
        ("needs", ["delta"], "needs 'delta', which this reader does not know: use a newer one"),
        ("needs", "kind", "needs must be a list of texts"),
        ("task", "two\nlines", 'task must be printable text, 1 to 1000 long, got "two'),
        ("robot", 3, "robot must be printable text, 0 to 1000 long, got 3"),
        ("control_dt", True, "control_dt must be a number from 1e-05 to 60, got true"),
        ("control_dt", 1e9, "control_dt must be a number from 1e-05 to 60"),
        ("inputs", {"angle": 1}, "inputs must be a list of objects"),
        ("inputs", ["angle"], "inputs must be a list of objects"),
        ("inputs.0.size", 3_000_000_000, r"inputs\[0\]\.size must be a whole number from 1 to 65536"),
        ("inputs.0.size", 1.0, r"inputs\[0\]\.size must be a whole number from 1 to 65536, got 1\.0"),
        ("inputs.1.size", 65536, "inputs must be of at most 65536 numbers in all, got 65537"),
        ("inputs.1.name", "angle", r"inputs\[1\]\.name must be none of .*'angle'.*got \"angle\""),
        ("inputs.1.name", "ctrl", r"inputs\[1\]\.name must be none of \['carry', 'reset', 'ctrl'"),
        ("inputs.1.frame", ["a"], r"inputs\[1\]\.frame must be 2 long, one for each number, got \[\"a\"\]"),
        ("inputs.0.max_age", 0, r"inputs\[0\]\.max_age must be a number from 1e-09; or null, got 0"),
        ("inputs.0.max_age", "old", r"inputs\[0\]\.max_age must be a number"),
        ("inputs.0.seen.low", [2.0], r"inputs\[0\]\.seen\.low must be at most high, \[1\.0\], got \[2\.0\]"),
        ("inputs.0.seen", {}, r"inputs\[0\]\.seen\.low must be a list of numbers.*got nothing"),
        ("actuators", [], "actuators must be a list of objects, 1 to 4096 long"),
        ("actuators.0.low", "-1", r"actuators\[0\]\.low must be a number; or null, got \"-1\""),
        ("actuators.0.low", 2000.0, r"actuators\[0\]\.low must be at most high, 1000\.0, got 2000\.0"),
        ("actuators.0.low", -(10**400), r"actuators\[0\]\.low must be a number"),
        ("actuators.0.high", 1e39, r"actuators\[0\]\.high must be a number"),
        ("actuators.0.default", 1001.0, r"default must be within its range, -1000\.0 to 1000\.0, got 1001"),
        ("actuators.0.joint_range", [1, -1], r"joint_range must be \[low, high\]; or null, got \[1, -1\]"),
        ("actuators.0.delay", -0.1, r"actuators\[0\]\.delay must be a number from 0; or null, got -0\.1"),
        ("carried", [{"name": "a", "size": 1}] * 2, r"carried\[1\]\.name must be none of \['a'\]"),
        ("carried.0.start", [1.0, 2.0], r"carried\[0\]\.start must be 1 long"),
        ("carried.0.start", "rate", r"carried\[0\]\.start must be an input of size 1, got \"rate\""),
        ("carried.1.name", "target", r"carried\[1\]\.size must be 1, one for each actuator, got 2"),
        (
            "actuators.0.sensed",
            {"input": "rate", "column": 2},
            r"actuators\[0\]\.sensed must be a column of an",
        ),
        (
            "actuators.0.sensed",
            {"input": "gone", "column": 0},
            r"actuators\[0\]\.sensed must be a column of an",
        ),
        ("actuators.0.sensed", {"input": "rate"}, r"sensed\.column must be a whole number.*, got nothing"),
        ("actuators.0.leash", -1.0, r"actuators\[0\]\.leash must be a number from 0; or null, got -1\.0"),
        ("commands", [], "commands must be an object, got "),
        ("commands.angle", 3, r"commands\.angle must be an object, got 3"),
        ("commands.angle.low", MISSING, r"commands\.angle\.low must be a list of numbers.*got nothing"),
        ("commands.angle.low", [0.2], r"commands\.angle\.low must be at most high, \[0\.1\], got \[0\.2\]"),
        ("commands.angle.high", ["1"], r"commands\.angle\.high must be a list of numbers"),
        ("commands.spin", {"low": [0], "high": [1]}, r"commands\.spin must be the name of an input"),
        ("versions.torch", 2, r"versions\.torch must be printable text.*, got 2"),
        ("least.ir", "8", r"least\.ir must be a whole number from 3 to 1000, got \"8\""),
        ("hashes.model", "ab", r"hashes\.model must be an object; or null, got \"ab\""),
        ("parent", "arm", 'parent must be an object; or null, got "arm"'),
        ("robot", "x" * 5000, r"got \"x{77}\.\."),
    ],
)
def test_a_contract_that_breaks_a_rule_is_refused_by_key_rule_and_value(
    tmp_path: Path, place: str, value: Any, says: str
) -> None:
    with pytest.raises(ContractError, match=rf"wrong\.onnx .*{says}"):
        Controller(write(tmp_path / "wrong.onnx", contract=changed(place, value)))


ODD = (
    None,
    True,
    -1,
    0,
    1e30,
    10**300,
    2**63,
    "",
    "x" * 300,
    "\x1b[2J",
    [],
    [[]],
    [None],
    {},
    {"": {}},
    [1, 2, 3],
)


def places(value: Any, place: str = "") -> list[str]:
    found = [place] if place else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, f"{place}.{key}".lstrip("."))
    return found


def refusal(contract: Any) -> str:
    try:
        check_contract(contract, "it.onnx")
    except ContractError as error:
        return str(error)
    return ""


def test_whatever_stands_at_any_place_is_taken_or_refused_in_one_typed_line() -> None:
    said = [refusal(changed(place, value)) for place in places(RICH) for value in (MISSING, *ODD)]
    assert sum(map(bool, said)) > 400
    assert all(len(line) < 400 and line.isprintable() for line in said)


def test_the_page_and_the_json_schema_are_made_from_the_table() -> None:
    assert SCHEMA.markdown() in (ROOT / "docs/contract.md").read_text()
    assert (ROOT / "docs" / SCHEMA.FILE).read_text() == SCHEMA.text()


def fits(value: Any, rule: dict[str, Any]) -> bool:
    """Whether a value keeps the part of a JSON schema that is about types, keys and items."""
    if "anyOf" in rule:
        return any(fits(value, other) for other in rule["anyOf"])
    if "const" in rule:
        return value == rule["const"]
    kinds = {
        "string": str,
        "number": int | float,
        "integer": int,
        "object": dict,
        "array": list,
        "null": type(None),
    }
    names = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    if not any(isinstance(value, kinds[name]) for name in names):
        return False
    if isinstance(value, dict):
        more, own = rule.get("additionalProperties", {}), rule.get("properties", {})
        inner = [(v, own.get(key, more)) for key, v in value.items()]
        return {*rule.get("required", ())} <= value.keys() and all(fits(v, r) for v, r in inner if r)
    return not isinstance(value, list) or all(fits(v, rule["items"]) for v in value if "items" in rule)


def test_the_json_schema_takes_what_the_table_takes_and_refuses_other_types() -> None:
    schema = SCHEMA.json_schema()
    assert fits(json.loads(json.dumps(RICH)), schema)
    required = ("kind", "inputs.0.name", "carried.0.size", "commands.angle.low", "least.ir")
    for place in (*required, "actuators.0.low"):
        assert not fits(changed(place, {}), schema), place
        assert place not in required or not fits(changed(place, MISSING), schema), place


def test_every_row_has_known_types_a_plain_meaning_and_a_schema_from_which_on_it_counts() -> None:
    assert len({f.key for f in FIELDS}) == len(FIELDS)
    for field in FIELDS:
        assert {*field.type.split(" | ")} <= TYPES.keys() and field.since in (1, 2) and field.says


def test_a_file_for_a_newer_onnxruntime_is_refused_by_its_version(tmp_path: Path):
    contract = json.loads(json.dumps(RICH))
    contract["least"]["onnxruntime"] = "99.1"
    with pytest.raises(ContractError, match=r"needs onnxruntime 99\.1 or newer; this is "):
        load(write(tmp_path / "newer.onnx", contract=contract))
