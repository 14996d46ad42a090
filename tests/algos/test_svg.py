"""SAC through a model: against SAC, Riccati, and a recording of the real loop; what is saved and refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import reach
import torch
from agents import TINY, Limited, Plain, a_batch
from cart import Cart
from test_loop import assert_equal
from test_offpolicy_loop import assert_remember_alike, copied
from torch import Tensor

import robokit
from robokit.algos import svg
from robokit.algos.svg import SVG, Config, Learner, check
from robokit.dynamics import ensemble, fit, rollouts
from robokit.dynamics.imagine import After, Imagined as Simulator, Model
from robokit.dynamics.rollouts import Imagined, State
from robokit.env.env import Env
from robokit.errors import OptionError, RunError, TaskError
from robokit.learning.constrained import Constrained
from robokit.learning.offpolicy.agent import upper
from robokit.limits.limit import Limit
from robokit.planning import planner
from robokit.task.task import Task
from robokit.training.setup.restore import rebuild, restore_model

SMALL: dict[str, Any] = TINY | {
    "model_hidden": (8,), "members": 3, "imagined": 2, "compile": False, "critics": 2, "window": 16,
    "batch": 16, "model_every": 10.0,
}  # fmt: skip
ROWS = 16  # imagined episodes


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"START": 3, "REFRESH": 4, "ROWS": ROWS, "BATCH": 16, "SCALED": 64, "END_HIDDEN": (8,)}
    for module in (svg, rollouts, fit, ensemble):
        for name in sizes.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, sizes[name])


def options(**changes: Any) -> Config:
    return Config(**SMALL | changes)


def agent_of(task: type[Task] = Plain, **changes: Any) -> SVG:
    config, env = options(**changes), Env(task(), 2, threads=1)
    check(config)
    torch.manual_seed(0)
    return SVG(env, config, Constrained(env, config), False)


def learner_of(task: type[Task] = Plain, seed: int = 0, **changes: Any) -> Learner:
    config = options(**changes)
    learner = Learner(Env(task(), config.simulations, seed=seed, threads=1), config, seed)
    learner.horizon = 11
    learner.steps_per_iteration = learner.horizon * learner.env.num_envs
    return learner


def perfect(agent: SVG, batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says what the batch says, whatever the action."""

    def step(net: Any, frame: Tensor, belief: Tensor, action: Tensor, *rest: Any) -> After:
        zero = torch.zeros(len(frame))
        named = batch["final_obs"][0], batch["reward"][0], batch["cost"][0], batch["terminated"][0]
        return After(*named, zero, torch.zeros_like(batch["cost"][0]))

    monkeypatch.setattr(agent.model, "step", step)


class Absorbing(Limited):
    limits = {"away": Limit(0.5, largest=2.0, absorb=0.5), "hit": Limit(0.1, "probability")}


@pytest.mark.parametrize("task", [Plain, Limited, Absorbing])
@torch.no_grad()
def test_one_step_of_a_perfect_model_gives_sacs_target(task: type[Task], monkeypatch: pytest.MonkeyPatch):
    agent = agent_of(task, temperature=0.3, lookahead=1)
    batch = a_batch(agent, 16, ends=0.6)
    batch["terminated"][0, :3] = True
    if agent.limits:
        batch["cost"][..., 1] = (batch["cost"][..., 1] > 0.7).float()
    perfect(agent, batch, monkeypatch)
    noise, alpha, nothing = torch.randn(2, 16, 2), torch.tensor(0.3), torch.zeros(len(agent.limits))
    parts = batch["is_first"][0], batch["steps_left"][0]
    state = State(batch["obs"][0], torch.zeros(16, 0), torch.zeros(16, 0), *parts)
    state, step = agent.ahead(None, state, noise[0], torch.zeros(16, 8), torch.zeros(0))
    ends = agent.finish(None, state, noise[1])
    gain, target = agent.objective([step], ends, alpha, nothing, nothing)

    sums = agent.sums(batch)
    action, log_prob = agent.policy.draw(agent.policy_next(agent.policy, batch, sums.last), noise[1][None])
    q = agent.q_next(batch, sums, action)
    sac = agent.target(sums, agent.reduced(q) - alpha * log_prob, q)
    torch.testing.assert_close(target, sac[:, 0], atol=1e-6, rtol=1e-6)
    assert len({x.item() for x in target[0, :, 0]}) == 16 and (target[..., 1:] > 0).any() == bool(
        agent.limits
    )
    # the policy's: with the entropy of the first action, by the online critics
    given = batch["final_obs"][0], torch.zeros(16, 0), torch.zeros(16) > 0
    online = agent.critic.decode(agent.critic.encode(*given)[0], action[0])
    going = 0.99 * ~batch["terminated"][0]
    value = online[..., 0].mean(0) - 0.3 * log_prob[0]
    expected = batch["reward"][0] - 0.3 * step.log_prob + going * value
    torch.testing.assert_close(gain, expected, atol=1e-5, rtol=1e-5)


def test_three_steps_on_a_scalar_lqr_give_riccatis_gradient():
    """x' = a x + b u, r = -(q x^2 + r u^2), u = -k x; Q^k at the end: all but g^4 of the gradient of J(k)."""
    a, b, cost, effort, g = 1.1, 0.5, 1.0, 0.4, 0.95

    def value(k: Any) -> Any:  # x^2 P_k
        return (cost + effort * k * k) / (1 - g * (a - b * k) ** 2)

    k = torch.tensor(1.4, requires_grad=True)
    assert g * (a - b * k.item()) ** 2 < 0.3
    x0, p = torch.tensor([[1.0], [-2.0], [0.5]]), value(1.4)
    riccati = torch.autograd.grad(-(x0.square().mean() * value(k)), k)[0]

    agent = agent_of(lookahead=3, gamma=g, critics=1)
    fake: Any = agent
    plain = torch.zeros(3, 0)
    fake.policy = SimpleNamespace(
        encode=lambda obs, belief, first: (obs, belief),
        decode=lambda x: x,
        draw=lambda x, noise: (-k * x[:, :1], torch.zeros(3)),
    )

    def q(x: Tensor, u: Tensor) -> Tensor:
        return -(cost * x**2 + effort * u**2 + g * p * (a * x + b * u) ** 2)[None]

    critic = SimpleNamespace(encode=lambda obs, belief, first: (obs[:, :1], belief), decode=q)
    fake.critics = fake.critic_target = SimpleNamespace(bound=lambda graph: critic)

    def step(net: Any, frame: Tensor, belief: Tensor, u: Tensor, *rest: Any) -> After:
        x, zero = frame[:, :1], torch.zeros(3)
        after = torch.cat((a * x + b * u, frame[:, 1:]), -1)
        return After(
            after, -(cost * x**2 + effort * u**2)[:, 0], torch.zeros(3, 0), zero > 0, zero, zero[:, None]
        )

    fake.model.step = step
    frame = torch.cat((x0, torch.zeros(3, agent.model.frames.size - 1)), -1)
    state, steps = State(frame, plain, plain, torch.zeros(3) > 0, torch.zeros(3)), []
    for _ in range(3):
        state, imagined = agent.ahead(None, state, plain, plain, plain)
        steps.append(imagined)
    nothing = torch.zeros(0)
    gain, target = agent.objective(
        steps, agent.finish(None, state, plain), torch.tensor(0.0), nothing, nothing
    )
    assert gain.mean().item() == pytest.approx(-(x0.square().mean() * p).item(), rel=1e-5)
    torch.testing.assert_close(target[0], gain[:, None].detach())
    gradient = torch.autograd.grad(gain.mean(), k)[0]
    assert gradient.item() == pytest.approx(riccati.item(), rel=0.02)
    assert abs(gradient.item()) > 0.1


@pytest.mark.parametrize("memory", ["stack", "gru"])
@torch.no_grad()
def test_imagination_of_a_recording_has_the_real_loops_beliefs_bit_for_bit(
    memory: str, monkeypatch: pytest.MonkeyPatch
):
    learner = learner_of(
        belief=memory, critic_belief=memory, learning_starts=200, num_envs=2, normalize_obs=False
    )
    learner.random = False
    learner.env.task.history = 3
    steps = 8
    for _ in range(steps):
        learner._collect(learner._noise(1, 2)[0][0])
    rows, beliefs, agent = learner.replay.rows[:steps], learner.replay.beliefs[:steps], learner.agent
    batch = agent.batch(rows, beliefs[0])
    assert not batch["done"].any()
    calls = iter(range(steps))

    def step(net: Any, frame: Tensor, belief: Tensor, action: Tensor, *rest: Any) -> After:
        t, zero = next(calls), torch.zeros(2)
        return After(
            batch["final_obs"][t].contiguous(),
            batch["reward"][t],
            zero[:, None][:, :0],
            zero > 0,
            zero,
            zero[:, None],
        )

    monkeypatch.setattr(agent.model, "step", step)
    state = agent.start(rows[:1], beliefs[0])
    for t in range(steps - 1):
        state, _ = agent.imagine(
            agent.policy, state, torch.zeros(2, 2), torch.zeros(2, 8), torch.zeros(0), False
        )
        assert torch.equal(torch.cat((state.belief, state.critic_belief), -1), beliefs[t + 1]), t
    assert beliefs[-1].abs().max() > 0 and beliefs.shape[-1] > 0


@torch.no_grad()
def test_caution_raises_imagined_costs_by_the_members_deviation():
    targets = []
    for caution in (0.0, 2.0):
        agent = agent_of(Limited, caution=caution, lookahead=1)
        batch = a_batch(agent, 4, ends=0.0)
        parts = batch["is_first"][0], batch["steps_left"][0]
        state = State(batch["obs"][0], torch.zeros(4, 0), torch.zeros(4, 0), *parts)
        zero = torch.zeros(4, 2), torch.zeros(4, 8), svg.deal(4, 3, 0)
        step = agent.ahead(None, state, *zero)[1]
        x = agent.model.inputs(state.frame, state.belief, step.action)
        net = agent.model.net
        spread = net(x)[0][..., -2:].std(0, correction=0) * net.out.std[-2:]
        targets.append(step.signal[:, 1:])
    torch.testing.assert_close(targets[1] - targets[0], 2.0 * spread / agent.largest)
    assert spread.min() > 0


def test_the_policy_pays_for_imagined_costs_as_in_sac():
    agent = agent_of(Limited, lookahead=1)
    q, price, weight = torch.rand(2, 5, 3), torch.tensor([0.5, 2.0]), torch.tensor([1.0, 0.5])
    zero, none = torch.zeros(5), torch.zeros(5, 3)
    step = Imagined(zero, zero, none, none > 0, none[:, 1:], zero > 0, zero)
    gain, _ = agent.objective([step], (q, q, torch.zeros(5)), torch.tensor(0.0), price, weight)
    cost = upper(0.99 * q[..., 1:], agent.config.pessimism)
    expected = (0.99 * q[..., 0].mean(0) - cost @ (price * agent.largest)) / (1 + weight.sum())
    torch.testing.assert_close(gain, expected)


CASES = {
    "plain": (Plain, {"doubt": 1.0}),
    "mbpo": (Plain, {"lookahead": 0, "imagined": 1, "real": 0.25, "utd": 0.5}),
    "limits": (Limited, {"caution": 1.0, "belief": "stack", "critic_belief": "stack"}),
    "gru": (Plain, {"belief": "gru", "critic_belief": "gru", "imagined": 0}),
    "delta": (reach.Reach, {"ends": "learned"}),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_learner_continues_bit_for_bit_between_two_rollouts(case: str):
    task, changes = CASES[case]
    changes = {"utd": 0.15, **changes}
    straight, other = (learner_of(task, seed, **changes) for seed in (0, 5))
    first = [straight.iterate() for _ in range(2)]
    while straight.gradients % 4 == 0:
        first = [straight.iterate()]
    other.iterate()
    copied(straight, other)
    assert_equal(straight, other)
    rest = [straight.iterate() for _ in range(2)]
    assert [other.iterate() for _ in range(2)] == rest != first
    assert {"loss/policy", "loss/model_nll"} <= rest[0].keys()
    assert_equal(straight, other)
    assert_remember_alike(straight.replay, other.replay)
    if straight.config.imagined:
        assert straight.rollouts.ring.position > 0
        rows = straight.rollouts.ring.rows[: min(straight.rollouts.ring.position, 200)]
        assert rows.isfinite().all() and rows.shape[1] == ROWS


def test_a_batch_has_the_share_of_real_transitions_that_is_asked_for():
    learner = learner_of(lookahead=0, imagined=1, real=0.25)
    learner.iterate()
    learner.iterate()
    learner.rollouts.ring.rows.fill_(-7.0)
    rows, belief = learner._batch()
    assert rows.shape[:2] == (1, 16) and len(belief) == 16
    assert (rows[0] == -7.0).all(-1).sum() == 12


def test_a_rollout_that_ends_goes_on_from_the_replay_and_doubt_ends_it_too():
    learner = learner_of(imagined=3)
    learner.iterate()
    learner.iterate()
    own, (noise, wide) = learner.rollouts, learner._noise(3, ROWS)
    with torch.no_grad():
        for over, most, stopped in ((0, 0.0, 0.0), (0, 1e9, 0.0), (0, 1e-9, 1.0), (1, 0.0, 1.0)):
            learner.agent.config = options(doubt=most)
            own.most = most
            own.usual.zero_()
            learner.agent.model.known = lambda seen, over=over: torch.full((len(seen),), over) > 0
            share = own.go(learner.replay, noise, wide, learner.rng)
            assert share.item() == stopped
            last = (own.ring.position - 1) % own.ring.steps
            obs = learner.agent.batch(own.ring.rows[last : last + 1], torch.zeros(ROWS, 0))["obs"][0]
            real = learner.replay.rows[: len(learner.replay), :, : obs.shape[-1]].flatten(0, 1)
            found = (obs[:, None] == real[None]).all(-1).any(-1)
            assert found.all() == (stopped == 1.0)


def test_the_task_tells_the_end_unless_it_is_to_be_learned():
    def known(**options: Any) -> Any:
        env = Env(type("Told", (Plain,), {"ended": lambda self, terms: terms["slide"][:, 0] > 0.3})(), 2)
        return Model(env, 0, 0, 2, (4,), **options)

    model = known()
    frame = torch.zeros(3, model.frames.size)
    frame[1, 0] = 0.4
    assert next(iter(model.frames.widths)) == "slide" and model.known is not None
    assert model.known(frame).tolist() == [False, True, False]
    assert known(learned=True).known is None
    assert Model(Env(Plain(), 2), 0, 0, 2, (4,)).known is None  # it terminates, and does not tell
    never = Model(robokit.make("half_cheetah"), 0, 0, 2, (4,)).known
    assert never is not None and not never(torch.zeros(3, 17)).any()


def test_a_model_is_stepped_as_a_planners_simulator():
    env, rows = Env(Plain(), 2), 7
    model = Model(env, 0, 0, 3, (4,))
    model.known = lambda seen: seen[:, 0] > 0.5
    imagined = Simulator(model, env)
    frame = torch.zeros(rows, model.frames.size)
    frame[2, 0] = 2.0
    env.obs = frame[1:3]
    imagined.start((torch.arange(rows) == 2).long())
    torch.nn.init.zeros_(model.net.net.weights[-1])
    model.net.net.biases[-1].data[..., model.frames.predicted] = 1.5
    for t in range(2):
        reward, cost, alive = imagined.step(torch.zeros(rows, 2))
        assert cost.shape == (rows, 0)
        assert alive.tolist() == [i != 2 for i in range(rows)]
        assert reward.tolist() == [0.0 if i == 2 and t else 1.5 for i in range(rows)]
    said = model.predict(frame, frame[:, :0], torch.zeros(rows, 2))
    assert said.end.tolist() == [float(i == 2) for i in range(rows)]
    assert said.noise.shape == said.disagreement.shape == (rows, model.frames.predicted)
    with pytest.raises(OptionError, match="without memory; this one's inputs have 5 columns"):
        Simulator(Model(env, 5, 0, 3, (4,)), env)


def test_a_planner_plans_through_a_model():
    env = Env(Plain(), 2)
    model = Model(env, 0, 0, 3, ())
    model.known = lambda seen: seen[:, 0] > 1e6
    with torch.no_grad():
        model.net.net.weights[0].zero_()[:, -2, model.frames.predicted] = (
            1.0  # the reward is the first action
        )
    given = planner.Config(samples=16, horizon=3 * env.task.control_dt, iterations=4)
    action = planner.Planner(Simulator(model, env), given, env).plan()
    assert action.shape == (2, 2) and bool((action[:, 0] > 0.4).all())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lookahead": -1}, "lookahead must be finite and at least 0, got -1"),
        ({"imagined": -1}, "imagined must be finite and at least 0, got -1"),
        ({"lookahead": 0, "imagined": 0}, "leave nothing to imagine"),
        ({"members": 0}, "members must be > 0, got 0"),
        ({"members": 1}, r"members must be at least 2: .*; got 1"),
        ({"doubt": -1.0}, "doubt must be finite and at least 0, got -1.0"),
        ({"real": 1.5}, r"real must be in \[0, 1\], got 1.5"),
        ({"model_every": 0.0}, "model_every must be > 0, got 0.0"),
        ({"model_hidden": (8, 0)}, r"model_hidden must be > 0, got \(8, 0\)"),
        ({"n_step": 2}, "n_step must be 1: svg looks ahead by its model; got 2"),
        ({"belief": "gru", "burn_in": 2}, "burn_in must be 0"),
        ({"lookahead": 0, "belief": "gru"}, "lookahead 0 trains no recurrent belief"),
        ({"critic": "state"}, "critics must see what the model predicts"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(OptionError, match=words):
        learner_of(type("Sees", (Plain,), {}), **changes)


def test_a_limit_of_a_peak_and_a_hidden_command_are_refused():
    peak = type("Peak", (Limited,), {"limits": {"away": Limit(0.5, "peak", largest=2.0), "hit": Limit(0.1)}})
    with pytest.raises(OptionError, match="no limit of a peak"):
        learner_of(peak)
    with pytest.raises(TaskError, match="must observe its commands"):
        learner_of(type("Blind", (Cart,), {"observe": lambda self, sim: {"slide": sim.sensor("slide")}}))


@pytest.mark.slow
def test_a_run_is_trained_exported_and_measured_as_any_sac_policy(tmp_path: Path):
    own: dict[str, Any] = SMALL | {"ends": "learned", "steps": 40, "num_envs": 2}
    run = robokit.train("inverted_pendulum", "svg", runs=tmp_path, **own)
    assert robokit.evaluate(run, episodes=5).episodes == 5
    model, restored = restore_model(run)
    learner = rebuild(run)
    run.resume(learner)
    trained: Any = learner
    ours, theirs = model.net.state_dict(), trained.agent.model.net.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], x) for name, x in theirs.items())
    frame = restored.env.obs
    said = model.predict(frame, frame[:, :0], torch.zeros(len(frame), 1))
    assert said.frame.shape == frame.shape and ((said.end >= 0) & (said.end <= 1)).all()
    other = robokit.train("inverted_pendulum", "sac", runs=tmp_path, steps=40, learning_starts=20, batch=8)
    with pytest.raises(RunError, match="is a run of sac, which learns no model"):
        restore_model(other)


@pytest.mark.slow
@pytest.mark.parametrize("task", [Plain, Limited])
def test_the_compiled_gradient_step_is_the_eager_one(task: type[Task]):
    changes = {"utd": 1e-3, "steps": 10_000, "doubt": 2.0, "caution": 1.0, "hidden": (8, 8)}
    eager, compiled = (learner_of(task, compile=c, **changes) for c in (False, True))
    eager.horizon = 40
    eager.iterate()
    copied(eager, compiled)
    for _ in range(6):
        parts = [learner.learn() for learner in (eager, compiled)]
        assert parts[0].keys() == parts[1].keys()
        for name, value in parts[0].items():
            torch.testing.assert_close(
                parts[1][name], value, atol=1e-4, rtol=1e-4, msg=lambda m, n=name: n + m
            )
