"""Files of reset states: what is stored, what is refused, and what training makes of them."""

from pathlib import Path

import mujoco
import numpy as np
import pytest

from robokit.algos.ppo import Config, make_actor
from robokit.cli.command import main
from robokit.env.checks.notes import find_notes
from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.export.write import export
from robokit.task.lookup.find import load_task
from robokit.training.setup.build import Setup, build_learner

SMALL = Config(steps=64, num_envs=4, horizon=16, minibatch=32, epochs=1, hidden=(4,), compile=False)
ARM = """<mujoco model="arm">
  <compiler angle="radian"/>
  <option timestep="0.005" integrator="implicitfast"/>
  <worldbody>
    <geom name="table" type="box" size="1 1 .1" pos="0 0 -.1"/>
    <body name="upper" pos="0 0 .3">
      <joint name="shoulder" axis="0 1 0" range="-2 2" damping="1"/>
      <geom type="capsule" size=".02" fromto="0 0 0 .2 0 0" mass=".2"/>
      <body name="lower" pos=".2 0 0">
        <joint name="elbow" axis="0 1 0" range="-2 2" damping="1"/>
        <geom name="lower" type="capsule" size=".02" fromto="0 0 0 .2 0 0" mass=".1"/>
        <site name="tip" pos=".2 0 0"/>
      </body>
    </body>
    <body name="cube" pos=".6 0 .05"><freejoint/><geom type="box" size=".03 .03 .03" mass=".05"/></body>
  </worldbody>
  <actuator>
    <position joint="shoulder" kp="50" ctrlrange="-2 2"/>
    <position joint="elbow" kp="50" ctrlrange="-2 2"/>
  </actuator>
</mujoco>
"""
TASK = '''
from pathlib import Path
import torch
from robokit.sim.kinematics import reach
from robokit.task import States, Task, uniform

class Arm(Task):
    """Hold the arm up."""

    model = Path(__file__).with_suffix(".xml")
    control_dt = 0.02
    time_limit = 0.4
    memory = {"count": 1}
    weights = {"up": 1.0}
    near = States("near.npz")

    def reset(self, sim, rng):
        return self.near.draw(sim, rng, {})

    def observe(self, sim):
        return {"joints": sim.qpos[:, :2]}

    def rewards(self, sim, action):
        return {"up": sim.site("tip").xpos[:, 2]}

    def remember(self, sim, action):
        return {"count": sim.memory["count"] + 1}
'''
SCRIPT = '''
    def states(self, sim, rng):
        """The tip at random points in front of the arm, HEIGHT above the table."""
        points = torch.tensor([0.2, 0.0, 0.0]) + uniform(sim, rng, 3, 0.04)
        points[:, 1:] = torch.tensor([0.0, HEIGHT])
        found, _ = reach(sim.model, "tip", points.numpy())
        return {"qpos": torch.from_numpy(found)}
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "arm.xml").write_text(ARM)
    (tmp_path / "arm.py").write_text(TASK)
    return tmp_path / "arm.py"


def states(file: Path, *more: str, output: str = "near.npz") -> dict[str, np.ndarray]:
    assert main(["states", str(file), "-o", str(file.parent / output), "--number", "40", *more]) == 0
    return dict(np.load(file.parent / output))


def test_settled_states_hold_what_was_drawn_and_lie_still(file: Path, capsys: pytest.CaptureFixture[str]):
    found = states(file, "--settle", "2")
    said = capsys.readouterr().out
    assert said.startswith(f"{file.with_name('near.npz')}: 40 states settled for 2 s; refused: ")
    assert found["qpos"].shape == (40, 9) and found.keys() == {"qpos", "qvel", "robokit"}
    assert np.abs(found["qvel"]).max() <= 0.05
    joints = found["qpos"][:, :2]
    assert (np.abs(joints) <= 2.05).all() and np.ptp(joints, 0).min() > 0.5  # not all at their servos' 0
    np.testing.assert_allclose(found["qpos"][:, 4], 0.03, atol=0.002)  # the cube fell on the table


def test_a_seed_decides_the_file_bit_for_bit(file: Path):
    for name, seed in (("one", "1"), ("two", "1"), ("other", "2")):
        states(file, "--settle", "1", "--seed", seed, output=f"{name}.npz")
    one, two, other = ((file.parent / f"{name}.npz").read_bytes() for name in ("one", "two", "other"))
    assert one == two != other


def test_states_of_a_script_are_those_that_it_returns_and_a_training_starts_from_them(file: Path):
    file.write_text(TASK + SCRIPT.replace("HEIGHT", "0.1"))
    found = states(file)
    model = mujoco.MjModel.from_xml_string(ARM)
    data = mujoco.MjData(model)
    for qpos in found["qpos"]:
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        assert data.site("tip").xpos[2] == pytest.approx(0.1, abs=1e-3)
    env = Env(load_task(file), 64, threads=1, training=True)
    drawn = env.sim.qpos[env.sim.memory["source"][:, 0] == 1].numpy()
    assert len(drawn) > 10 and all((qpos == found["qpos"]).all(-1).any() for qpos in drawn)


def test_states_inside_other_bodies_are_refused_and_too_few_write_nothing(
    file: Path, capsys: pytest.CaptureFixture[str]
):
    """The tip 1 cm above the table: the arm has a radius of 2 cm."""
    file.write_text(TASK + SCRIPT.replace("HEIGHT", "0.01"))
    output = file.with_name("near.npz")
    output.write_bytes(b"as it was")
    assert main(["states", str(file), "-o", str(output), "--number", "5"]) == 2
    said = "robokit: 5 states are asked for, and 0 of 50 are fit: 50 penetrating, 0 moving\n"
    assert capsys.readouterr().err == said
    assert output.read_bytes() == b"as it was"
    assert {path.name for path in file.parent.iterdir()} == {"arm.py", "arm.xml", "near.npz"}


def test_a_folder_that_is_not_there_is_made(file: Path):
    file.write_text(TASK + SCRIPT.replace("HEIGHT", "0.1"))
    assert len(states(file, output="new/folder/near.npz")["qpos"]) == 40


def test_a_reward_behind_a_gate_that_reset_states_open_is_not_noted(file: Path):
    """The cube's height pays once it is off the table, where random actions never bring it."""
    gated = (
        TASK.replace('{"up": 1.0}', '{"up": 1.0, "lift": 1.0, "none": 1.0}')
        .replace(
            '"up": sim.site("tip").xpos[:, 2]',
            '"up": sim.site("tip").xpos[:, 2], "none": 0 * sim.qpos[:, 0], '
            '"lift": (sim.qpos[:, 4] - 0.04).clamp(min=0)',
        )
        .replace(
            "return self.near.draw(sim, rng, {})", 'return self.near.draw(sim, rng, {"qpos": self.low(sim)})'
        )
    )
    low = """
    def low(self, sim):
        return sim.nominal("qpos0") - sim.constant(*[0.0] * 4, 0.02, *[0.0] * 4) + torch.zeros_like(sim.qpos)
"""
    file.write_text(gated + low + SCRIPT.replace("HEIGHT", "0.1"))
    states(file)
    noted = [note.detail for note in find_notes(load_task(file)) if note.name == "reward"]
    assert [text.split()[0] for text in noted] == ["'none'"]
    file.write_text(file.read_text().replace('near = States("near.npz")', 'near = States("near.npz", 0.0)'))
    noted = [note.detail for note in find_notes(load_task(file)) if note.name == "reward"]
    assert [text.split()[0] for text in noted] == ["'lift'", "'none'"]


def test_moving_states_of_a_script_are_refused(file: Path, capsys: pytest.CaptureFixture[str]):
    script = SCRIPT.replace("HEIGHT", "0.1").replace(
        '{"qpos": torch.from_numpy(found)}',
        '{"qpos": torch.from_numpy(found), "qvel": 0.1 * (points[:, :1] > 0.2) * torch.ones(1, 8).double()}',
    )
    file.write_text(TASK + script)
    found = states(file)
    assert not found["qvel"].any()
    assert " penetrating, " in (said := capsys.readouterr().out) and ", 0 moving" not in said


@pytest.mark.medium
def test_states_of_a_policy_are_from_random_times_of_its_episodes(file: Path):
    """With the task's memory; episodes have 20 control steps."""
    env = Env(load_task(file), 64, threads=1, nominal=True)
    export(make_actor(env, SMALL), env, file.with_name("up.onnx"))
    found = states(file, "--policy", str(file.with_name("up.onnx")))
    counts = found["count"][:, 0].tolist()
    assert set(counts) <= set(range(20)) and len(set(counts)) > 8
    assert np.abs(found["qvel"]).max() > 0.05  # moving states are a policy's own
    assert str(found["robokit"]).endswith('up.onnx"}')


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--number", "0"], "number must be at least 1"),
        (["--settle", "0"], r"--settle must be in (0, 100] s, got 0"),
        (["--settle", "nan"], r"--settle must be in (0, 100] s, got nan"),
        (["--settle", "1", "--policy", "x.onnx"], "--settle or --policy, not both: got 1 s and x.onnx"),
        (["--policy", "x.onnx"], "x.onnx"),
        ([], "Arm has no method states(self, sim, rng): write one, or take --policy or --settle"),
    ],
)
def test_bad_options_are_told_before_any_work(
    options: list[str], said: str, file: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["states", str(file), "-o", str(file.with_name("near.npz")), *options]) == 2
    assert said in capsys.readouterr().err and not file.with_name("near.npz").exists()


def test_what_is_made_is_what_training_takes(file: Path):
    states(file, "--settle", "1")
    learner = build_learner(load_task(file), Setup(threads=1), SMALL)
    assert "success/near" not in learner.env.labels  # no boolean metric says what success is
    learner.iterate()


FAST = """
    def reset(self, sim, rng):
        return {"qvel": uniform(sim, rng, sim.model.nv, 1.0)}
"""


def test_a_scripted_state_is_at_rest_unless_it_says_otherwise(file: Path):
    fast = TASK.replace("self.near.draw(sim, rng, {})", '{"qvel": uniform(sim, rng, sim.model.nv, 1.0)}')
    file.write_text(fast + SCRIPT.replace("HEIGHT", "0.3"))
    assert (states(file)["qvel"] == 0).all()


# -- files by the methods that States name ---------------------------------------------------------

SEVERAL = TASK.replace(
    'near = States("near.npz")', 'near, far = States("near.npz", 0.5, "low"), States("far.npz", 0.5, "high")'
) + "".join(
    SCRIPT.replace("states(", f"{name}(").replace("HEIGHT", height)
    for name, height in (("low", "0.1"), ("high", "0.2"))
)


def heights(file: Path) -> float:
    """The highest tip of a file's states, m."""
    model = mujoco.MjModel.from_xml_string(ARM)
    data, found = mujoco.MjData(model), list[float]()
    for qpos in np.load(file)["qpos"]:
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        found.append(float(data.site("tip").xpos[2]))
    assert np.ptp(found) < 1e-3
    return found[0]


def test_each_file_is_made_by_the_method_that_its_states_name(file: Path, capsys: pytest.CaptureFixture[str]):
    file.write_text(SEVERAL)
    near, far = file.with_name("near.npz"), file.with_name("far.npz")
    assert main(["states", str(file), "-o", str(far), "--number", "3"]) == 0
    assert not near.exists()
    assert heights(far) == pytest.approx(0.2, abs=1e-3)
    assert main(["states", str(file), "--number", "3"]) == 0
    assert (heights(near), heights(far)) == pytest.approx((0.1, 0.2), abs=1e-3)
    assert f"{near}: 3 states of the method low" in capsys.readouterr().out


@pytest.mark.parametrize("more", [["--settle", "1"], ["--policy", "x.onnx"]])
def test_without_a_file_only_methods_make_states(
    file: Path, more: list[str], capsys: pytest.CaptureFixture[str]
):
    file.write_text(SEVERAL)
    assert main(["states", str(file), *more]) == 2
    assert "name one file by --output: without it, each file of the States" in capsys.readouterr().err
    assert not file.with_name("near.npz").exists()


HEIR = """
import mujoco
from robokit.task import States
from robokit.task.lookup.find import load_task

class Heir(type(load_task(BASE))):
    \"\"\"The arm with a lighter cube.\"\"\"

    @property
    def model(self):
        spec = mujoco.MjSpec.from_file(str(super().model))
        spec.body("cube").first_geom().mass = 0.02
        return spec
"""


def test_files_of_a_base_in_another_file_are_not_replaced_by_those_of_an_heir(
    file: Path, capsys: pytest.CaptureFixture[str]
):
    file.write_text(SEVERAL)
    near, heir = file.with_name("near.npz"), file.with_name("heir.py")
    heir.write_text(HEIR.replace("BASE", repr(str(file))))
    assert main(["states", str(file), "--number", "3"]) == 0
    before = near.read_bytes()
    assert main(["states", f"{heir}:Heir", "--number", "3"]) == 2
    assert "by its method; Heir has 0" in capsys.readouterr().err
    assert near.read_bytes() == before
    with pytest.raises(TaskError, match="they are Arm's: give Heir States of its own"):
        Env(load_task(f"{heir}:Heir"), 2, threads=1, training=True)
    heir.write_text(heir.read_text() + '    near = States("own.npz", 0.5, "low")\n')
    assert main(["states", f"{heir}:Heir", "--number", "3"]) == 0
    assert heights(file.with_name("own.npz")) == pytest.approx(0.1, abs=1e-3)
    assert near.read_bytes() == before
