"""A graph that differs from the policy, is not portable or keeps a NaN is not written to a file."""

import dataclasses
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from arm import Arm, Blind, Fused, make_policy
from torch import Tensor, nn

import robokit
from robokit.controller import open_session
from robokit.env.env import Env
from robokit.errors import ExportError
from robokit.export.gate import (
    STEPS,
    TOLERANCE,
    Recording,
    _spread,
    check_graph,
    check_spans,
    differences,
    gate,
    record,
)
from robokit.export.graph import Graph, trace
from robokit.export.write import export
from robokit.networks.policy import Policy
from robokit.task.action import Around


@dataclasses.dataclass
class Made:
    env: Env
    policy: Policy
    model: onnx.ModelProto
    recording: Recording


@pytest.fixture(scope="module")
def made() -> Made:
    env = robokit.make(Arm, num_envs=4, threads=1)
    policy = make_policy(env)
    return Made(env, policy, trace(Graph(policy, env), env), record(policy, env))


def test_the_rollout_is_real_and_has_episode_ends(made: Made) -> None:
    assert made.recording.obs.shape == (STEPS, 4, made.env.obs_dim)
    assert made.recording.is_first[0].all()
    assert made.recording.is_first[1:].sum() >= 4 * STEPS / 31


def perturbed_weight(policy: Policy) -> None:
    last = policy.head[-1]
    assert isinstance(last, nn.Linear)
    last.weight.data[0, 0] += 1e-3


def other_epsilon(policy: Policy) -> None:
    policy.normalizer.var.add_(1e-5)  # as if eps were 1e-5


def other_clip(policy: Policy) -> None:
    policy.normalizer.clip = 2.0


def test_the_policy_under_test_moves_and_is_seldom_clipped(made: Made) -> None:
    """Else parity would prove nothing."""
    with torch.no_grad():
        obs = made.recording.obs.flatten(0, 1)
        action, _ = made.policy(
            obs, torch.zeros(len(obs), made.policy.belief_size), torch.ones(len(obs)).bool()
        )
    assert (action.std(0) > 0.1).all()
    assert (action.abs() < 1).float().mean() > 0.5


def test_the_gate_lets_the_policy_pass_and_measures_it(made: Made) -> None:
    parity = gate(made.model, made.policy, made.env, made.recording)
    assert [(p.batch, p.steps) for p in parity] == [(1, 1000), (64, 1000)]
    assert all(p.resets >= 10 and 0 < p.ctrl_error <= TOLERANCE for p in parity)  # 0: a thing with itself


def test_a_policy_that_amplifies_rounding_by_its_previous_action_is_equal_step_by_step(made: Made) -> None:
    """The feedback is a chaotic map: two float32 programs part, however right both are."""
    policy = make_policy(made.env, "memoryless")
    policy.normalizer.mean[1:3], policy.normalizer.var[1:3] = 0.0, 1.0
    first = policy.head[0]
    assert isinstance(first, nn.Linear)
    first.weight.data[:, 1:3] *= 20
    model = trace(Graph(policy, made.env), made.env)
    alone, _ = gate(model, policy, made.env, made.recording)
    assert alone.loop_error > TOLERANCE >= max(alone.ctrl_error, alone.carry_error)


def test_a_nan_on_both_sides_is_no_parity(made: Made) -> None:
    obs = made.recording.obs.clone()
    obs[500] = torch.nan
    with pytest.raises(ExportError, match="differs from the policy at batch 1 by nan"):
        gate(made.model, made.policy, made.env, dataclasses.replace(made.recording, obs=obs))


def test_a_rollout_without_episode_ends_is_cut_into_enough_episodes(made: Made) -> None:
    endless = dataclasses.replace(made.recording, is_first=torch.zeros_like(made.recording.is_first))
    assert all(p.resets >= 10 for p in gate(made.model, made.policy, made.env, endless))


def test_a_policy_that_is_not_finite_is_no_policy(made: Made, tmp_path: Path) -> None:
    policy = make_policy(made.env)
    policy.log_std.data[0] = torch.nan  # pyright: ignore[reportIndexIssue]
    with pytest.raises(ExportError, match="log_std is not finite"):
        export(policy, made.env, tmp_path / "arm.onnx")


@pytest.mark.parametrize("change", [perturbed_weight, other_epsilon, other_clip])
def test_the_gate_stops_a_policy_that_changed_after_tracing(made: Made, change: Any) -> None:
    policy = make_policy(made.env)
    change(policy)
    with pytest.raises(ExportError, match=r"differs from the policy at batch 1 by .* of the actuator range"):
        gate(made.model, policy, made.env, made.recording)


class Product(Graph):
    """A reset by multiplication, which keeps a NaN."""

    def forward(self, terms: tuple[Tensor, ...], carry: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        kept = carry * (~reset[:, None]).float()
        return super().forward(terms, kept, torch.zeros_like(reset))


class Stale(Graph):
    """Carries the previous action as it was one step earlier."""

    def forward(self, terms: tuple[Tensor, ...], carry: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        ctrl, after = super().forward(terms, carry, reset)
        a = self.policy.act_dim
        return ctrl, torch.cat((torch.where(reset[:, None], 0.0, carry[:, :a]), after[:, a:]), -1)


class Drifting(Graph):
    """Its carried state drifts by 2e-5 in each step, and ctrl does not show it yet."""

    def forward(self, terms: tuple[Tensor, ...], carry: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        ctrl, after = super().forward(terms, carry, reset)
        return ctrl, after + 2e-5


class Unscaled(Graph):
    """Gives the action instead of ctrl."""

    def forward(self, terms: tuple[Tensor, ...], carry: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        _, after = super().forward(terms, carry, reset)
        return after[:, : self.policy.act_dim], after


class Wide(Blind):
    """Actions that reach 100 times beyond ctrlrange, which is 2 wide."""

    action = Around("home", scale=200.0)


class Shifted(Graph):
    """Its ctrl is off by 1e-4: 5e-5 of ctrlrange, but 2.5e-7 of what the actions span."""

    def forward(self, terms: tuple[Tensor, ...], carry: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        ctrl, after = super().forward(terms, carry, reset)
        return ctrl + 1e-4, after


def test_the_gate_measures_in_what_ctrl_is_clipped_to_where_actions_reach_beyond() -> None:
    env = robokit.make(Wide, num_envs=2, threads=1)
    policy = make_policy(env, "memoryless")
    session = open_session(trace(Shifted(policy, env), env).SerializeToString(), "the graph")
    short = Recording(
        torch.randn(20, 2, env.obs_dim), torch.zeros(20, 2, dtype=torch.bool), torch.zeros(20, 2, 0)
    )
    ctrl, _, _ = differences(session, policy, env, *_spread(short, 1))
    span = check_spans(env).span
    assert float((ctrl / span).max()) == pytest.approx(5e-5, rel=0.01)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (Product, "NaN probe"),
        (Stale, "differs"),
        (Drifting, r"differs .* by 2\.\d+e-05 in its carried state, at most 1e-05"),
        (Unscaled, "differs"),
    ],
)
def test_the_gate_stops_a_graph_that_is_wired_wrong(made: Made, wrong: type[Graph], says: str) -> None:
    model = trace(wrong(made.policy, made.env), made.env)
    with pytest.raises(ExportError, match=says):
        gate(model, made.policy, made.env, made.recording)


@pytest.mark.medium
def test_the_gate_stops_a_gru_whose_reset_gate_comes_before_the_product(made: Made) -> None:
    """`linear_before_reset=0`, which exporters have written for torch's GRU."""
    policy, fused = (make_policy(made.env, "gru") for _ in range(2))
    fused.belief = Fused(policy.belief)  # pyright: ignore[reportAttributeAccessIssue]
    model = trace(Graph(fused, made.env), made.env)
    (reset,) = [a for n in model.graph.node for a in n.attribute if a.name == "linear_before_reset"]
    part = Recording(*(x[:300] for x in vars(made.recording).values()))
    assert reset.i == 1 and gate(model, policy, made.env, part)
    reset.i = 0
    with pytest.raises(
        ExportError, match=r"differs from the policy at batch 1 by 0\.\d+ of the actuator range"
    ):
        gate(model, policy, made.env, part)


def static(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def foreign(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"


def external(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


def dangling(model: onnx.ModelProto) -> None:
    model.graph.node[-1].input[0] = "nowhere"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (static, r"fixed batch size in \['speed'\]"),
        (foreign, "com.microsoft::"),
        (external, "outside of its file"),
        (dangling, "not valid ONNX"),
    ],
)
def test_the_gate_stops_a_graph_that_is_not_portable(made: Made, spoil: Any, says: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(made.model)
    check_graph(model)
    spoil(model)
    with pytest.raises(ExportError, match=says):
        check_graph(model)


@pytest.mark.filterwarnings("ignore")
def test_a_static_batch_as_the_exporter_makes_it_is_stopped() -> None:
    example = (torch.zeros(1, 2),)
    program = torch.onnx.export(nn.Linear(2, 2).eval(), example, dynamo=True, opset_version=18, verbose=False)
    assert program is not None
    with pytest.raises(ExportError, match="fixed batch size"):
        check_graph(program.model_proto)


class Ahead(Arm):
    """Calls something else `action`, after a while."""

    def observe(self, sim: Any) -> dict[str, Tensor]:
        late = (sim.memory["age"] > 9).double()
        return {"action": sim.memory["action"] + late, "angle": sim.sensor("angle")}


def test_a_term_that_the_carry_cannot_hold_is_refused(tmp_path: Path) -> None:
    env = robokit.make(Ahead, num_envs=2, threads=1)
    with pytest.raises(ExportError, match="not the previous action"):
        export(make_policy(env), env, tmp_path / "x" / "arm.onnx")
    assert list(tmp_path.iterdir()) == []
