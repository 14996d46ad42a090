"""The words of errors."""

import re

import pytest
from test_packaging import ROOT

from robokit.errors import did_you_mean


@pytest.mark.parametrize(
    ("name", "then", "words"),
    [
        ("hopr", "", "; did you mean 'hop'?"),
        ("hopr", "there are ['hop']", "; did you mean 'hop'? There are ['hop']"),
        ("swim", "there are ['hop']", "; there are ['hop']"),
        ("swim", "", ""),
    ],
)
def test_a_suggestion_is_a_question_and_what_follows_another_sentence(name: str, then: str, words: str):
    assert did_you_mean(name, ["hop"], then) == words


def test_no_message_goes_on_after_a_question_mark():
    for path in (ROOT / "robokit").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"\?[;,]", text), path
        assert not re.search(r"did_you_mean\(.*\)\}[;,]", text), path
