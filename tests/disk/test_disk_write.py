"""A file is the old one or the new one, whatever happens while it is written."""

from pathlib import Path

import pytest
from test_checkpoint import largest_file, names

from robokit.disk.write import write_atomically


def test_writing_atomically_leaves_the_old_file_when_it_fails(tmp_path: Path):
    write_atomically(tmp_path / "a.json", b"old")
    with largest_file(10), pytest.raises(OSError, match="too large"):
        write_atomically(tmp_path / "a.json", b"n" * 100)
    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"old"
