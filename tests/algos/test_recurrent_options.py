"""Invalid options of recurrent training are refused before anything runs, with name, rule and value."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from cart import Cart
from test_recurrent import TINY, Blurred, tiny

from robokit.algos.ppo import check
from robokit.cli.command import main
from robokit.errors import OptionError
from robokit.training.setup.build import Setup, build_learner, options

GRU = {"belief": "gru"}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({**GRU, "chunk": 32}, r"chunk \(32\).* must divide horizon \(16\)"),
    ({**GRU, "chunk": 5}, r"chunk \(5\).* must divide horizon \(16\)"),
    ({**GRU, "chunk": 16, "minibatch": 8}, r"chunk \(16\).* must divide minibatch \(8\)"),
    ({"critic_belief": "lstm", "chunk": 3}, r"chunk \(3\).* must divide horizon \(16\)"),
    ({"chunk": 0}, "chunk must be > 0, got 0"),
    ({**GRU, "chunk": -4}, "chunk must be > 0, got -4"),
    ({**GRU, "belief_size": 0}, "belief_size must be > 0, got 0"),
    ({"belief": "transformer"}, r"belief must be one of \['memoryless', .*'mingru'\], got 'transformer'"),
    ({"critic_belief": "grue"}, r"critic_belief must be one of .*, got 'grue'"),
    ({"critic": "stat"}, r"critic must be one of \['state', 'obs'\], got 'stat'"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG)
def test_options_that_cannot_work_are_refused_before_anything_runs(changes: dict[str, Any], words: str):
    with pytest.raises(OptionError, match=words):
        check(dataclasses.replace(TINY, **changes))
    with pytest.raises(OptionError, match=words):
        tiny(**changes)


def test_a_chunk_that_is_not_used_need_not_divide():
    tiny(belief="stack", chunk=32).iterate()


@pytest.mark.parametrize(
    ("history", "words"),
    [
        (0, "history must be a whole number of frames from 1 on, got 0"),
        ({"position": 0}, "history of 'position' must be .* got 0"),
        ({"positon": 3}, "history must name terms, got 'positon'; did you mean 'position'"),
    ],
)
@pytest.mark.parametrize("kind", ["memoryless", "stack"])
def test_a_history_that_cannot_be_is_refused_whether_it_is_used_or_not(kind: str, history: Any, words: str):
    task = type("Short", (Blurred,), {"history": history})
    with pytest.raises(OptionError, match=words):
        tiny(task, belief=kind)
    tiny(type("Hidden", (Blurred,), {"history": {"velocity": 3}}), belief=kind)


def test_a_recipe_cannot_choose_what_is_not_there():
    class Odd(Cart):
        recipes = {"ppo": {"critic": "stat", "num_envs": 2}}

    with pytest.raises(OptionError, match=r"sets critic to 'stat'; it must be one of \['state', 'obs'\]"):
        build_learner(Odd(), Setup(threads=1), options(Odd(), "ppo"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--belief", "gru", "--chunk", "48"], "chunk (48), the control steps that a recurrent belief"),
        (["--belief", "gru", "--belief-size", "0"], "belief_size must be > 0, got 0"),
    ],
)
def test_the_command_says_so_in_one_line_and_writes_nothing(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "inverted_pendulum", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
