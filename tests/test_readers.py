"""Three readers of JSON, as controller and filter are copied to a robot alone: one verdict on every text."""

from collections.abc import Callable
from pathlib import Path

import pytest

from robokit.controller import ContractError, _json
from robokit.disk.read import parse_json
from robokit.errors import DataError
from robokit.filter import FilterError, read_object

READERS: dict[str, tuple[Callable[[bytes, Path], object], type[Exception]]] = {
    "disk": (lambda content, path: parse_json(content, str(path)), DataError),
    "controller": (lambda content, path: _json(content.decode(), str(path)), ContractError),
    "filter": (lambda content, path: (path.write_bytes(content), read_object(path))[1], FilterError),
}
BAD = {
    "nan": b'{"a": NaN}',
    "infinity": b'{"a": [-Infinity]}',
    "beyond a float": b'{"a": 1e999}',
    "thousands of digits": b'{"a": ' + b"9" * 5000 + b"}",
    "a key twice": b'{"a": 1, "a": 2}',
    "deep": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "cut": b'{"a": [1, 2',
    "more behind": b'{"a": 1} {"b": 2}',
    "empty": b"",
    "a single quote": b"{'a': 1}",
}
GOOD = b'{"a": [1, -2.5, null, true, "\\u00e4"], "b": {"c": 1e300}}'


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", BAD)
def test_every_reader_refuses_it_with_its_own_type(kind: str, reader: str, tmp_path: Path):
    read, error = READERS[reader]
    with pytest.raises(error) as refused:
        read(BAD[kind], tmp_path / "file.json")
    assert "file.json" in str(refused.value)
    assert len(str(refused.value)) < 600


def test_every_reader_takes_the_same(tmp_path: Path):
    found = [read(GOOD, tmp_path / "file.json") for read, _ in READERS.values()]
    assert found[0] == found[1] == found[2] == {"a": [1, -2.5, None, True, "ä"], "b": {"c": 1e300}}
