"""A training in several processes has the same state as one process with all simulations."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from safetensors.torch import load_file, save_file
from slide import LEVELLED, PUSHED, levelled, write

from robokit.algos import ppo
from robokit.compute import processes
from robokit.compute.devices import find_device
from robokit.errors import OptionError, RunError
from robokit.learning.offpolicy import replay
from robokit.learning.options import check_shared
from robokit.task.lookup.find import load_task
from robokit.training.run import Done, Run
from robokit.training.setup.build import Setup, build_learner
from robokit.training.setup.provenance import create
from robokit.training.setup.restore import rebuild

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
ALONE = (*TORCHRUN, "--standalone")
ALGOS = ("ppo", "sac", "td3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of what this one collected."""
    folder = tmp_path_factory.mktemp("ranks")
    rollout = dict(vars(ranks.ppo_learner().collect()))
    rollout["bad"] = torch.zeros_like(rollout["bad"])
    rollout["bad"][:5, -1] = True  # of one process alone
    save_file({k: v.contiguous() for k, v in rollout.items()}, folder / "rollout")
    for algo in ranks.KINDS:
        learner = ranks.off_learner(algo)
        for _ in range(2):
            learner.iterate()
        rows, belief = learner.replay.sample(ranks.WINDOWS, learner.length, learner.rng)
        starts = [0, *accumulate(learner.agent.widths.values())]
        column = starts[list(learner.agent.widths).index("bad")]
        rows[:, -3:, column] = 1.0  # of one process alone
        noise = torch.randn(2, 1, ranks.WINDOWS, learner.env.act_dim, generator=learner.rng)
        save_file({"rows": rows, "belief": belief, "noise": noise}, folder / algo)
    learner = ranks.svg_learner()
    learner.iterate()
    rows, belief = learner.replay.sample(ranks.MEMBERS * ranks.WINDOWS, 1, learner.rng)
    rows, belief = (x.view(ranks.MEMBERS, ranks.WINDOWS, x.shape[-1]) for x in (rows, belief))
    allowed = (torch.rand(ranks.MEMBERS, ranks.WINDOWS, generator=learner.rng) < 0.7).float()
    save_file({"rows": rows, "belief": belief, "allowed": allowed}, folder / "model")
    in_two(folder)
    return folder


def in_two(folder: Path, *more: str) -> None:
    command = [*ALONE, str(Path(ranks.__file__)), str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr


@pytest.mark.medium
@pytest.mark.parametrize("algo", [*ALGOS, "model"])
def test_a_gradient_step_of_two_processes_is_that_of_one_with_the_joint_batch(algo: str, folder: Path):
    if algo in ranks.KINDS:
        one = ranks.off_step(algo, load_file(folder / algo))
    else:
        step, drawn = {"ppo": (ranks.ppo_step, "rollout"), "model": (ranks.model_step, "model")}[algo]
        one = step(load_file(folder / drawn))
    two = load_file(folder / f"{algo}.0")
    assert one.keys() == two.keys()
    moments = [name for name in one if "adam.first" in name]
    moments = [name for name in moments if algo != "model" or "model" in name]
    assert moments and all(bool(one[name].any()) for name in moments)
    assert algo not in ranks.KINDS or bool(one["slopes"].all())
    for name in one:
        scale = 10 if name in moments else 1  # the first moment is a tenth of the gradient
        a, b = (scale * x[name].double() for x in (one, two))
        assert float((a - b).abs().max()) <= 1e-6 * max(1.0, float(a.abs().max())), name


@pytest.mark.medium
@pytest.mark.parametrize("algo", [*ALGOS, "svg"])
def test_processes_hold_the_same_bits_after_100_gradient_steps_and_simulations_of_their_own(
    algo: str, folder: Path
):
    assert_same(folder, algo)


def assert_same(folder: Path, algo: str) -> None:
    one, other = (load_file(folder / f"{algo}100.{rank}") for rank in (0, 1))
    assert not torch.equal(one.pop("own.qpos"), other.pop("own.qpos"))
    assert float(one.pop("own.moved")) > 0.1
    del other["own.moved"]
    differ = [name for name in one if not torch.equal(one[name], other[name])]
    assert not differ
    gradients = {"ppo": "adam.powers"}.get(algo, "critic_adam.powers")
    assert one[gradients][0] < 0.9**99 * 1.01


@pytest.mark.slow
def test_compiled_processes_hold_the_same_bits_too(tmp_path: Path):
    in_two(tmp_path, "compiled")
    for algo in ALGOS:
        assert_same(tmp_path, algo)


def test_what_processes_share_must_be_divisible(monkeypatch: pytest.MonkeyPatch):
    check_shared(num_envs=3)
    monkeypatch.setattr(processes, "_world", 2)
    with pytest.raises(
        OptionError, match="num_envs must be a multiple of the 2 processes that share it, got 3"
    ):
        check_shared(minibatch=4, num_envs=3)


def test_a_device_by_number_is_refused_where_each_process_takes_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "_world", 2)
    with pytest.raises(OptionError, match=r"device must be 'cuda' where 2 processes .* got 'cuda:0'"):
        find_device("cuda:0")


def test_what_does_not_fit_a_process_names_the_option_and_the_share(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "_world", 2)
    config = ppo.Config(num_envs=4, horizon=32, minibatch=48, belief="gru", chunk=16)
    with pytest.raises(OptionError, match=r"must divide minibatch / processes \(48 / 2\)"):
        ppo.check(config)


def test_processes_on_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(replay, "free_memory", lambda device: 1000)
    replay.check_fits({"obs": 1}, 0, num_envs=1, capacity=200)  # 800 bytes
    monkeypatch.setattr(processes, "_world", 2)
    with pytest.raises(OptionError, match=r"bytes in each of 2 processes\) takes 1\.61e-06 GB"):
        replay.check_fits({"obs": 1}, 0, num_envs=1, capacity=200)


@pytest.mark.medium
def test_all_processes_start_from_the_same_parent(tmp_path: Path):
    """Also where that is `latest`, which the first process moves to the new run."""
    setup = Setup(seed=3, threads=1)
    learner = build_learner(load_task(write(tmp_path, PUSHED)), setup, ranks.SLIDE)
    learner.iterate()
    parent = create(tmp_path / "runs", learner, setup)
    parent.save(learner, Done(32, 1))
    in_two(tmp_path, "start")
    assert Run.open(tmp_path / "runs/slide/latest").config["parent"]["name"] == f"slide/{parent.path.name}"
    for rank in (0, 1):
        found = load_file(tmp_path / f"start.{rank}")
        for name in ("policy", "critic"):
            theirs = learner.networks[name].state_dict()
            assert all(torch.equal(found[f"{name}.{key}"], x) for key, x in theirs.items())


# -- the command -------------------------------------------------------------------------------------


def tail(output: str) -> Any:
    return json.loads(output.strip().splitlines()[-1])


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["steps"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def segments(checkpoint: Path) -> list[str]:
    """Sums and names of the parts of a replay that a checkpoint lists."""
    return [line for line in (checkpoint / "SHA256SUMS").read_text().splitlines() if "segments" in line]


PPO = ("--horizon", "8", "--minibatch", "16", "--steps", "1024")
SAC = (
    "--algo",
    "sac",
    "--learning-starts",
    "400",
    "--batch",
    "32",
    "--utd",
    "0.1",
    "--replay",
    "4000",
    "--steps",
    "6000",
)


def train(folder: Path, launcher: tuple[str, ...], *more: str) -> "subprocess.CompletedProcess[str]":
    options = ("--num-envs", "4", "--hidden", "16", "--save-every", "0")
    command = [*launcher, "-m", "robokit", "train", str(folder / "slide.py"), *options, "--json", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=folder)


DIES = """
    def remember(self, sim, action):
        import os, signal
        from robokit.compute import processes
        self.periods = getattr(self, "periods", 0) + 1
        mark = Path(__file__).with_name("died")
        if processes.rank() == 1 and self.periods > {periods} and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {{}}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "each", "text"), [(PPO, 32, PUSHED), (SAC, 1000, PUSHED), (PPO, 32, LEVELLED)]
)
def test_a_killed_process_is_started_again_and_the_run_comes_to_the_same_bits(
    options: tuple[str, ...], each: int, text: str, tmp_path: Path
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        levelled(folder, text + DIES.format(periods=100 + each // 4 * 3))
    (whole / "died").touch()
    straight = train(whole, ALONE, *options)
    assert straight.returncode == 0, straight.stderr
    again = train(killed, (*ALONE, "--max-restarts", "1"), *options)
    assert again.returncode == 0, again.stderr
    assert (killed / "died").exists()
    assert "started again: going on with" in again.stderr
    assert len([*(killed / "runs/slide").glob("2*")]) == 1
    one, other = (Run.open(folder / "runs/slide/latest") for folder in (whole, killed))
    assert steps_of(one.path) == steps_of(other.path) == [*range(each, int(options[-1]) + 1, each)]
    for part in ("", "rank1/"):
        a, b = (r.path / f"checkpoints/{part}{int(options[-1]):012d}" for r in (one, other))
        assert segments(a) == segments(b) and bool(segments(a)) is (options is SAC)
        of_one, of_other = (load_file(path / "state.safetensors") for path in (a, b))
        assert of_one.keys() == of_other.keys()
        assert [name for name in of_one if not torch.equal(of_one[name], of_other[name])] == []
        assert text is PUSHED or of_one["env.sim.memory"][:, -4].any()  # the levels
    assert Path(tail(again.stdout)["policy"]).is_file()


@pytest.mark.slow
def test_a_signal_stops_all_processes_after_the_same_iteration(tmp_path: Path):
    write(tmp_path, PUSHED)
    command = [
        *ALONE,
        "-m",
        "robokit",
        "train",
        str(tmp_path / "slide.py"),
        "--num-envs",
        "4",
        "--horizon",
        "8",
    ]
    command += ["--minibatch", "16", "--steps", "100_000_000"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "runs/slide/latest/metrics.jsonl"
    for _ in range(2400):
        if metrics.exists() and metrics.stat().st_size:
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    run = Run.open(tmp_path / "runs/slide/latest")
    saved = [
        sorted(p.name for p in folder.glob("0*"))[-1]
        for folder in (run.path / "checkpoints", run.path / "checkpoints/rank1")
    ]
    assert saved[0] == saved[1] and int(saved[0]) > 0, said
    assert "stopped and saved; go on with: torchrun --nproc-per-node 2 -m robokit train --resume" in said
    with pytest.raises(
        RunError,
        match=r"begun by 2 processes.*cannot be shared by 1; go on with: torchrun --nproc-per-node 2",
    ):
        rebuild(run)
