"""Building a learner from options and restoring it from a run folder."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from shipped import absent
from slide import MODEL, OWN, write

import robokit.training.setup.build
from robokit.algos import sac
from robokit.algos.ppo import Config
from robokit.compute import processes
from robokit.compute.compile import choose
from robokit.errors import OptionError, RunError, TaskError
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import known_tasks
from robokit.task.task import Task
from robokit.training.loop import train
from robokit.training.run import Run
from robokit.training.setup.build import Built, Setup, build_learner, options
from robokit.training.setup.provenance import changed, commit, create, task_hashes
from robokit.training.setup.restore import exported, rebuild, restore_policy, task_of

SMALL = Config(steps=64, num_envs=2, horizon=16, minibatch=16, epochs=1, hidden=(4,))
SETUP = Setup(seed=3, threads=1)
SETUP_SAC = replace(SETUP, algo="sac")
OTHER = f"""{OWN}

class Other(Slide):
    recipes = {{"ppo": {{"horizn": 8}}}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A person's own task, and another in the same file."""
    return write(tmp_path, OTHER)


def same(one: Built, other: Built) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_rebuilds_its_learner_bit_for_bit(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch):
    """Also one that began without some of the packages, whose version is then null."""

    def lacking(package: str) -> str:
        raise PackageNotFoundError(package)

    learner = build_learner(load_task(file), SETUP, replace(SMALL, value_clip=0.3, lr=(3e-4, 0.0)))
    monkeypatch.setattr("robokit.export.fields.version", lacking)
    create(tmp_path / "runs", learner, SETUP)
    again = rebuild(Run.open(tmp_path / "runs/slide/latest"))
    assert again.config == learner.config
    assert same(again, learner)


def test_a_restored_policy_is_the_one_that_was_saved(tmp_path: Path, file: Path):
    learner = build_learner(load_task(file), SETUP, SMALL)
    run = create(tmp_path / "runs", learner, SETUP)
    with pytest.raises(RunError, match="no checkpoint after its start"):
        restore_policy(run)
    train(learner, run, 64)
    again = restore_policy(Run.open(run.path))
    assert again.steps == 64
    ours, theirs = learner.policy.state_dict(), again.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) and ours.keys() == theirs.keys()


def test_a_policy_is_restored_without_the_replay_it_learned_from(tmp_path: Path, file: Path):
    config = sac.Config(steps=200, learning_starts=20, batch=8, replay=128, hidden=(4,), compile=False)
    learner = build_learner(load_task(file), SETUP_SAC, config)
    run = create(tmp_path / "runs", learner, SETUP_SAC)
    train(learner, run, 200)
    for segment in run.path.glob("checkpoints/segments/*"):
        segment.write_bytes(b"")
    again = restore_policy(Run.open(run.path))
    assert again.steps == 1000  # whole iterations
    ours, theirs = learner.policy.state_dict(), again.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert run.resume(rebuild(run)).steps == 0  # to go on training takes the replay too


def test_a_run_of_before_names_its_engine_by_the_hardware(tmp_path: Path, file: Path):
    run = create(tmp_path / "runs", build_learner(load_task(file), SETUP, SMALL), SETUP)
    run.config["sim"] = "cpu"
    assert rebuild(run).env.sim.engine == "mujoco"


def test_the_seed_decides(file: Path):
    one, two, other = (build_learner(load_task(file), Setup(seed=seed), SMALL) for seed in (1, 1, 2))
    assert same(one, two)
    assert not same(one, other)


def test_config_holds_everything_a_result_depends_on(tmp_path: Path, file: Path):
    run = create(tmp_path, build_learner(load_task(file), SETUP, SMALL), SETUP)
    assert run.config.keys() >= {"task", "algo", "seed", "sim", "device", "threads", "torch_threads"}
    assert run.config["options"]["horizon"] == 16
    assert run.config["hashes"].keys() == {"slide.py", "model slide.xml"}
    assert run.about["versions"].keys() >= {"robokit", "python", "torch", "mujoco", "numpy", "onnxruntime"}
    assert run.about["commit"].keys() == {"robokit", "task"}
    all_cores = create(tmp_path, build_learner(load_task(file), Setup(), SMALL), Setup())
    assert all_cores.config["threads"] >= 1  # as resolved here, not 0


def test_the_task_is_found_by_its_file_or_else_by_its_name(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
):
    run = create(tmp_path / "runs", build_learner(load_task(file), SETUP, SMALL), SETUP)
    assert type(task_of(run)).__name__ == "Slide"
    (tmp_path / "tasks").mkdir()
    for name in ("slide.py", "slide.xml"):
        (tmp_path / name).rename(tmp_path / "tasks" / name)
    monkeypatch.chdir(tmp_path)
    assert type(task_of(run)).__name__ == "Slide"
    assert changed(run, task_of(run)) == []


def test_a_path_that_is_no_text_is_kept_as_it_is(tmp_path: Path):
    odd = {"file": os.fsdecode(b"/a\xff/12:30/new\nline.py")}
    run = Run.create(tmp_path, os.fsdecode(b"\xff"), 1, {}, odd)
    assert Run.open(run.path).about == odd


def test_a_run_without_a_name_or_hashes_is_refused(tmp_path: Path, file: Path):
    run = Run.create(tmp_path, "slide", 1, {"task": ["slide"], "hashes": 3}, {"file": str(file)})
    with pytest.raises(TaskError, match=r"names no task, but \"\['slide'\]\""):
        task_of(run)
    with pytest.raises(RunError, match=r"no hashes of its task.s files in its config\.json, got 3"):
        changed(run, load_task(file))


def test_a_class_that_the_file_does_not_tell_is_in_the_folders_name(tmp_path: Path, file: Path):
    run = create(tmp_path / "runs", build_learner(load_task(f"{file}:Other"), SETUP, SMALL), SETUP)
    assert run.path.parent.name == "slide-Other"
    assert type(task_of(run)).__name__ == "Other"


def test_what_changed_since_the_run_began_is_named(tmp_path: Path, file: Path):
    run = create(tmp_path / "runs", build_learner(load_task(file), SETUP, SMALL), SETUP)
    (tmp_path / "slide.xml").write_text(MODEL.replace('mass="1"', 'mass="2"'))
    assert changed(run, task_of(run)) == ["model slide.xml"]
    file.write_text(f"{OTHER}# edited")
    assert changed(run, task_of(run)) == ["model slide.xml", "slide.py"]


BASED = """
from robokit.tasks.hopper import Hopper as Shipped

class Base(Shipped):
    pass
"""
OF_BASE = """
import sys
sys.path.insert(0, {folder!r})
from bases.hopper import Base

class Hopper(Base):
    pass
"""


def test_files_of_base_classes_count_and_none_hides_another_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "path", [*sys.path])
    base, own = tmp_path / "bases/hopper.py", tmp_path / "hopper.py"
    base.parent.mkdir()
    base.write_text(BASED)
    own.write_text(OF_BASE.format(folder=str(tmp_path)))
    task = load_task(own)
    then = task_hashes(task)
    names = {"hopper.py", "bases/hopper.py", "gymnasium_v5/hopper.py"}
    assert {name for name in then if not name.startswith("model ")} == names
    run = Run.create(tmp_path / "runs", "hopper", 1, {"hashes": then}, {})
    assert changed(run, task) == []
    base.write_text(f"{BASED}# edited")
    assert changed(run, task) == ["bases/hopper.py"]
    older = {name: digest for name, digest in then.items() if "/" not in name}
    capsys.readouterr()
    assert changed(replace(run, config={"hashes": older}), task) == []
    said = f"note: {run.path} does not tell whether these have changed: "
    assert capsys.readouterr().err == f"{said}bases/hopper.py, gymnasium_v5/hopper.py\n"
    own.write_text(own.read_text() + "# edited")
    assert changed(replace(run, config={"hashes": older}), task) == ["hopper.py"]


def test_a_recipe_overrides_the_defaults(file: Path):
    class Fast(Task):
        recipes = {"ppo": {"horizon": 7}, "sac": {"unheard": 1}}

    assert options(Fast(), "ppo") == replace(Config(), horizon=7)


def test_a_recipe_that_names_no_option_is_refused_with_a_hint(file: Path):
    with pytest.raises(OptionError, match=r"recipe of Other.*'horizn'; did you mean 'horizon'"):
        options(load_task(f"{file}:Other"), "ppo")


@pytest.mark.parametrize(
    ("algo", "name", "value", "kind"),
    [
        ("ppo", "mirror", "yes", "of the type bool"),
        ("ppo", "baseline", 1, "of the type bool"),
        ("sac", "target_entropy", "low", r"of the type float \| None"),
        ("sac", "utd", True, r"of the type float \| None"),
        ("sac", "batch", 128.5, r"of the type int \| None"),
        ("sac", "hidden", ("a",), r"of the type tuple\[int, \.\.\.\]"),
        ("td3", "hidden", ["a"], r"of the type tuple\[int, \.\.\.\]"),
        ("td3", "gains", (1.0,), r"of the type tuple\[float, float, float\]"),
        ("td3", "belief", "gruu", r"one of \['memoryless', .*\]"),
        ("td3", "delay", None, "of the type int"),
    ],
)
def test_a_recipe_that_sets_another_kind_of_value_is_refused(algo: str, name: str, value: Any, kind: str):
    class Odd(Task):
        recipes = {algo: {name: value}, "a": {}}

    with pytest.raises(OptionError, match=f"recipe of Odd sets {name} to .*; it must be {kind}$"):
        options(Odd(), algo)


def test_a_recipe_may_set_a_whole_number_for_a_float_and_what_may_be_left_open():
    class Right(Task):
        recipes = {"ppo": {"lr": 1, "hidden": (8,), "value_clip": 0.2, "compile": True}}

    assert options(Right(), "ppo").hidden == (8,)


def test_a_penalty_without_limits_is_refused(file: Path):
    with pytest.raises(OptionError, match=r"penalty \(0.5\) is a multiplier of limits; the task has none"):
        build_learner(load_task(file), SETUP, replace(SMALL, limit_rule="fixed", penalty=0.5))


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        (Setup(algo="ppa"), "no algorithm 'ppa'; did you mean 'ppo'"),
        (Setup(seed=-1), "seed must be from 0"),
        (Setup(seed=1_000_000), "seed must be from 0"),  # evaluation's
        (Setup(threads=-1), "threads must be at least 0"),
        (Setup(torch_threads=-1), "torch-threads must be at least 0"),
        (Setup(device="cud"), "device 'cud' cannot be used"),
    ],
)
def test_impossible_values_are_refused(file: Path, setup: Setup, words: str):
    with pytest.raises(OptionError, match=words):
        build_learner(load_task(file), setup, SMALL)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Torch not compiled with CUDA enabled", "CUDA enabled; install a torch built for CUDA (https:"),
        (
            "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a "
            "driver from http://www.nvidia.com/Download/index.aspx",
            "Found no NVIDIA driver on your system; install NVIDIA's driver; --device cpu runs anywhere",
        ),
        (
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
            "driver by downloading and installing a new version",
            "is too old (found version 11040); update NVIDIA's driver to one for CUDA",
        ),
        ("No CUDA GPUs are available", "are available; look at CUDA_VISIBLE_DEVICES and nvidia-smi"),
        (
            "CUDA error: invalid device ordinal\nCUDA kernel errors might be asynchronously reported",
            "'cuda:7' cannot be used: CUDA error: invalid device ordinal; see nvidia-smi -L",
        ),
        ("CUDA error: out of memory", "CUDA error: out of memory; --device cpu runs anywhere"),
    ],
)
def test_a_device_that_torch_cannot_use_is_refused_in_one_line_that_says_what_to_do(
    file: Path, monkeypatch: pytest.MonkeyPatch, said: str, words: str
):
    def ones(*size: int, device: torch.device) -> None:
        raise RuntimeError(said)  # torch's own words

    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(OptionError) as error:
        build_learner(load_task(file), Setup(device="cuda:7"), SMALL)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_where_there_is_none_is_refused_before_anything_runs(file: Path):
    with pytest.raises(OptionError, match=r"device 'cuda' cannot be used: .*; .*--device cpu"):
        build_learner(load_task(file), Setup(device="cuda"), SMALL)


def test_a_run_of_another_device_is_exported_on_the_cpu_and_goes_on_only_there(tmp_path: Path, file: Path):
    learner = build_learner(load_task(file), SETUP, SMALL)
    run = create(tmp_path / "runs", learner, replace(SETUP, device="cuda:99", sim="warp"))
    train(learner, run, 32)
    written, again = exported(Run.open(run.path))
    assert written.path.exists() and (again.env.device.type, again.env.sim.engine) == ("cpu", "mujoco")
    with pytest.raises(OptionError, match=r"'cuda:99' cannot be used: .*; evaluate, play and export do not"):
        rebuild(run)


LONG = replace(SMALL, steps=16_000_000)  # 1,000,000 gradient steps
TWO = Setup(threads=2)


def test_sizes_decide_what_is_compiled_which_is_printed_stored_and_used_again(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    started: list[bool] = []
    monkeypatch.setattr(robokit.training.setup.build, "lacks", lambda device, engine: "")
    monkeypatch.setattr(torch, "compile", lambda function, **options: started.append(True) or function)
    learner = build_learner(load_task(file), TWO, LONG)
    line = "gradient steps: compiled, 1 torch thread (by 1,000,000 gradient steps of 16 rows and 14 weights)"
    assert capsys.readouterr().err.count(line) == 1
    assert (learner.threads, learner.config.compile, bool(started)) == (1, True, True)
    run = create(tmp_path / "runs", learner, TWO)
    assert (run.config["torch_threads"], run.config["options"]["compile"]) == (1, True)
    monkeypatch.setattr(robokit.training.setup.build, "choose", lambda *sizes: pytest.fail("chosen again"))
    again = rebuild(Run.open(run.path))
    assert (again.threads, again.config.compile) == (1, True)
    assert "gradient steps" not in capsys.readouterr().err


def test_what_is_given_is_not_chosen(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(robokit.training.setup.build, "lacks", lambda device, engine: "")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    task = load_task(file)
    one = build_learner(task, replace(TWO, torch_threads=2), LONG)
    assert (one.threads, one.config.compile) == (2, True)
    other = build_learner(task, TWO, replace(LONG, compile=False))
    assert (other.threads, other.config.compile) == (1, False)


def test_threads_do_not_depend_on_the_load_but_on_the_physics_number(file: Path):
    large = replace(SMALL, hidden=(1024, 1024), num_envs=16)  # 16 x 1 M products
    setups = Setup(threads=1), Setup(threads=2)
    assert [build_learner(load_task(file), setup, large).threads for setup in setups] == [1, 2]


def test_without_a_compiler_a_run_is_eager_and_says_so(file: Path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    learner = build_learner(load_task(file), SETUP, replace(SMALL, compile=True))
    assert learner.config.compile is False
    assert "gradient steps: eager and slower" in (line := capsys.readouterr().err)
    assert "no working C++ compiler ($CXX, else g++), 1 torch thread (" in line
    learner.iterate()


def test_without_a_compiler_a_run_that_would_be_compiled_says_so(file: Path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert build_learner(load_task(file), TWO, LONG).config.compile is False
    assert "no working C++ compiler ($CXX, else g++), 1 torch thread (by 1,000,000" in capsys.readouterr().err


def test_bf16_without_its_units_is_slower_and_says_so(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    small = {"hidden": (8, 8), "replay": 10_000, "compile": False}
    config = replace(options(load_task(file), "sac"), bf16=True, **small)
    for unit, noted in ((True, False), (False, True)):
        monkeypatch.setattr(robokit.training.setup.build, "has_bf16", lambda device, unit=unit: unit)
        build_learner(load_task(file), Setup(algo="sac", threads=1), config)
        assert ("no units for bfloat16" in capsys.readouterr().err) == noted


def test_a_run_of_another_version_is_refused(tmp_path: Path, file: Path):
    run = create(tmp_path / "runs", build_learner(load_task(file), SETUP, SMALL), SETUP)
    run.config["options"]["momentum"] = 0.9
    with pytest.raises(RunError, match=r"another version of robokit.*\['momentum'\]"):
        rebuild(run)
    del run.config["validations"]
    with pytest.raises(
        RunError, match=r"another version of robokit: its config.json lacks \['validations'\]"
    ):
        rebuild(run)


@pytest.mark.medium
def test_a_policy_is_exported_once_for_each_newest_checkpoint(tmp_path: Path, file: Path):
    learner = build_learner(load_task(file), SETUP, SMALL)
    run = create(tmp_path / "runs", learner, SETUP)
    train(learner, run, 32)
    path = exported(run)[0].path
    first = path.stat().st_mtime_ns
    assert exported(run)[0].path.stat().st_mtime_ns == first
    card = path.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | {"sha256": "0" * 64}))  # of another file
    assert (again := exported(run)[0].path.stat().st_mtime_ns) > first
    assert exported(run)[0].path.stat().st_mtime_ns == again
    train(learner, run, 64)
    assert exported(run)[0].path.stat().st_mtime_ns > first


def test_a_run_that_the_first_process_cannot_create_is_an_error_in_all(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
):
    learner, told = build_learner(load_task(file), SETUP, SMALL), []
    (tmp_path / "runs").write_text("a file")
    monkeypatch.setattr(processes, "agreed", lambda mine: told.append(mine) or mine)
    with pytest.raises(RunError, match="cannot create a run"):
        create(tmp_path / "runs", learner, SETUP)
    monkeypatch.setattr(processes, "agreed", lambda mine: told[0])  # the second process hears of the first
    monkeypatch.setattr(processes, "_rank", 1)
    with pytest.raises(RunError, match="cannot create a run"):
        create(tmp_path / "runs", learner, SETUP)


def test_commit_names_the_commit_of_a_tracked_file_only(tmp_path: Path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    tracked, untracked = tmp_path / "tracked.py", tmp_path / "untracked.py"
    assert commit(tracked) is None
    for path in (tracked, untracked):
        path.write_text("1")
    for command in (["init", "-q"], ["add", "tracked.py"], ["commit", "-q", "-m", "one"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert commit(tracked) == head.strip()
    assert commit(untracked) is None
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/other.py").write_text("1")
    subprocess.run([*git, "add", "sub"], check=True)
    assert commit(tracked) == f"{head.strip()}-dirty"  # of its folder, below it too
    subprocess.run([*git, "commit", "-q", "-m", "two"], check=True)
    tracked.write_text("2")
    assert str(commit(tracked)).endswith("-dirty") and not str(commit(tmp_path / "sub/other.py")).endswith(
        "y"
    )


def test_what_the_sizes_of_each_shipped_recipe_choose():
    """(whether to compile, torch threads) on two cores."""
    most = {"ppo": (True, 1), "sac": (True, 2), "td3": (True, 2)}
    others = dict[tuple[str, str], tuple[bool, int]]()
    here = {name: path for name, path in known_tasks().items() if not absent(name)}
    for name, path in here.items():
        for algo, usual in most.items():
            task, setup = load_task(path), Setup(algo=algo)
            config = options(task, algo)
            chosen = choose(
                config.sizes, robokit.training.setup.build._weights(task, setup, config), 2, "cpu"
            )
            others |= {(name, algo): chosen} if chosen != usual else {}
    walks = {(name, "ppo"): (True, 2) for name in here if name.endswith("_walk") or name.startswith("arm_")}
    assert others == {("recall", "ppo"): (False, 1), **walks}
