"""Trackers get a training's options, metrics and files; what they do wrong ends no training.

The modules of the trackers are replaced by ones that write down how they are called.
"""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from toy import Toy

from robokit.cli.command import main
from robokit.errors import OptionError
from robokit.interop.trackers import tracker
from robokit.training.loop import train
from robokit.training.run import Run

CONFIG = {"task": "toy", "seed": 3, "limits": {"rail": 0.1}, "hashes": {"toy.py": "ab"}, "layouts": {}}


def new(root: Path) -> Run:
    return Run.create(root, "toy", 32, {**CONFIG, "options": {"lr": 0.5}}, {})


class Fake(ModuleType):
    """A module whose functions are there as far as they are named, and are written down when called."""

    def __init__(self, name: str, *functions: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        for function in functions:
            setattr(self, function, lambda *args, _name=function, **named: self._call(_name, args, named))

    def _call(self, name: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        print("a word on standard output")
        self.calls.append((name, args, named))
        return (name, *args)

    def named(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(args, named) for called, args, named in self.calls if called == name]


@pytest.fixture(params=["wandb", "trackio"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fake:
    module = Fake(request.param, "init", "log", "finish", "Video", "Html")
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


def test_wandb_and_trackio_get_options_then_each_line_of_metrics_at_its_step(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, kind = new(tmp_path), fake.__name__
    validate: Any = lambda done: {"validation/return": 7.0} if done.steps == 16 else {}  # noqa: E731
    train(Toy(), run, 32, validate=validate, hooks=[tracker(f"{kind}:legs")])
    [(_, begun)] = fake.named("init")
    name = f"toy-{run.path.name}"
    assert (begun["project"], begun["name"], begun["resume"]) == ("legs", name, "allow")
    assert begun["config"] == {"task": "toy", "seed": 3, "limits": {"rail": 0.1}, "lr": 0.5}
    assert begun.get("id") == (name if kind == "wandb" else None)
    sent = [(args[0], named["step"]) for args, named in fake.named("log")]
    written = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert sent == [(metrics, metrics["steps"]) for metrics in written] and len(sent) == 4
    assert sent[1][0]["validation/return"] == 7.0
    assert fake.calls[-1][0] == "finish"
    assert capsys.readouterr().out == ""  # which is for results


def test_a_film_and_a_report_in_the_run_folder_are_sent_at_the_end(fake: Fake, tmp_path: Path):
    run = new(tmp_path)
    for name in ("play.mp4", "report.html"):
        (run.path / name).touch()
    train(Toy(), run, 8, hooks=[tracker(fake.__name__)])
    assert fake.named("init")[0][1]["project"] == "robokit"
    video, html = (str(run.path / name) for name in ("play.mp4", "report.html"))
    assert fake.named("log")[-1] == (({"film": ("Video", video), "report": ("Html", html)},), {})


def test_a_resumed_run_goes_on_in_mlflows_run_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = (
        "end_run",
        "set_experiment",
        "search_runs",
        "start_run",
        "log_params",
        "log_metrics",
        "log_artifact",
    )
    flow = Fake("mlflow", *calls)
    found: list[Any] = []
    vars(flow)["search_runs"] = lambda **named: flow.calls.append(("search_runs", (), named)) or found
    monkeypatch.setitem(sys.modules, "mlflow", flow)
    run = new(tmp_path)
    train(Toy(), run, 8, hooks=[tracker("mlflow:legs")])
    found.append(SimpleNamespace(info=SimpleNamespace(run_id="f00")))
    (run.path / "play.mp4").touch()
    train(Toy(), run, 16, hooks=[tracker("mlflow:legs")])
    name = f"toy-{run.path.name}"
    started = [named for _, named in flow.named("start_run")]
    assert started == [{"run_id": None, "run_name": name}, {"run_id": "f00", "run_name": name}]
    asked = flow.named("search_runs")[1][1]
    assert asked["experiment_names"] == ["legs"] and name in asked["filter_string"]
    assert len(flow.named("log_params")) == 1
    assert [named["step"] for _, named in flow.named("log_metrics")] == [8, 16]
    assert flow.named("log_artifact") == [((str(run.path / "play.mp4"),), {})]
    assert flow.calls[-1][0] == "end_run"


def test_a_tracker_that_fails_is_one_line_and_the_training_ends_as_without(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto the host")

    vars(fake)["log"] = refuse
    hook = tracker(fake.__name__)
    assert train(Toy(), new(tmp_path), 32, hooks=[hook]).done.steps == 32
    [note] = [line for line in capsys.readouterr().err.splitlines() if "hook" in line]
    lost = "is not called again: ConnectionError: no route to the host"
    assert note == f"note: the hook {fake.__name__} {lost}"


def test_a_tracker_that_is_not_there_or_not_known_is_an_error_before_there_is_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    assert main(["train", "inverted_pendulum", "--track", "wandb:legs"]) == 2
    assert "pip install 'robokit[wandb]'" in capsys.readouterr().err
    with pytest.raises(OptionError, match="no tracker 'wanbd'; did you mean 'wandb'"):
        tracker("wanbd")
    assert [*tmp_path.iterdir()] == []
