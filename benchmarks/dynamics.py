"""The learned model and the agent that learns through it: one row at a time, recorded when it is finished.

    python benchmarks/dynamics.py                               # what is recorded
    python benchmarks/dynamics.py --list
    python benchmarks/dynamics.py --row inverted_pendulum-0 --threads 1
    python benchmarks/dynamics.py --row model-hopper --threads 1

appends a line to `benchmarks/curves/dynamics.jsonl`; a row that is there is not run again. A training lies in
`runs/dynamics/<row>/`: Ctrl-C or SIGTERM ends it after the current iteration with everything saved, and the
same command goes on, bit for bit. `curve` has steps, seconds of training, and the return of 20 deterministic
episodes; `final` are 100 episodes of the last policy.

`model-<task>`: one-step error, open loop, coverage and ends of svg's model on a fixed seeded data set, 48
simulations: twice the shipped policy with noise from 0 to .6 (20) and random actions (4). 19 of the first
24 are trained on, the 29 others judge: of either kind, or most ends and what is far from the policy would
not be judged. Errors are in deviations of the training rows. Beside it, on the same rows with as many
gradient steps, a model with mbrl-lib's published settings (conf/dynamics_model/gaussian_mlp_ensemble.yaml,
overrides/mbpo_hopper.yaml) in our code: its 5 elites are not chosen, and it has no classifier of ends there.

`go2_walk` judges the model of its training on fresh episodes of its policy. `speed` measures updates a
second in turns.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robokit.algos import svg
from robokit.dynamics.ensemble import deal
from robokit.dynamics.fit import DECAY, Fit
from robokit.dynamics.imagine import Model
from robokit.env.env import Env, make
from robokit.evaluation.episodes import onnx_actor, run_episodes, torch_actor
from robokit.export.file import Exported
from robokit.learning.protocols import Actor
from robokit.seeds import seed as seed_of
from robokit.task.lookup.find import load_task
from robokit.training.hooks import Event
from robokit.training.loop import train
from robokit.training.run import Run
from robokit.training.setup.build import Setup, build_learner, options
from robokit.training.setup.provenance import create
from robokit.training.setup.restore import rebuild

CURVES, RUNS = Path(__file__).parent / "curves/dynamics.jsonl", Path("runs/dynamics")
CHECKED, JUDGED = 20, 100  # episodes of a point of the curve; of the last policy

# row -> task, seed, algorithm, changes of the recipe, steps between two points
TRAININGS: dict[str, tuple[str, int, str, dict[str, Any], int]] = {
    **{f"inverted_pendulum-{s}": ("inverted_pendulum", s, "svg", {"ends": "learned"}, 250) for s in range(3)},
    **{
        f"inverted_pendulum-sac-{s}": (
            "inverted_pendulum", s, "sac",
            {"steps": 3000, "learning_starts": 1000, "lr": 1e-3, "hidden": (64, 64), "init_temperature": 0.1,
             "critics": 5, "reduce": "mean", "layer_norm": True, "activation": "silu", "normalize_obs": True,
             "tau": 0.02},
            250,
        )
        for s in range(3)
    },
    **{f"half_cheetah-{s}": ("half_cheetah", s, "svg", {}, 10_000) for s in range(2)},
    **{f"hopper-{s}": ("hopper", s, "svg", {}, 10_000) for s in range(2)},
    "hopper-learned-0": ("hopper", 0, "svg", {"ends": "learned"}, 10_000),
    # equal to gymnasium's Walker2d-v4, whose right foot has half the friction
    "walker2d-v4-0": ("walker2d:SpeedLimit", 0, "svg", {"limit_rule": "off", "steps": 100_000}, 10_000),
    "half_cheetah-mbpo-0": (
        "half_cheetah", 0, "svg", {"lookahead": 0, "imagined": 1, "utd": 20.0, "real": 0.05}, 10_000
    ),
    "speed_limit-0": ("half_cheetah:SpeedLimit", 0, "svg", {}, 10_000),
    "go2_walk-0": (
        "go2_walk", 0, "svg", {"num_envs": 64, "steps": 200_000, "learning_starts": 6400}, 20_000
    ),
}  # fmt: skip


def judge(policy: Actor, task: str, episodes: int, number: int) -> dict[str, Any]:
    """Return and costs of deterministic episodes."""
    found = load_task(task)
    ran = run_episodes(
        Env(found, episodes, seed=seed_of("evaluation", number), threads=1), torch_actor(policy)
    )
    costs = {name: float(cost.mean()) for name, cost in ran.costs.items()}
    own = {"costs": costs} if costs else {}
    return {"return": float(ran.returns.mean()), "lowest": float(ran.returns.min()), **own}


def training(row: str, threads: int) -> dict[str, Any] | None:
    """Train, or go on; None if it was stopped before its end."""
    name, number, algo, changes, every = TRAININGS[row]
    task, folder = load_task(name), RUNS / row
    begun = sorted(folder.glob("*/*/config.json"))
    if begun:
        run = Run.open(begun[-1].parent)
        learner = rebuild(run, task)
    else:
        setup = Setup(algo=algo, seed=number, threads=threads, torch_threads=threads)
        learner = build_learner(task, setup, replace(options(task, algo), **changes))
        run = create(folder, learner, setup, None)
    points = run.path / "points.jsonl"

    def watch(event: Event) -> None:
        after = event.done.steps
        if event.kind == "iteration" and after // every > (after - learner.steps_per_iteration) // every:
            found = judge(learner.policy, name, CHECKED, 0)
            line = {"steps": after, "seconds": round(event.done.seconds, 1), **found}
            logged = {k: round(v, 4) for k, v in event.metrics.items() if k.startswith(("loss/", "limit/"))}
            print(row, json.dumps(line | logged), flush=True)
            with points.open("a") as file:
                file.write(json.dumps(line) + "\n")

    outcome = train(learner, run, run.steps, hooks=[watch])
    if outcome.stop is not None:
        return None
    curve = {p["steps"]: p for p in map(json.loads, points.read_text().splitlines())}
    final = judge(learner.policy, name, JUDGED, 1)
    best = max(curve.values(), key=lambda point: point["return"])
    return {"task": name, "seed": number, "algo": algo, "changes": changes, "seconds": outcome.done.seconds,
            "curve": list(curve.values()), "best": best, "final": final}  # fmt: skip


# -- the model alone, on a fixed data set ------------------------------------------------------------

NOISE = 2 * [*torch.linspace(0, 0.6, 20), *[torch.inf] * 4]  # of a simulation's actions; inf: random ones
HELD_OUT, HORIZONS = (2, 8, 14, 19, *range(23, 48)), (1, 5, 10, 20, 50)
TRAINED = [n for n in range(48) if n not in HELD_OUT]
DATA = {"hopper": 1500, "half_cheetah": 1000}  # control steps of each simulation
STEPS = 2500  # gradient steps; the last fifth at a fifth of the rate


@torch.no_grad()
def recorded(task: str) -> tuple[Env, dict[str, Tensor]]:
    """Control steps (T, N, ...) of the shipped policy with noise from 0 to .6, and of random actions."""
    noise, rng = torch.tensor(NOISE), torch.Generator().manual_seed(0)
    env, act = (
        make(task, len(noise), seed=0, threads=1),
        onnx_actor(Exported.open(Path(f"policies/{task}.onnx"))),
    )
    rows, is_first = list[dict[str, Tensor]](), torch.ones(len(noise), dtype=torch.bool)
    for _ in range(DATA[task]):
        clean = act(env, is_first).float()
        drawn = clean + noise[:, None].nan_to_num(posinf=0.0) * torch.randn(clean.shape, generator=rng)
        uniform = 2 * torch.rand(clean.shape, generator=rng) - 1
        action = torch.where(noise.isinf()[:, None], uniform, drawn).clamp(-1, 1)
        row = {"obs": env.obs, "action": action}
        step = env.step(action)
        own = {"next": step.final_obs, "reward": step.reward, "ended": step.terminated, "done": step.done}
        rows.append(row | own)
        is_first = step.done
    return env, {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def fitted(env: Env, data: dict[str, Tensor], published: bool) -> tuple[Model, float]:
    """A model of the rows that are not held out, and its CPU seconds; published: mbrl-lib's settings."""
    torch.manual_seed(0)
    members, hidden = (7, (200,) * 4) if published else (svg.Config.members, svg.Config.model_hidden)
    model = Model(env, 0, 0, members, hidden, learned=True)
    obs, action, final, reward, ended = (
        data[name][:, TRAINED].flatten(0, 1) for name in ("obs", "action", "next", "reward", "ended")
    )
    x, y = model.inputs(obs, obs[:, :0], action), model.outputs(obs, final, reward, obs[:, :0])
    model.net.fit_scales(x, y, final)
    if published:  # plain likelihood, no layer norm, inputs alone normalised, constant bounds
        model.net.beta, model.net.net.layer_norm = 0.0, False
        model.net.out.mean.zero_()
        model.net.out.std.fill_(1.0)
        for name, bound in (("low", -10.0), ("high", 0.5)):
            delattr(model.net, name)
            model.net.register_buffer(name, torch.full((model.net.outputs,), bound))
    fit, everyone = Fit(model.net, 1e-3), torch.ones(members, 256).bool()
    rng = torch.Generator().manual_seed(1)
    if published:
        fit.decay.mul_(5e-5 / DECAY)
    began = time.process_time()
    for step in range(STEPS):
        fit.lr.fill_(1e-3 if step < 0.8 * STEPS else 2e-4)
        picked = torch.randint(0, len(x), (members, 256), generator=rng)
        fit.update(x[picked], y[picked], everyone, final[picked], ended[picked])
    return model, time.process_time() - began


@torch.no_grad()
def accuracy(model: Model, data: dict[str, Tensor]) -> dict[str, Any]:
    """One-step error, coverage, rank correlation, ends and open loop of a model on what was held out."""
    net, frames = model.net, model.frames
    held = [data[name][:, list(HELD_OUT)] for name in ("obs", "action", "next", "reward", "ended", "done")]
    obs, action, final, reward, ended, _ = (x.flatten(0, 1) for x in held)
    y = model.outputs(obs, final, reward, obs[:, :0])
    mean, log_std = net(model.inputs(obs, obs[:, :0], action))
    mean, noise = net.out.back(mean), (log_std.exp() * net.out.std).square().mean(0)
    doubt, joint = mean.var(0, correction=0), mean.mean(0)
    trained, after, gain = (data[name][:, TRAINED].flatten(0, 1) for name in ("obs", "next", "reward"))
    error, unit = y - joint, model.outputs(trained, after, gain, trained[:, :0]).std(0)
    z = error.abs() / (noise + doubt).sqrt()
    p = frames.predicted
    far, apart = (error.abs() / unit)[:, :p].mean(-1), (doubt.sqrt() / unit)[:, :p].mean(-1)
    nll = (0.5 * error.square() / (noise + doubt) + 0.5 * (noise + doubt).log() - unit.log()).mean()
    says = net.logit(final).sigmoid().mean(0) > 0.5
    hit = float((says & ended).sum())
    return {
        "nll": float(nll), "one step": float((error / unit).square().mean(0).sqrt()[:p].mean()),
        "reward": float((error / unit).square().mean(0).sqrt()[p]),
        "coverage 50": float((z < 0.6745).float().mean()), "coverage 90": float((z < 1.6449).float().mean()),
        "rank correlation": float(torch.corrcoef(torch.stack([ranks(apart), ranks(far)]))[0, 1]),
        "ends": int(ended.sum()), "precision": hit / max(1.0, float(says.sum())),
        "recall": hit / max(1.0, float(ended.sum())), "open loop": open_loop(model, held, trained.std(0)),
    }  # fmt: skip


def open_loop(model: Model, held: list[Tensor], unit: Tensor) -> dict[str, dict[str, float]]:
    """RMS error / unit (O,) of the observation after so many steps, beside two naive guesses."""
    obs, action, final, *_, done = held
    longest = HORIZONS[-1]
    starts = [(t, n) for n in range(obs.shape[1]) for t in range(1, len(obs) - longest, 37)
              if not done[t - 1 : t + longest, n].any()]  # fmt: skip
    t, n = torch.tensor(starts).T
    frame, first = obs[t, n].expand(model.net.members, -1, -1), obs[t, n]
    pace, found = first - obs[t - 1, n], dict[str, dict[str, float]]()
    for h in range(1, longest + 1):
        mean = model.net(
            model.inputs(frame, frame[..., :0], action[t + h - 1, n].expand(*frame.shape[:2], -1))
        )[0]
        frame = frame + model.net.out.back(mean)[..., : obs.shape[-1]]
        if h in HORIZONS:
            true = final[t + h - 1, n]
            guesses = {"model": frame.mean(0), "stands still": first, "constant velocity": first + h * pace}
            found[str(h)] = {k: float(((g - true) / unit).square().mean().sqrt()) for k, g in guesses.items()}
    return {"windows": {"number": float(len(starts))}, **found}


def ranks(x: Tensor) -> Tensor:
    return x.argsort().argsort().float()


def model_row(task: str) -> dict[str, Any]:
    env, data = recorded(task)
    found = dict[str, Any]()
    for name, published in (("robokit", False), ("mbrl-lib's settings", True)):
        model, seconds = fitted(env, data, published)
        found[name] = {"cpu seconds": seconds, **accuracy(model, data)}
        print(name, json.dumps(found[name]), flush=True)
    return {"task": task, "transitions": data["reward"].numel(), **found}


# -- go2_walk: held columns and open loop ----------------------------------------------------------------


@torch.no_grad()
def go2_row(threads: int) -> dict[str, Any] | None:
    """The model of the training go2_walk-0 in fresh episodes of its policy: the error of each term."""
    row = training("go2_walk-0", threads)
    if row is None:
        return None
    run = Run.open(sorted((RUNS / "go2_walk-0").glob("*/*/config.json"))[-1].parent)
    learner: Any = rebuild(run, load_task("go2_walk"))
    run.resume(learner)
    model, policy = learner.agent.model, learner.policy
    env, rng = (
        make("go2_walk", 64, seed=seed_of("evaluation", 2), threads=1),
        torch.Generator().manual_seed(0),
    )
    belief, is_first, rows = torch.zeros(64, policy.belief_size), torch.ones(64, dtype=torch.bool), []
    for _ in range(300):
        action, belief = policy.sample(env.obs, belief, is_first, torch.randn(64, env.act_dim, generator=rng))
        row_ = {"obs": env.obs, "action": action.clamp(-1, 1)}
        step = env.step(action)
        rows.append(row_ | {"next": step.final_obs, "done": step.done})
        is_first = step.done
    data = {name: torch.stack([r[name] for r in rows]) for name in rows[0]}
    return row | {"terms": by_term(model, data)}


def by_term(model: Model, data: dict[str, Tensor]) -> dict[str, Any]:
    """Errors after 1 and 10 steps: of predicted terms beside two naive guesses, of others the largest."""
    frames, (obs, action, final, done) = model.frames, data.values()
    starts = [(t, n) for n in range(obs.shape[1]) for t in range(1, len(obs) - 10, 17)
              if not done[t - 1 : t + 10, n].any()]  # fmt: skip
    t, n = torch.tensor(starts).T
    frame, first, found = obs[t, n], obs[t, n], dict[str, Any]()
    pace = first - obs[t - 1, n]
    members = frame.expand(model.net.members, -1, -1)
    for h in range(1, 11):
        given = action[t + h - 1, n]
        mean = model.net(torch.stack([model.inputs(x, x[:, :0], given) for x in members]))[0]
        change = model.net.out.back(mean)[..., : frames.predicted]
        members = torch.stack([frames.next(x, given, c) for x, c in zip(members, change, strict=True)])
        true = final[t + h - 1, n]
        for name, kind in frames.kinds.items() if h in (1, 10) else ():
            guess, own = frames.split(members.mean(0))[name], frames.split(true)[name]
            if kind == "sensed":
                still, steady = frames.split(first)[name], frames.split(first + h * pace)[name]
                parts = {"model": guess, "stands still": still, "constant velocity": steady}
                found[f"{name} {h}"] = {k: float((x - own).square().mean().sqrt()) for k, x in parts.items()}
            else:  # a command that was redrawn on the way is another
                kept = (commands(frames, obs[t + h - 1, n]) == commands(frames, first)).all(-1)
                found[f"{name} {h}"] = {"largest": float((guess - own)[kept].abs().max())}
    return {"windows": len(starts), **found}


def commands(frames: Any, frame: Tensor) -> Tensor:
    parts = frames.split(frame)
    return torch.cat([parts[name] for name, kind in frames.kinds.items() if kind == "command"], -1)


# -- speed -----------------------------------------------------------------------------------------------


def speed_row(threads: int) -> dict[str, Any]:
    """Updates a second of SAC and svg on half_cheetah in turns, and imagined control steps a second."""
    kinds = {"sac": ("sac", {}), "svg": ("svg", {}), "svg, lookahead 5": ("svg", {"lookahead": 5}),
             "svg eager": ("svg", {"compile": False}),
             "mbpo": ("svg", {"lookahead": 0, "imagined": 1})}  # fmt: skip
    learners, first, task = dict[str, Any](), dict[str, float](), load_task("half_cheetah")
    for name, (algo, changes) in kinds.items():
        own = replace(options(task, algo), steps=100_000, learning_starts=600, **{"compile": True, **changes})
        learner: Any = build_learner(task, Setup(algo=algo, threads=threads, torch_threads=threads), own)
        learner.horizon = learner.steps_per_iteration = 60
        began = time.perf_counter()
        while not learner.gradients:
            learner.iterate()
        learners[name], first[name] = learner, time.perf_counter() - began
    speeds: dict[str, list[float]] = {name: [] for name in learners}
    for _ in range(5):
        for name, learner in learners.items():
            began, before = time.perf_counter(), learner.gradients
            learner.iterate()
            speeds[name].append((learner.gradients - before) / (time.perf_counter() - began))
    medians = {name: statistics.median(x) for name, x in speeds.items()}
    ratios = {
        n: statistics.median(a / b for a, b in zip(x, speeds["sac"], strict=True)) for n, x in speeds.items()
    }
    return {"updates a second": medians, "of sac's": ratios, "first, s": first, "load": os.getloadavg()[0],
            "imagined steps a second": imagined_speed(learners["svg"])}  # fmt: skip


def imagined_speed(learner: Any) -> dict[str, float]:
    """Control steps a second of 256 imagined episodes, by one member each and by all, without a gradient."""
    model, found = learner.agent.model, dict[str, float]()
    frame = torch.zeros(256, model.frames.size)
    action, noise = torch.zeros(256, model.frames.act_dim), torch.zeros(256, model.frames.predicted)
    for name, spread in (("one member", False), ("all members", True)):
        with torch.no_grad():
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < 2.0:
                model.step(
                    model.net, frame, frame[:, :0], action, noise, deal(256, model.net.members, 0), spread
                )
                count += 256
        found[name] = count / (time.perf_counter() - began)
    return found


# -- rows ------------------------------------------------------------------------------------------------


def rows(threads: int) -> dict[str, Callable[[], dict[str, Any] | None]]:
    """What can be recorded, in the order of its worth."""
    own: dict[str, Callable[[], dict[str, Any] | None]] = {
        r: partial(training, r, threads) for r in TRAININGS
    }
    own["go2_walk-0"] = partial(go2_row, threads)
    models = {f"model-{task}": partial(model_row, task) for task in DATA}
    return {**own, **models, "speed": partial(speed_row, threads)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--row", nargs="*", default=[])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    known = rows(given.threads)
    if given.list:
        print(*known, sep="\n")
        return
    done = (
        {json.loads(line)["row"]: line for line in CURVES.read_text().splitlines()} if CURVES.exists() else {}
    )
    for name in given.row:
        if name in done:
            print("recorded:", done[name])
            continue
        found = known[name]()
        if found is None:
            print(f"{name}: stopped and saved; the same command goes on")
            return
        machine = {"machine": platform.processor() or platform.machine(), "threads": given.threads}
        with CURVES.open("a") as file:
            file.write(
                json.dumps({"row": name, "date": time.strftime("%Y-%m-%d"), **machine, **found}) + "\n"
            )
        print(name, json.dumps({k: v for k, v in found.items() if k != "curve"}), flush=True)
    if not given.row:
        print(*done.values(), sep="\n")


if __name__ == "__main__":
    main()
