"""Run folders that were damaged or made to harm: refused with the file's name, or told and worked around."""

import hashlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from slide import PUSHED, write

from robokit.algos.ppo import Config
from robokit.disk.checkpoint import FACTS, MANIFEST, TENSORS, damaged
from robokit.disk.folder import newest_run
from robokit.errors import Error
from robokit.export.bounds import filter_for
from robokit.filter import FilterError
from robokit.show.plots import read_curves
from robokit.task.lookup.find import load_task
from robokit.training.loop import train
from robokit.training.run import Run
from robokit.training.selection import Score
from robokit.training.setup.build import Setup, build_learner
from robokit.training.setup.init_from import open_parent
from robokit.training.setup.provenance import changed, create
from robokit.training.setup.restore import rebuild, restore_policy, task_of

SMALL = Config(steps=64, num_envs=2, horizon=16, minibatch=16, epochs=1, hidden=(4,), compile=False)
LAST = "checkpoints/000000000064"
Harm = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints and a best policy."""
    root = tmp_path_factory.mktemp("hostile")
    setup = Setup(seed=3, threads=1, torch_threads=1)
    learner = build_learner(load_task(write(root, PUSHED)), setup, SMALL)
    run = create(root / "runs", learner, setup)
    train(learner, run, 64, save_steps=32)
    score = {"steps": 64, "headline": 1.0, "returns": 1.0, "limits": {"hard": 0.1}, "feasible": True}
    run.keep_best(64, learner.policy.state_dict(), score)
    return run.path


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "runs" / "slide" / "copy"))


@contextmanager
def soon() -> Iterator[None]:
    """Whatever hangs fails after 10 s."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def use(folder: Path) -> None:
    """What the commands do with a run folder."""
    newest_run(folder.parent)
    run = Run.open(folder)
    for inside in ("checkpoints", "best"):
        damaged(folder / inside)
    restored = restore_policy(run)
    changed(run, task_of(run))
    learner = rebuild(run)
    with run.locked():
        run.resume(learner)
    if best := run.best():
        Score.of(best.facts)
    open_parent(folder)
    read_curves(folder / "metrics.jsonl")
    assert restored.steps


def refusal(folder: Path) -> str:
    """The message of what is refused; "": nothing is."""
    try:
        with soon():
            use(folder)
    except Error as error:
        text = str(error)
        assert "\n" not in text
        return text
    return ""


def pipe(path: Path) -> None:
    gone(path)
    os.mkfifo(path)


def zeros(path: Path) -> None:
    gone(path)
    path.symlink_to("/dev/zero")


def a_folder(path: Path) -> None:
    gone(path)
    path.mkdir()


def a_socket(path: Path) -> None:
    gone(path)
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def circle(path: Path) -> None:
    gone(path)
    path.symlink_to(path.name)


def gone(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def text(content: str | bytes) -> Harm:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def huge(path: Path) -> None:
    os.truncate(path, 1 << 42)  # sparse


JSON = {
    "deep": text('{"a":' * 100_000),
    "deep lists": text("[" * 5_000 + "]" * 5_000),
    "no object": text("[]"),
    "a number": text("3"),
    "not UTF-8": text(b'{"a": "\xff"}'),
    "UTF-16": text("{}".encode("utf-16")),
    "NaN": text('{"schema": 1, "steps": NaN, "config": {}, "about": {}}'),
    "infinite": text('{"schema": 1, "steps": 1e999, "config": {}, "about": {}}'),
    "long number": text('{"schema": 1, "steps": 1' + "0" * 5_000 + ', "config": {}, "about": {}}'),
    "a key twice": text('{"schema": 1, "steps": 1, "steps": 2, "config": {}, "about": {}}'),
    "large": huge,
    "empty": text(""),
}
PLACES = {
    "pipe": pipe,
    "zeros": zeros,
    "folder": a_folder,
    "socket": a_socket,
    "circle": circle,
    "gone": gone,
}


@pytest.mark.parametrize("harm", [*JSON, *PLACES])
def test_a_config_that_is_none_is_refused_by_name(folder: Path, harm: str):
    (JSON | PLACES)[harm](folder / "config.json")
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize("file", [TENSORS, FACTS, MANIFEST])
@pytest.mark.parametrize("harm", [*PLACES, "large"])
def test_a_file_of_a_checkpoint_that_is_none_makes_way_for_the_older_one(
    folder: Path, file: str, harm: str, capsys: pytest.CaptureFixture[str]
):
    (PLACES | {"large": huge})[harm](folder / LAST / file)
    assert refusal(folder) == ""
    told = capsys.readouterr().err
    assert f"skipped: checkpoint {folder / LAST} is damaged" in told and file in told


def sign(checkpoint: Path) -> None:
    """Make the manifest fit again."""
    sums = ((hashlib.sha256((checkpoint / n).read_bytes()).hexdigest(), n) for n in (TENSORS, FACTS))
    (checkpoint / MANIFEST).write_text("".join(f"{digest}  {name}\n" for digest, name in sums))


@pytest.mark.parametrize("harm", [h for h in JSON if h != "large"])
def test_signed_facts_that_are_none_make_way_for_the_older_checkpoint(
    folder: Path, harm: str, capsys: pytest.CaptureFixture[str]
):
    JSON[harm](folder / LAST / FACTS)
    sign(folder / LAST)
    assert refusal(folder) == ""
    assert FACTS in capsys.readouterr().err


def of(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Harm:
    def harm(folder: Path) -> None:
        state = load_file(folder / LAST / TENSORS)
        state[name] = change(state[name]).contiguous()
        save_file(state, folder / LAST / TENSORS)

    return harm


def header(content: bytes) -> Harm:
    return lambda folder: (folder / LAST / TENSORS).write_bytes(len(content).to_bytes(8, "little") + content)


WEIGHT = "policy.head.0.weight"
SIGNED: dict[str, Harm] = {
    "another dtype": of(WEIGHT, lambda x: x.double()),
    "whole numbers": of(WEIGHT, lambda x: x.long()),
    "another shape": of(WEIGHT, lambda x: x.T),
    "more": of(WEIGHT, lambda x: torch.cat([x, x])),
    "no number": of(WEIGHT, lambda x: x * torch.nan),
    "not finite": of("policy.normalizer.var", lambda x: x / 0),
    "a header that lies": header(b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}    '),
    "a header without end": lambda folder: (folder / LAST / TENSORS).write_bytes(b"\xff" * 64),
    "a deep header": header(b'{"a":' * 10_000),
    "an unknown dtype": header(b'{"a":{"dtype":"F3","shape":[],"data_offsets":[0,0]}}'),
    "no tensors": header(b"{}"),
}


@pytest.mark.parametrize("harm", SIGNED)
def test_signed_tensors_that_do_not_fit_are_refused_by_the_checkpoints_name(
    folder: Path, harm: str, capsys: pytest.CaptureFixture[str]
):
    SIGNED[harm](folder)
    sign(folder / LAST)
    assert LAST in refusal(folder) + capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "0" * 64 + "  /etc/passwd",
        "0" * 64 + "  ../segments/0/../../../../../etc/passwd",
        "0" * 64 + "  ../segments/00000000-../../../config.json",
        "zz  facts.json",
        "facts.json",
        "",
    ],
)
def test_a_manifest_lists_files_of_a_checkpoint_and_no_others(
    folder: Path, line: str, capsys: pytest.CaptureFixture[str]
):
    with (folder / LAST / MANIFEST).open("a") as file:
        file.write(f"{line}\n")
    assert refusal(folder) == ""
    assert MANIFEST in capsys.readouterr().err


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, as keys from the outside."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from places(inner, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    *outer, last = path
    for key in outer:
        value = value[key]
    if new is DELETED:
        del value[last]
    else:
        value[last] = new


DELETED = object()
WRONG = {
    "list": [[]],
    "object": {"a": {}},
    "text": "x\0y",
    "none": None,
    "large": 10**18,
    "less": -1,
    "gone": DELETED,
}


ELSEWHERE = {("config", "device"), ("about", "file")}  # refused in the words of a device and of a task


def harmed(folder: Path, config: Any) -> None:
    """Write a config, and facts that agree with it, as whoever made the folder would."""
    (folder / "config.json").write_text(json.dumps(config))
    for place in (LAST, "checkpoints/000000000032", "best/000000000064"):
        facts = json.loads((folder / place / FACTS).read_bytes()) | {"config": config.get("config")}
        (folder / place / FACTS).write_text(json.dumps(facts))
        sign(folder / place)


def check_places(folder: Path, wrong: Callable[[int], Any]) -> None:
    whole = json.loads((folder / "config.json").read_bytes())
    for number, path in enumerate(places(whole)):
        config = json.loads(json.dumps(whole))
        put(config, path, wrong(number))
        harmed(folder, config)
        message = refusal(folder)
        assert not message or str(folder) in message or path[:2] in ELSEWHERE, (path, message)


def test_a_wrong_value_anywhere_in_the_config_is_refused_by_name(folder: Path):
    kinds = [*WRONG.values()]
    check_places(folder, lambda number: kinds[number % len(kinds)])


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
def test_each_wrong_value_everywhere_in_the_config_is_refused_by_name(folder: Path, wrong: str):
    check_places(folder, lambda number: WRONG[wrong])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("hidden", [100_000, 100_000], "hidden"),
        ("hidden", [-1], "hidden must be > 0"),
        ("gamma", 1.5, r"gamma must be in [0, 1], got 1.5"),
        ("lr", "fast", "lr, set to 'fast', must be of the type float"),
        ("belief", "elephant", "belief"),
    ],
)
def test_options_of_a_run_are_checked_as_those_of_a_recipe(folder: Path, name: str, value: Any, words: str):
    config = json.loads((folder / "config.json").read_bytes())
    config["config"]["options"][name] = value
    harmed(folder, config)
    message = refusal(folder)
    assert f"{folder}/config.json" in message and words in message


@pytest.mark.parametrize("harm", [h for h in PLACES if h != "gone"])
def test_metrics_that_are_no_file_are_refused_by_name(folder: Path, harm: str):
    PLACES[harm](folder / "metrics.jsonl")
    assert "metrics.jsonl" in refusal(folder)
    with soon(), pytest.raises(Error, match=r"metrics\.jsonl|cannot write metrics"):
        train(rebuild(Run.open(folder)), Run.open(folder), 96)


@pytest.mark.parametrize("harm", [*JSON, *PLACES])
def test_a_filter_that_is_none_is_refused_by_name(tmp_path: Path, harm: str):
    path = tmp_path / "own.json"
    path.write_text("{}")
    (JSON | PLACES)[harm](path)
    with soon(), pytest.raises(FilterError, match=r"own\.json|no 'a'|'schema'"):
        filter_for(None, path)  # pyright: ignore[reportArgumentType]


def test_what_a_run_says_of_itself_is_not_changed_in_silence(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"cores": ', '"cores": 1'))
    assert refusal(folder) == ""
    note = f"note: {config} has another 'about' than at step 64"
    assert note in capsys.readouterr().err
