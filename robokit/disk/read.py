"""Reading of files that anyone may have written: regular files of a bounded size, and JSON with limits.

    config = read_json("runs/hopper/latest/config.json")
    check_types(config, {"steps": int, "limits": {EACH: float}}, "config.json")

A FIFO or a device never blocks, and no file is read that does not fit into memory.
"""

import json
import math
import os
import re
import stat
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from robokit.errors import DataError

LARGEST_JSON = 1 << 24  # bytes
DEEPEST = 64  # objects and arrays inside each other
DIGITS = 19  # of a whole number: 64 bits
EACH = "*"  # in a table of types: every key
KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
}
WORDS = {dict: "object", list: "array", str: "string", float: "number"}  # JSON's own
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{\]}]', re.DOTALL)


def read_bytes(path: str | Path, most: int | None = None) -> bytes:
    """Content of a regular file, or of a link to one. most: bytes; None: what fits into memory.

    Raises OSError where the system refuses it; DataError for anything but a regular file, and a larger one.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError as error:  # a zero byte
        raise DataError(f"{str(path)!r} cannot be the name of a file: {error}") from error
    try:
        return _content(descriptor, path, _memory() if most is None else most)
    finally:
        os.close(descriptor)


def _content(descriptor: int, path: str | Path, most: int) -> bytes:
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        kind = KINDS.get(stat.S_IFMT(about.st_mode), "something else")
        raise DataError(f"{path} must be a regular file, and is {kind}")
    if about.st_size > most:
        raise DataError(f"{path} may have {most:,} bytes, and has {about.st_size:,}")
    try:
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            content = file.readall()
    except MemoryError as error:
        raise DataError(f"{path} has {about.st_size:,} bytes, more than fit into memory") from error
    if content is None or len(content) > most:  # it grew meanwhile
        raise DataError(f"{path} may have {most:,} bytes, and has more")
    return content


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def read_json(path: str | Path, most: int = LARGEST_JSON) -> Any:
    """The value in a JSON file. Raises OSError, and DataError, as `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, most), str(path))


def parse_json(content: bytes | str, name: str) -> Any:
    """The value of a JSON text, whose `name` begins each error.

    Raises DataError for what is not JSON in UTF-8; for NaN, infinite numbers and whole ones of more than 64
    bits; for a key that an object has twice; and for a value that is deeper than DEEPEST.
    """
    try:
        content = content.encode() if isinstance(content, str) else content
        _check_depth(content)
        hooks = {"parse_constant": _real, "parse_float": _real, "parse_int": _whole}
        return json.loads(content.decode(), object_pairs_hook=_object, **hooks)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} cannot be read as JSON: {error}") from error


def _check_depth(content: bytes) -> None:
    """Raise ValueError for a depth beyond DEEPEST: the parser would recurse."""
    if content.count(b"[") + content.count(b"{") <= DEEPEST:
        return
    depth = 0
    for token in _TOKENS.finditer(content):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
        if depth > DEEPEST:
            raise ValueError(f"objects and arrays may be {DEEPEST} deep, these are deeper")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"a key may stand once in an object, {twice!r} is there {names.count(twice)} times")
    return made


def _real(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"a number must be finite, got {text:.40}")
    return number


def _whole(text: str) -> int:
    if len(text.removeprefix("-")) > DIGITS:
        raise ValueError(f"a whole number may have {DIGITS} digits, got {text:.40}.. of {len(text)}")
    return int(text)


def check_types(value: Any, kind: Any, name: str) -> None:
    """Raise DataError, begun with `name`, unless a JSON value has the types of a table.

    kind: a type or union (a whole number is a float too, True and False only a bool); {key: kind}, where a
    value may lack the key, and others are not looked at; {EACH: kind} for every key; [kind] for a list.
    """
    if isinstance(kind, dict):
        check_types(value, dict, name)
        for key, inner in value.items() if EACH in kind else ((k, value[k]) for k in kind if k in value):
            check_types(inner, kind.get(key, kind.get(EACH)), f"{name}: {key}")
    elif isinstance(kind, list):
        check_types(value, list, name)
        for i, inner in enumerate(value):
            check_types(inner, kind[0], f"{name}[{i}]")
    elif not any(_is(value, one) for one in (get_args(kind) if isinstance(kind, UnionType) else (kind,))):
        words = WORDS.get(kind) or (kind.__name__ if isinstance(kind, type) else str(kind))
        raise DataError(f"{name} must be of the type {words}, got {short(value)}")


def _is(value: Any, kind: type) -> bool:
    kinds = (int, float) if kind is float else (kind,)
    return isinstance(value, kinds) and isinstance(value, bool) == (kind is bool)


def short(value: Any) -> str:
    """A value for an error, cut after 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def first_difference(one: Any, other: Any) -> tuple[str, Any, Any]:
    """(place, value, other value) of the first leaf in which two unequal JSON values differ: `options.lr`."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other})
        key = next(k for k in keys if one.get(k) != other.get(k) or (k in one) != (k in other))
        place, left, right = first_difference(one.get(key), other.get(key))
        return f"{key}.{place}" if place else str(key), left, right
    return "", one, other
