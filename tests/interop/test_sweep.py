"""A sweep's space and its trials. Optuna is an extra: what needs it is skipped where it is missing."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from toy import Toy

from robokit.algos import ppo
from robokit.calls.sweeps import Search
from robokit.cli.command import main
from robokit.disk.place import Held
from robokit.errors import CheckpointError, Error, ExportError, OptionError, RunError, TaskError
from robokit.interop.sweep import SPACES, Study, Trial, space_of, validated
from robokit.task.lookup.find import load_task
from robokit.training.hooks import Event
from robokit.training.loop import BY_HOOK, train
from robokit.training.run import Done, Run
from robokit.training.setup.build import Setup, algorithm, algorithms

STEPS, EPISODES = 2048, 20
WORDS = ["inverted_pendulum", "--steps", f"{STEPS}", "--num-envs", "16", "--horizon", "32", "--hidden", "8"]
WORDS += ["--minibatch", "512", "--validations", "2", "--threads", "1", "--torch-threads", "1"]
WORDS += ["--compile", "False", "--save-every", "0", "--episodes", f"{EPISODES}", "--space", "epochs=1|4"]


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of Optuna's distributions, what they are made of."""
    optuna: Any = ModuleType("optuna")
    optuna.distributions = SimpleNamespace(
        FloatDistribution=lambda low, high, log: (float, low, high, log),
        IntDistribution=lambda low, high, log: (int, low, high, log),
        CategoricalDistribution=lambda choices: (str, choices),
    )
    monkeypatch.setitem(sys.modules, "optuna", optuna)


@pytest.mark.usefixtures("kinds")
def test_a_space_is_the_algorithms_own_with_what_is_given_instead_and_beside():
    config, given = ppo.Config(), ["lr=1e-5..0.01,log", "num-envs=16..64", "hidden=(64,64)|(8,)", "clip=0.2"]
    space = space_of("ppo", config, given)
    assert space["lr"] == (float, 1e-5, 0.01, True)
    assert space["num_envs"] == (int, 16, 64, False)
    assert space["hidden"] == (str, ["(64,64)", "(8,)"]) and space["clip"] == (str, ["0.2"])
    assert {*space} == {text.partition("=")[0] for text in SPACES["ppo"]} | {"num_envs", "hidden"}


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize("algo", algorithms())
def test_each_algorithm_can_have_all_values_of_its_usual_space(algo: str):
    assert {*space_of(algo, algorithm(algo).Config(), [])} >= {"lr", "gamma"}


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("lrr=0.1", "no option 'lrr'; did you mean 'lr'"),
        ("clip=0.1..2", r"clip must be in \(0, 1\), got 2.0"),
        ("lr=low..0.1", "could not convert string to float: 'low'"),
        ("epochs=1.5..3", "invalid literal for int"),
        ("minibatch=64|100", r"minibatch \(100\) must divide"),
        ("activation=elu|tan", "must be one of"),
        ("lr=1e-4..1e-2,lin", "lr, set to '1e-4..1e-2,lin', must be"),
        ("lr", "must be"),
    ],
)
def test_a_value_that_an_option_cannot_have_is_an_error_that_begins_with_what_was_written(
    text: str, why: str
):
    with pytest.raises(OptionError, match=f"^--space {re.escape(text.partition('=')[0])}=.*: .*{why}"):
        space_of("ppo", ppo.Config(), [text])


def test_without_optuna_a_sweep_is_an_error_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)  # as if it were not installed
    assert main(["sweep", "inverted_pendulum"]) == 2
    assert "pip install 'robokit[sweep]'" in capsys.readouterr().err
    assert main(["sweep", "--resume", "runs/some"]) == 2
    assert "by the same command, without --resume" in capsys.readouterr().err
    assert main(["sweep", "inverted_pendulum", "--trials", "0"]) == 2
    assert [*tmp_path.iterdir()] == []


class Own:
    """Of Optuna's trial what a training needs; it prunes as soon as a report is below `least`."""

    def __init__(self, least: float) -> None:
        self.least, self.user_attrs, self.reports = least, dict[str, str](), list[tuple[float, int]]()

    def set_user_attr(self, name: str, value: str) -> None:
        self.user_attrs[name] = value

    def report(self, value: float, step: int) -> None:
        self.reports.append((value, step))

    def should_prune(self) -> bool:
        return any(value < self.least for value, _ in self.reports)


def test_a_trial_reports_feasible_validations_once_and_ends_where_it_is_pruned(tmp_path: Path):
    run = Run.create(tmp_path, "toy", 80, {"seed": 0, "validations": 10}, {})
    headlines = {8: (9.0, 1.0), 16: (1.0, 0.0), 24: (8.0, 1.0), 40: (2.0, 1.0)}

    def validate(done: Done) -> dict[str, float]:
        found = headlines.get(done.steps)
        names = "validation/headline", "validation/feasible"
        return {} if found is None else dict(zip(names, found, strict=True))

    study: Any = SimpleNamespace(folder=tmp_path)
    own = Own(least=5.0)
    trial = Trial(study, own, {}, {1: 9.0})  # its first validation was reported before it was killed
    assert trial.run is None
    outcome = train(Toy(), run, 80, validate=validate, hooks=[trial.watch])
    assert own.reports == [(8.0, 3), (2.0, 5)]  # not the one of a policy beyond a limit
    assert (outcome.stop, outcome.done.steps) == (BY_HOOK, 40)
    assert trial.run == tmp_path / "toy" / run.path.name
    whole = Event("begin", run, Done(80, 10, 1.0), Toy())
    assert trial.watch(whole)  # a trial that has all its steps is measured, not pruned
    assert not trial.watch(Event("begin", run, Done(40, 5, 1.0), Toy()))
    assert validated(whole) is None


class Raises(Search):
    """A search whose trainings end with an error."""

    error: Error

    def value(self, trial: Trial, folder: Path) -> tuple[float | None, dict[str, float]]:
        raise self.error


@pytest.mark.parametrize("begun", [True, False])
def test_a_trial_fails_for_what_is_its_own_and_waits_for_what_is_of_the_disk_or_the_task(begun: bool):
    told: list[float | None] = []
    run = Path("run") if begun else None
    trial: Any = SimpleNamespace(run=run, tell=lambda value, **_: told.append(value))
    search = Raises(load_task("inverted_pendulum"), Setup(), ppo.Config())

    def ends(error: Error, cause: Exception | None = None) -> bool:
        error.__cause__ = cause
        vars(search)["error"] = error
        told.clear()
        with contextlib.suppress(type(error)):
            assert search._try(trial, Path()) == f"failed: {error}"
        return told == []

    assert not ends(OptionError("minibatch must divide"))
    assert ends(RunError("loss/value not finite")) == (not begun)
    assert ends(ExportError("refused by the gate")) == (not begun)
    assert ends(TaskError("the task breaks its contract")) == (not begun)
    assert ends(RunError("cannot write metrics"), OSError(28, "No space left on device"))
    assert ends(CheckpointError("cannot be written"))


@pytest.mark.usefixtures("kinds")
def test_one_process_sweeps_in_a_folder_and_a_file_is_none(tmp_path: Path):
    search = Search(load_task("inverted_pendulum"), Setup(), ppo.Config())
    with contextlib.closing(Held(tmp_path)) as held:
        assert held.take()
        with pytest.raises(RunError, match="another process sweeps in"):
            search.sweep(tmp_path, 3)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file is no folder"):
        search.sweep(tmp_path / "file", 3)
    with pytest.raises(OptionError, match="a sweep needs a trial and 2 episodes, got 0 and 300"):
        search.sweep(tmp_path, 0)


# -- with Optuna -------------------------------------------------------------------------------------


BEST, LIMIT = 0.1, 0.05  # of an option lr: what is best, and what is allowed


def study(folder: Path, facts: str = "one", seed: int = 3) -> Study:
    optuna = pytest.importorskip("optuna")
    folder.mkdir(exist_ok=True)
    space = {"lr": optuna.distributions.FloatDistribution(1e-4, 1.0, log=True)}
    return Study(folder, {"of": facts}, space, seed, validations=4)


def go(folder: Path, trials: int, leave: int | None = None) -> Iterator[tuple[int, float]]:
    """Trials and their lr; the one numbered `leave` is left as a kill leaves it."""
    for trial in study(folder).until(trials):
        lr = trial.options["lr"]
        yield trial.own.number, lr
        if trial.own.number == leave:
            return
        trial.own.set_user_attr("run", f"toy/{trial.own.number}")
        trial.tell(-abs(lr - BEST), {"limit rail": lr - LIMIT})


@pytest.mark.slow
def test_a_sweep_that_was_left_goes_on_with_that_trial_and_tries_the_same_as_one_that_was_not(tmp_path: Path):
    whole = list(go(tmp_path / "whole", 14))
    first = list(go(tmp_path / "left", 14, leave=3))
    second = list(go(tmp_path / "left", 14, leave=12))
    third = list(go(tmp_path / "left", 14))
    assert first[-1] == second[0] and second[-1] == third[0]
    assert first[:-1] + second[:-1] + third == whole
    assert [number for number, _ in whole] == [*range(14)] and len({lr for _, lr in whole}) == 14
    counts, best = study(tmp_path / "left").result()
    assert counts == {"COMPLETE": 14, "PRUNED": 0, "FAIL": 0}
    number, lr = min((one for one in whole if one[1] <= LIMIT), key=lambda one: abs(one[1] - BEST))
    assert best == (-abs(lr - BEST), {"lr": lr}, tmp_path / "left" / "toy" / f"{number}")
    assert min(abs(lr - BEST) for _, lr in whole) < abs(lr - BEST)  # beyond the limit there is a better one


@pytest.mark.slow
def test_the_study_of_another_sweep_and_one_that_is_locked_or_damaged_are_errors(tmp_path: Path):
    list(go(tmp_path / "one", 1))
    with pytest.raises(RunError, match=r"is of another sweep: its of is 'one', not 'two'; begin .* --folder"):
        study(tmp_path / "one", "two")
    lock = sqlite3.connect(tmp_path / "one" / "study.db")
    lock.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunError, match=r"study.db: database is locked"):
        study(tmp_path / "one")
    lock.close()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "study.db").write_text("no database at all, but a text" * 100)
    with pytest.raises(RunError, match=r"study.db: file is not a database"):
        study(tmp_path / "two")


def called(folder: Path) -> dict[str, Any]:
    """How `robokit` is called as a process in a folder."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    return {"cwd": folder, "env": {**os.environ, "PYTHONPATH": path}, "text": True}


@pytest.mark.slow
def test_twelve_trials_that_are_killed_twice_are_all_there_and_the_best_is_printed(tmp_path: Path):
    pytest.importorskip("optuna")
    command = [sys.executable, "-m", "robokit", "sweep", *WORDS, "--trials", "12"]
    how = called(tmp_path)
    folder = tmp_path / "runs" / "sweeps" / "inverted_pendulum-ppo"

    def begun() -> list[Path]:
        return sorted(folder.glob("inverted_pendulum/2*/metrics.jsonl"))

    for number, kill in ((3, signal.SIGKILL), (7, signal.SIGTERM)):
        with subprocess.Popen(command, stderr=subprocess.PIPE, **how) as process:
            while len(begun()) < number or not begun()[-1].read_text():  # in the midst of this trial
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.02)
            process.send_signal(kill)
            process.communicate()
        assert process.returncode in (-signal.SIGKILL, 128 + signal.SIGTERM)
    ended = subprocess.run(command, capture_output=True, **how)
    assert ended.returncode == 0, ended.stderr
    assert "not called again" not in ended.stderr
    told = re.search(r"(\d+) trials measured, (\d+) ended early, 0 failed", ended.stderr)
    assert told and int(told[1]) + int(told[2]) == 12
    with sqlite3.connect(folder / "study.db") as database:
        rows = database.execute("SELECT number, state, value FROM trials JOIN trial_values USING (trial_id)")
        values = {number: value for number, state, value in rows if state == "COMPLETE"}
    assert len(values) == int(told[1]) and max(values.values()) > min(values.values())
    assert len(begun()) == 12  # one folder for each trial: those that were killed went on in theirs
    for file in begun():
        steps = [json.loads(line)["steps"] for line in file.read_text().splitlines()]
        assert steps == [512 * n for n in range(1, len(steps) + 1)]
    best = re.search(r"the best: (\S+), return at least (\S+);", ended.stderr)
    assert best and float(best[2]) == pytest.approx(max(values.values()), rel=1e-3)
    chosen: dict[str, Any] = eval(ended.stdout.removeprefix("recipes = "))["ppo"]
    own = Run.open(tmp_path / best[1]).config["options"]
    assert all(
        own[name] == (list(v) if isinstance(v, tuple) else v) for name, v in chosen.items() if name != "steps"
    )
    assert chosen["steps"] == STEPS


@pytest.mark.slow
def test_by_ray_a_sweep_that_was_killed_goes_on_and_its_first_trial_is_that_of_optuna(tmp_path: Path):
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("optuna") is None:
        pytest.skip("needs ray and optuna")
    command = [sys.executable, "-m", "robokit", "sweep", *WORDS]
    how, trials = called(tmp_path), tmp_path / "some" / "trials"
    by_ray = [*command, "--ray", "--trials", "2", "--folder", "some"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(by_ray, stdout=log, stderr=log, **how) as process,
    ):
        while not any(file.read_text() for file in trials.glob("*/*/2*/metrics.jsonl")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        process.kill()
    ended = subprocess.run(by_ray, capture_output=True, **how)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"\b2 trials measured, 0 ended early, 0 failed", ended.stderr)
    assert ended.stdout.startswith("recipes = {'ppo': {") and ended.stdout.count("\n") == 1
    runs = {file.parent.parent.parent.name: file for file in trials.glob("*/*/2*/policy.onnx")}
    assert len(runs) == 2  # of each trial one run folder
    alone = subprocess.run([*command, "--trials", "1", "--folder", "other"], capture_output=True, **how)
    assert alone.returncode == 0, alone.stderr
    [run] = (tmp_path / "other").glob("*/2*/config.json")
    options = [Run.open(file.parent).config["options"] for file in (run, *runs.values())]
    assert options[0] in options[1:]
    refused = subprocess.run([*by_ray, "--space", "lr=0.1"], capture_output=True, **how)
    assert refused.returncode == 2 and "is of another sweep: its space" in refused.stderr
