"""What is read from files of others: regular files of a bounded size, JSON with limits, types of a table."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from robokit.disk.read import DEEPEST, EACH, check_types, first_difference, parse_json, read_bytes, read_json
from robokit.errors import DataError


def test_what_was_written_is_read_and_a_link_to_it_is_followed(tmp_path: Path):
    value = {"a": [1, -2.5, True, None, "ü\n", {"b": "\udcff"}], "most": 2**63 - 1, "least": -(2**63)}
    (tmp_path / "a.json").write_text(json.dumps(value))
    (tmp_path / "link").symlink_to("a.json")
    assert read_json(tmp_path / "link") == value


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (b'{"a": 1', "Expecting"),
        (b"", "Expecting value"),
        (b'{"a": NaN}', "a number must be finite, got NaN"),
        (b"[-Infinity]", "a number must be finite, got -Infinity"),
        (b"[1e999]", "a number must be finite, got 1e999"),
        (b"[1" + b"0" * 5000 + b"]", r"a whole number may have 19 digits, got 1000.* of 5001"),
        (b'{"a": 1, "b": 2, "a": 3}', "a key may stand once in an object, 'a' is there 2 times"),
        (b'"\xff"', "utf-8"),
        (b"[" * 100_000, f"may be {DEEPEST} deep"),
        (b'{"a":' * (DEEPEST + 1) + b"1" + b"}" * (DEEPEST + 1), f"may be {DEEPEST} deep"),
    ],
)
def test_what_is_no_json_of_ours_is_refused_with_the_rule_and_the_value(text: bytes, rule: str):
    with pytest.raises(DataError, match=f"^facts cannot be read as JSON: .*{rule}"):
        parse_json(text, "facts")


def test_brackets_in_a_string_are_no_depth_and_many_side_by_side_are_none():
    text = json.dumps({"a": "[" * 1000 + '"\\', "b": [[]] * 1000})
    assert parse_json(text, "x") == json.loads(text)
    deepest = "[" * DEEPEST + "]" * DEEPEST
    assert parse_json(deepest, "x") == json.loads(deepest)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(DataError, match=r"/a may have 4 bytes, and has 5"):
        read_bytes(tmp_path / "a", 4)
    os.truncate(tmp_path / "a", 1 << 42)
    with pytest.raises(DataError, match=r"/a may have [\d,]+ bytes, and has 4,398,046,511,104"):
        read_bytes(tmp_path / "a")


@pytest.mark.parametrize(("path", "kind"), [("/dev/null", "a device"), (".", "a folder"), ("pipe", "a FIFO")])
def test_what_is_no_regular_file_is_named_and_does_not_block(tmp_path: Path, path: str, kind: str):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=f"must be a regular file, and is {kind}"):
        read_bytes(tmp_path / path)


def test_what_the_system_refuses_stays_an_os_error_and_an_impossible_name_is_told(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")
    with pytest.raises(DataError, match="cannot be the name of a file"):
        read_json("a\0b")


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (True, int, "x must be of the type int, got True"),
        (1, bool, "x must be of the type bool, got 1"),
        (1.0, int, "x must be of the type int, got 1.0"),
        ({"a": "1"}, {"a": float}, "x: a must be of the type number, got '1'"),
        ({"b": {"c": None}}, {"b": {EACH: int | None}, "d": str}, ""),
        ({"b": {"c": "y"}}, {"b": {EACH: int | None}}, r"x: b: c must be of the type int \| None, got 'y'"),
        ([1, [2]], [float], r"x\[1\] must be of the type number, got \[2\]"),
        ([], {}, r"x must be of the type object, got \[\]"),
        ({}, [str], "x must be of the type array, got {}"),
        ("y" * 100, int, r"got 'y{56}\.\.\.$"),
        ({"free": [], "a": 1}, {"a": float}, ""),
    ],
)
def test_types_are_those_of_the_table(value: Any, kind: Any, words: str):
    if not words:
        check_types(value, kind, "x")
        return
    with pytest.raises(DataError, match=words):
        check_types(value, kind, "x")


def test_reading_needs_no_torch():
    code = "import robokit.disk.read, robokit.disk.folder, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"a": 1, "b": {"c": [1], "d": 2}}, {"a": 1, "b": {"c": [1], "d": 3}}, ("b.d", 2, 3)),
        ({"a": 1}, {"a": 1, "b": None}, ("b", None, None)),
        ({"a": {"x": 1}}, {"a": [1]}, ("a", {"x": 1}, [1])),
    ],
)
def test_the_first_difference_is_the_leaf(one: object, other: object, expected: tuple[object, ...]):
    assert first_difference(one, other) == expected
