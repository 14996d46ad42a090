"""Every file in tasks/ keeps the task contract, and `check_task` detects each way to break it."""

import pytest
import torch
from cart import Cart
from shipped import cases, variants
from torch import Generator, Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from robokit.env.checks.laws import DRAWS, JUDGES, READS, Finding, _independent, check_task
from robokit.env.checks.stand_in import StandIn
from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.sim.base import Sim
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import known_tasks, shipped_folder
from robokit.task.task import Task, Terms, uniform

SHIPPED = [name for name, path in known_tasks().items() if path.is_relative_to(shipped_folder().resolve())]
VARIANTS = [  # in the files of the shipped tasks
    f"{name}:{cls.__name__}"
    for name, own in ((name, type(load_task(name))) for name in SHIPPED)
    for cls in variants(own)
]
SELDOM = {"inverted_double_pendulum": ["rail"]}  # random actions drop the poles before the cart gets so far
SHOWN = {  # what a mask leaves to see
    "ant:Positions": ["position"],
    "ant:Velocities": ["velocity"],
    "half_cheetah:Positions": ["position"],
    "half_cheetah:Velocities": ["velocity"],
    "hopper:Positions": ["position"],
    "hopper:Velocities": ["velocity"],
    "inverted_double_pendulum:Positions": ["cart", "sin", "cos"],
    "inverted_double_pendulum:Velocities": ["velocity"],
    "inverted_pendulum:Positions": ["position"],
    "inverted_pendulum:Velocities": ["velocity"],
    "reacher:Positions": ["cos", "sin", "target", "error"],
    "reacher:Velocities": ["target", "velocity"],
    "walker2d:Positions": ["position"],
    "walker2d:Velocities": ["velocity"],
}


@pytest.mark.parametrize("name", cases(SHIPPED))
def test_a_shipped_task_keeps_the_contract_and_its_observations_move(name: str):
    task = load_task(name)
    findings = {finding.name: finding for finding in check_task(task)}
    assert [finding for finding in findings.values() if not finding.ok] == []
    widths, said = Env(task).names.obs, findings["rollout"].detail
    still = [term for term, width in widths.items() if f"{term} ({width} of {width})" in said]
    assert still == SELDOM.get(name, [])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_task_says_what_it_is_for(name: str):
    task = type(load_task(name))
    assert task.__doc__ is not None
    assert task.__doc__ != Task.__doc__
    assert task.__name__.lower() == name.replace("_", "")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_keeps_the_contract_and_says_what_it_is_for(name: str):
    task = load_task(name)
    assert type(task).__doc__ is not None
    assert [finding for finding in check_task(task, num_envs=2, steps=5) if not finding.ok] == []


def test_every_mask_is_in_the_table():
    assert [name for name in VARIANTS if name.endswith(("Positions", "Velocities"))] == list(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_a_mask_leaves_the_named_terms_to_the_policy_and_all_to_the_critic(name: str):
    masked, full = Env(load_task(name), 2), Env(load_task(name.partition(":")[0]), 2)
    assert [attribute for attribute in vars(type(masked.task)) if not attribute.startswith("_")] == [
        "sensing"
    ]
    assert list(masked.names.obs) == SHOWN[name]
    action = torch.ones(2, full.act_dim)
    for _ in range(3):
        assert torch.equal(masked.obs, torch.cat([full.terms()[term] for term in SHOWN[name]], -1))
        assert torch.equal(masked.state, full.obs)
        for env in (masked, full):
            env.step(action)


def test_a_task_that_uses_everything_keeps_the_contract():
    findings = check_task(Cart())
    assert [finding for finding in findings if not finding.ok] == []
    assert len(findings) == 6


def broken(task: Task) -> dict[str, Finding]:
    """The laws that `task` breaks, by name."""
    return {finding.name: finding for finding in check_task(task, steps=30) if not finding.ok}


class Mixes(Cart):
    def observe(self, sim: Sim) -> Terms:
        return {**super().observe(sim), "slide": sim.sensor("slide") - sim.sensor("slide").mean()}


class Ranks(Cart):
    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {**super().rewards(sim, action), "near": sim.qpos[:, 0] / sim.qpos[:, 0].abs().amax()}


class SharesDraw(Cart):
    def reset(self, sim: Sim, rng: Generator) -> Terms:
        height = torch.rand(1, generator=rng, dtype=sim.qpos.dtype).expand(sim.num_envs, 2)
        return {**super().reset(sim, rng), "sum": height}


class FairCoin(Cart):
    def reset(self, sim: Sim, rng: Generator) -> Terms:
        side = torch.where(uniform(sim, rng, 2) < 0, -1.0, 1.0).to(sim.qpos.dtype)
        return {**super().reset(sim, rng), "sum": side}


def test_a_coin_that_falls_alike_in_two_simulations_is_no_shared_draw():
    env = Env(FairCoin(), 2)
    for seed in range(8):
        _independent(env, seed)


class WritesState(Cart):
    def observe(self, sim: Sim) -> Terms:
        sim.qvel.clamp_(-0.01, 0.01)
        return super().observe(sim)


class WritesMemory(Cart):
    def remember(self, sim: Sim, action: Tensor) -> Terms:
        sim.memory["sum"] += action
        return {"x": sim.qpos[:, :1]}


class WritesAction(Cart):
    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        rate = action.mul_(2).square().sum(-1)
        return {**super().rewards(sim, action), "rate": rate}


class WritesNominal(Cart):
    def randomize(self, sim: Sim, rng: Generator) -> Terms:
        factor = 1 + 0.1 * torch.rand(sim.num_envs, 1, generator=rng)
        return {"body_mass": sim.nominal("body_mass").mul_(1.01) * factor}


class DrawsElsewhere(Cart):
    def reset(self, sim: Sim, rng: Generator) -> Terms:
        return {**super().reset(sim, rng), "sum": torch.rand(sim.num_envs, 2)}


class Counts(Cart):
    calls = 0

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        self.calls += 1
        return {**super().rewards(sim, action), "near": torch.full((sim.num_envs,), float(self.calls))}


class Negative(Cart):
    def costs(self, sim: Sim, action: Tensor) -> Terms:
        return {"away": sim.qpos[:, 0]}


class Infinite(Cart):
    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        late = sim.memory["age"][:, 0] > 5
        return {**super().rewards(sim, action), "near": torch.where(late, torch.inf, 0.0)}


class Renames(Cart):
    def observe(self, sim: Sim) -> Terms:
        late = bool((sim.memory["age"] > 5).any())
        return {**super().observe(sim), ("late" if late else "early"): sim.qpos}


class Widens(Cart):
    def observe(self, sim: Sim) -> Terms:
        late = bool((sim.memory["age"] > 5).any())
        return {**super().observe(sim), "pose": sim.qpos[:, : 3 if late else 2]}


class Forgets(Cart):
    def remember(self, sim: Sim, action: Tensor) -> Terms:
        late = bool((sim.memory["age"] > 5).any())
        return {"x": sim.qpos[:, :1]} if late else super().remember(sim, action)


class Strays(Cart):
    def observe(self, sim: Sim) -> Terms:
        return {**super().observe(sim), "bias": torch.full((sim.num_envs, 1), sim.timestep)}


class Branches(Cart):
    def terminated(self, sim: Sim) -> Tensor:
        return sim.qpos[:, 0] > (0.9 if sim.qpos[0, 0] > 0 else 0.8)


class Loops(Cart):
    def costs(self, sim: Sim, action: Tensor) -> Terms:
        return {"away": torch.tensor([abs(x.item()) for x in sim.qpos[:, 0]], device=sim.device)}


class Steps(Cart):
    def remember(self, sim: Sim, action: Tensor) -> Terms:
        sim.step(sim.ctrl, 1)
        return super().remember(sim, action)


@pytest.mark.parametrize(
    ("task", "law", "words"),
    [
        (Mixes, "independent", "observe 'slide' mixes simulations"),
        (Ranks, "independent", "rewards 'near' mixes simulations"),
        (SharesDraw, "independent", "reset 'sum' draws one value"),
        (WritesState, "pure", "observe writes sim's 'qvel'"),
        (WritesMemory, "pure", "remember writes sim's 'memory'"),
        (WritesAction, "pure", "rewards writes the action it is given"),
        (WritesNominal, "pure", "randomize 'body_mass' differs"),
        (DrawsElsewhere, "pure", "reset 'sum' differs"),
        (Counts, "pure", "rewards 'near' differs"),
        (Counts, "deterministic", "Step.reward differs"),
        (Negative, "rollout", "costs 'away' must lie from 0 to 2, its Limit.largest; got -"),
        (Infinite, "rollout", "rewards 'near' is not finite at step 6"),
        (Renames, "rollout", "observe changed its names"),
        (Widens, "rollout", "observe changed its widths from"),
        (Forgets, "rollout", "remember changed its names"),
        (Strays, "any device", "observe 'bias' is on cpu"),
        (Branches, "any device", "terminated would not run on a GPU"),
        (Loops, "any device", "costs would not run on a GPU"),
        (Steps, "pure", "a task only reads sim"),
    ],
)
def test_check_names_the_first_term_that_breaks_a_law(task: type[Task], law: str, words: str):
    assert words in broken(task())[law].detail


def test_check_needs_two_simulations_to_tell_apart():
    with pytest.raises(TaskError, match="num_envs >= 2"):
        check_task(Cart(), num_envs=1)


def test_a_task_whose_environment_cannot_be_made_has_one_finding():
    class Misspelled(Cart):
        weights = {"near": 1.0, "rat": 1.0}

    findings = check_task(Misspelled())
    assert [(f.name, f.ok) for f in findings] == [("contract", False)]
    assert "did you mean 'rate'?" in findings[0].detail


# -- without values ------------------------------------------------------------------------------


def run_without_values(task: Task) -> None:
    """Call every function of the task on tensors that have shapes and types, and no numbers."""
    env, mode = Env(task, 3), FakeTensorMode(allow_non_fake_inputs=True)
    fake = StandIn(env.sim, env.sim.device, mode.from_tensor)
    with mode:
        action, rng = torch.zeros(3, env.act_dim), torch.Generator()
        for functions, arguments in ((DRAWS, (rng,)), (READS, ()), (JUDGES, (action,))):
            for function in functions:
                getattr(task, function)(fake, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(SHIPPED))
def test_no_function_of_a_shipped_task_asks_for_a_value(name: str):
    run_without_values(load_task(name))


@pytest.mark.slow
@pytest.mark.parametrize("task", [Branches, Loops, Renames])
def test_a_function_that_asks_for_a_value_is_caught(task: type[Task]):
    with pytest.raises(DataDependentOutputException):
        run_without_values(task())
