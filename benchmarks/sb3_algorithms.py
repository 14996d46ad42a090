r"""Every algorithm that Stable-Baselines3 and sb3-contrib bring, on one task each, beside ours.

    python benchmarks/sb3_algorithms.py --list                     # rows done and missing, with commands
    python benchmarks/sb3_algorithms.py --row a2c
    python benchmarks/sb3_algorithms.py --minutes 95 --threads 1   # all missing rows, the cheap ones first
    python benchmarks/sb3_algorithms.py --table                    # the scores of docs/algorithms.md

A row trains with the package's own lines and defaults, but for what `rows` says, and seed 0, saves
`runs/sb3_algorithms/ROW/model.zip`, exports it by `robokit export` and evaluates the file in 300 episodes.
It is appended to benchmarks/curves/sb3_algorithms.jsonl as soon as it is done; a row that is there is not
run again, a saved model is not trained again. `ours-` are trained by `robokit train`, for the same number of
steps. On-policy methods and ARS have a VecNormalize, off-policy ones none. DQN and QR-DQN choose among 11
actions through gymnasium's DiscretizeAction; what they learn is no robot's file and is scored through that
wrapper, by SB3's `evaluate_policy`. HER learns arm_reach in its goal form.
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.wrappers import DiscretizeAction
from manipulation import append, recorded
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from robokit import seeds
from robokit.errors import Error
from robokit.evaluation.measure import evaluate
from robokit.evaluation.statistics import summarize
from robokit.interop.gymnasium import TaskEnv
from robokit.interop.sb3 import TaskVecEnv
from robokit.training.run import Run
from robokit.training.setup.provenance import commit

HERE = Path(__file__).resolve().parent
RECORD, RUNS = HERE / "curves/sb3_algorithms.jsonl", Path("runs/sb3_algorithms")
EPISODES, BINNED_EPISODES, BINS = 300, 50, 11
ROOT = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
SB3, CONTRIB, OURS = "stable_baselines3", "sb3_contrib", "robokit"


@dataclass(frozen=True)
class Row:
    """One training and evaluation; form: of observations, or "bins" of actions."""

    name: str
    package: str
    kind: str  # the class, or `--algo`
    task: str = "hopper"
    steps: int = 100_000
    num_envs: int = 1
    form: Any = "flat"
    policy: str = "MlpPolicy"
    normalize: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> str:
        return f"python benchmarks/sb3_algorithms.py --row {self.name}"


def rows() -> list[Row]:
    """All rows, the cheap ones first."""
    many: dict[str, Any] = {"num_envs": 8, "normalize": True}
    rollout = {"n_steps": 256}  # of 8 simulations: the 2048 steps of their default
    # RL Baselines3 Zoo (hyperparams/*.yml): ARS on Hopper-v3, QR-DQN on CartPole-v1, HER on FetchReach-v1
    ars = {"learning_rate": 0.01, "delta_std": 0.025, "n_delta": 8, "n_top": 4, "alive_bonus_offset": -1}
    pole: dict[str, Any] = {"learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000}
    pole |= {"learning_starts": 1000, "target_update_interval": 10, "train_freq": 256, "gradient_steps": 128}
    pole |= {"exploration_fraction": 0.16, "exploration_final_eps": 0.04}
    wide, quantiles = {"net_arch": [256, 256]}, {"net_arch": [256, 256], "n_quantiles": 10}
    pendulum: dict[str, Any] = {"task": "inverted_pendulum", "form": "bins"}
    relabelled = {"n_sampled_goal": 4, "copy_info_dict": True}
    reach = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": relabelled}
    reach |= {"learning_starts": 1000, "gamma": 0.95, "learning_rate": 1e-3}
    reach |= {"policy_kwargs": {"net_arch": [128, 128]}}  # the task's own width
    ours = {"horizon": 256, "minibatch": 64, "epochs": 10}
    goal: dict[str, Any] = {"task": "arm_reach:Clean", "form": "goal", "policy": "MultiInputPolicy"}
    return [
        Row("a2c", SB3, "A2C", **many),
        Row("ars", CONTRIB, "ARS", policy="LinearPolicy", normalize=True, options=ars),
        Row("ppo", SB3, "PPO", **many, options=rollout),
        Row("trpo", CONTRIB, "TRPO", **many, options=rollout),
        Row("ours-ppo", OURS, "ppo", num_envs=8, options=ours),
        Row("dqn", SB3, "DQN", **pendulum, options={**pole, "policy_kwargs": wide}),
        Row("qr-dqn", CONTRIB, "QRDQN", **pendulum, options={**pole, "policy_kwargs": quantiles}),
        Row("her", SB3, "SAC", steps=40_000, num_envs=4, **goal, options=reach),
        Row("recurrent-ppo", CONTRIB, "RecurrentPPO", policy="MlpLstmPolicy", **many, options=rollout),
        Row("ddpg", SB3, "DDPG"),
        Row("td3", SB3, "TD3"),
        Row("ours-td3", OURS, "td3"),
        Row("sac", SB3, "SAC"),
        Row("ours-sac", OURS, "sac"),
        Row("crossq", CONTRIB, "CrossQ"),
        Row("tqc", CONTRIB, "TQC"),
        Row("ours-svg", OURS, "svg"),
    ]


def train(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """Train a row of theirs and save it, unless it is; returns what the training came to."""
    folder = options.runs / row.name
    if (done := folder / "training.json").exists():
        return json.loads(done.read_text())
    kind = getattr(importlib.import_module(row.package), row.kind)
    if row.form == "bins":
        env: Any = DiscretizeAction(TaskEnv(row.task, threads=options.threads), BINS)
    else:
        env = TaskVecEnv(row.task, row.num_envs, observations=row.form, threads=options.threads)
    env = VecNormalize(env, norm_reward=row.kind != "ARS") if row.normalize else env
    model, began = kind(row.policy, env, seed=0, **row.options), time.time()
    model.learn(options.steps or row.steps)
    told = {"steps": model.num_timesteps, "seconds": round(time.time() - began, 1)}
    told["version"] = importlib.import_module(row.package).__version__
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.zip")
    if row.normalize:
        env.save(str(folder / "vec.pkl"))
    done.write_text(json.dumps(told))  # last: with it the others are whole
    return told


def train_ours(row: Row, options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Train a row of ours, or go on with it; its file and what the training came to."""
    folder = options.runs / row.name
    begun, cores = sorted(folder.glob("*/latest")), str(options.threads)
    more = {"num-envs": row.num_envs, "steps": options.steps or row.steps, "seed": 0, **row.options}
    more |= {"runs": folder, "threads": cores, "torch-threads": cores}
    command = [
        "train",
        row.task,
        "--algo",
        row.kind,
        *(str(x) for k, v in more.items() for x in (f"--{k}", v)),
    ]
    robokit(["train", "--resume", str(begun[0]), "--task", row.task] if begun else command)
    run = sorted(folder.glob("*/latest"))[0].resolve()
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    told = {"steps": last["steps"], "seconds": round(last["seconds"], 1)}
    return run / "policy.onnx", told | {"version": Run.open(run).about["versions"]["robokit"]}


def exported(row: Row, options: argparse.Namespace) -> Path:
    """The file of a saved model, through the command."""
    folder = options.runs / row.name
    statistics = ["--normalize", str(folder / "vec.pkl")] if row.normalize else ["--normalize", "none"]
    model = ["export", str(folder / "model.zip"), "--task", row.task, *statistics]
    robokit([*model, "-o", str(folder / "policies"), "--episodes", "0"])
    return next((folder / "policies").glob("*.onnx"))


def robokit(command: list[str]) -> None:
    print(f"robokit {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "robokit", *command], env=ROOT, check=True)


def scored(file: Path, task: str, episodes: int) -> dict[str, Any]:
    """Return, headline and limits of a file in episodes of a task: means and 95 % intervals."""
    report = evaluate(file, task, episodes, threads=1)
    headline = report.headline.summary
    found: dict[str, Any] = {"episodes": episodes, "return": interval(report.returns)}
    if headline is not None and report.headline.name != "return":
        found["headline"] = {report.headline.name: interval(headline)}
    return found | {"limits": {name: v.verdict for name, v in report.limits.items()}}


def scored_in_bins(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """Return of a saved model through the wrapper of its training."""
    kind = getattr(importlib.import_module(row.package), row.kind)
    env = DiscretizeAction(TaskEnv(row.task, seed=seeds.seed("evaluation"), threads=1), BINS)
    episodes = min(options.episodes, BINNED_EPISODES)
    model = kind.load(options.runs / row.name / "model.zip")
    found: Any = evaluate_policy(model, env, episodes, return_episode_rewards=True, warn=False)
    return {"episodes": episodes, "return": interval(summarize(np.array(found[0]))), "bins": BINS}


def interval(summary: Any) -> list[float]:
    return [round(float(x), 4) for x in (summary.mean, summary.low, summary.high)]


def run(row: Row, options: argparse.Namespace) -> None:
    """Run a row and append it to the record."""
    loads, began = os.getloadavg()[0], time.time()
    if row.package == OURS:
        file, told = train_ours(row, options)
    else:
        told, file = train(row, options), None
        file = None if row.form == "bins" else exported(row, options)
    score = scored_in_bins(row, options) if file is None else scored(file, row.task, options.episodes)
    about: dict[str, Any] = {"row": row.name, "package": row.package, "kind": row.kind, "task": row.task}
    about |= {"policy": row.policy, "num_envs": row.num_envs, "normalize": row.normalize, "seed": 0}
    about |= {"date": time.strftime("%Y-%m-%d"), "load": round(loads, 2), "threads": options.threads}
    about |= {"options": {name: str(value) for name, value in row.options.items()}}
    about |= {
        "torch": torch.__version__,
        "commit": commit(HERE.parent / "robokit/__init__.py"),
        "wall": round(time.time() - began, 1),
    }
    append(options.record, about | told | score)
    print(f"{row.name}: {score}", flush=True)


def score(done: dict[str, Any] | None) -> str:
    """A row's score as the table in the documentation has it."""
    if done is None:
        return "not run"
    mean, low, high = done["return"]
    text = f"{mean:,.0f} [{low:,.0f}, {high:,.0f}]"
    if "headline" in done:
        share, low, high = done["headline"]["success"]
        text += f"; success {share:.1%} [{low:.1%}, {high:.1%}]"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", action="append", help="only this one; may be repeated")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no row after so many")
    parser.add_argument("--threads", type=int, default=2, help="of physics and torch")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--steps", type=int, help="of every row, in place of its own")
    options = parser.parse_args()
    known, done = {row.name: row for row in rows()}, recorded(options.record)
    if unknown := {*(options.row or ())} - known.keys():
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if options.record == RECORD and (options.steps or options.episodes != EPISODES):
        parser.error("--steps and --episodes make other rows: give them a --record and --runs of their own")
    wanted = [known[name] for name in options.row or known]
    if options.list or options.table:
        for row in wanted:
            told = f"done     {row.name}" if row.name in done else f"not run  {row.command}"
            print(f"| `{row.name}` | {score(done.get(row.name))} |" if options.table else told)
        return 0
    torch.set_num_threads(options.threads)
    ends, failed = time.monotonic() + 60 * options.minutes, 0
    for row in wanted:
        if row.name in done:
            print(f"{row.name} is done", flush=True)
            continue
        if time.monotonic() >= ends:
            break
        try:
            run(row, options)
        except (Error, ImportError, subprocess.CalledProcessError) as error:
            print(f"{row.name}: {error}", flush=True)
            failed += 1
    missing = [row.command for row in wanted if row.name not in recorded(options.record)]
    print("\n".join(["missing:", *missing]) if missing else "all rows are done")
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
