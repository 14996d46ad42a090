"""Reset states: what a share of the episodes of a training begin from, and nothing else does."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slide import write
from torch import Tensor

from robokit.algos import sac
from robokit.algos.ppo import Config, make_actor
from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.evaluation.measure import evaluate
from robokit.task import states as module
from robokit.task.lookup.find import load_task
from robokit.task.states import States, libraries, pack, state_hashes
from robokit.task.task import Task, Terms
from robokit.training.selection import validate
from robokit.training.setup.build import Setup, build_learner
from robokit.training.setup.provenance import changed, create

FROM = """
from pathlib import Path
from robokit.task import States, Task, uniform

class Slide(Task):
    \"\"\"Get to the right.\"\"\"

    model = Path(__file__).with_suffix(".xml")
    control_dt = 0.02
    time_limit = 0.2
    memory = {"seen": 2}
    weights = {"right": 1.0}
    headline = "there"
    lift = States("lift.npz", share=0.5)

    def reset(self, sim, rng):
        own = {"qpos": uniform(sim, rng, 1, 0.1)}
        return self.lift.draw(sim, rng, own)

    def observe(self, sim):
        return {"slide": sim.qpos}

    def rewards(self, sim, action):
        return {"right": sim.qpos[:, 0]}

    def metrics(self, sim):
        return {"there": sim.qpos[:, 0] > 1.0}
"""
PLAIN = FROM.replace("self.lift.draw(sim, rng, own)", "own").replace("lift = States", "_lift = States")
N, ROWS = 2000, 7
OFF = sac.Config(steps=2000, num_envs=4, learning_starts=1000, batch=8, hidden=(4,), compile=False)
SMALL = Config(steps=64, num_envs=4, horizon=16, minibatch=32, epochs=1, hidden=(4,), compile=False)


def rows(count: int = ROWS) -> Terms:
    """Solved states: 2, 3, ... m to the right, each with its own speed and memory."""
    place = 2.0 + torch.arange(count, dtype=torch.float64)[:, None]
    return {"qpos": place, "qvel": place / 8, "seen": torch.cat((place, -place), -1)}


def solved(folder: Path, text: str = FROM, **more: Tensor) -> Task:
    """The task, with its library beside it."""
    task = load_task(write(folder, text))
    (folder / "lift.npz").write_bytes(pack(rows() | more, task, "by hand"))
    return task


def shared(task: Task, share: float) -> Task:
    library = libraries(task)["lift"]
    library.share = share
    return task


def state(env: Env) -> dict[str, Tensor]:
    return {name: env.sim.written(name).clone() for name in ("qpos", "qvel", "seen", "source")}


def test_a_share_of_the_episodes_begins_from_whole_rows_of_the_file(tmp_path: Path):
    task = solved(tmp_path)
    now = state(Env(task, N, threads=1, training=True))
    from_file = now["source"][:, 0] == 1
    assert abs(int(from_file.sum()) - N / 2) < 4 * (N / 4) ** 0.5
    number = (now["qpos"][from_file] - 2).round().long()[:, 0]
    counts = number.bincount()
    assert len(counts) == ROWS and counts.min() > 80  # of 143 in the mean
    for name, kept in rows().items():
        assert torch.equal(now[name][from_file], kept[number])
    assert now["qpos"][~from_file].abs().max() <= 0.1
    assert not any(now[name][~from_file].any() for name in ("qvel", "seen", "source"))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_none_or_all_is_exact(share: float, tmp_path: Path):
    env = Env(shared(solved(tmp_path), share), 200, threads=1, training=True)
    assert (state(env)["source"] == share).all()


def test_a_restart_of_a_few_draws_from_the_file_too(tmp_path: Path):
    env = Env(shared(solved(tmp_path), 1.0), 5, threads=1, training=True)
    env.reset(stagger=True)
    before = env.sim.qpos.clone()
    for _ in range(env.max_age):
        env.step(torch.zeros(5, 1))
    assert (env.sim.memory["age"] < env.max_age).all() and not torch.equal(before, env.sim.qpos)
    begun = env.sim.memory["seen"][:, :1]
    assert (begun >= 2).all() and torch.equal(begun, begun.round())


LIMITED = FROM.replace("import States", "import Limit, States").replace(
    "    lift = States",
    """    limits = {"far": Limit(0.1)}

    def costs(self, sim, action):
        return {"far": (sim.qpos[:, 0] > 1).double()}

    lift = States""",
)


@pytest.mark.parametrize(("algo", "config"), [("ppo", SMALL), ("sac", OFF)])
def test_limits_are_measured_in_episodes_from_the_own_start(algo: str, config: Any, tmp_path: Path):
    """There an evaluation judges them; half of the episodes begin far away and stay there."""
    learner = build_learner(solved(tmp_path, LIMITED), Setup(algo, threads=1), config)
    logged = learner.iterate()
    assert 0.1 < logged["cost/far"] < 0.9 and logged["limit/far/measured"] == 0.0


def test_limits_that_no_episode_from_the_own_start_measures_are_refused(tmp_path: Path):
    task = shared(solved(tmp_path, LIMITED), 1.0)
    with pytest.raises(TaskError, match=r"from the task's own start, of which lift = States.* leaves none"):
        build_learner(task, Setup(threads=1), SMALL)


def test_what_the_own_start_lacks_begins_at_the_models_default(tmp_path: Path):
    text = FROM.replace('own = {"qpos": uniform(sim, rng, 1, 0.1)}', "own = {}")
    env = Env(shared(solved(tmp_path, text), 0.0), 3, threads=1, training=True)
    assert not env.sim.qpos.any()


def test_two_files_are_drawn_one_after_the_other_and_told_apart(tmp_path: Path):
    text = FROM.replace("lift = States(", 'far = States("far.npz", share=0.5)\n    lift = States(').replace(
        "return self.lift.draw(sim, rng, own)",
        "return self.far.draw(sim, rng, self.lift.draw(sim, rng, own))",
    )
    task = solved(tmp_path, text)
    (tmp_path / "far.npz").write_bytes(pack({"qpos": torch.tensor([[-9.0]])}, task, "by hand"))
    env = Env(task, N, threads=1, training=True)
    place, source = env.sim.qpos[:, 0], env.sim.memory["source"][:, 0]
    assert torch.equal(source == 1, place == -9) and torch.equal(source == 2, place >= 2)
    parts = [float((source == k).double().mean()) for k in range(3)]
    assert parts == pytest.approx([0.25, 0.5, 0.25], abs=0.05)
    assert env.labels[-4:] == ["success/reset", "success/far", "success/lift", "episode/bad"]


@pytest.mark.slow
def test_warp_draws_the_states_that_mujoco_draws(tmp_path: Path):
    pytest.importorskip("mujoco_warp")
    task = solved(tmp_path)
    envs = [Env(task, 20, threads=1, training=True, sim=sim) for sim in ("mujoco", "warp")]
    for _ in range(2 * envs[0].max_age):
        one, other = (env.step(torch.zeros(20, 1)) for env in envs)
        torch.testing.assert_close(one.obs, other.obs, rtol=1e-4, atol=1e-4)
        assert torch.equal(one.logged.isnan(), other.logged.isnan())
    sources = [env.sim.memory["source"].double() for env in envs]
    assert torch.equal(*sources) and sources[0].any()


# -- judged honestly ---------------------------------------------------------------------------------


def test_evaluate_gives_the_same_numbers_with_a_library_of_solved_states_and_without(tmp_path: Path):
    reports = []
    for name, text in (("with", FROM), ("without", PLAIN)):
        task = solved(tmp_path / name, text)
        torch.manual_seed(1)
        policy = make_actor(Env(task, threads=1), SMALL)
        reports.append(evaluate(None, task, 20, policy=policy, threads=1))
    one, other = reports
    assert one.per_episode == other.per_episode and one.metrics == other.metrics
    assert one.headline.summary is not None and one.headline.summary.mean == 0.0
    assert abs(one.returns.mean) < 1.0  # of 10 steps, from a row of the file it is above 20


def test_validation_gives_the_same_score_with_a_library_of_solved_states_and_without(tmp_path: Path):
    scores = []
    for name, text in (("with", FROM), ("without", PLAIN)):
        learner = build_learner(solved(tmp_path / name, text), Setup(threads=1), SMALL)
        assert learner.env.training and bool((learner.env.obs > 1).any()) is (text is FROM)
        scores.append(validate(learner, 0))
    assert scores[0] == scores[1] and scores[0].headline == 0.0


def test_where_it_is_judged_a_task_needs_no_file(tmp_path: Path):
    env, plain = (
        Env(load_task(write(tmp_path / n, t)), 9, threads=1) for n, t in (("a", FROM), ("b", PLAIN))
    )
    for _ in range(env.max_age + 3):
        one, other = env.step(torch.ones(9, 1)), plain.step(torch.ones(9, 1))
        assert torch.equal(one.obs, other.obs)


# -- what is logged, and what counts as changed ------------------------------------------------------


def test_success_is_logged_by_where_the_episode_began(tmp_path: Path):
    """From the file the slide is right of 1 m all the time; the own start never gets there."""
    text = FROM.replace("time_limit = 0.2", "time_limit = 1.0")
    learner = build_learner(solved(tmp_path, text), Setup(threads=1), replace(SMALL, num_envs=8))
    learner.env.reset()
    found = [{k: v for k, v in learner.iterate().items() if k.startswith("success/")} for _ in range(4)]
    assert found == [{}, {}, {}, {"success/reset": 0.0, "success/lift": 1.0}]  # they end at step 50 of 64


def test_a_changed_file_of_states_is_named_as_changed(tmp_path: Path):
    task = solved(tmp_path)
    run = create(tmp_path / "runs", build_learner(task, Setup(threads=1), SMALL), Setup(threads=1))
    assert changed(run, task) == []
    (tmp_path / "lift.npz").write_bytes(pack(rows(3), task, "by hand"))
    assert changed(run, task) == ["states lift.npz"]
    (tmp_path / "lift.npz").unlink()
    assert changed(run, task) == ["states lift.npz"] and state_hashes(task)["states lift.npz"] == ""


def test_a_relative_file_lies_beside_the_class_that_names_it(tmp_path: Path):
    solved(tmp_path / "base")
    text = f"""
import sys
from robokit.task.lookup.find import load_task
Base = type(load_task({str(tmp_path / "base/slide.py")!r}))
class Mine(Base):
    pass
"""
    (tmp_path / "mine.py").write_text(text)
    mine = load_task(tmp_path / "mine.py")
    assert libraries(mine)["lift"].path == tmp_path / "base/lift.npz"
    Env(mine, 2, threads=1, training=True)


# -- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "all", None])
def test_a_share_is_a_probability(share: Any):
    with pytest.raises(TaskError, match=r"States\.share must be a probability in \[0, 1\], got"):
        States("lift.npz", share)


def test_a_method_is_a_name():
    with pytest.raises(TaskError, match=r"States\.method must be the name of a method of the task, got 3"):
        States("lift.npz", method=3)  # pyright: ignore[reportArgumentType]


def refusal(task: Task) -> str:
    with pytest.raises(TaskError) as error:
        Env(task, 2, threads=1, training=True)
    return str(error.value)


ABOUT = {"model": {}, "made": "by hand"}


def saved(about: Any = ABOUT, **arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{"robokit": np.array(json.dumps(about)), **arrays})
    return file.getvalue()


QPOS = np.zeros((3, 1))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is no .npz file"),
        (b"PK\x03\x04 and no more", "File is not a zip file"),
        (saved(qpos=QPOS)[:-40], "File is not a zip file"),
        (saved(), "it lacks 'qpos'"),
        (saved(qpos=np.zeros((0, 1))), "it is empty"),
        (saved(qpos=np.array(1.0)), "it is empty"),
        (saved(qpos=np.zeros((3, 2))), "of shape (3, 1), got float64 of shape (3, 2)"),
        (saved(qpos=QPOS, qvel=np.zeros((2, 1))), "'qvel' must be finite numbers of shape (3, 1)"),
        (saved(qpos=QPOS, seen=QPOS), "'seen' must be finite numbers of shape (3, 2)"),
        (saved(qpos=np.array([[0.0], [np.nan]])), "'qpos' must be finite numbers"),
        (saved(qpos=np.array([["a"]])), "'qpos' must be finite numbers"),
        (saved(qpos=QPOS, qacc=QPOS), "no state or memory; there are ('qpos', 'qvel', 'act', 'seen')"),
        (saved(qpos=np.array([[{}]], dtype=object)), "Object arrays cannot be loaded"),
        (saved(about={"model": 3, "made": ""}, qpos=QPOS), "model must be of the type object, got 3"),
        (saved(about={"made": ""}, qpos=QPOS), "it lacks 'model'"),
        (saved(about={"made": "", "model": {"a": "b" * 64}}, qpos=QPOS), "of another model: 'a' bbbbbbbb"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_with_the_command_that_makes_it(
    content: bytes, why: str, tmp_path: Path
):
    task = load_task(write(tmp_path, FROM))
    (tmp_path / "lift.npz").write_bytes(content)
    said = refusal(task)
    assert why in said and str(tmp_path / "lift.npz") in said
    assert said.endswith(f"robokit states {tmp_path / 'slide.py'}:Slide -o {tmp_path / 'lift.npz'}")


def test_a_missing_file_is_refused_with_the_command_that_makes_it(tmp_path: Path):
    said = refusal(load_task(write(tmp_path, FROM)))
    assert "No such file or directory; make them with: robokit states" in said


def test_states_of_another_model_are_told_by_both_models_files(tmp_path: Path):
    task = solved(tmp_path)
    model = tmp_path / "slide.xml"
    model.write_text(model.read_text().replace('mass="1"', 'mass="2"'))
    then, now = "'slide.xml' ", " when they were made ('by hand'), 'slide.xml' "
    said = refusal(task)
    assert then in said and now in said and "make them again: robokit states" in said


def test_what_would_unpack_to_too_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task = solved(tmp_path)
    zeros = io.BytesIO()
    np.savez_compressed(zeros, qpos=np.zeros((100_000, 1)))
    (tmp_path / "lift.npz").write_bytes(zeros.getvalue())
    monkeypatch.setattr(module, "LARGEST", 100_000)
    assert "it may unpack to 100,000 bytes, and has 800,128" in refusal(task)
    monkeypatch.setattr(module, "LARGEST", 100)
    assert "may have 100 bytes" in refusal(task)


def test_a_library_that_is_no_attribute_of_the_class_is_refused_in_training(tmp_path: Path):
    text = FROM.replace("    lift = States", "    _lift = [States").replace("share=0.5)", "share=0.5)]")
    task = solved(tmp_path, text.replace("self.lift.draw", "self._lift[0].draw"))
    assert "must be an attribute of the task's class" in refusal(task)


def test_memory_may_not_be_called_like_what_a_library_keeps(tmp_path: Path):
    task = solved(tmp_path, FROM.replace('"seen": 2', '"seen": 2, "source": 1'))
    assert "these names are taken" in refusal(task)
