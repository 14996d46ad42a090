"""What only a CUDA device can show: recordings there equal plain calls, and a control step waits for nothing.

torch tells of every wait that it makes itself (`set_sync_debug_mode`), not of Warp's; but Warp's calls are
replayed here, and CUDA records nothing that waits.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import mujoco
import pytest
import torch
from test_warp import BLOCK
from torch import Tensor

from robokit.env.env import Env, make
from robokit.errors import ModelError
from robokit.sim.engines import make_sim
from robokit.task.lookup.find import load_task

pytest.importorskip("mujoco_warp", reason="needs robokit[gpu]")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
N = 64


def on_cuda(task: str) -> Env:
    return make(load_task(task), N, seed=3, sim="warp", device="cuda")


def actions(env: Env, steps: int) -> Tensor:
    rng = torch.Generator("cuda").manual_seed(0)
    return torch.rand(steps, N, env.act_dim, generator=rng, device="cuda") * 2 - 1


@contextmanager
def no_wait() -> Iterator[None]:
    """An error where torch would wait for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_wait_would_be_noticed():
    value = torch.ones(1, device="cuda")
    with no_wait(), pytest.raises(RuntimeError, match="synchroniz"):
        value.item()


@pytest.mark.parametrize("task", ["hopper", "go2_walk", "go2_walk:Go2WalkSensed"])
def test_a_control_step_waits_for_nothing(task: str):
    env = on_cuda(task)
    drawn = actions(env, 30)
    for action in drawn[:10]:  # kernels loaded, calls recorded
        env.step(action)
    with no_wait():
        for action in drawn[10:]:
            env.step(action)


def test_physics_and_a_restart_under_a_mask_wait_for_nothing():
    sim = on_cuda("hopper").sim
    ctrl, mask = torch.zeros(N, 3, device="cuda"), torch.arange(N, device="cuda") < 3
    qpos = sim.nominal("qpos0").expand(N, -1)

    def go() -> None:
        sim.step(ctrl, 4)
        sim.bad()
        sim.field("qvel")
        sim.reset(mask, {"qpos": qpos})

    for _ in range(3):
        go()
    with no_wait():
        for _ in range(10):
            go()


@pytest.mark.parametrize("task", ["hopper", "go2_walk"])
def test_replays_equal_plain_calls(task: str, monkeypatch: pytest.MonkeyPatch):
    recorded = on_cuda(task)
    with monkeypatch.context() as patch:
        patch.setattr("robokit.sim.warp.graph.obstacle", lambda device: "this test asks for plain calls")
        with pytest.warns(UserWarning, match="this test asks for plain calls"):
            plain = on_cuda(task)
    for k, action in enumerate(actions(recorded, 12)):
        one, other = recorded.step(action), plain.step(action)
        for a, b in ((one.obs, other.obs), (one.reward, other.reward), (recorded.sim.qpos, plain.sim.qpos)):
            assert ((a - b).abs() / (1 + a.abs())).quantile(0.99) < 1e-3, k
        for name in ("qpos", "qvel", "qacc_warmstart"):  # CUDA adds in any order, and contact magnifies
            plain.sim.field(name).copy_(recorded.sim.field(name))


def test_a_field_written_after_the_recording_takes_effect():
    """Each simulation falls by its own gravity, though all fell by one when the step was recorded."""
    sim = on_cuda("inverted_pendulum").sim
    ctrl = torch.zeros(N, 1, device="cuda")
    for _ in range(4):
        sim.step(ctrl, 1)
    gravity = torch.zeros(N, 3, device="cuda")
    gravity[:, 0] = torch.linspace(-1, 1, N, device="cuda")
    sim.reset(None, {"opt.gravity": gravity})
    for _ in range(4):
        sim.step(ctrl, 1)
    torch.cuda.synchronize()
    assert torch.equal(sim.qvel[:, 0].argsort(), torch.arange(N, device="cuda"))


def test_a_stream_of_ones_own_sees_what_was_queued_before():
    """Physics on a side stream of torch, recorded on the default one, in the caller's order."""
    first, second = on_cuda("hopper"), on_cuda("hopper")
    drawn = actions(first, 20)
    for action in drawn:
        first.step(action)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    for k, action in enumerate(drawn):
        if k < 10:
            second.step(action)
            side.wait_stream(torch.cuda.current_stream())
        else:
            with torch.cuda.stream(side):
                second.step(action)
    torch.cuda.synchronize()
    apart = (first.obs - second.obs).abs() / (1 + first.obs.abs())
    assert apart.quantile(0.9) < 1e-2  # CUDA adds in any order


def test_too_few_contacts_are_told_when_the_number_has_arrived():
    spec = mujoco.MjSpec.from_string(BLOCK.replace("<worldbody>", '<size nconmax="1"/><worldbody>', 1))
    sim = make_sim("warp", spec, N, {}, device="cuda")
    sim.reset(None, {"qpos": torch.tensor([[0.0, -0.001]], device="cuda").expand(N, 2)})
    ctrl = torch.zeros(N, 1, device="cuda")
    sim.step(ctrl, 1)
    torch.cuda.synchronize()
    with pytest.raises(ModelError, match="nconmax"):
        sim.step(ctrl, 1)
