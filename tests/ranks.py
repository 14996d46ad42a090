"""What tests/compute/test_processes.py does in one process and, by `torchrun ranks.py FOLDER`, in two."""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from robokit import seeds
from robokit.algos import ppo, sac, svg, td3
from robokit.calls import training
from robokit.compute import processes
from robokit.env.env import Env
from robokit.learning.rollout import Rollout
from robokit.task.lookup.find import load_task
from robokit.training.setup.build import Setup

State = dict[str, Tensor]
SIMULATIONS, WINDOWS = 4, 32
SHARED = (
    "policy.",
    "critic.",
    "adam.",
    "model.",
    "model_adam.",
    "actor_adam.",
    "critic_adam.",
    "target",
    "temperature",
    "return_scale.",
)
COUNTED = ("multipliers.", "meter.recent", "meter.count", "schedule.", "beta")
SMALL: dict[str, Any] = {"num_envs": SIMULATIONS, "hidden": (16, 16), "compile": False}
OFF: dict[str, Any] = {
    **SMALL,
    "learning_starts": 200,
    "batch": WINDOWS,
    "utd": 0.1,
    "steps": 4000,
    "replay": 4000,
    "n_step": 3,
}
SLIDE = ppo.Config(**SMALL, horizon=8, minibatch=16, steps=32)
KINDS = {"sac": (sac.Learner, sac.Config), "td3": (td3.Learner, td3.Config)}
MEMBERS, FIRST = 3, 20  # of svg's model; its gradient steps before the policy's


def env(seed: int = 0) -> Env:
    """This process's share of the simulations."""
    task = load_task("hopper:SpeedLimit")
    own = seeds.seed("training", seed, processes.rank())
    return Env(task, SIMULATIONS // processes.world(), seed=own, threads=1)


def ppo_learner(**options: Any) -> ppo.Learner:
    own: dict[str, Any] = {"horizon": 16, "minibatch": 64, "epochs": 1, **SMALL, **options}
    return ppo.Learner(env(), ppo.Config(**own), seed=3)


def off_learner(algo: str, **options: Any) -> Any:
    learner, config = KINDS[algo]
    return learner(env(), config(**{**OFF, **options}), seed=3)


def svg_learner(**options: Any) -> svg.Learner:
    small = {"members": MEMBERS, "model_hidden": (16,), "model_every": 20.0, "imagined": 2, "n_step": 1}
    setattr(svg, "START", FIRST)  # noqa: B010
    return svg.Learner(env(), svg.Config(**{**OFF, **small, **options}), seed=3)


def shared(learner: Any) -> State:
    """What must be the same in every process."""
    return {k: v.contiguous() for k, v in learner.state_dict().items() if k.startswith((*SHARED, *COUNTED))}


def mine(x: Tensor, dim: int) -> Tensor:
    """This process's share of a dimension."""
    return x.chunk(processes.world(), dim)[processes.rank()].contiguous()


def ppo_step(rollout: State) -> State:
    """One iteration from a rollout that was collected before: one gradient step, all statistics."""
    learner = ppo_learner()
    whole = {"log_std", "logged"}
    own = Rollout(**{k: v if k in whole else mine(v, 1) for k, v in rollout.items()})
    learner.collect = lambda: own  # pyright: ignore[reportAttributeAccessIssue]
    metrics = learner.iterate()
    said = {f"metric.{k}": torch.tensor(v) for k, v in metrics.items() if k.startswith(("loss/", "limit/"))}
    return {**shared(learner), **said}


def off_step(algo: str, batch: State) -> State:
    """One gradient step of everything from a batch that was drawn before."""
    learner = off_learner(algo)
    price, weight = torch.tensor([0.3]), torch.tensor([0.2])
    with torch.no_grad():
        rows, *rest = mine(batch["rows"], 1), mine(batch["belief"], 0), mine(batch["noise"], 2)
        learner.update[True](learner.schedules.values["lr"], rows, *rest, price, weight)
        slopes = learner.agent.slopes(learner.agent.batch(rows, rest[0]))
    return {**shared(learner), "slopes": slopes}


def model_step(batch: State) -> State:
    """Units and one gradient step of svg's model from rows (E, M, C) that were drawn before."""
    learner = svg_learner()
    rows, belief = mine(batch["rows"], 1).flatten(0, 1)[None], mine(batch["belief"], 1).flatten(0, 1)
    x, y, seen, _, sound = learner.agent.data(rows, belief)
    learner.agent.model.net.fit_scales(x[sound], y[sound], seen[sound])
    said = learner.agent.update_model(rows, belief, mine(batch["allowed"], 1) > 0)
    return {
        **shared(learner),
        **{f"said.{k}": processes.mean(v) for k, v in said.items() if k != "model_error"},
    }


def hundred(learner: Any, steps: int) -> State:
    """The learner after 100 gradient steps and more, and how far its own simulations came."""
    before = shared(learner)
    while steps > 0:
        steps -= 1
        learner.iterate()
    after = shared(learner)
    moved = torch.tensor(
        sum(float((after[k] - before[k]).abs().sum()) for k in after if k.startswith("policy."))
    )
    return {**after, "own.qpos": learner.env.sim.qpos.clone(), "own.moved": moved}


def start(folder: Path) -> None:
    """A training of slide.py from its newest run, up to the first iteration."""

    def save(learner: Any, *rest: Any) -> None:
        save_file(shared(learner), folder / f"start.{processes.rank()}")

    setattr(training, "rehearse", lambda policy, env: None)  # noqa: B010
    setattr(training, "_train", save)  # noqa: B010
    task, runs = load_task(folder / "slide.py"), folder / "runs"
    with processes.joined():
        training.begin(task, Setup(threads=1), SLIDE, runs, init_from=runs / "slide/latest")


def main(folder: Path, compile: bool) -> None:
    torch.set_num_threads(1)
    many = {"minibatch": 16, "epochs": 5, "lr_schedule": "adaptive", "compile": compile}
    with processes.joined():
        done = {"ppo100": hundred(ppo_learner(**many), 5)}
        done |= {f"{algo}100": hundred(off_learner(algo, compile=compile), 2) for algo in KINDS}
        done["svg100"] = hundred(svg_learner(compile=compile), 5)
        if not compile:
            done["model"] = model_step(load_file(folder / "model"))
            done["ppo"] = ppo_step(load_file(folder / "rollout"))
            done |= {algo: off_step(algo, load_file(folder / algo)) for algo in KINDS}
        for name, state in done.items():
            save_file(state, folder / f"{name}.{processes.rank()}")


if __name__ == "__main__":
    if "start" in sys.argv:
        start(Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), "compiled" in sys.argv)
