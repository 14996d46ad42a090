"""The commands on a run: their files, output and exit codes."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from arm import Arm, make_policy
from slide import OWN, PUSHED, write

from robokit.cli.command import main, parse
from robokit.env.env import Env
from robokit.export.write import export
from robokit.task.lookup.find import load_task
from robokit.training.run import Run
from robokit.training.setup.build import build_learner
from robokit.training.setup.provenance import create

SMALL = ["--num-envs", "2", "--horizon", "16", "--minibatch", "16", "--epochs", "1", "--hidden", "4"]
SMALL += ["--threads", "1"]
TRAIN = ["train", "inverted_pendulum", *SMALL]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wrong(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of wrong input: exit code 2, one line on standard error, nothing on standard output."""
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("robokit: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.medium
def test_check_names_what_breaks_the_contract(capsys: pytest.CaptureFixture[str]):
    write(Path("tasks"))
    assert main(["check", "slide"]) == 0
    assert "FAIL" not in capsys.readouterr().out
    own_task_text = OWN.replace("sim.qpos[:, 0].abs()", "sim.qpos")
    Path("tasks/slide.py").write_text(own_task_text)
    assert main(["check", "tasks/slide.py"]) == 1
    assert re.search(r"FAIL contract .*'middle'", capsys.readouterr().out)
    assert main(["check", "tasks/slide.py", "--json"]) == 1
    assert [f["ok"] for f in json.loads(capsys.readouterr().out)] == [False, True]  # the recipe is sound
    Path("tasks/slide.py").write_text(f"import nowhere\n{OWN}")
    assert main(["check", "slide"]) == 1
    assert re.search(r"FAIL import .*does not import", capsys.readouterr().out)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A trained run, and the line of JSON it ended with."""
    root, out = tmp_path_factory.mktemp("runs"), StringIO()
    with redirect_stdout(out):
        assert main([*TRAIN, "--steps", "128", "--runs", str(root), "--json"]) == 0
    return root / "inverted_pendulum/latest", json.loads(out.getvalue().splitlines()[-1])


@pytest.mark.medium
def test_training_leaves_a_whole_run_and_a_policy(trained: tuple[Path, dict[str, Any]]):
    run, result = trained
    assert (result["steps"], result["signal"], result["error"]) == (128, None, None)
    assert result["parity"] <= 1e-5
    expected = {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "policy.onnx"}
    assert {p.name for p in run.iterdir()} == expected | {
        *("policy.onnx.sha256", "policy.json", "policy.safetensors"),
    }


@pytest.mark.medium
def test_evaluate_measures_the_file_and_its_distance_from_torch(
    trained: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", str(trained[0]), "--episodes", "8", "--threads", "1", "--json"]) == 0
    of_run = json.loads(capsys.readouterr().out)
    assert of_run["versus_torch"]["mean"] == pytest.approx(0.0, abs=1e-3)
    assert (
        main(["evaluate", str(trained[0] / "policy.onnx"), "--episodes", "8", "--threads", "1", "--json"])
        == 0
    )
    of_file = json.loads(capsys.readouterr().out)
    assert of_file["versus_torch"] is None
    assert of_file["returns"] == of_run["returns"]
    assert main(["evaluate", str(trained[0]), "--episodes", "4", "--threads", "1"]) == 0
    assert "ONNX minus torch" in capsys.readouterr().out


@pytest.mark.medium
def test_a_run_is_measured_on_a_variant_by_what_the_file_takes(
    trained: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    load = "from robokit.task.lookup.find import load_task"
    Path("mine.py").write_text(f"{load}\n\nclass Mine(type(load_task('inverted_pendulum'))):\n    pass\n")
    Path("runs").mkdir()
    shutil.copytree(trained[0].resolve(), "runs/inverted_pendulum/one")
    measure = ["evaluate", "inverted_pendulum", "--episodes", "4", "--threads", "1", "--json"]
    assert main(measure) == main([*measure, "--task", "mine.py"]) == 0
    out, err = capsys.readouterr()
    own, on = (json.loads(text) for text in out.replace("}\n{", "}\0{").split("\0"))
    assert (
        err.count("inverted_pendulum: the run runs/inverted_pendulum/one\nmeasuring 4 episodes of runs/") == 2
    )
    assert own["returns"] == on["returns"] and own["variant"] is None is on["versus_torch"]
    assert on["variant"] == "Mine, exported for InvertedPendulum"
    assert main([*measure, "--task", "hopper"]) == 2
    err = capsys.readouterr().err
    assert "a file exported for InvertedPendulum does not fit Hopper; input 'position': 2" in err


@pytest.fixture(scope="module")
def exported(
    trained: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """What `export` wrote of a run that was moved, and its line of JSON."""
    root, out = tmp_path_factory.mktemp("Downloads"), StringIO()
    shutil.copytree(trained[0].resolve(), root / "mine")
    with redirect_stdout(out):
        assert main(["export", f"{root}/mine", "-o", f"{root}/out", "--episodes", "4", "--json"]) == 0
    return root / "out", json.loads(out.getvalue())


@pytest.mark.medium
def test_export_writes_the_file_its_sum_and_a_card_named_by_the_task_wherever_the_run_lies(
    exported: tuple[Path, dict[str, Any]],
):
    folder, card = exported
    name = "inverted_pendulum"
    suffixes = "onnx", "onnx.sha256", "json", "safetensors"
    assert {p.name for p in folder.iterdir()} == {f"{name}.{suffix}" for suffix in suffixes}
    assert card["steps"] == 128
    assert card["return"] == card["evaluation"]["returns"]["mean"] > 0


@pytest.mark.medium
def test_check_passes_a_file_and_a_run_and_a_damaged_file_is_refused_by_every_command(
    exported: tuple[Path, dict[str, Any]],
    trained: tuple[Path, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
):
    shutil.copytree(exported[0], "out")
    file = Path("out/inverted_pendulum.onnx")
    for what in (str(file), str(trained[0])):
        assert main(["check", what]) == 0
        assert "without a value:" in capsys.readouterr().out
    assert main(["check", str(trained[0]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and found["contract"]["task"] == "InvertedPendulum"
    assert found["checkpoints"]["checkpoints/000000000128"] is None
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    assert main(["check", str(file)]) == 1
    assert "FAIL" in capsys.readouterr().out
    assert "sha256" in wrong(["evaluate", str(file)], capsys)
    assert "sha256" in wrong(["play", str(file)], capsys)


@pytest.mark.medium
def test_an_export_judges_with_the_gamma_of_its_training():
    write(Path("tasks"), PUSHED.replace("Limit(0.25)", 'Limit(0.25, "discounted")'))
    assert main(["train", "slide", *SMALL, "--steps", "32", "--gamma", "0.5", "--validations", "0"]) == 0
    assert main(["export", "runs/slide/latest", "--episodes", "2"]) == 0
    assert json.loads(Path("policies/slide.json").read_bytes())["evaluation"]["gamma"] == 0.5


@pytest.mark.medium
def test_only_the_config_of_a_run_says_of_which_task_a_file_is(
    trained: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    for suffix in ("", ".sha256"):
        shutil.copy(f"{trained[0]}/policy.onnx{suffix}", f"policy.onnx{suffix}")
    Path("config.json").write_text('{"model_type": "theirs"}')
    assert main(["evaluate", "policy.onnx", "--episodes", "2", "--threads", "1"]) == 0
    Path("checkpoints").mkdir()
    assert "its config.json is damaged" in wrong(["evaluate", "policy.onnx"], capsys)


@pytest.mark.medium
def test_commands_are_given_as_numbers_in_the_tasks_order(capsys: pytest.CaptureFixture[str]):
    env = Env(Arm(), 8, threads=1)
    export(make_policy(env), env, "arm.onnx")
    arm = ["arm.onnx", "--task", f"{Path(__file__).parents[1] / 'arm.py'}:Arm", "--threads", "1"]
    assert main(["evaluate", *arm, "--episodes", "2", "--json", "--command", "-0.05"]) == 0
    assert json.loads(capsys.readouterr().out)["commands"] == {"speed": [-0.05]}
    takes = r"--command: Arm takes 1 finite numbers (speed: 1 in (-0.1,) to (0.3,)), got "
    for numbers in (["0.1", "0.2"], ["nan"]):
        for command in (["evaluate", *arm], ["play", *arm[:-2]]):
            assert f"{takes}{len(numbers)}: " in wrong([*command, "--command", *numbers], capsys)


@pytest.mark.medium
def test_a_task_without_commands_says_so(
    trained: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    said = wrong(["play", str(trained[0]), "--command", "1"], capsys)
    assert "--command: InvertedPendulum takes none, got 1: (1.0,)" in said


@pytest.mark.medium
def test_resuming_from_the_command_line_continues_bit_for_bit(
    trained: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Also without the rehearsal of the export, which takes no random numbers of the training."""
    monkeypatch.setattr("robokit.calls.training.rehearse", lambda policy, env: None)
    assert main([*TRAIN, "--steps", "64"]) == 0
    run = "runs/inverted_pendulum/latest"
    assert main(["train", "--resume", run, "--steps", "128", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 128
    part, whole = (Run.open(r).newest()[0] for r in (run, trained[0]))
    assert part is not None
    assert whole is not None
    assert part.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(part.tensors[name], whole.tensors[name]) for name in whole.tensors)


@pytest.mark.medium
def test_a_resume_that_is_refused_changes_nothing(
    trained: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(trained[0].resolve(), "damaged")
    for state in Path("damaged/checkpoints").glob("0*/state.safetensors"):
        state.write_bytes(state.read_bytes()[:-1])
    assert main(["check", "damaged"]) == 1
    assert re.search(r"FAIL checkpoint .*damaged/checkpoints/0+128 is damaged", capsys.readouterr().out)
    before = Path("damaged/config.json").read_bytes()
    assert "no good checkpoint" in wrong(["train", "--resume", "damaged", "--steps", "256"], capsys)
    assert Path("damaged/config.json").read_bytes() == before
    shutil.copytree(trained[0].resolve(), "busy")
    with Run.open("busy").locked():
        assert "another process" in wrong(["train", "--resume", "busy", "--steps", "256"], capsys)
    assert Path("busy/config.json").read_bytes() == before


@pytest.mark.medium
def test_an_export_goes_into_a_folder_and_not_a_file(
    trained: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    assert "folder" in wrong(["export", str(trained[0]), "-o", "policy.onnx"], capsys)
    assert not Path("policy.onnx").exists()


@pytest.mark.medium
def test_a_refused_export_keeps_the_run_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    late = 'sim.memory["action"] * (sim.memory["age"] < 9)'  # not the previous action, but at first
    write(Path("tasks"), OWN.replace('{"slide": sim.qpos}', f'{{"slide": sim.qpos, "action": {late}}}'))
    assert main(["train", "slide", *SMALL]) == 1  # refused before the first step
    assert "the observation 'action' is not the previous action" in capsys.readouterr().err
    assert not Path("runs").exists()
    monkeypatch.setattr("robokit.calls.training.rehearse", lambda policy, env: None)
    assert main(["train", "slide", *SMALL, "--json"]) == 1
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "not exported" in result["error"]
    assert result["policy"] is None
    assert Run.open("runs/slide/latest").newest()[0] is not None
    assert not Path("runs/slide/latest/policy.onnx").exists()
    measure = ["evaluate", "slide", "--episodes", "2", "--threads", "1"]
    assert main(measure) == 1
    assert "robokit evaluate runs/slide/" in capsys.readouterr().err
    assert main([*measure, "--torch"]) == 0
    out, err = capsys.readouterr()
    assert "2 episodes of the torch policy, of no exported file" in out
    assert "measuring 2 episodes of runs/slide/" in err


def stopped(number: signal.Signals, times: int) -> tuple[int, str]:
    """Exit code and standard error of a long training that is sent a signal once it iterates."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "robokit.cli.command",
            *TRAIN,
            "--compile",
            "False",
            "--steps",
            "1_000_000_000",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = Path("runs/inverted_pendulum/latest/metrics.jsonl")
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    for _ in range(times):
        process.send_signal(number)
    _, err = process.communicate()
    return process.returncode, err


@pytest.mark.medium
@pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 3), (signal.SIGTERM, 1)])
def test_a_signal_saves_and_leaves(number: signal.Signals, times: int, capsys: pytest.CaptureFixture[str]):
    code, err = stopped(number, times)
    assert code == 128 + number
    assert "Traceback" not in err
    assert "go on with: robokit train --resume runs/inverted_pendulum/" in err
    run = Run.open("runs/inverted_pendulum/latest")
    saved, skipped = run.newest()
    assert saved is not None
    assert skipped == []
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert saved.steps == json.loads(lines[-1])["steps"] > 0  # nothing that was learned is lost


@pytest.mark.medium
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_saves_where_it_has_ended_the_reader_too(number: signal.Signals):
    """robokit train ... 2>&1 | tee log, and Ctrl-C."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "robokit.cli.command",
            *TRAIN,
            "--compile",
            "False",
            "--steps",
            "1_000_000_000",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    metrics = Path("runs/inverted_pendulum/latest/metrics.jsonl")
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(number)
    assert process.wait() == 128 + number
    saved, _ = Run.open("runs/inverted_pendulum/latest").newest()
    assert saved is not None
    assert saved.steps == json.loads(metrics.read_text().splitlines()[-1])["steps"] > 0


@pytest.mark.medium
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_while_the_export_is_checked_says_how_to_export_later(number: signal.Signals):
    train = [sys.executable, "-m", "robokit.cli.command", *TRAIN, "--steps", "32"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what runs in the background ignores it
    process = subprocess.Popen(train, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    assert process.stderr is not None
    for line in process.stderr:
        if "checking the policy" in line:
            break
    process.send_signal(number)
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 128 + number
    run = Run.open("runs/inverted_pendulum/latest").path.relative_to(Path.cwd())
    assert said == f"trained and saved, but not exported; later: robokit export {run}\n"
    assert not (run / "policy.onnx").exists()
    assert main(["export", str(run), "--episodes", "0"]) == 0


def test_a_run_goes_on_only_with_the_files_it_began_with(here: Path, capsys: pytest.CaptureFixture[str]):
    write(Path("tasks"))
    train: Any = parse("train", ["slide", *SMALL])
    create(Path("runs"), build_learner(load_task("slide"), train.setup, train.algorithm), train.setup)
    again: Any = parse("train", ["--like", "runs/slide/latest", "--seed", "4"])
    assert Path(again.task).samefile("tasks/slide.py")
    assert (again.algorithm.hidden, again.setup.seed) == (train.algorithm.hidden, 4)
    resume = ["train", "--resume", "runs/slide/latest"]
    assert "its runs are inside; try its 'latest'" in wrong([*resume[:2], "runs/slide"], capsys)
    assert "steps must be > 0, got 0" in wrong([*resume, "--steps", "0"], capsys)
    assert Run.open("runs/slide/latest").steps == 32
    for extra in (["--lr", "0.1"], ["slide"]):
        said = wrong([*resume, *extra], capsys)
        assert "a resumed run keeps its task and options; only --steps, " in said
        then = "; a new training starts from its policy with --init-from runs/slide/latest\n"
        assert said.endswith(f", got {' '.join(extra)}{then}")
    Path("tasks/slide.py").write_text(OWN + "\n")
    said = wrong(resume, capsys)
    assert "changed since it began: slide.py; a new training starts from its policy with --init-from " in said


@pytest.mark.medium
def test_an_export_that_cannot_be_written_is_a_failure_and_not_wrong_input(
    trained: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    Path("out").write_text("in the way")
    assert main(["export", str(trained[0]), "-o", "out", "--episodes", "0"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "\nrobokit: cannot write out/inverted_pendulum.onnx" in err
