"""The Warp engine on its CPU device equals `mujoco.batch` up to float32, on one task."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import pytest
import torch
from torch import Generator, Tensor

from robokit.env.env import Env, make
from robokit.errors import ModelError, OptionError
from robokit.sim.base import Sim
from robokit.sim.engines import make_sim
from robokit.task.command import Command
from robokit.task.task import Task, Terms, normal, packaged, uniform

GRAVITY = 9.81  # m/s^2, MuJoCo's default

# A free ball that carries a hinged rod on a motor, over a floor: contact, sensors of every stage.
ROVER = """
<mujoco>
  <option timestep="0.005" cone="elliptic"/>
  <worldbody>
    <geom name="floor" type="plane" size="0 0 1"/>
    <body name="ball" pos="0 0 0.12">
      <freejoint/>
      <geom name="shell" type="sphere" size="0.1" mass="1"/><site name="imu"/>
      <body name="rod" pos="0 0 0.1">
        <joint name="hinge" axis="0 1 0" damping="0.1"/>
        <geom type="capsule" fromto="0 0 0 0 0 0.2" size="0.02" mass="0.1"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="hinge" ctrlrange="-0.2 0.2"/></actuator>
  <sensor>
    <gyro name="gyro" site="imu"/><velocimeter name="velocimeter" site="imu"/>
    <framequat name="frame" objtype="site" objname="imu"/>
    <subtreelinvel name="momentum" body="ball"/>
    <accelerometer name="accelerometer" site="imu"/><touch name="touch" site="imu"/>
  </sensor>
</mujoco>
"""

# A block of 2 kg on a floor, driven along it.
BLOCK = """
<mujoco>
  <option timestep="0.002" cone="elliptic" impratio="100"/>
  <worldbody>
    <geom name="floor" type="plane" size="0 0 1"/>
    <body name="block" pos="0 0 0.05">
      <joint name="x" type="slide" axis="1 0 0"/><joint type="slide"/>
      <geom name="block" type="box" size="0.1 0.1 0.05" mass="2"/>
    </body>
  </worldbody>
  <actuator><motor joint="x"/></actuator>
</mujoco>
"""


class Rover(Task):
    """Everything a task can say, over a model with every kind of sensor."""

    model = mujoco.MjSpec.from_string(ROVER)
    control_dt = 0.01  # s
    time_limit = 0.12  # s
    commands = {"speed": Command(low=(-1.0, 0.0), high=(1.0, 2.0), every=(0.03, 0.05))}
    memory = {"turned": 1}  # rad, summed over the episode
    weights = {"track": 1.0, "turned": 0.1}

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        qpos = sim.nominal("qpos0").expand(sim.num_envs, -1).clone()
        qpos[:, 2:3] += 0.02 * uniform(sim, rng, 1)
        return {"qpos": qpos, "qvel": 0.5 * normal(sim, rng, sim.model.nv)}

    def randomize(self, sim: Sim, rng: Generator) -> Terms:
        friction = sim.nominal("geom_friction") * (1 + 0.5 * uniform(sim, rng, 1)[:, :, None])
        return {"geom_friction": friction}

    def disturb(self, sim: Sim, rng: Generator) -> Terms:
        return {"qvel": sim.qvel + 0.05 * normal(sim, rng, sim.model.nv)}

    def observe(self, sim: Sim) -> Terms:
        named = {name: sim.sensor(name) for name in ("gyro", "velocimeter", "frame", "momentum")}
        late = {"accelerometer": sim.sensor("accelerometer") / 10, "touch": sim.sensor("touch") / 100}
        rod = {"rod": sim.body("rod").xpos, "turn": sim.body("rod").xmat, "spin": sim.body("rod").cvel}
        return {**named, **late, **rod, "speed": sim.memory["speed"], "action": sim.memory["action"]}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        error = sim.sensor("velocimeter")[:, :2] - sim.memory["speed"]
        return {"track": -error.norm(dim=-1), "turned": sim.memory["turned"][:, 0]}

    def remember(self, sim: Sim, action: Tensor) -> Terms:
        return {"turned": sim.memory["turned"] + sim.joint("hinge").qvel.abs() * self.control_dt}


class Slippery(Task):
    """A hopper whose links and floor differ between simulations."""

    model = packaged("gymnasium", "envs/mujoco/assets/hopper.xml")
    control_dt = 0.008  # s
    time_limit = 8.0  # s
    weights = {"height": 1.0}

    def randomize(self, sim: Sim, rng: Generator) -> Terms:
        mass, friction = (1 + 0.5 * uniform(sim, rng, n) for n in (sim.model.nbody, sim.model.ngeom))
        factors = {"body_mass": mass, "body_inertia": mass[..., None], "geom_friction": friction[..., None]}
        return {name: sim.nominal(name) * factor for name, factor in factors.items()}

    def observe(self, sim: Sim) -> Terms:
        return {"position": sim.qpos, "velocity": sim.qvel}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"height": sim.qpos[:, 1]}


def warp_sim(xml: str, num_envs: int) -> Sim:
    pytest.importorskip("mujoco_warp")
    return make_sim("warp", mujoco.MjSpec.from_string(xml), num_envs, {"note": 1}, device="cpu")


def on_warp(task: str | type[Task], num_envs: int, seed: int = 3) -> Env:
    pytest.importorskip("mujoco_warp")
    return make(task, num_envs, seed=seed, sim="warp", device="cpu")


def largest(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def rollout(cpu: Env, gpu: Env, steps: int) -> tuple[float, float, float, int]:
    """The largest differences in qpos, obs and reward, and how many episodes ended."""
    rng = torch.Generator().manual_seed(0)
    found, ended = [[0.0, 0.0, 0.0]], 0
    for _ in range(steps):
        action = torch.rand(cpu.num_envs, cpu.act_dim, generator=rng) * 2 - 1
        one, other = cpu.step(action), gpu.step(action)
        assert torch.equal(one.terminated, other.terminated)
        assert torch.equal(one.truncated, other.truncated)
        obs = max(largest(one.obs, other.obs), largest(one.final_obs, other.final_obs))
        found.append([largest(cpu.sim.qpos, gpu.sim.qpos), obs, largest(one.reward, other.reward)])
        ended += int(one.done.sum())
    qpos, obs, reward = (max(column) for column in zip(*found, strict=True))
    return qpos, obs, reward, ended


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mujoco_warp", None)
    monkeypatch.delitem(sys.modules, "robokit.sim.warp.engine", raising=False)
    with pytest.raises(ModelError, match=r"pip install 'robokit\[gpu\]'"):
        make_sim("warp", mujoco.MjSpec(), 1, {})


@pytest.mark.slow
@pytest.mark.parametrize("device", ["tpu", "mps", "cuda:9999"])
def test_a_device_that_is_not_there_is_named(device: str):
    pytest.importorskip("mujoco_warp")
    with pytest.raises(OptionError, match=device):
        make_sim("warp", mujoco.MjSpec.from_string(ROVER), 1, {}, device=device)


@pytest.mark.slow
def test_a_feature_that_warp_lacks_is_named_before_anything_runs():
    with pytest.raises(ModelError, match="PGS"):
        warp_sim(ROVER.replace("<option", '<option solver="PGS"'), 1)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["inverted_pendulum", "hopper", "reacher"])
def test_a_task_rolls_out_alike_on_both_engines(task: str):
    qpos, obs, reward, ended = rollout(make(task, 4, seed=3), on_warp(task, 4), steps=50)
    assert ended > 0
    assert qpos < 2e-5
    assert obs < 2e-4
    assert reward < 2e-5


@pytest.mark.slow
def test_commands_memory_pushes_and_randomisation_are_alike_on_both_engines():
    cpu, gpu = make(Rover, 3, seed=3), on_warp(Rover, 3)
    qpos, obs, reward, ended = rollout(cpu, gpu, steps=30)
    assert ended == 6
    assert float(cpu.sim.memory["turned"].min()) > 0
    assert largest(cpu.sim.memory["turned"], gpu.sim.memory["turned"]) < 1e-4
    assert qpos < 2e-6
    assert obs < 2e-4
    assert reward < 2e-5


@pytest.mark.slow
def test_masses_and_friction_of_each_simulation_are_alike_on_both_engines():
    cpu, gpu = make(Slippery, 4, seed=3), on_warp(Slippery, 4)
    qpos, obs, reward, _ = rollout(cpu, gpu, steps=50)
    assert qpos < 2e-5
    assert obs < 2e-4
    assert reward < 2e-5
    assert largest(cpu.sim.qpos[0], cpu.sim.qpos[1]) > 1e-2


@pytest.mark.slow
def test_a_restart_touches_only_the_simulations_of_its_mask():
    sim = on_warp(Rover, 3).sim
    sim.step(torch.ones(3, 1), 2)
    names = ("qpos", "qvel", "ctrl", "qacc", "qacc_warmstart", "memory", "sensordata", "xpos", "cvel")
    before = {name: (sim.field(name).clone(), sim.field(name).data_ptr()) for name in names}
    friction = 2 * sim.nominal("geom_friction").expand(3, -1, -1)
    qpos = sim.nominal("qpos0").expand(3, -1)
    sim.reset(torch.tensor([False, True, False]), {"qpos": qpos, "geom_friction": friction})
    for name, (old, storage) in before.items():
        now = sim.field(name)
        assert torch.equal(now[[0, 2]], old[[0, 2]]), name
        assert not torch.equal(now[1], old[1]), name
        assert now.data_ptr() == storage, name
    assert torch.equal(sim.qpos[1], sim.nominal("qpos0"))
    assert not sim.field("memory")[1].any()
    written = (sim.state_dict()["field.geom_friction"] == friction).flatten(1).all(1)
    assert written.tolist() == [False, True, False]


PLAIN = "this test asks for plain calls"


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A context in which nothing that is made will record its calls."""

    @contextmanager
    def unrecorded() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr("robokit.sim.warp.graph.obstacle", lambda device: PLAIN)
            with pytest.warns(UserWarning, match=PLAIN):
                yield

    return unrecorded


def sliding(sim: Sim) -> Tensor:
    """qpos and qvel (T, N, 4) of blocks whose friction, then mass, comes to differ while they slide."""
    mask, seen = torch.tensor([True, False, True]), list[Tensor]()
    friction = torch.tensor([0.1, 0.3, 0.6])[:, None, None].expand(3, 2, 3)
    mass = torch.tensor([1.0, 2.0, 3.0])[:, None] * torch.tensor([0.0, 1.0])
    moving = {"qvel": torch.tensor([[1.0, 0.0]]).expand(3, 2)}
    for values in ({}, {"geom_friction": friction}, {"body_mass": mass}):
        for chosen in (None, mask, mask, mask):
            sim.reset(chosen, moving | values)
            for _ in range(4):
                sim.step(torch.full((3, 1), 5.0), 2)
                seen.append(torch.cat((sim.qpos, sim.qvel), -1))
    return torch.stack(seen)


@pytest.mark.slow
def test_replays_equal_plain_calls_bit_for_bit_while_fields_of_the_model_come_and_change(
    plain: Callable[[], Any],
):
    recorded = sliding(warp_sim(BLOCK, 3))
    with plain():
        sim = warp_sim(BLOCK, 3)
    assert torch.equal(sliding(sim), recorded)
    assert not torch.equal(recorded[31, 1], recorded[15, 1])  # friction told
    assert not torch.equal(recorded[47, 1], recorded[31, 1])  # and so did mass


@pytest.mark.slow
@pytest.mark.parametrize("task", [Rover, Slippery])
def test_an_episode_is_the_same_bit_for_bit_replayed_or_plain(task: type[Task], plain: Callable[[], Any]):
    one = on_warp(task, 3)
    with plain():
        other = on_warp(task, 3)
    assert rollout(one, other, steps=16) == (0.0, 0.0, 0.0, 3 if task is Rover else 0)


@pytest.mark.slow
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1e11])
def test_a_broken_simulation_is_found_ended_and_restarted_and_disturbs_nobody(value: float):
    broken, whole = on_warp(Rover, 3), on_warp(Rover, 3)
    broken.sim.qvel[1, 0] = value
    one, other = broken.step(torch.ones(3, 1)), whole.step(torch.ones(3, 1))
    assert one.bad.tolist() == one.terminated.tolist() == [False, True, False]
    assert not other.bad.any()
    assert one.reward[1] == 0
    for a, b in ((one.obs, other.obs), (one.reward, other.reward), (one.final_obs, other.final_obs)):
        assert torch.isfinite(a).all()
        assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert not broken.step(torch.ones(3, 1)).bad.any()


@pytest.mark.slow
def test_an_action_that_is_not_finite_breaks_its_simulation():
    sim = warp_sim(ROVER, 2)
    sim.step(torch.tensor([[0.1], [torch.nan]]), 1)
    assert sim.bad().tolist() == [False, True]


@pytest.mark.slow
def test_each_block_is_slowed_by_its_own_friction():
    sim = warp_sim(BLOCK, 3)
    mu = torch.tensor([0.1, 0.3, 0.6])
    friction = torch.ones(3, 2, 3) * mu[:, None, None]
    sim.reset(None, {"geom_friction": friction, "qvel": torch.tensor([[2.0, 0.0]]).expand(3, 2)})
    sim.step(torch.zeros(3, 1), 100)  # 0.2 s: all still slide
    pressed = GRAVITY * 0.2 + sim.qvel[:, 1]  # m/s, the floor's impulse per mass; sliding, it takes mu of it
    assert torch.allclose(sim.qvel[:, 0], 2.0 - mu * pressed, atol=1e-4)


@pytest.mark.slow
def test_masses_change_when_all_restart_and_stay_when_some_do():
    sim = warp_sim(BLOCK.replace("<option", '<option gravity="0 0 0"'), 2)
    mass = torch.tensor([[0.0, 1.0], [0.0, 4.0]])
    sim.reset(None, {"body_mass": mass, "qpos": torch.tensor([[0.0, 1.0]]).expand(2, 2)})
    sim.reset(torch.tensor([True, False]), {"body_mass": 10 * mass, "qpos": torch.ones(2, 2)})
    sim.step(torch.full((2, 1), 8.0), 5)  # N, for 0.01 s
    assert sim.qvel[:, 0].tolist() == pytest.approx([8.0 / 1.0 * 0.01, 8.0 / 4.0 * 0.01], rel=1e-4)


@pytest.mark.slow
def test_a_field_that_all_simulations_share_cannot_be_written():
    sim = warp_sim(BLOCK, 2)
    with pytest.raises(ModelError, match="'geom_type'"):
        sim.reset(None, {"geom_type": torch.zeros(2, 2)})


@pytest.mark.slow
@pytest.mark.parametrize("task", [Rover, Slippery])
def test_a_saved_rollout_continues_bit_for_bit_on_the_cpu_device(task: type[Task]):
    one, other = on_warp(task, 2, seed=3), on_warp(task, 2, seed=4)
    actions = torch.rand(20, 2, one.act_dim, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for action in actions[:10]:
        one.step(action)
    other.load_state_dict(one.state_dict())
    for action in actions[10:]:
        a, b = one.step(action), other.step(action)
        assert torch.equal(a.obs, b.obs)
        assert torch.equal(a.reward, b.reward)


@pytest.mark.slow
@pytest.mark.parametrize("task", [Rover, Slippery])
def test_a_copied_rollout_continues_bit_for_bit_on_the_cpu_device(task: type[Task]):
    one, other = on_warp(task, 2, seed=3), on_warp(task, 3, seed=4)
    rows = torch.tensor([1, 0, 1])
    actions = torch.rand(20, 2, one.act_dim, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for action in actions[:10]:
        one.step(action)
    other.copy(one, rows)
    for action in actions[10:]:
        a, b = one.advance(action), other.advance(action[rows])
        assert torch.equal(a.reward[rows], b.reward)
        assert torch.equal(one.sim.qpos[rows], other.sim.qpos)


@pytest.mark.slow
def test_too_few_constraint_rows_end_a_simulation_and_name_the_option():
    sim = warp_sim(BLOCK.replace("<worldbody>", '<size njmax="2"/><worldbody>', 1), 2)
    sim.reset(None, {"qpos": torch.tensor([[0.0, -0.001], [0.0, 1.0]])})
    sim.step(torch.zeros(2, 1), 1)
    assert sim.bad().tolist() == [True, False]
    hit = [cause for cause, broke in zip(sim.causes, sim.faults()[0].tolist(), strict=True) if broke]
    assert hit == ["no room for all constraint rows"]
    with pytest.warns(UserWarning, match="njmax"):
        sim.step(torch.zeros(2, 1), 1)
    sim.reset(torch.tensor([True, False]), {"qpos": torch.ones(2, 2)})
    sim.step(torch.zeros(2, 1), 1)
    assert not sim.bad().any()


@pytest.mark.slow
def test_too_few_contacts_are_an_error_that_names_the_option():
    sim = warp_sim(BLOCK.replace("<worldbody>", '<size nconmax="1"/><worldbody>', 1), 2)
    sim.reset(None, {"qpos": torch.tensor([[0.0, -0.001]]).expand(2, 2)})
    sim.step(torch.zeros(2, 1), 1)
    with pytest.raises(ModelError, match="nconmax"):
        sim.step(torch.zeros(2, 1), 1)


@pytest.mark.slow
def test_a_chain_too_long_for_dense_matrices_steps():
    xml = "<body pos='0.1 0 0'><joint axis='0 1 0'/><geom size='0.02' contype='0'/>{}</body>"
    chain = ""
    for _ in range(62):  # degrees of freedom; MuJoCo 4.0.0 itself needs them dense
        chain = xml.format(chain)
    sim = warp_sim(f"<mujoco><worldbody>{chain}</worldbody></mujoco>", 1)
    sim.step(torch.zeros(1, 0), 1)
    assert sim.qvel.abs().max() > 0
    assert not sim.bad().any()


@pytest.mark.slow
def test_a_wall_that_is_moved_is_an_error_and_not_left_where_it_was():
    sim = warp_sim(BLOCK, 2)
    moved = sim.nominal("geom_pos").expand(2, -1, -1) + torch.tensor([0.0, 0.0, 0.1])
    with pytest.raises(ModelError, match="geom_pos of geom floor is fixed to the world"):
        sim.reset(None, {"geom_pos": moved})
