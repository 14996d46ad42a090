"""Every file in policies/ is complete, passed the gate, and reaches the return on its card."""

import json
from pathlib import Path

import pytest

from robokit.calls.resolve import policy_of
from robokit.controller import load
from robokit.evaluation.measure import evaluate
from robokit.export.gate import TOLERANCE

FILES = sorted((Path(__file__).parents[2] / "policies").glob("*.onnx"))


def test_there_are_policies():
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_policy_is_the_one_its_card_describes(path: Path):
    card = json.loads(path.with_suffix(".json").read_text())
    contract = load(path).contract  # against its sha256
    assert card["sha256"] in Path(f"{path}.sha256").read_text()
    assert card["task"] == contract["task"] and card["parity_error"] <= TOLERANCE
    assert contract["hashes"]["commit"] == card["commit"] is not None and "dirty" not in card["commit"]


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_policy_reaches_the_return_on_its_card(path: Path):
    card = json.loads(path.with_suffix(".json").read_text())["evaluation"]["returns"]
    file, task, *_ = policy_of(path)
    measured = evaluate(file, task, 100, seed=1).returns  # other episodes than the card's
    assert measured.low <= card["high"] and measured.high >= card["low"]
