"""A training starts from another policy: by names, with all of it and nothing else; what differs is said."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import mujoco
import pytest
import torch
from agents import TINY, Limited
from cart import XML
from torch import Tensor

from robokit.algos import ppo
from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.learning.layouts import layouts_of
from robokit.limits.limit import Limit
from robokit.sim.base import Sim
from robokit.task.action import Around
from robokit.task.task import Task, Terms
from robokit.training.setup.build import algorithm
from robokit.training.setup.init_from import Parent, init_learner

MOTOR = '<motor name="push" joint="slide" ctrlrange="-2 6"/>'
SERVO = '<position name="turn" joint="hinge" kp="2" ctrlrange="-.5 .5"/>'
THIRD = '<motor name="lift" joint="hinge" ctrlrange="-1 1"/>'
OF_PPO: dict[str, Any] = {
    "num_envs": 3, "horizon": 8, "minibatch": 24, "epochs": 2, "hidden": (8,), "belief_size": 5, "chunk": 4,
}  # fmt: skip
OWN = (
    "policy.",
    "critic.",
    "target",
    "return_scale.",
    "temperature.log_alpha",
)  # what may come from a parent


def spec(*actuators: str) -> mujoco.MjSpec:
    """Cart's model with other actuators, in this order."""
    start, end = XML.index("<actuator>"), XML.index("</actuator>")
    return mujoco.MjSpec.from_string(f"{XML[:start]}<actuator>{''.join(actuators)}{XML[end:]}".replace(
        '<key name="home" qpos=".1 .2 .5 0 .049 1 0 0 0" ctrl="1 .4"/>', ""
    ))  # fmt: skip


class Old(Limited):
    """Eight terms of 10 columns, two actuators, two limits, two privileged terms."""

    history = {"tip": 3, "slide": 2}

    def remember(self, sim: Sim, action: Tensor) -> Terms:
        return {"x": sim.qpos[:, :1]}  # whatever the number of actuators


class New(Old):
    """The same robot with everything in another order, a term more, other rewards and another limit first."""

    model = spec(SERVO, MOTOR)
    weights = {"near": 7.0, "rate": 0.0}
    limits = {"hit": Limit(0.2, "probability"), "away": Limit(0.4, largest=2.0)}

    def observe(self, sim: Sim) -> Terms:
        terms = super().observe(sim)
        return {"angle": sim.qpos[:, 1:2] * 100, **{name: terms[name] for name in reversed(terms)}}

    def privileged(self, sim: Sim) -> Terms:
        terms = super().privileged(sim)
        return {"ball": terms["ball"], "far": terms["ball"] * 100, "touch": terms["touch"]}


def learner_of(algo: str, task: type[Task] | Task, seed: int = 0, **changes: Any) -> Any:
    given: dict[str, Any] = (
        OF_PPO if algo == "ppo" else TINY | {"critic": "state", "normalize_obs": True}
    ) | changes
    module = algorithm(algo)
    env = Env(task if isinstance(task, Task) else task(), 3, seed=seed, threads=1)
    learner = module.Learner(env, module.Config(**given), seed)
    if algo != "ppo":
        learner.horizon, learner.steps_per_iteration = 10, 30
    return learner


def parent_of(learner: Any) -> Parent:
    """Its state after two iterations, and actions over most of [-1, 1]."""
    for _ in range(2):
        learner.iterate()
    torch.manual_seed(0)
    with torch.no_grad():
        learner.policy.head[-1].weight.normal_(0.0, 0.4)
        learner.policy.normalizer.mean.normal_(0.0, 0.3)
        learner.policy.normalizer.var.uniform_(0.2, 2.0)
    return Parent(Path("old/1"), "old/1", 48, learner.state_dict(), layouts_of(learner))


def columns(env: Env, widths: dict[str, int], values: dict[str, Tensor]) -> Tensor:
    """(N, O) of values by name: `action:NAME` of each actuator, and terms."""
    actuators = [env.sim.model.actuator(i).name for i in range(env.act_dim)]
    named = {"action": torch.cat([values[f"action:{name}"] for name in actuators], -1), **values}
    return torch.cat([named[term] for term in widths], -1)


def answers(learner: Any, frames: int = 5) -> dict[str, Tensor]:
    """Actions (frames, N) of each actuator for the same readings by name, over the end of an episode."""
    env, policy, rng = learner.env, learner.policy, torch.Generator().manual_seed(5)
    belief, said = torch.zeros(4, policy.belief_size), list[Tensor]()
    for frame in range(frames):
        names = ("action:push", "action:turn", "slide", "hinge_speed", "goal", "angle", "action:lift")
        values = {name: torch.randn(4, 1, generator=rng) for name in names}
        values |= {"tip": torch.randn(4, 3, generator=rng), "turn": torch.randn(4, 2, generator=rng)}
        first = torch.tensor([frame in (0, 3)] * 4)
        with torch.no_grad():
            action, belief = policy(columns(env, env.names.obs, values), belief, first)
        said.append(action)
    actuators = [env.sim.model.actuator(i).name for i in range(env.act_dim)]
    return dict(zip(actuators, torch.stack(said).unbind(-1), strict=True))


def same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 0.0) -> bool:
    pairs = [(one[name], other[name]) for name in one.keys() & other.keys()]
    return bool(pairs) and all(torch.allclose(a, b, rtol=0, atol=tolerance) for a, b in pairs)


ALGOS = pytest.mark.parametrize("algo", ["ppo", "sac", "td3"])
BELIEFS = pytest.mark.parametrize("belief", ["memoryless", "stack", "gru"])


@ALGOS
@BELIEFS
def test_the_first_policy_is_the_parent_s_whatever_the_order_the_rewards_and_the_new_terms(
    algo: str, belief: str
):
    old = learner_of(algo, Old, belief=belief)
    parent = parent_of(old)
    said = answers(old)
    assert min(float(x.std()) for x in said.values()) > 0.1  # lively: an error would show
    again, new = (learner_of(algo, task, seed=1, belief=belief) for task in (Old, New))
    assert not same(answers(again), said, 0.01)
    takeover = init_learner(again, parent)
    assert takeover.same and takeover.critics and same(answers(again), said)
    assert takeover.lines == ["critics go on"]
    takeover = init_learner(new, parent)
    assert takeover.same and takeover.critics and same(answers(new), said, 2e-6)
    assert "new observation 'angle' (1): weight zero at first" in takeover.lines


@ALGOS
def test_nothing_else_comes_from_the_parent(algo: str):
    """Optimiser, multipliers, meters, replay, simulation and random numbers are a new training's."""
    old = learner_of(algo, Old)
    parent = parent_of(old)
    new, fresh = learner_of(algo, Old, seed=1), learner_of(algo, Old, seed=1)
    init_learner(new, parent)
    taken, began = new.state_dict(), fresh.state_dict()
    others = [key for key in began if not key.startswith(OWN)]
    moving = [key for key in others if not torch.equal(parent.tensors[key], began[key])]
    assert {"meter.running", "multipliers.smooth", "rng", "env.sim.state"} < {*moving}
    assert any("adam" in key for key in moving)
    assert [key for key in others if not torch.equal(taken[key], began[key])] == []
    new.iterate()


@ALGOS
def test_multipliers_of_the_same_limits_go_on(algo: str):
    """A policy within its limits leaves them at once where their multipliers begin at 0."""
    parent = parent_of(learner_of(algo, Old))
    parent.tensors["multipliers.strength"] = torch.tensor([3.0, 4.0], dtype=torch.float64)  # of away, hit
    parent.tensors["multipliers.begun"] = torch.ones(2, dtype=torch.bool)
    limits = {name: limit.value for name, limit in Old.limits.items()}
    known = replace(parent, limits=limits, rule="pid")
    again, other = (learner_of(algo, Old, seed=1) for _ in range(2))
    takeover = init_learner(again, known)
    assert takeover.lines[-1] == "multipliers of the same limits go on: away, hit"
    ours = again.constrained.multipliers.state_dict()
    assert all(torch.equal(x, parent.tensors[f"multipliers.{key}"]) for key, x in ours.items())
    again.iterate()
    tighter = but(limits={**Old.limits, "hit": replace(Old.limits["hit"], value=0.05)})
    new = learner_of(algo, tighter, seed=1)
    assert init_learner(new, known).lines[-1] == "multipliers of the same limits go on: away"
    assert new.constrained.multipliers.strength.tolist() == [3.0, 0.0]
    turned = learner_of(algo, but(limits=dict(reversed(Old.limits.items()))), seed=1)
    init_learner(turned, known)
    assert turned.constrained.multipliers.strength.tolist() == [4.0, 3.0]
    init_learner(other, replace(known, rule="dual"))
    assert other.constrained.multipliers.strength.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("algo", ["ppo", "sac"])
@pytest.mark.parametrize("belief", ["memoryless", "gru"])
def test_critics_go_on_by_the_names_of_terms_actuators_and_limits(algo: str, belief: str):
    old = learner_of(algo, Old, critic_belief=belief)
    parent = parent_of(old)
    new = learner_of(algo, New, seed=1, critic_belief=belief)
    assert not torch.allclose(values(old), values(new), atol=0.01)
    takeover = init_learner(new, parent)
    assert "critics go on; inputs new, with weight zero: angle, privileged far" in takeover.lines
    torch.testing.assert_close(values(new), values(old), rtol=0, atol=1e-5)


@torch.no_grad()
def values(learner: Any) -> Tensor:
    """V or Q (..., 1 + K) of the reward, then of the limits by name, for the same state by name."""
    env, rng, critic = learner.env, torch.Generator().manual_seed(6), learner.critic
    names = ("action:push", "action:turn", "slide", "hinge_speed", "goal", "angle", "privileged touch")
    state = {name: torch.randn(4, 1, generator=rng) for name in names}
    state |= {name: torch.randn(4, 3, generator=rng) for name in ("tip", "privileged ball", "privileged far")}
    state |= {"turn": torch.randn(4, 2, generator=rng)}
    acts = {name: torch.randn(4, 1, generator=rng) for name in ("push", "turn")}
    action = torch.cat([acts[env.sim.model.actuator(i).name] for i in range(2)], -1)
    first, belief = torch.ones(4, dtype=torch.bool), torch.zeros(4, critic.belief_size)
    features, _ = critic.encode(columns(env, learner.constrained.widths, state), belief, first)
    found = critic.decode(features, *(() if learner.config.usual_num_envs == 32 else (action,)))
    limits = [1 + [*learner.constrained.limits].index(name) for name in ("away", "hit")]
    return found[..., [0, *limits]]


@pytest.mark.parametrize("algo", ["sac", "td3"])
def test_off_policy_targets_equal_the_networks_and_the_policy_acts_from_the_first_step(algo: str):
    parent = parent_of(learner_of(algo, Old))
    new = learner_of(algo, Old, seed=1)
    init_learner(new, parent)
    assert all(torch.equal(target.flat, online.flat) for target, online in new.agent.targets)
    new.policy.head[-1].weight.data.zero_()
    new.policy.head[-1].bias.data.fill_(-20.0)  # also of SAC's log deviations
    with torch.no_grad():
        rows = [new._collect(torch.zeros(3, 2)) for _ in range(3)]
    assert all(float(row["action"].max()) < -0.99 for row in rows)


def test_sac_goes_on_with_the_parent_s_temperature_unless_it_is_given_one():
    parent = parent_of(learner_of("sac", Old))
    parent.tensors["temperature.log_alpha"].fill_(-3.0)
    recipe = {"sac": {"init_temperature": 0.001}}
    for recipes, given, expected in (
        ({}, 1.0, -3.0),
        ({}, 0.5, math.log(0.5)),
        (recipe, 0.001, -3.0),
        (recipe, 1.0, 0.0),
    ):
        new = learner_of("sac", but(recipes=recipes), seed=1, init_temperature=given)
        takeover = init_learner(new, parent)
        assert new.agent.temperature.log_alpha.item() == pytest.approx(expected)
        said = f"the temperature is the given {given:g}, not the parent's" in takeover.lines
        assert said is (expected != -3.0)


def test_ppo_goes_on_with_the_units_of_the_return_but_they_count_no_more_than_a_rollout():
    parent = parent_of(learner_of("ppo", Old))
    parent.tensors["return_scale.count"].fill_(1e6)
    new = learner_of("ppo", New, seed=1)
    init_learner(new, parent)
    assert new.return_scale.count.tolist() == [24.0] * 3
    assert torch.equal(new.return_scale.var, parent.tensors["return_scale.var"][[0, 2, 1]])


def test_ppo_into_sac_takes_the_actor_over_and_says_that_critics_and_exploration_begin_anew():
    old = learner_of("ppo", Old)
    parent = parent_of(old)
    new, fresh = (learner_of("sac", New, seed=1, activation="tanh", normalize_obs=True) for _ in range(2))
    takeover = init_learner(new, parent)
    assert not takeover.same and not takeover.critics
    for line in (
        "a Gaussian clips its actions, a SquashedGaussian takes their tanh",
        "the spread of exploration begins anew: from a Gaussian to a SquashedGaussian",
        "critics begin anew: of a SquashedGaussian, the parent's of a Gaussian",
    ):
        assert line in takeover.lines
    with torch.no_grad():
        for learner in (old, new):  # to actions that a tanh leaves nearly as they are
            learner.policy.head[-1].weight.mul_(0.1)
            learner.policy.head[-1].bias.mul_(0.1)
    assert same(answers(new), answers(old), 0.05)
    assert torch.equal(
        new.critic.state_dict()["normalizer.mean"], fresh.critic.state_dict()["normalizer.mean"]
    )
    spreads = slice(2, 4)  # of the head's outputs
    assert torch.allclose(new.policy.head[-1].weight[spreads], 0.1 * fresh.policy.head[-1].weight[spreads])


def test_sac_and_td3_share_the_deterministic_policy_exactly():
    old = learner_of("sac", Old)
    parent = parent_of(old)
    new, fresh = (learner_of("td3", Old, seed=1) for _ in range(2))
    takeover = init_learner(new, parent)
    assert takeover.same and same(answers(new), answers(old), 1e-6)
    assert not takeover.critics  # a Q with entropy is none without
    assert torch.equal(values(new), values(fresh))
    assert (
        "the spread of exploration begins anew: from a SquashedGaussian to a Deterministic" in takeover.lines
    )


def but(**attributes: Any) -> Task:
    return type("But", (Old,), attributes)()


def test_a_term_that_is_gone_or_has_another_width_is_listed_and_the_policy_is_not_the_parent_s():
    old = learner_of("ppo", Old)
    parent, said = parent_of(old), answers(old)

    def observe(self: Any, sim: Sim) -> Terms:
        terms = Old.observe(self, sim)
        return {**{k: x for k, x in terms.items() if k != "goal"}, "turn": terms["turn"][:, :1]}

    new = learner_of("ppo", but(observe=observe), seed=1)
    takeover = init_learner(new, parent)
    assert not takeover.same
    assert "observation 'goal' (1) is gone: its weights are dropped" in takeover.lines
    assert "observation 'turn' has 1 numbers, had 2: begins anew with weight zero" in takeover.lines
    assert (
        "inputs dropped: turn, goal" in takeover.lines[-1]
        or "inputs dropped: goal, turn" in takeover.lines[-1]
    )
    first = new.policy.head[0].weight
    at = [*new.env.names.obs].index("turn")
    place = sum([*new.env.names.obs.values()][:at])
    assert (first[:, place] == 0).all() and (first[:, :place] != 0).all()
    assert [*said] == ["push", "turn"]


def test_a_longer_history_is_the_parent_s_policy_and_a_shorter_one_is_not():
    old = learner_of("ppo", Old, belief="stack")
    parent, said = parent_of(old), answers(old)
    new = learner_of("ppo", but(history={"tip": 5, "slide": 2}), seed=1, belief="stack")
    takeover = init_learner(new, parent)
    assert takeover.same and same(answers(new), said, 2e-6)
    assert "observation 'tip' has 5 frames, had 3: the older ones' weight is zero at first" in takeover.lines
    takeover = init_learner(learner_of("ppo", but(history={"tip": 1, "slide": 2}), belief="stack"), parent)
    assert not takeover.same
    assert "observation 'tip' has 1 frames, had 3: the oldest are dropped" in takeover.lines


def test_actuators_that_are_new_gone_or_mapped_otherwise_are_listed():
    old = learner_of("ppo", Old)
    parent, said = parent_of(old), answers(old)
    new, fresh = (learner_of("ppo", but(model=spec(THIRD, MOTOR, SERVO)), seed=1) for _ in range(2))
    takeover = init_learner(new, parent)
    assert takeover.same and same(answers(new), said, 2e-6)
    assert "new actuator 'lift': its output begins at random" in takeover.lines
    assert torch.equal(new.policy.head[-1].weight[0], fresh.policy.head[-1].weight[0])
    assert new.policy.log_std[0] == fresh.policy.log_std[0] != new.policy.log_std[1]
    takeover = init_learner(learner_of("ppo", but(model=spec(MOTOR))), parent)
    assert not takeover.same
    assert "actuator 'turn' is gone: its output, and what observed its action, are dropped" in takeover.lines
    near = but(action=Around("home", 0.25), control_dt=0.04)
    takeover = init_learner(learner_of("ppo", near), parent)
    assert "actuator 'push': an action a is the target 1 + 0.25 a, was 2 + 4 a" in takeover.lines
    assert "a control period is 0.04 s, was 0.02 s" in takeover.lines


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden": (16, 8)}, r"its hidden is \(8,\), here \(16, 8\); give --hidden 8$"),
        ({"activation": "elu"}, "its activation is tanh, here elu; give --activation tanh$"),
        ({"belief": "gru"}, "its belief is memoryless, here gru; .*; give --belief memoryless"),
        ({"normalize_obs": False}, "its normalize_obs is True, here False; give --normalize-obs$"),
    ],
)
def test_a_network_of_another_size_or_kind_is_refused_with_both_values(changes: dict[str, Any], words: str):
    parent = parent_of(learner_of("ppo", Old))
    new = learner_of("ppo", Old, seed=1, **changes)
    before = new.state_dict()
    with pytest.raises(OptionError, match=f"^old/1 is a policy of another network: {words}"):
        init_learner(new, parent)
    assert all(torch.equal(x, before[key]) for key, x in new.state_dict().items())


def test_a_memory_of_another_size_is_refused():
    parent = parent_of(learner_of("ppo", Old, belief="gru"))
    with pytest.raises(OptionError, match=r"its belief_size is 5, here 6; give --belief-size 5$"):
        init_learner(learner_of("ppo", Old, belief="gru", belief_size=6), parent)


def test_another_robot_is_refused_with_the_names_of_both():
    parent = parent_of(learner_of("ppo", Old))
    words = r"of another robot: its actuators \['push', 'turn'\], here \['lift'\]: none has the same name"
    with pytest.raises(OptionError, match=words):
        init_learner(learner_of("ppo", but(model=spec(THIRD))), parent)

    def observe(self: Any, sim: Sim) -> Terms:
        return {"x": sim.qpos}

    with pytest.raises(
        OptionError, match=r"its observations \['slide', .*\], here \['x'\]: none has the same"
    ):
        init_learner(learner_of("ppo", but(observe=observe, history=1)), parent)


def test_critics_of_another_size_or_kind_begin_anew_and_that_is_listed():
    parent = parent_of(learner_of("sac", Old))
    new, fresh = (learner_of("sac", Old, seed=1, critics=3, layer_norm=True) for _ in range(2))
    takeover = init_learner(new, parent)
    words = "critics begin anew: members 3, the parent's 2; layer_norm True, the parent's False"
    assert takeover.same and not takeover.critics and words in takeover.lines
    ours, theirs = new.critic.state_dict(), fresh.critic.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_limit_that_the_parent_had_not_begins_its_critic_anew():
    parent = parent_of(learner_of("ppo", but(limits={}, costs=Task.costs)))
    new, fresh = (learner_of("ppo", Old, seed=1) for _ in range(2))
    takeover = init_learner(new, parent)
    assert "critics go on; outputs anew: away, hit" in takeover.lines
    ours, theirs = new.critic.state_dict(), fresh.critic.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if key.startswith("heads.1"))
    assert torch.equal(ours["heads.0.2.weight"], parent.tensors["critic.heads.0.2.weight"])


@pytest.mark.parametrize(
    ("changed", "was"),
    [
        (
            Limit(0.1, largest=4.0),
            "rate, largest 4.0, absorb 0.0; the parent's rate, largest 2.0, absorb 0.0",
        ),
        (Limit(9.0, "episode", 2.0), "episode, largest 2.0, absorb 0.0; the parent's rate, largest 2.0, abs"),
    ],
    ids=["unit", "measure"],
)
@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_a_limit_of_another_measure_or_unit_begins_its_critic_anew(algo: str, changed: Limit, was: str):
    parent = parent_of(learner_of(algo, Old))
    task = but(limits={**Old.limits, "away": changed})
    new, fresh = (learner_of(algo, task, seed=1) for _ in range(2))
    takeover = init_learner(new, parent)
    assert f"critics go on; outputs anew: away ({was}" in takeover.lines[-1]
    row = [*Old.limits].index("away")
    key = "heads.1.2.weight" if algo == "ppo" else "ensembles.1.weights.1"
    ours, theirs = (x.critic.state_dict()[key] for x in (new, fresh))
    taken = parent.tensors[f"critic.{key}"]
    if algo == "ppo":
        ours, theirs, taken = ours.T, theirs.T, taken.T
    assert torch.equal(ours[..., row], theirs[..., row])
    assert torch.equal(ours[..., 1 - row], taken[..., 1 - row])
    if algo == "ppo":
        assert new.return_scale.var.tolist()[1 + row] == 1.0 != new.return_scale.var.tolist()[2 - row]


def test_another_discount_and_another_unit_of_the_reward_are_listed():
    parent = parent_of(learner_of("ppo", Old))
    takeover = init_learner(learner_of("ppo", Old, seed=1, gamma=0.95, scale_reward=False), parent)
    anew = "outputs anew: reward (not scaled; the parent's scaled)"
    assert takeover.lines == [f"critics go on; {anew}; gamma: 0.95, the parent's 0.99"]


def with_norm(env: Env, config: Any, belief: Any) -> Any:
    """A network of one's own, with the inputs and outputs of `make_actor`'s."""
    policy = ppo.make_actor(env, config, belief)
    layers = torch.nn.Linear(belief.out_dim, 8), torch.nn.LayerNorm(8), torch.nn.Tanh(), torch.nn.Linear(8, 2)
    policy.head = torch.nn.Sequential(*layers)
    return policy


def test_a_network_of_ones_own_is_refused_in_both_directions():
    env = Env(Old(), 3, threads=1)
    own = ppo.Learner(env, ppo.Config(**OF_PPO), actor=with_norm)
    usual = parent_of(learner_of("ppo", Old))
    made = r"\(Gaussian, memoryless, Linear-LayerNorm-Tanh-Linear\): its weights have no names"
    with pytest.raises(OptionError, match=f"^the new policy is a network of its own {made}"):
        init_learner(own, usual)
    theirs = Parent(Path("old/1"), "old/1", 48, own.state_dict(), layouts_of(own))
    with pytest.raises(OptionError, match=f"^old/1 is a network of its own {made}"):
        init_learner(learner_of("ppo", Old), theirs)
    theirs = replace(theirs, layouts=usual.layouts)  # of a run of an earlier version
    with pytest.raises(
        OptionError, match=r"^old/1 has a network of its own: .* head\.1\.bias, head\.1\.weight"
    ):
        init_learner(learner_of("ppo", Old), theirs)


def test_what_differs_is_printed(capsys: pytest.CaptureFixture[str]):
    init_learner(learner_of("ppo", New, seed=1), parent_of(learner_of("ppo", Old)))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "from old/1, step 48: the first policy is the parent's"
    assert "  observations are in another order: moved by name" in said
    assert "  actuators are in another order: moved by name" in said
    assert said[-1] == "  anew: optimiser, random numbers, multipliers of other limits"
