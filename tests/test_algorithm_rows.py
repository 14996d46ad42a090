"""benchmarks/sb3_algorithms.py: its rows, its record, and the table in docs/algorithms.md."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
bench: Any = __import__("sb3_algorithms")


def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *more: str) -> int:
    monkeypatch.chdir(ROOT)
    own = ["--record", str(tmp_path / "rows.jsonl"), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["sb3_algorithms.py", *own, "--threads", "1", *more])
    return bench.main()


def test_the_page_of_algorithms_has_every_row_and_the_scores_of_the_record():
    page = (ROOT / "docs/algorithms.md").read_text()
    shown = re.findall(r"^\| .* \| `([\w-]+)` \| (.*) \|$", page, re.MULTILINE)
    done = bench.recorded(bench.RECORD)
    expected = {row.name: bench.score(done.get(row.name)) for row in bench.rows()}
    assert dict(shown) == expected and len(shown) == len(bench.rows())


def test_a_score_is_the_return_and_the_share_of_successes():
    reached = {"return": [12.0, 11.0, 13.0], "headline": {"success": [0.5, 0.4, 0.6]}}
    assert bench.score(reached) == "12 [11, 13]; success 50.0% [40.0%, 60.0%]"
    assert bench.score({"return": [1234.5, 1200.0, 1300.4]}) == "1,234 [1,200, 1,300]"
    assert bench.score(None) == "not run"


def test_done_rows_are_not_run_again_and_missing_ones_are_listed_with_their_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "rows.jsonl").write_text('{"row": "a2c"}\n')
    assert start(monkeypatch, tmp_path, "--row", "a2c") == 0
    assert "a2c is done" in capsys.readouterr().out and not (tmp_path / "runs").exists()
    assert start(monkeypatch, tmp_path, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len({row.name for row in bench.rows()}) == len(bench.rows())
    assert "done     a2c" in lines and "not run  python benchmarks/sb3_algorithms.py --row tqc" in lines


@pytest.mark.slow
@pytest.mark.parametrize("name", [row.name for row in bench.rows() if row.name != "ours-svg"])
def test_a_row_is_trained_exported_evaluated_and_recorded(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    [row] = [row for row in bench.rows() if row.name == name]
    if row.package == bench.CONTRIB:
        pytest.importorskip("sb3_contrib", reason="needs robokit[sb3]")
    assert start(monkeypatch, tmp_path, "--row", name, "--steps", "1500", "--episodes", "4") == 0
    [found] = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert (found["row"], found["episodes"], found["task"]) == (name, 4, row.task)
    assert found["steps"] >= 1500 and found["return"][1] <= found["return"][0] <= found["return"][2]
