"""A GPU: physics beside raw mujoco_warp, training by phase, time to walk, gradient steps beside SB3's.

    python benchmarks/gpu.py --out gpu.jsonl                    # all, in at most about eight minutes
    python benchmarks/gpu.py physics --sizes 4096 --tasks go2_walk
    python benchmarks/gpu.py walk --cap 300 --budget 600
    python benchmarks/gpu.py --device cpu --sizes 4 --quick     # every line of it, on a machine without a GPU

`physics`: control steps a second of `Env.step` with random actions drawn on the device, and of mujoco_warp
alone with the same model, buffers, timesteps and passes, the same actions from the same states, as one CUDA
graph: without restarts, and with a masked `reset_data` and a `forward` in each control step. They take turns;
a figure is the median of the blocks, a ratio the median of the rounds' ratios of ours to it. Ours has noise,
pushes, rewards, observations and randomised models besides.

`learn`: PPO, SAC and TD3 on go2_walk, their recipes. Control steps a second of whole iterations; then, in
other iterations, the share of each phase on the device's own timeline (marks are CUDA events, which nothing
waits for until the end; targets of SAC and TD3 belong to their gradient steps), memory, and what it takes
until the first gradient step is done. `--cold` does that in processes of their own, from the command to that
step: with empty caches of Warp and torch, and again with what the first left there.

`walk`: PPO until it walks: in 300 nominal episodes on MuJoCo's CPU engine at most 1 % falls, 0.15 m/s error
of the 0.5 s mean and 0.12 rad/s of the yaw rate, what benchmarks/RESULTS.md asks of the shipped policy. The
clock has compiling in it, and stops for an evaluation.

`updates`: gradient steps a second, batch 256, 256x256 networks, HalfCheetah: ours compiled, ours eager, and
Stable-Baselines3's `train()` on the same device, if it is installed.

Each row is printed, and with --out appended as JSON, when it is known: a run that is cut off keeps what it
measured. A part that would begin after its section's share of --budget is skipped, and says so: ask for that
section alone. Leave the machine alone.
"""

import argparse
import contextlib
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robokit.env.env import Env
from robokit.evaluation.episodes import run_episodes, torch_actor
from robokit.seeds import seed
from robokit.task.lookup.find import load_task
from robokit.training.setup.build import Built, Setup, build_learner, options as recipe

SHARES = {"physics": 0.34, "learn": 0.28, "updates": 0.13, "walk": 0.25}  # of the budget
SEEN, BEFORE = 32, 64  # control steps that are repeated, and before them
WALKER, CHEETAH = "go2_walk", "half_cheetah"
WALKS = {"falls": 0.01, "mean_velocity_error": 0.15, "mean_turn_error": 0.12}  # share, m/s, rad/s
FILLED, AT_ONCE = 10_000, 20  # transitions of random actions; gradient steps between two looks at the clock
SMALL: dict[str, dict[str, Any]] = {  # with --quick
    "ppo": {"num_envs": 4, "minibatch": 48, "epochs": 1, "hidden": (16,)},
    "sac": {"num_envs": 4, "replay": 2_000, "hidden": (16,), "batch": 16, "utd": 4.0, "learning_starts": 100},
}
SMALL["td3"] = SMALL["sac"]
PHASES = {  # what a phase's calls are, of a learner
    "ppo": {"policy": "act", "environment": "env.step", "targets": "targets", "gradient": "update"},
    "sac": {"policy": "act", "environment": "env.step", "memory": "replay.add", "gradient": "learn"},
}
PHASES["td3"] = PHASES["sac"]
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "WARP_CACHE_PATH", "CUDA_CACHE_PATH")

Steps = Callable[[int], object]  # takes so many steps


class Table:
    """Rows, as they come; and how much time is left."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.file, self.began = options.out, time.perf_counter()
        chosen = {name: share for name, share in SHARES.items() if name in options.sections}
        self.ends, total = dict[str, float](), 0.0
        for name, share in chosen.items():  # who is early leaves the rest to those after
            total += share
            self.ends[name] = self.began + options.budget * total / sum(chosen.values())

    def row(self, section: str, what: str, figure: str, **numbers: Any) -> None:
        print(f"{section:<9}{what:<45} {figure}", flush=True)
        if self.file:
            row = {"section": section, "what": what, **numbers}
            with self.file.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def left(self, section: str) -> float:
        return self.ends[section] - time.perf_counter()

    @contextlib.contextmanager
    def part(self, section: str, what: str) -> Iterator[None]:
        """One that fails costs its own rows alone."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 the others shall still be measured
            self.row(section, what, f"failed: {type(error).__name__}: {error}", failed=str(error))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def late(self, section: str, what: str) -> bool:
        if self.left(section) > 0:
            return False
        self.row(section, what, "skipped: its share of the budget is spent", skipped=True)
        return True


class Contestant:
    """Something that takes steps of `size` simulations; `count` of them last about --seconds."""

    def __init__(self, name: str, size: int, steps: Steps, options: argparse.Namespace) -> None:
        least = AT_ONCE if not options.quick else 2
        self.name, self.size, self.steps, self.count = name, size, steps, least
        self.device = torch.device(options.device)
        self.rate()  # compiles, fills caches
        self.count = max(least, round(options.seconds * self.rate() / size))

    def rate(self) -> float:
        wait(self.device)
        start = time.perf_counter()
        self.steps(self.count)
        wait(self.device)
        return self.size * self.count / (time.perf_counter() - start)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounds(contestants: list[Contestant], count: int) -> Iterator[tuple[Contestant, float, float]]:
    """Each with its median rate, and the median ratio of the first one's to it."""
    rates = np.array([[c.rate() for c in contestants] for _ in range(count)])
    for i, one in enumerate(contestants):
        yield one, float(np.median(rates[:, i])), float(np.median(rates[:, 0] / rates[:, i]))


# -- physics -----------------------------------------------------------------------------------------


class Ours:
    """Env.step with random actions; and what it did in SEEN control steps, for another to repeat."""

    def __init__(self, task: str, size: int, options: argparse.Namespace) -> None:
        how = {"sim": "warp", "device": options.device, "compile": options.compile}
        self.env = Env(load_task(task), size, **how)
        self.rng = torch.Generator(self.env.device).manual_seed(0)
        self.env.reset(stagger=True)
        self.step(BEFORE if not options.quick else 2)
        sim, kept = self.env.sim, list[tuple[torch.Tensor, torch.Tensor]]()
        self.start = sim.qpos.clone(), sim.qvel.clone()
        for _ in range(SEEN if not options.quick else 2):
            done = self.step(1)
            kept.append((sim.ctrl.clone(), done))
        self.ctrl, self.done = (torch.stack(column) for column in zip(*kept, strict=True))

    def step(self, count: int) -> torch.Tensor:
        """Who restarted in the last of them, (N,)."""
        env, done = self.env, torch.zeros(0)
        for _ in range(count):
            shape = env.num_envs, env.act_dim
            action = 2 * torch.rand(shape, generator=self.rng, device=env.device) - 1
            done = env.step(action).done
        return done


class Raw:
    """mujoco_warp alone, doing what `ours` did."""

    def __init__(self, ours: Ours, restarts: bool) -> None:
        import mujoco_warp as mjw
        import warp as wp

        self.mjw, self.wp, self.ours, self.restarts = mjw, wp, ours, restarts
        sim: Any = ours.env.sim
        self.cuda = sim.device.type == "cuda"
        # a stream of its own: what is the default one to torch cannot be captured
        self.stream = torch.cuda.Stream(sim.device) if self.cuda else None
        with self.here():
            self.model = mjw.put_model(sim.model)
            self.model.opt.warn_overflow = 0  # it would print
            room = {"nconmax": sim.nconmax, "njmax": sim.njmax}
            self.data = mjw.make_data(sim.model, sim.num_envs, **room)
            self.ctrl, self.qpos, self.qvel = (
                wp.to_torch(getattr(self.data, name)) for name in ("ctrl", "qpos", "qvel")
            )
            self.mask = torch.zeros(sim.num_envs, dtype=torch.bool, device=sim.device)
            self.wanted = wp.from_torch(self.mask)
            self.passes, self.restart = self.captured(self._passes), self.captured(self._restart)

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Torch and Warp on one stream."""
        with contextlib.ExitStack() as stack:
            if self.stream is None:
                stack.enter_context(self.wp.ScopedDevice("cpu"))
            else:
                self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
                stack.enter_context(torch.cuda.stream(self.stream))
                stack.enter_context(self.wp.ScopedStream(self.wp.stream_from_torch(self.stream)))
            yield

    def captured(self, function: Callable[[], None]) -> Callable[[], object]:
        """As one CUDA graph."""
        function()  # compiles its kernels
        if not self.cuda:
            return function
        with self.wp.ScopedCapture() as capture:
            function()
        return lambda: self.wp.capture_launch(capture.graph)

    def _passes(self) -> None:
        for _ in range(self.ours.env.nstep):
            self.mjw.step(self.model, self.data)
        if not self.ours.env.task.lag:
            self.mjw.fwd_position(self.model, self.data, factorize=False)
            self.mjw.sensor_pos(self.model, self.data)
            self.mjw.fwd_velocity(self.model, self.data)
            self.mjw.sensor_vel(self.model, self.data)

    def _restart(self) -> None:
        self.mjw.reset_data(self.model, self.data, self.wanted)
        self.mjw.forward(self.model, self.data)

    def step(self, count: int) -> None:
        seen = len(self.ours.ctrl)
        with self.here():
            for i in range(count):
                if i % seen == 0:
                    self.qpos.copy_(self.ours.start[0])
                    self.qvel.copy_(self.ours.start[1])
                self.ctrl.copy_(self.ours.ctrl[i % seen])
                self.passes()
                if self.restarts:
                    self.mask.copy_(self.ours.done[i % seen])
                    self.restart()


def physics(options: argparse.Namespace, table: Table) -> None:
    for size in options.sizes:
        for task in options.tasks:
            what = f"{task}, N = {size}"
            if not table.late("physics", what):
                with table.part("physics", what):
                    _physics(task, size, options, table)


def _physics(task: str, size: int, options: argparse.Namespace, table: Table) -> None:
    ours = Ours(task, size, options)
    raw = {"mujoco_warp": Raw(ours, False), "mujoco_warp, restarts": Raw(ours, True)}
    steps = {"robokit": ours.step, **{name: one.step for name, one in raw.items()}}
    contestants = [Contestant(name, size, step, options) for name, step in steps.items()]
    for one, rate, ratio in rounds(contestants, options.rounds):
        beside = "" if one.name == "robokit" else f"; ours / it {ratio:.2f}"
        about = {"task": task, "size": size, "who": one.name, "rate": rate, "ours_to_it": ratio}
        table.row("physics", f"{task}, N = {size}, {one.name}", f"{rate:,.0f} steps/s{beside}", **about)
    share = ours.done.float().mean().item()
    table.row("physics", f"{task}, N = {size}", f"{share:.1%} restart in a control step", restarting=share)


# -- training ----------------------------------------------------------------------------------------


class Phases:
    """Time on the device's timeline that each phase took."""

    def __init__(self, learner: Any, algo: str, device: torch.device) -> None:
        self.device, self.marks = device, dict[str, list[tuple[Any, Any]]]()
        self.put_back: list[tuple[Any, str, Any]] = []
        for phase, path in PHASES[algo].items():
            *owners, name = path.split(".")
            owner = learner
            for part in owners:
                owner = getattr(owner, part)
            self.marks[phase] = []
            self.put_back.append((owner, name, getattr(owner, name)))
            setattr(owner, name, self._marked(getattr(owner, name), self.marks[phase]))

    def _marked(self, function: Callable[..., Any], marks: list[tuple[Any, Any]]) -> Callable[..., Any]:
        def call(*inputs: Any, **named: Any) -> Any:
            before = self.mark()
            result = function(*inputs, **named)
            marks.append((before, self.mark()))
            return result

        return call

    def mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, pair: tuple[Any, Any]) -> float:
        a, b = pair
        return a.elapsed_time(b) / 1000 if self.device.type == "cuda" else b - a

    def close(self) -> dict[str, float]:
        """Seconds of each."""
        wait(self.device)
        for owner, name, value in self.put_back:
            setattr(owner, name, value)
        return {phase: sum(map(self.between, marks)) for phase, marks in self.marks.items()}


def config_of(algo: str, options: argparse.Namespace) -> Any:
    """The recipe of go2_walk; PPO's with as many gradient steps to a rollout of more simulations."""
    config = recipe(load_task(WALKER), algo)
    if algo == "ppo":
        more = options.num_envs // config.simulations
        many = {"num_envs": options.num_envs, "minibatch": config.minibatch * more}
        config = replace(config, **(many if more else {}), steps=options.walk_steps)
    if options.quick:
        config = replace(config, **SMALL[algo])
    return replace(config, compile=options.compile)


def first(algo: str, options: argparse.Namespace) -> tuple[Built, float]:
    """A learner that has done its first gradient step, and the seconds that took."""
    began, task = time.perf_counter(), load_task(WALKER)
    setup = Setup(algo=algo, sim="warp", device=options.device, torch_threads=1)
    learner: Any = build_learner(task, setup, config_of(algo, options))
    done = 0
    while not done:
        learner.iterate()
        done = getattr(learner, "gradients", 1)
    wait(learner.env.device)
    return learner, time.perf_counter() - began


def learn(options: argparse.Namespace, table: Table) -> None:
    for algo in options.algos:
        if not table.late("learn", algo):
            with table.part("learn", algo):
                _learn(algo, options, table)
    for algo in options.cold:
        if not table.late("learn", f"{algo}, cold"):
            with table.part("learn", f"{algo}, cold"):
                cold(algo, options, table)


def _learn(algo: str, options: argparse.Namespace, table: Table) -> None:
    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    learner, ready = first(algo, options)
    device, what = learner.env.device, f"{algo}, N = {learner.env.num_envs}"
    table.row("learn", what, f"{ready:.1f} s to the first gradient step, caches as they were", ready=ready)
    learner.iterate()  # with all its gradient steps
    iterations, seconds = 0, 0.0
    began = time.perf_counter()
    while seconds < options.train_seconds or not iterations:
        learner.iterate()
        iterations, seconds = iterations + 1, time.perf_counter() - began
    rate = iterations * learner.steps_per_iteration / seconds
    table.row("learn", what, f"{rate:,.0f} control steps/s", algo=algo, rate=rate, seconds=seconds)
    phases = Phases(learner, algo, device)
    start = phases.mark()
    for _ in range(max(1, iterations // 3)):
        learner.iterate()
    end = phases.mark()
    parts = phases.close()
    total = phases.between((start, end))
    shares = {phase: took / total for phase, took in parts.items()}
    shares["rest"] = 1 - sum(shares.values())
    said = ", ".join(f"{phase} {share:.0%}" for phase, share in shares.items())
    table.row("learn", what, said, algo=algo, shares=shares, seconds=total)
    if device.type == "cuda":
        used = memory(device)
        said = ", ".join(f"{name} {number:.2f}" for name, number in used.items())
        table.row("learn", what, f"memory in GiB: {said}", algo=algo, memory=used)


def memory(device: torch.device) -> dict[str, float]:
    """GiB: what torch took at most, what Warp has now, and how much of the device is in use, by whomever."""
    import warp as wp

    free, whole = torch.cuda.mem_get_info(device)
    warp = wp.get_mempool_used_mem_current(f"cuda:{device.index or 0}")
    found = {"torch": torch.cuda.max_memory_reserved(device), "warp": warp, "in use": whole - free}
    return {name: number / 2**30 for name, number in found.items()}


def cold(algo: str, options: argparse.Namespace, table: Table) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        caches = {name: str(Path(folder) / name) for name in CACHES}
        for state in ("empty", "warm"):
            began = time.perf_counter()
            command = [sys.executable, __file__, *sys.argv[1:], "--start", algo]
            subprocess.run(
                command, env=os.environ | caches, check=True, timeout=max(60.0, table.left("learn"))
            )
            seconds = time.perf_counter() - began
            said = f"{seconds:.1f} s from the command to the first gradient step, {state} caches"
            table.row("learn", f"{algo}, cold", said, algo=algo, caches=state, seconds=seconds)


# -- walking -----------------------------------------------------------------------------------------


def walk(options: argparse.Namespace, table: Table) -> None:
    if not table.late("walk", "ppo"):
        with table.part("walk", "ppo"):
            _walk(options, table)


def _walk(options: argparse.Namespace, table: Table) -> None:
    learner, seconds = first("ppo", options)
    done = new = learner.steps_per_iteration
    every = max(new, options.walk_steps // options.evaluations)
    walks, cap = False, min(options.cap, table.left("walk"))
    while not walks and done < learner.config.steps and seconds < cap:
        began = time.perf_counter()
        learner.iterate()
        done, seconds = done + new, seconds + time.perf_counter() - began
        if done // every > (done - new) // every:
            found = judged(learner, options.episodes)
            walks = all(found[name] <= most for name, most in WALKS.items())
            said = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
            what = f"{done:,} steps, {seconds:.1f} s"
            table.row("walk", what, said, steps=done, seconds=seconds, walks=walks, **found)
    said = f"{'walks' if walks else 'does not walk yet'} after {done:,} steps and {seconds:.1f} s"
    table.row("walk", f"ppo, N = {learner.env.num_envs}", said, steps=done, seconds=seconds, walks=walks)


def judged(learner: Built, episodes: int) -> dict[str, float]:
    """Falls (a share of the episodes) and errors (m/s, rad/s) of the deterministic policy, nominal."""
    how: dict[str, Any] = {"seed": seed("evaluation"), "nominal": True, "device": learner.env.device}
    ran = run_episodes(Env(learner.env.task, episodes, **how), torch_actor(learner.policy))
    found = {"falls": ran.terminated / episodes}
    for name in list(WALKS)[1:]:
        counted = ran.metrics[name]["mean"]
        counted = counted[~np.isnan(counted)]  # of episodes that are over too soon
        found[name] = float(counted.mean()) if len(counted) else float("inf")
    return found


# -- gradient steps ----------------------------------------------------------------------------------


def updates(options: argparse.Namespace, table: Table) -> None:
    for algo in (algo for algo in options.algos if algo != "ppo"):
        if not table.late("updates", algo):
            with table.part("updates", algo):
                _updates(algo, options, table)


def _updates(algo: str, options: argparse.Namespace, table: Table) -> None:
    filled = FILLED if not options.quick else 300
    graph = "robokit, compiled" if options.compile else "robokit, eager as well"
    steps = {graph: gradients(algo, options, options.compile, filled)}
    steps["robokit, eager"] = gradients(algo, options, False, filled)
    if find_spec("stable_baselines3"):
        steps["stable_baselines3"] = of_sb3(algo, options, filled)
    else:
        table.row("updates", f"{algo}, stable_baselines3", "not installed: skipped", skipped=True)
    contestants = [Contestant(name, 1, step, options) for name, step in steps.items()]
    for one, rate, ratio in rounds(contestants, options.rounds):
        said = f"{rate:,.0f} gradient steps/s; the first / it {ratio:.2f}"
        about = {"algo": algo, "who": one.name, "rate": rate, "first_to_it": ratio}
        table.row("updates", f"{algo}, {one.name}", said, **about)


def gradients(algo: str, options: argparse.Namespace, compile: bool, filled: int) -> Steps:
    """Of a learner whose replay is filled with random actions."""
    fixed = {"num_envs": 50, "batch": 256, "utd": 1 / 50, "learning_starts": filled, "steps": 10**9}
    task = load_task(CHEETAH)
    config = replace(recipe(task, algo), **fixed, replay=10 * filled, compile=compile)
    setup = Setup(algo=algo, device=options.device, threads=1, torch_threads=1)
    learner: Any = build_learner(task, setup, config)
    while learner.replay.position * config.simulations < filled or not learner.gradients:
        learner.iterate()

    @torch.no_grad()
    def steps(count: int) -> None:
        before = learner.gradients
        for _ in range(count):
            learner.learn()
        learner.gradients = before  # they were not due

    return steps


def of_sb3(algo: str, options: argparse.Namespace, filled: int) -> Steps:
    from peers.sb3_offpolicy import BATCH, SPEED_ENV, make_model

    kind = ("stable_baselines3", algo.upper(), SPEED_ENV)
    model = make_model(*kind, learning_starts=filled, device=options.device)
    model.learn(filled)

    def steps(count: int) -> None:
        for begin in range(0, count, AT_ONCE):
            model.train(gradient_steps=min(AT_ONCE, count - begin), batch_size=BATCH)

    return steps


# -- all of it ---------------------------------------------------------------------------------------

SECTIONS = {"physics": physics, "learn": learn, "updates": updates, "walk": walk}


def about(options: argparse.Namespace) -> dict[str, Any]:
    packages = ("robokit", "torch", "mujoco", "mujoco-warp", "warp-lang", "stable-baselines3")
    found: dict[str, str | None] = {}
    for name in packages:
        with contextlib.suppress(ModuleNotFoundError):
            found[name] = version(name)
    cuda = options.device != "cpu"
    gpu = torch.cuda.get_device_name(options.device) if cuda else f"{platform.machine()} as its own device"
    return {"date": time.strftime("%Y-%m-%d"), "device": gpu, "cores": os.cpu_count(), "versions": found}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all")
    parser.add_argument("--budget", type=float, default=460.0, help="s, of all sections together")
    parser.add_argument("--out", type=Path, help="file that each row is appended to, as JSON")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None, help="on CUDA")
    parser.add_argument("--sizes", nargs="+", type=int, default=[4096, 1024, 8192, 16384])
    parser.add_argument("--tasks", nargs="+", default=[WALKER, CHEETAH], help="of physics")
    parser.add_argument("--algos", nargs="+", choices=list(PHASES), default=list(PHASES))
    parser.add_argument("--cold", nargs="*", choices=list(PHASES), default=["ppo"], help="empty caches")
    parser.add_argument("--num-envs", type=int, default=4096, help="of PPO")
    parser.add_argument("--walk-steps", type=int, default=24_000_000, help="of PPO's schedule")
    parser.add_argument("--cap", type=float, default=150.0, help="s of training to walk in")
    parser.add_argument("--evaluations", type=int, default=16, help="in --walk-steps")
    parser.add_argument("--episodes", type=int, default=300, help="of an evaluation")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a block")
    parser.add_argument("--train-seconds", type=float, default=6.0, help="of training that is timed")
    parser.add_argument("--quick", action="store_true", help="in miniature: its figures mean nothing")
    parser.add_argument("--start", choices=list(PHASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no section {sorted(unknown)}; there are {list(SECTIONS)}")
    options.sections = [name for name in SECTIONS if name in options.sections or not options.sections]
    if options.compile is None:
        options.compile = options.device != "cpu"
    if options.quick:
        small = {"rounds": 2, "seconds": 0.1, "train_seconds": 0.1, "episodes": 4}
        vars(options).update(small, walk_steps=4 * 24 * 3, evaluations=2)
    return options


def main() -> None:
    options = parsed()
    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no CUDA device; --device cpu --quick tries it all")
    torch.set_num_threads(1)
    if options.start:
        first(options.start, options)
        return
    table, said = Table(options), about(options)
    machine = f"{said['date']}, {said['device']}, {said['cores']} cores"
    packages = ", ".join(f"{name} {number}" for name, number in said["versions"].items())
    table.row("about", machine, packages, **said)
    for name in options.sections:
        SECTIONS[name](options, table)
    table.row("about", "in all", f"{time.perf_counter() - table.began:.0f} s")


if __name__ == "__main__":
    main()
