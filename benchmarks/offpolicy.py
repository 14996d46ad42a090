"""SAC and TD3: how fast they step, and what they learn in how many steps, beside the peers.

    python benchmarks/offpolicy.py speed --sbx-python ~/sbx/bin/python    # SAC and TD3
    python benchmarks/offpolicy.py speed --algos sac --rounds 5 --options bf16=True
    python benchmarks/offpolicy.py learn half_cheetah inverted_double_pendulum --steps 100_000
    python benchmarks/offpolicy.py learn hopper:Positions --algos sac --label gru --set belief=gru
    python benchmarks/offpolicy.py learn half_cheetah:SpeedLimit --algos sac --seeds 0 --steps 1_000_000
    python benchmarks/offpolicy.py                                  # only the table of what is recorded

`speed`: steps a second on HalfCheetah, one simulation, 256x256 networks, batch 256, one gradient step for
each transition. `gradient` is the gradient step alone, its batch drawn from a replay that was filled with
random actions; `training` is whole steps: action, simulation, replay, gradient step. Ours, Stable-Baselines3
and SBX take turns, each peer in a process of its own that is idle meanwhile; a figure is the median of the
blocks, a ratio the median of the rounds' ratios. Of --threads each has the number of torch threads that it
was fastest with, each figure for itself; JAX has its own. Stable-Baselines3 does 20 gradient steps in a call;
SBX one, as in training, and beside it 20, which it compiles into one graph.
What it takes ours to be warm, compiled with an empty cache, is printed on its own. With --options ours runs
with them too, beside the defaults. Leave the machine alone while it runs. A peer that is not installed is
skipped: pip install stable-baselines3 "gymnasium[mujoco]"; and, best in a virtual environment of its own,
which --sbx-python names: pip install sbx-rl "gymnasium[mujoco]"

`learn` trains one run at a time and records it in `benchmarks/curves/offpolicy_<task>.json`; a run that is
recorded already, with the same --set, is not repeated. `curve` is the mean return of the training episodes
that ended in each fiftieth of the run, `evaluations` that of 10 deterministic episodes of fresh simulations
at every tenth, with the seconds of training until then, compiling counted, evaluations not. `final` is the
return of 100 deterministic episodes of the last policy. Under limits the policy that is judged is the best
that held them in validation, as in benchmarks/safety.py. "begun": "uniform" in a record's settings is no
option: it was made before weights began orthogonal, with those of a torch Linear; "small": with last layers
of gain .01 in policy and critics.
`benchmarks/peers/sb3_offpolicy.py` records Stable-Baselines3's runs in the same way.
"""

import argparse
import ast
import contextlib
import copy
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safety import measured

import robokit
from robokit.compute.compile import torch_threads
from robokit.env.env import Env
from robokit.evaluation.episodes import run_episodes, sampling_actor, torch_actor
from robokit.evaluation.statistics import Array, summarize
from robokit.networks.belief import RECURRENT
from robokit.networks.policy import Policy
from robokit.task.lookup.find import load_task
from robokit.task.task import Task
from robokit.training.selection import TIMES, validate
from robokit.training.setup.build import algorithm, options as recipe

HERE = Path(__file__).parent
ALGOS = ("sac", "td3")
HISTORY = 5  # frames of a stack
EPISODES, FEW = 100, 10  # of the last policy; of one on the way
POINTS, TENTHS = 50, 10  # of a curve; evaluations on the way
LATE = 0.2  # of a run, that multipliers are averaged over
FIGURES = ("gradient", "training")
FILLED, AT_ONCE, STEPS = (
    10_000,
    20,
    200,
)  # transitions; gradient steps, and the peers' control steps, in a call
SEED, ON_THE_WAY = 10_000, 20_000  # plus a run's seed: seeds of the two kinds of episodes


class Curve:
    """Mean return of the training episodes that ended in each of POINTS parts of a run."""

    def __init__(self, steps: int) -> None:
        self.points, self.steps = list[tuple[int, float]](), steps
        self.total = self.count = 0.0

    def add(self, done: int, mean: float, count: float, new: int) -> None:
        """`count` episodes of a mean return ended in the `new` steps up to `done`."""
        self.total, self.count = self.total + mean * count, self.count + count
        if self.count and crossed(done, new, self.steps, POINTS):
            self.points.append((done, round(self.total / self.count, 2)))
            self.total = self.count = 0.0


def crossed(done: int, new: int, steps: int, parts: int) -> bool:
    """Whether one of so many equal parts of a run ended in its last `new` steps."""
    return min(done, steps) * parts // steps > (done - new) * parts // steps


# -- speed -------------------------------------------------------------------------------------------

Turn = Callable[[str, float], float]  # (figure, about so many seconds) -> steps a second
Field = dict[str, dict[str, Turn]]  # what takes turns, by name and by its threads


class Ours:
    """A learner that is warm, its replay filled; `cold`: seconds that took, without the filling."""

    def __init__(self, algo: str, threads: int, more: dict[str, Any]) -> None:
        began, task, module = time.perf_counter(), load_task("half_cheetah"), algorithm(algo)
        fixed = {"learning_starts": FILLED, "compile": True, "steps": 10**9}
        config = replace(recipe(task, algo), **{**fixed, **more})
        module.check(config)
        env = Env(task, config.simulations, threads=1, compile=bool(config.compile))
        self.learner: Any = module.Learner(env, config)
        self.learner.threads = threads
        self.learner.iterate()
        self.learn(AT_ONCE)
        self.cold = time.perf_counter() - began
        while self.learner.replay.position * env.num_envs < FILLED:
            self.learner.iterate()

    def learn(self, count: int) -> int:
        """So many gradient steps beside those that are due."""
        learner = self.learner
        before = learner.gradients
        with torch_threads(learner.threads), torch.no_grad():
            for _ in range(count):
                learner.learn()
        learner.gradients = before
        return count

    def __call__(self, figure: str, seconds: float) -> float:
        began, count = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < seconds:
            if figure == "gradient":
                count += self.learn(AT_ONCE)
            else:
                self.learner.iterate()
                count += self.learner.steps_per_iteration
        return count / passed


class Peer:
    """A peer's model in a process of its own, which waits for its turns."""

    def __init__(self, module: str, algo: str, threads: int, python: str) -> None:
        command = [python, str(HERE / "peers/sb3_offpolicy.py"), "--turns", module, "--algos", algo.upper()]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process: Any = subprocess.Popen([*command, "--threads", str(threads)], text=True, **pipes)
        self.answer()

    def answer(self) -> str:
        found = self.process.stdout.readline().strip()
        if not found:
            raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")
        return found

    def turn(self, at_once: int) -> Turn:
        """Turns of so many gradient steps in a call."""

        def rate(figure: str, seconds: float) -> float:
            print(figure, at_once if figure == "gradient" else STEPS, seconds, file=self.process.stdin)
            self.process.stdin.flush()
            return float(self.answer())

        return rate

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def speed(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # outside of gradient steps
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{time.strftime('%Y-%m-%d')}, {machine}, torch {torch.__version__}")
    for algo in options.algos:
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache,
            contextlib.ExitStack() as stack,
        ):
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # a cold compile, and nothing left behind
            field = ours(algo, options) | peers(algo, options, stack)
            for figure in FIGURES:
                compare(algo, figure, field, options)


def ours(algo: str, options: argparse.Namespace) -> Field:
    """The defaults first."""
    wanted: dict[str, dict[str, Any]] = {"robokit": {}}
    if options.options:
        wanted[" ".join(("robokit", *(f"{k}={v}" for k, v in options.options.items())))] = options.options
    field: Field = {}
    for name, more in wanted.items():
        for threads in options.threads:
            one = Ours(algo, threads, more)
            field.setdefault(name, {})[f"torch threads {threads}"] = one
            what = f"{one.learner.steps_per_iteration:,} control and {AT_ONCE} gradient steps"
            print(
                f"{algo} {name}, torch threads {threads}: built, compiled, {what}: {one.cold:.1f} s",
                flush=True,
            )
    return field


def peers(algo: str, options: argparse.Namespace, stack: contextlib.ExitStack) -> Field:
    field: Field = {}
    for module, python, threads, calls in (
        ("stable_baselines3", sys.executable, options.threads, {"": AT_ONCE}),
        ("sbx", options.sbx_python, [1], {"": 1, f", {AT_ONCE} at once": AT_ONCE}),
    ):
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
            print(f"{module}: not installed, skipped")
            continue
        for number in threads:
            peer = Peer(module, algo, number, python)
            stack.callback(peer.close)
            said = "JAX's threads" if module == "sbx" else f"torch threads {number}"
            for how, at_once in calls.items():
                field.setdefault(module + how, {})[said] = peer.turn(at_once)
    return field


def compare(algo: str, figure: str, field: Field, options: argparse.Namespace) -> None:
    """Rounds of one figure, each contestant with its best number of threads."""
    chosen: dict[str, tuple[str, Turn]] = {}
    for name, turns in field.items():
        if figure == "gradient" or not name.endswith("at once"):
            rates = {threads: turn(figure, options.seconds) for threads, turn in turns.items()}
            best = max(rates, key=lambda threads: rates[threads])
            chosen[name] = best, turns[best]
    rounds = [
        {name: turn(figure, options.seconds) for name, (_, turn) in chosen.items()}
        for _ in range(options.rounds)
    ]
    for name, (threads, _) in chosen.items():
        column = [rates[name] for rates in rounds]
        ratio = statistics.median(rates["robokit"] / rates[name] for rates in rounds)
        middle = f"{statistics.median(column):>8,.0f} steps/s ({min(column):,.0f} to {max(column):,.0f})"
        print(f"{algo} {figure:<9}{name:<28}{middle}, {threads}   robokit / it {ratio:.2f}", flush=True)


# -- learning ----------------------------------------------------------------------------------------


def train(name: str, algo: str, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """One run and what it came to."""
    task, module, steps = load_task(name), algorithm(algo), options.steps
    config = replace(recipe(task, algo), **{"steps": steps, **options.set})
    if "compile" not in options.set:  # windows are unrolled: slow to compile
        config = replace(config, compile=not {config.belief, config.critic_belief} & set(RECURRENT))
    module.check(config)
    if config.belief == "stack":
        task.history = HISTORY
    began, seconds = time.perf_counter(), 0.0
    env = Env(task, config.simulations, seed=seed, threads=1, compile=bool(config.compile))
    learner = module.Learner(env, config, seed)
    learner.threads = options.threads
    curve, limits, new = Curve(steps), list[dict[str, float]](), learner.steps_per_iteration
    evaluations, best = list[tuple[int, float, float]](), None
    for done in range(new, steps + new, new):
        metrics = learner.iterate()
        seconds += time.perf_counter() - began
        curve.add(done, metrics.get("episode/return", 0.0), metrics.get("episode/count", 0.0), new)
        limits.append({"steps": done, **{k: round(v, 4) for k, v in metrics.items() if "limit/" in k}})
        if crossed(done, new, steps, TENTHS):
            mean = float(returns(task, learner.policy, FEW, ON_THE_WAY + seed).mean())
            evaluations.append((done, round(mean, 2), round(seconds, 1)))
            print(f"  {name} {algo} seed {seed}: {done:,} steps, {mean:.1f}, {seconds:.0f} s", flush=True)
        if learner.limits and crossed(done, new, steps, TIMES):
            score = validate(learner, done)
            if score.feasible and (best is None or score.returns > best[0].returns):
                best = score, copy.deepcopy(learner.policy)
        began = time.perf_counter()
    final = summarize(returns(task, learner.policy, EPISODES, SEED + seed))
    run: dict[str, object] = {
        "name": name,
        "algo": algo,
        "seed": seed,
        "steps": steps,
        "label": options.label,
        "settings": json.loads(json.dumps(options.set)),
        "compile": bool(config.compile),
        "threads": options.threads,
        "seconds": round(seconds, 1),
        "curve": curve.points,
        "evaluations": evaluations,
        "final": {k: round(getattr(final, k), 2) for k in ("mean", "low", "high", "std", "min", "max")},
    }
    if task.limits:
        run["last"] = measured(task, torch_actor(learner.policy), seed)
        run["exploring"] = measured(task, sampling_actor(learner.policy, seed), seed)
    if learner.limits:
        run["best"] = {"steps": best[0].steps, **measured(task, torch_actor(best[1]), seed)} if best else None
        run |= lambdas(limits)
    return run


def returns(task: Task, policy: Policy, episodes: int, seed: int) -> Array:
    """(episodes,) undiscounted, deterministic, of fresh simulations."""
    return run_episodes(Env(task, episodes, seed=seed, threads=1), torch_actor(policy)).returns


def lambdas(rows: list[dict[str, float]]) -> dict[str, object]:
    """The multipliers' means over the end of a run, how steady they were, and how all of it went.

    By means and the greatest of stretches of iterations: single ones hid that they swung to and fro.
    """
    late = rows[-max(1, round(LATE * len(rows))) :]
    columns = {k: [row[k] for row in late if k in row] for k in late[-1] if k.endswith("/lambda")}
    mean = {k: statistics.mean(v) for k, v in columns.items()}
    size = max(1, len(rows) // POINTS)
    stretches = [rows[i : i + size] for i in range(0, len(rows), size)]
    return {
        "lambda": {k: round(v, 4) for k, v in mean.items()},
        "steady": {k: round(statistics.pstdev(v) / mean[k], 3) for k, v in columns.items() if mean[k] > 0},
        "limits": [{"steps": rows[-1]["steps"], **over(rows)} for rows in stretches],
    }


def over(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Mean and greatest of each name of some iterations."""
    known = {k: [row[k] for row in rows if k in row] for k in {k for row in rows for k in row} - {"steps"}}
    return {k: [round(statistics.mean(v), 4), max(v)] for k, v in sorted(known.items())}


def learn(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    for name in options.tasks:
        path = HERE / f"curves/offpolicy_{name.partition(':')[0]}.json"
        for seed in options.seeds:
            for algo in options.algos:
                wanted = [name, algo, seed, options.steps, json.loads(json.dumps(options.set))]
                if any([r[k] for k in KEYS] == wanted for r in recorded(path)["runs"]):
                    continue
                run = train(name, algo, seed, options)
                kept = recorded(path)  # anew: others may have written meanwhile
                kept["runs"].append(run)
                path.write_text(json.dumps(kept) + "\n")
                print(line(run), flush=True)


KEYS = ("name", "algo", "seed", "steps", "settings")  # which tell runs apart


def recorded(path: Path) -> dict[str, Any]:
    if path.exists():
        return json.loads(path.read_text())
    about = {"task": path.stem.partition("_")[2], "history": HISTORY, "episodes": EPISODES}
    about |= {"robokit": robokit.__version__, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    return {**about, "runs": []}


# -- the table ---------------------------------------------------------------------------------------


def line(run: dict[str, Any]) -> str:
    """One run."""
    final = run["final"]
    named = " ".join(filter(None, (run["name"], run["algo"], run.get("label"), f"seed {run['seed']}")))
    said = f"{named}, {run['steps']:,} steps: "
    said += f"{final['mean']:.1f} ({final['low']:.1f} to {final['high']:.1f}) in {run['seconds']:.0f} s"
    for which in ("best", "last", "exploring"):
        if (found := run.get(which)) is not None:
            costs = ", ".join(f"{cost:.3g} (<= {most:.3g})" for cost, most in found["costs"].values())
            said += f"; {which} {found['return']:.0f} / {costs} {' '.join(found['verdicts'].values())}"
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.set_defaults(run=table)
    modes = parser.add_subparsers()
    fast = modes.add_parser("speed")
    fast.add_argument("--algos", nargs="+", choices=ALGOS, default=list(ALGOS))
    fast.add_argument("--rounds", type=int, default=9)
    fast.add_argument("--seconds", type=float, default=3.0, help="of each block")
    fast.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="of torch, to choose from")
    fast.add_argument("--options", nargs="*", default=[], help="name=value, of ours beside the defaults")
    fast.add_argument("--sbx-python", default=sys.executable, help="the interpreter that has sbx")
    fast.set_defaults(run=speed)
    far = modes.add_parser("learn")
    far.add_argument("tasks", nargs="+")
    far.add_argument("--algos", nargs="+", choices=ALGOS, default=list(ALGOS))
    far.add_argument("--steps", type=int, default=100_000)
    far.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    far.add_argument("--set", nargs="*", default=[], help="name=value, options of the algorithm")
    far.add_argument("--label", default="", help="of this --set in the record")
    far.add_argument("--threads", type=int, default=1, help="of torch")
    far.set_defaults(run=learn)
    options = parser.parse_args()
    for given in {"set", "options"} & vars(options).keys():
        setattr(options, given, pairs(getattr(options, given)))
    options.run(options)


def pairs(given: Iterable[str]) -> dict[str, Any]:
    """{name: value} of name=value; what is no Python literal is a string."""
    found = {}
    for name, _, value in (pair.partition("=") for pair in given):
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def table(options: argparse.Namespace) -> None:
    """One line for each task, algorithm and set of options: the mean over seeds, and each seed's."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for path in sorted((HERE / "curves").glob("offpolicy_*.json")):
        for run in json.loads(path.read_text())["runs"]:
            named = run["label"] or " ".join(f"{k}={v}" for k, v in run["settings"].items())
            groups.setdefault((run["name"], f"{run['steps']:,}", run["algo"], named), []).append(run)
    for path in sorted((HERE / "peers").glob("sb3_offpolicy_*.json")):
        kept = json.loads(path.read_text())
        for run in kept["runs"]:
            named = re.sub(r"(?<!^)(?=[A-Z])", "_", kept["env"].partition("-")[0]).lower()
            key = named, f"{run['steps']:,}", run["algo"], "stable-baselines3"
            groups.setdefault(key, []).append(run)
    for key, runs in sorted(groups.items()):
        means = [run["final"]["mean"] for run in runs]
        middle, seconds = (statistics.mean(x) for x in (means, [run["seconds"] for run in runs]))
        each = " ".join(f"{mean:.0f}" for mean in means)
        print(f"{key[0]:<32}{key[1]:>9} {key[2]:<4} {key[3]:<24}{middle:>9.1f} ({each}) {seconds:>7.0f} s")
        for run in runs:
            if "last" in run:
                print("   ", line(run))


if __name__ == "__main__":
    main()
