"""Every shipped task and variant on both engines: the same episodes up to float32.

Both engines start from one seed and must draw the same numbers throughout. Contact magnifies rounding, so
every few control steps the state of one is written into the other: the comparison covers a few steps of
float32. Each TOLERANCE is four to ten times the largest difference measured on Warp's CPU device.
"""

from collections.abc import Mapping

import mujoco
import pytest
import torch
from shipped import cases, variants
from torch import Generator, Tensor

from robokit.env.env import Env, make
from robokit.env.step import Step
from robokit.errors import ModelError
from robokit.sim.base import Sim, model_field_names
from robokit.sim.model import load
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import known_tasks, shipped_folder
from robokit.task.task import Task, Terms

pytest.importorskip("mujoco_warp", reason="needs robokit[gpu]")
pytestmark = pytest.mark.slow

SHIPPED = [name for name, path in known_tasks().items() if path.is_relative_to(shipped_folder().resolve())]
VARIANTS = [  # in the files of the shipped tasks
    f"{name}:{cls.__name__}"
    for name, own in ((name, type(load_task(name))) for name in SHIPPED)
    for cls in variants(own)
]
STEPS, APART = 40, 5  # control steps, and how many until both start from one state again
ERRATIC = ("half_cheetah",)  # it tumbles: both start from one state at every control step
SINKING = ("go2_walk:Rough", "go2_walk:RoughScan")  # feet sink into a height field, other contacts on Warp
UNCHANGED = ("steps_left", "terminated", "truncated", "bad")
COMPARED = ("obs", "state", "final_obs", "final_state", "reward", "cost", "terms", "metrics")

# What both engines are given where Warp cannot follow the model as it is; the tests below say why.
CHANGED: Mapping[str, Mapping[str, int]] = {
    "humanoid": {"solver": int(mujoco.mjtSolver.mjSOL_NEWTON)},
    "ant": {"cone": int(mujoco.mjtCone.mjCONE_ELLIPTIC)},
    "go1_walk": {"iterations": 100, "ls_iterations": 50},
    "go2_walk": {"iterations": 100, "ls_iterations": 50},
}
TOLERANCE = {  # of |a - b| / (1 + |a|)
    "ant": 1e-3,
    "go1_walk": 1e-2,
    "go2_walk": 2e-3,
    "half_cheetah": 1e-3,
    "hopper": 2e-5,
    "humanoid": 1e-3,
    "inverted_double_pendulum": 2e-5,
    "inverted_pendulum": 2e-6,
    "reacher": 5e-5,
    "recall": 5e-5,
    "swimmer": 2e-5,
    "walker2d": 5e-4,
}
NEVER_ENDS = ("half_cheetah", "reacher", "swimmer")  # but for the time limit
NEVER_LATE = ("recall",)  # it ends before its time limit


def altered(name: str, **options: int) -> Task:
    """The task over its model with other <option>s."""
    cls, spec = type(load_task(name)), load(load_task(name).model)
    for option, value in options.items():
        setattr(spec.option, option, value)
    return type(cls.__name__, (cls,), {"model": spec, "__module__": cls.__module__})()


def both(name: str, **options: int) -> tuple[Env, Env]:
    """The task with `options` on the CPU's engine and on Warp's."""
    on_cpu, on_warp = (altered(name, **options) for _ in range(2))
    cpu = make(on_cpu, 3, seed=3, threads=1)
    gpu = make(on_warp, 3, seed=3, sim="warp", device="cpu")
    keep_constants(on_cpu)
    for env in (cpu, gpu):
        env.reset()
        env.sim.memory["age"][0] = env.max_age - 2  # its time is up soon
    return cpu, gpu


def keep_constants(task: Task) -> None:
    """From the next reset on, fields that need mj_setConst keep their values through restarts, as on Warp."""
    draw, kept = task.randomize, dict[str, Tensor]()

    def randomize(sim: Sim, rng: Generator) -> Terms:
        drawn, rows = draw(sim, rng), getattr(sim, "_ids", slice(None))  # those that restart
        return {n: kept.setdefault(n, x)[rows] if n in model_field_names() else x for n, x in drawn.items()}

    task.randomize = randomize


def meddle(env: Env, step: int) -> None:
    """Speed for simulation 2, and, where a base is free, a fall for simulation 1."""
    if step == 10:
        env.sim.qvel[2, 0] = 4.0
    if step == 20 and env.sim.model.nq > env.sim.model.nv:
        env.sim.qpos[1, 2:7] = torch.tensor([1.5, 0.0, 1.0, 0.0, 0.0])  # upside down


def rejoin(cpu: Env, gpu: Env) -> None:
    for name in ("qpos", "qvel", "qacc_warmstart"):
        gpu.sim.field(name).copy_(cpu.sim.field(name))


def apart(a: Tensor, b: Tensor) -> float:
    """The largest |a - b| / (1 + |a|); NaN must be where NaN is."""
    assert torch.equal(a.isnan(), b.isnan())
    a, b = a.double().nan_to_num(), b.double().nan_to_num()
    return float(((a - b).abs() / (1 + a.abs())).max()) if a.numel() else 0.0


def rollout(cpu: Env, gpu: Env, apart_for: int = APART) -> tuple[list[float], list[Step]]:
    """How far each control step is apart, and the CPU's steps."""
    rng, off, steps = torch.Generator().manual_seed(0), list[float](), list[Step]()
    for k in range(STEPS):
        for env in (cpu, gpu):
            meddle(env, k)
        action = torch.rand(cpu.num_envs, cpu.act_dim, generator=rng) * 2 - 1
        one, other = cpu.step(action), gpu.step(action)
        off.append(max(apart(getattr(one, n), getattr(other, n)) for n in COMPARED))
        off[-1] = max(off[-1], apart(cpu.sim.qpos, gpu.sim.qpos), apart(cpu.sim.qvel, gpu.sim.qvel))
        if any(not torch.equal(getattr(one, n), getattr(other, n)) for n in UNCHANGED):
            off[-1] = torch.inf
        steps.append(one)
        if (k + 1) % apart_for == 0:
            rejoin(cpu, gpu)
    return off, steps


@pytest.mark.parametrize("name", cases(name for name in SHIPPED + VARIANTS if name not in SINKING))
def test_a_task_is_the_same_on_both_engines(name: str):
    task = name.partition(":")[0]
    cpu, gpu = both(name, **CHANGED.get(task, {}))
    off, steps = rollout(cpu, gpu, 1 if task in ERRATIC else APART)
    assert max(off) < TOLERANCE[task]
    assert torch.equal(cpu.rng.get_state(), gpu.rng.get_state())
    assert any(bool(step.truncated.any()) for step in steps) == (task not in NEVER_LATE)
    assert any(bool(step.terminated.any()) for step in steps) == (task not in NEVER_ENDS)
    assert not cpu.task.limits or any(bool((step.cost > 0).any()) for step in steps)


def test_the_humanoid_waits_for_another_solver():
    with pytest.raises(ModelError, match="PGS solver"):
        make("humanoid", sim="warp", device="cpu")


def test_the_ants_feet_have_other_tangents_which_a_pyramid_feels():
    off, _ = rollout(*both("ant"), 1)
    assert max(off) > 100 * TOLERANCE["ant"]
    assert min(off) < TOLERANCE["ant"] / 10


@pytest.mark.parametrize("name", SINKING)
def test_a_height_field_is_the_same_until_a_foot_sinks_into_it(name: str):
    """Warp has no collisions but its own, which push such a foot aside: docs/ground-and-robots.md."""
    cpu, gpu = both(name, **CHANGED["go2_walk"])
    for env in (cpu, gpu):
        env.sim.qpos[:, 2] += 0.5  # m
    off, steps = rollout(cpu, gpu, 1)
    assert max(off[:5]) < TOLERANCE["go2_walk"]
    assert any(bool(step.truncated.any()) for step in steps[:3])  # and what then begins is drawn alike
    assert max(off) > 100 * TOLERANCE["go2_walk"]


def test_four_iterations_of_the_solver_leave_the_go2_somewhere_else_now_and_then():
    off, _ = rollout(*both("go2_walk", iterations=4, disableflags=0), 1)
    assert max(off) > 100 * TOLERANCE["go2_walk"]
    assert sorted(off)[STEPS // 2] < TOLERANCE["go2_walk"]
