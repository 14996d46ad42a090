"""Every kind of belief passes the gate with the same signature, and its file acts like the policy."""

from itertools import islice

import numpy as np
import onnx
import pytest
import torch
from arm import Arm, make_policy
from test_write import Made, closed_loop
from torch import Tensor

import robokit
from robokit.controller import OUTPUTS, Controller, load
from robokit.evaluation.episodes import onnx_actor
from robokit.evaluation.measure import evaluate
from robokit.export.gate import TOLERANCE
from robokit.export.write import export
from robokit.show.film import control_steps
from robokit.sim.base import Sim
from robokit.task.sense import Sense
from robokit.task.task import Terms


class Sensed(Arm):
    """Its rail is not seen, its angle late, noisy and not always."""

    sensing = {"rail": Sense(hidden=True), "angle": Sense(noise=0.02, delay=(0.0, 0.05), dropout=0.2)}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"alive": 1 - sim.qpos[:, 1].square()}


MEMORIES = {  # kind, mirrored -> numbers carried beside the previous action
    ("gru", True): 16,
    ("lstm", False): 16,
    ("mingru", False): 8,
}
MORE = {  # the same, slow; a plain GRU also passes the gate elsewhere
    ("gru", False): 8,
    ("memoryless", True): 0,
    ("stack", True): 2 * 3 * 8,
    ("lstm", True): 32,
    ("mingru", True): 16,
}


@pytest.fixture(
    scope="module",
    params=[*MEMORIES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE)],
    ids=lambda case: f"{case[0]}{'-mirrored' * case[1]}",
)
def remembers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One export of Sensed for each memory."""
    env = robokit.make(Sensed, num_envs=4, threads=1)
    policy = make_policy(env, *request.param)
    report = export(policy, env, tmp_path_factory.mktemp("memory") / "arm.onnx")
    contract = load(report.path).contract
    assert contract["carried"][-1]["size"] == (MEMORIES | MORE)[request.param]
    return Made(env, policy, report, contract)


@pytest.mark.medium
def test_every_memory_passes_the_gate_and_is_the_policy_across_episodes(remembers: Made) -> None:
    parity = remembers.report.parity
    assert [(p.batch, p.steps) for p in parity] == [(1, 1000), (64, 1000)]
    assert all(p.resets >= 10 and 0 < p.ctrl_error <= TOLERANCE for p in parity)
    env = robokit.make(Sensed, threads=1, seed=3)
    worst, ends = closed_loop(remembers.report.path, remembers.policy, env, 200)
    assert worst <= TOLERANCE
    assert ends >= 5


@pytest.mark.medium
def test_the_carry_is_the_belief_behind_the_previous_action_and_a_reset_clears_a_nan(remembers: Made) -> None:
    _, session, contract, _ = load(remembers.report.path)
    size = remembers.policy.belief_size
    assert {c["name"]: c["size"] for c in contract["carried"]} == {"action": 2, "belief": size}
    given = {i["name"]: np.full((2, i["size"]), 0.1, np.float32) for i in contract["inputs"]}
    results = []
    for held in (0.3, np.nan):
        carry = np.full((2, 2 + size), [[held], [0.3]], np.float32)
        fed = {**given, "carry": carry, "reset": np.array([True, False])}
        results.append(np.concatenate([np.asarray(x) for x in session.run(OUTPUTS, fed)], -1))
    assert np.isfinite(results[0]).all() and np.array_equal(*results)
    assert size == 0 or not np.array_equal(results[0][0], results[0][1])  # what is not reset is remembered


@pytest.mark.medium
def test_every_memory_is_made_of_standard_ops(remembers: Made) -> None:
    model = onnx.load(remembers.report.path)
    opset = {o.domain: o.version for o in model.opset_import}
    assert opset.keys() == {""} and not model.functions
    assert all(n.domain == "" and onnx.defs.has(n.op_type, opset[""]) for n in model.graph.node)


@pytest.mark.medium
def test_what_is_hidden_is_no_input_and_the_file_is_evaluated_and_shown_as_the_policy(
    remembers: Made,
) -> None:
    path, policy = remembers.report.path, remembers.policy
    assert [i["name"] for i in remembers.contract["inputs"]] == ["speed", "gyro", "angle", "product"]
    report = evaluate(path, Sensed, episodes=8, threads=1, policy=policy)
    assert report.versus_torch is not None
    assert report.returns.std > 0.01 and abs(report.versus_torch.mean) < 1e-4 * report.returns.std
    act, first, ends = onnx_actor(load(path)), torch.ones(1).bool(), 0
    env, shown = (robokit.make(Sensed, threads=1, seed=5) for _ in range(2))
    env.reset()
    for step in islice(control_steps(Controller(path), shown), 100):
        expected = env.step(act(env, first))
        assert torch.equal(step.obs, expected.obs)
        first, ends = expected.done, ends + int(expected.done)
    assert ends >= 2
