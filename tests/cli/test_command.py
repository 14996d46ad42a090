"""The command line as typed by a person: output, files and exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from slide import OWN, PUSHED, write

from robokit import __version__
from robokit.cli.arguments import plain, whole
from robokit.cli.command import main, parse
from robokit.cli.verbs import VERBS
from robokit.task.lookup.source import known_tasks, shipped_folder
from robokit.training.run import Run
from robokit.training.setup.restore import task_of


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


# -- help and mistakes -------------------------------------------------------------------------------


def test_without_a_command_all_are_listed(capsys: pytest.CaptureFixture[str]):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert all(f"  {name} " in out for name in VERBS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"robokit {__version__}\n"


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["--version"]])
def test_the_list_of_commands_and_the_version_import_nothing_but_the_table(words: list[str]):
    code = f"import sys, time; from robokit.cli.command import main; main({words}); print(*sys.modules)"
    code += "; print(time.process_time())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, loaded, seconds = done.stdout.splitlines()
    ours = {"", ".cli", ".cli.command", ".cli.verbs", ".errors", ".faces"}
    assert {name for name in loaded.split() if name.startswith("robokit")} == {f"robokit{n}" for n in ours}
    others = {"torch", "numpy", "mujoco", "onnxruntime", "onnx", "tyro", "rich", "gymnasium"}
    assert others.isdisjoint(loaded.split())
    assert float(seconds) < 0.3  # of processor, Python's own start included


def test_a_shell_completes_the_verbs_from_the_help(capsys: pytest.CaptureFixture[str]):
    """As docs/index.md says: the first words of the indented lines."""
    main(["--help"])
    out = capsys.readouterr().out
    found = subprocess.run(["awk", "/^  /{print $1}"], input=out, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [*VERBS]


@pytest.mark.parametrize("name", VERBS)
def test_the_line_of_a_verb_is_the_first_of_its_help(name: str):
    assert VERBS[name].line == (VERBS[name].load().__doc__ or "").partition("\n")[0]


@pytest.mark.parametrize("name", VERBS)
def test_every_option_is_explained_with_its_default(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    blocks = re.split(r"^(?=--?[a-z])", "\n".join(lines), flags=re.MULTILINE)
    options = [block for block in blocks if block.startswith("-")]
    assert len(options) >= (30 if name == "train" else 2)
    seen: set[str] = set()
    for option in options:
        names, explained = re.split(r"\s{2,}|\n", option, maxsplit=1)
        help, _, default = explained.partition("(default")
        assert len(help.strip()) >= 5, names
        assert default or names == "-h, --help", names
        assert help not in seen, names  # without a comment of its own a field gets its neighbour's
        seen.add(help)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["train"], "which task?"),
        (["train", "hoper"], "no task 'hoper'; did you mean 'hopper'?"),
        (["train", "hopper:Hoper"], "no task 'Hoper'; did you mean 'Hopper'?"),
        (["train", "nowhere.py"], "no task file nowhere.py"),
        (["train", "hopper", "--algo", "ppa"], "no algorithm 'ppa'; did you mean 'ppo'?"),
        (["train", "hopper", "--steps", "0"], "steps must be > 0, got 0"),
        (["train", "hopper", "--steps=-5"], "steps must be > 0, got -5"),
        (["train", "hopper", "--num-envs", "0"], "num_envs must be > 0, got 0"),
        (["train", "hopper", "--save-every", "-1"], "save_every must be at least 0 s, got -1"),
        (["train", "hopper", "--tau", ".1"], "--tau is an option of sac, svg and td3, not of ppo"),
        (["train", "hopper", "--algo=sac", "--delay=2"], "--delay=2 is an option of td3, not of sac"),
        (["train", "--resume", "runs/x", "--save-every", "nan"], "save_every must be at least 0 s, got nan"),
        (["train", "hopper", "--lr", "nan"], "lr must be > 0, got nan"),
        (["train", "hopper", "--gamma", "1.5"], "gamma must be in [0, 1], got 1.5"),
        (["train", "hopper", "--seed", "-1"], "seed must be from 0"),
        (["train", "hopper", "--threads", "-1"], "threads must be at least 0"),
        (["train", "hopper", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["train", "--resume", "nowhere"], "nowhere is no run: it has no config.json"),
        (["evaluate", "nowhere"], "nowhere is no run"),
        (["evaluate", "nowhere.onnx"], "no file nowhere.onnx"),
        (["play", "nowhere"], "nowhere is no run"),
        (["export", "nowhere"], "nowhere is no run"),
        (["export", "nowhere", "--episodes", "1"], "episodes must be at least 2, or 0 for none, got 1"),
        (["play", "nowhere", "--seed", "-1"], "seed must be from 0 to 999999, got -1"),
        (["evaluate", "a/", "a/policy.onnx"], "names, runs or files, each once; got a/ a/policy.onnx"),
        (
            ["train", "hopper", "--algo=ppo", "--algo", "sac", "--clip", ".1"],
            "--clip is an option of ppo, not of sac",
        ),
        (["check", "hoper"], "no task 'hoper'; did you mean 'hopper'?"),
        (["check", "nowhere.onnx"], "no file nowhere.onnx"),
        (
            ["evaluate", "hoper"],
            "hoper is no run, no file, and no name of a task or policy; did you mean",
        ),
        (["play", "hopper:Positoins"], "no name of a task or policy; did you mean 'hopper:Positions'?"),
        (["play", "walker2d"], "'walker2d' has no run in ./runs and no policy: robokit train walker2d"),
        (["export", "hopper"], "this takes a run, and "),
        (["export", "hopper.onnx"], "this takes a run, and hopper.onnx is an exported file"),
        (["evaluate", "a.onnx", "--torch"], "--torch goes with a run: a.onnx holds no torch policy"),
        (["evaluate", "runs/x", "--torch", "--filter", "a.json"], "on its own task, without filter"),
        (["filter", "nowhere.onnx", "numbers.json"], "no file nowhere.onnx"),
        (["filter", "hoper", "numbers.json"], "did you mean 'hopper'?"),
        (["filter", "hopper"], "missing from robokit filter: numbers.json"),
        (["train", "arm.xml"], "arm.xml is a robot's model, and a task is a Python file over a model"),
        (["check", "models/arm.xml"], "docs/your-robot.md shows how to write one"),
        (["plan", "policies/x.onnx"], "policies/x.onnx is an exported file, and this takes a task: a name"),
        (["plan", "arm_stack:Clean", "--from", "arm_stack:Clean"], "Clean.onnx is an exported file, without"),
        (["evaluate", "arm_stack"], "robokit train arm_stack; there are policies of arm_stack:Clean"),
        (["dynamics", "m.zip"], "m.zip is a zip, as Stable-Baselines3 writes a model: a policy, without"),
        (["export", "m.zip", "--part", "dynamics"], "m.zip --task TASK makes a file of the policy"),
        (["evaluate", "arm.urdf"], "arm.urdf is a robot's model"),
        (["train", "ARM.XML:Arm"], "ARM.XML is a robot's model"),
        (["train", "hopper", "--num-env", "3"], "options: --num-env, 3; did you mean '--num-envs'?"),
        (["train", "hopper", "--lr-shedule", "linear"], "did you mean '--lr-schedule'?"),
        (["evaluate", "runs/x", "--epsodes", "3"], "did you mean '--episodes'? Run robokit evaluate --help"),
        (["train", "hopper", "--sim", "gpu"], "invalid choice 'gpu' for argument '--sim'"),
        (["train", "hopper", "--algo", "sac", "--batchh", "3"], "robokit train --algo sac --help"),
        (["train", "hopper", "--lr"], "missing value for argument"),
        (["train", "hopper", "--steps", "many"], "a whole number, as 1000000 or 1e6, got 'many'"),
        (["train", "hopper", "--steps", "1.5"], "--steps must be a whole number, as 1000000 or 1e6, got"),
        (["train", "hopper", "--num-envs", "1e999"], "--num-envs must be a whole number, as 1000000 or 1e6"),
        (["train", "hopper", "--steps", "-1e6"], "steps must be > 0, got -1000000"),
        (["evaluate", "x", "--episodes", "nan"], "--episodes must be a whole number"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    arguments: list[str], words: str, here: Path, capsys: pytest.CaptureFixture[str]
):
    assert words in wrong(arguments, capsys)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_error(closed: str):
    command = f"{sys.executable} -m robokit tasks {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_in_a_folder_that_was_removed_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["--version"]) == 0
    assert "the working folder is no more" in wrong(["tasks"], capsys)


@pytest.mark.parametrize("verb", ["check", "train", "evaluate"])
def test_a_path_that_begins_with_a_dash_is_told_from_an_option(
    verb: str, here: Path, capsys: pytest.CaptureFixture[str]
):
    (here / "-d").mkdir()
    (here / "-d/arm.py").touch()
    words = "a path that begins with a dash is written ./-d/arm.py:Arm"
    assert words in wrong([verb, "-d/arm.py:Arm"], capsys)


def test_a_file_that_the_system_refuses_is_named_without_a_number(
    here: Path, capsys: pytest.CaptureFixture[str]
):
    policy = str(shipped_folder("policies") / "hopper.onnx")
    said = wrong(["filter", policy, "numbers.json"], capsys)
    assert said == "robokit: no filter in numbers.json: No such file or directory\n"
    Path("alone.onnx").write_bytes(b"x")
    assert main(["check", "alone.onnx"]) == 1
    rule = "a policy is alone.onnx with alone.onnx.sha256 beside it, which is not there"
    assert capsys.readouterr().out == f"FAIL {rule}: No such file or directory\n"


BOX = """\
\x1b[31m╭─ Unrecognized options ──────────────────────────────────╮\x1b[0m
│ \x1b[31mUnrecognized options: --epsodes, 3\x1b[0m                        │
│ ───────────────────────────────────────────────────────── │
│ Perhaps you meant:                                        │
│     --episodes INT                                        │
│         one in each of as many simulations (default: 300) │
│ ───────────────────────────────────────────────────────── │
│ For full helptext, run robokit evaluate --help            │
╰───────────────────────────────────────────────────────────╯
"""


@pytest.mark.parametrize(
    "box", [BOX, BOX.translate(dict(zip(map(ord, "╭╮╰╯│─"), "    " + " -", strict=True)))]
)
def test_no_box_nor_colour_is_left_of_a_mistake(box: str):
    """tyro draws with boxes, or with rules and spaces alone where a terminal has no such characters."""
    line = "unrecognized options: --epsodes, 3; did you mean '--episodes'? Run robokit evaluate --help"
    assert plain(box) == line


@pytest.mark.parametrize(("said", "line"), [("", "wrong arguments"), ("No box.", "no box")])
def test_what_is_said_without_a_box_is_a_line_too(said: str, line: str):
    assert plain(said) == line


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e6", 1_000_000),
        ("2.5e3", 2500),
        ("1_000", 1000),
        ("-3", -3),
        ("4.0", 4),
        ("123456789012345678",) * 2,
    ],
)
def test_a_whole_number_may_be_written_as_people_write_it(text: str, number: int | str):
    assert whole(text) == int(number)


@pytest.mark.parametrize(
    "text", ["", "x", "1.5", "1e-1", "inf", "nan", "1e18", "1e999999999", "0x10", "1e6 2"]
)
def test_what_is_no_whole_number_is_refused(text: str):
    with pytest.raises(ValueError, match="must be a whole number"):
        whole(text)


def test_options_take_a_whole_number_in_powers_of_ten():
    evaluate: Any = parse("evaluate", ["hopper", "--episodes", "1e2"])
    assert evaluate.episodes == 100
    train: Any = parse(
        "train", ["hopper", "--steps", "1e4", "--num-envs", "1.6e1", "--hidden", "3.2e1", "16"]
    )
    assert (train.algorithm.steps, train.algorithm.num_envs, train.algorithm.hidden) == (10_000, 16, (32, 16))
    assert type(train.algorithm.steps) is int


def test_a_filter_is_made_of_a_name_too(here: Path, capsys: pytest.CaptureFixture[str]):
    Path("numbers.json").write_text('{"slew": 12}')
    assert main(["filter", "hopper", "numbers.json"]) == 0
    assert capsys.readouterr().out == "hopper.filter.json\n"
    assert sorted(path.name for path in here.iterdir()) == ["hopper.filter.json", "numbers.json"]
    for suffix in ("", ".sha256"):
        policy = (shipped_folder("policies") / f"hopper.onnx{suffix}").read_bytes()
        Path("own").mkdir(exist_ok=True)
        Path(f"own/mine.onnx{suffix}").write_bytes(policy)
    assert main(["filter", "own/mine.onnx", "numbers.json"]) == 0
    assert capsys.readouterr().out == "own/mine.filter.json\n"


@pytest.mark.parametrize("model", ["<mujoco><worldbody><body/></mujoco>", "<mujoco><wordbody/></mujoco>", ""])
def test_a_broken_model_is_one_line_and_no_run(model: str, capsys: pytest.CaptureFixture[str]):
    write(Path("tasks"))
    Path("tasks/slide.xml").write_text(model)
    assert "slide.xml" in wrong(["train", "slide"], capsys)
    assert not Path("runs").exists()


def test_tasks_lists_the_shipped_ones_and_those_of_this_folder(capsys: pytest.CaptureFixture[str]):
    write(Path("tasks"))
    Path("tasks/broken.py").write_text("class Broken(Task)")
    Path("tasks/helper.py").write_text("import nowhere")
    assert main(["tasks"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^slide +Stay in the middle\.$", out, re.MULTILINE)
    assert re.search(r"^hopper +Hop .*\nhopper:Positions +Velocities are hidden", out, re.MULTILINE)
    assert main(["tasks", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == known_tasks().keys() >= {"hopper", "slide", "broken"}
    assert "cannot be read: expected ':'" in rows["broken"]["doc"]
    assert "helper" not in rows
    assert rows["slide"]["variants"] == rows["broken"]["variants"] == {}
    assert {"hopper:Positions", "hopper:Velocities"} < rows["hopper"]["variants"].keys()


@pytest.mark.medium
def test_a_reader_that_leaves_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "robokit.cli.command", "tasks"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == 128 + signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


# -- recipes -----------------------------------------------------------------------------------------


def test_default_then_recipe_then_command_line(capsys: pytest.CaptureFixture[str]):
    write(Path("tasks"))
    with pytest.raises(SystemExit, match="0"):
        main(["train", "slide", "--help"])
    text = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    assert "T, control steps per rollout (default: 8)" in text
    assert "discount per control step (default: 0.99)" in text
    train: Any = parse("train", ["slide", "--horizon", "4"])
    assert (train.algorithm.steps, train.algorithm.horizon, train.algorithm.gamma) == (32, 4, 0.99)


def test_a_recipe_with_an_unknown_option_is_refused(here: Path, capsys: pytest.CaptureFixture[str]):
    write(Path("tasks"), OWN.replace('"horizon"', '"horizn"'))
    assert "unknown option 'horizn'; did you mean 'horizon'?" in wrong(["train", "slide"], capsys)
    assert not Path("runs").exists()


def test_a_place_where_no_run_can_be_is_found_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    Path("runs").symlink_to("unmounted")
    monkeypatch.setattr("robokit.calls.training.build_learner", lambda *_: pytest.fail("built"))
    assert "runs is a link to nothing" in wrong(["train", "hopper"], capsys)


def test_check_reads_the_recipes_too(here: Path, capsys: pytest.CaptureFixture[str]):
    write(Path("tasks"), OWN.replace('"horizon"', '"horizn"'))
    assert main(["check", "slide"]) == 1
    assert "FAIL recipe ppo" in capsys.readouterr().out


def test_check_prints_notes_and_is_content(here: Path, capsys: pytest.CaptureFixture[str]):
    write(Path("tasks"), OWN.replace("sim.qpos[:, 0].abs()", "0 * sim.qpos[:, 0]"))
    assert main(["check", "slide"]) == 0
    assert re.search(r"^note reward +'middle' is 0 in all", capsys.readouterr().out, re.MULTILINE)
    assert main(["check", "slide", "--json"]) == 0
    assert [f["name"] for f in json.loads(capsys.readouterr().out) if f["note"]] == ["reward"]


def test_one_blas_thread_unless_somebody_asked_for_more(monkeypatch: pytest.MonkeyPatch):
    early = "import sys, robokit.cli.command; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", early], capture_output=True, text=True)
    assert done.stdout == "False\n"  # main comes before numpy
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    main(["--version"])
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    main(["--version"])
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"


# -- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        (OWN, ["--limits.hard", "0.1"], "the task has no limit 'hard': it has none"),
        (PUSHED, ["--limits.hart", "0.1"], "no limit 'hart'; did you mean 'hard'?"),
        (
            PUSHED.replace('{"hard": Limit(0.25)}', "[Limit(0.25)]"),
            [],
            "Slide.limits must be {cost: Limit}, got [",
        ),
        (PUSHED.replace("Limit(0.25)", "0.25"), [], "Slide.limits['hard'] must be a Limit, got 0.25"),
        (
            PUSHED.replace('"hard"', '"too hard"'),
            [],
            "named as variables are, for --limits.NAME; got 'too hard'",
        ),
        (PUSHED, ["--dual-lr", "inf"], "dual_lr must be finite, got inf"),
        (PUSHED, ["--limits.hard=-0.1"], "Limit.value must be a finite number >= 0, got -0.1"),
        (
            PUSHED,
            ["--limits.hard", "2"],
            "limits['hard']: Limit is 2, which has no use: a rate cannot come above 1",
        ),
        (
            PUSHED.replace('"hard"', '"too_hard"'),
            ["--limits.too-hard", "2"],
            "limits['too_hard']: Limit is 2",
        ),
        (PUSHED, ["--limit-rule", "pid", "--margin", "1"], "margin must be in [0, 1), got 1.0"),
    ],
)
def test_limits_that_cannot_be_are_refused_before_a_run_exists(
    text: str, arguments: list[str], words: str, here: Path, capsys: pytest.CaptureFixture[str]
):
    file = write(here / "own", text)
    assert words in wrong(["train", str(file), *arguments], capsys)
    assert not (here / "runs").exists()


@pytest.mark.medium
def test_a_limit_from_the_command_line_is_kept_and_judged_by(here: Path, capsys: pytest.CaptureFixture[str]):
    file = write(here / "own", PUSHED)
    quick = ["--steps", "32", "--num-envs", "2", "--horizon", "16", "--minibatch", "16", "--epochs", "1"]
    assert main(["train", str(file), "--limits.hard", "0.125", *quick, "--threads", "1"]) == 0
    run = Run.open("runs/slide/latest")
    assert run.config["limits"] == {"hard": 0.125} and task_of(run).limits["hard"].value == 0.125
    capsys.readouterr()
    main(["evaluate", "runs/slide/latest", "--episodes", "20", "--json"])
    assert json.loads(capsys.readouterr().out)["limits"]["hard"]["limit"] == 0.125
    for suffix in ("", ".sha256"):
        (here / f"alone.onnx{suffix}").write_bytes((run.path / f"policy.onnx{suffix}").read_bytes())
    main(["evaluate", "alone.onnx", "--task", str(file), "--episodes", "20", "--json"])
    assert json.loads(capsys.readouterr().out)["limits"]["hard"]["limit"] == 0.125


@pytest.mark.medium
def test_a_file_is_not_judged_by_limits_that_it_was_not_trained_for(
    here: Path, capsys: pytest.CaptureFixture[str]
):
    file = write(here / "own", PUSHED)
    assert (
        main(["train", str(file), "--steps", "16", "--num-envs", "2", "--horizon", "8", "--minibatch", "16"])
        == 0
    )
    for suffix in ("", ".sha256"):
        whole = Path(f"runs/slide/latest/policy.onnx{suffix}").read_bytes()
        (here / f"alone.onnx{suffix}").write_bytes(whole)
    file.write_text(PUSHED.replace("Limit(0.25)", 'Limit(0.25, "probability")'))
    assert "train again" in wrong(["evaluate", "alone.onnx", "--task", str(file)], capsys)
    assert "each once" in wrong(["evaluate", "alone.onnx", "own/../alone.onnx"], capsys)


def test_after_an_interrupt_a_second_one_ends_the_process_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
):
    def interrupted(arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("robokit.cli.command._run", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert main(["evaluate"]) == 128 + signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is before  # within a program of somebody else
        assert main() == 128 + signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
