"""Plots: valid PNG files, drawn numbers equal to the given ones, and folders that are not writable."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arm import Arm, make_policy

from robokit.cli.command import main
from robokit.env.env import Env
from robokit.errors import OptionError, RunError
from robokit.evaluation.reports.report import Failure, Headline, Report
from robokit.evaluation.reports.verdict import judge
from robokit.evaluation.statistics import Summary, interquartile_mean, share
from robokit.export.write import export
from robokit.limits.limit import Limit
from robokit.limits.measures import EpisodeCosts
from robokit.show.plots import costs, draw, episode_costs, learning, multipliers, read_curves, writable

EPISODES = 40
POLICIES = Path(__file__).parents[2] / "policies"
LIMITS = {
    "speed": Limit(25.0, "episode"),
    "tilt": Limit(0.02),
    "late": Limit(3.0, "discounted"),
    "fall": Limit(0.05, "probability"),
    "jolt": Limit(0.9, "peak"),
    "heat": Limit(30.0, "cvar"),
}


def report(limits: dict[str, Limit] = LIMITS) -> Report:
    """Of made-up episodes."""
    rng, lists = np.random.default_rng(0), {}
    verdicts = {}
    for name, limit in limits.items():
        total = rng.binomial(1000, 0.02, EPISODES).astype(np.float64)
        span, peak = rng.uniform(500, 1000, EPISODES), rng.uniform(0, 1, EPISODES)
        ran = EpisodeCosts(total, span, total / 10, (total > 15).astype(np.float64), peak)
        verdicts[name] = judge(limit, ran, 1000, 0.99)
        lists |= {f"{key}/{name}": x.tolist() for key, x in ran._asdict().items()}
    none = Summary(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, EPISODES)
    return Report(
        task="Walk",
        file="walk.onnx",
        sha256="",
        episodes=EPISODES,
        seed=0,
        nominal=False,
        headline=Headline("return", "sum", none),
        failure=Failure(["terminated"], share(np.zeros(EPISODES, np.bool_))),
        returns=none,
        length=none,
        terms={},
        costs={},
        metrics={},
        terminated=0,
        bad=0,
        gamma=0.99,
        limits=verdicts,
        verdict=None,
        stochastic=None,
        versus_torch=None,
        commands={},
        notes=[],
        per_episode=lists,
    )


def write_run(folder: Path, lines: int = 5) -> Path:
    """metrics.jsonl of a training with limits; the first iteration finished no episode."""
    folder.mkdir(exist_ok=True)
    rows = []
    for i in range(1, lines + 1):
        row = {"steps": 1000.0 * i, "loss": 0.1}
        if i > 1:
            row |= {"episode/return": 100.0 * i}
            row |= {f"limit/{name}/measured": i + 0.5 for name in LIMITS}
        row |= {f"limit/{name}/lambda": 0.1 * i for name in LIMITS}
        rows.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def is_png(path: Path) -> bool:
    """With its eight bytes of signature, and some hundred pixels each way."""
    head = path.read_bytes()[:24]
    width, height = struct.unpack(">II", head[16:24])
    return head[:8] == b"\x89PNG\r\n\x1a\n" and min(width, height) > 300


def test_the_pictures_are_pngs(tmp_path: Path):
    paths = draw(writable(tmp_path / "a/b"), report(), write_run(tmp_path / "run"))
    assert [p.name for p in paths] == ["learning.png", "multipliers.png", "costs.png"]
    assert all(map(is_png, paths))
    assert {p.name for p in (tmp_path / "a/b").iterdir()} == {p.name for p in paths}


def test_there_is_a_picture_only_of_what_is_there(tmp_path: Path):
    run = write_run(tmp_path / "run")
    assert [p.name for p in draw(tmp_path, report(), None)] == ["costs.png"]
    assert draw(tmp_path, report({}), None) == []
    (run / "metrics.jsonl").write_text('{"steps": 1, "episode/return": 2}\n')  # of a run without limits
    assert [p.name for p in draw(tmp_path, report({}), run)] == ["learning.png"]
    assert [p.name for p in draw(tmp_path, report(), run)] == ["learning.png", "costs.png"]


def test_a_learning_curve_shows_the_numbers_of_the_run_and_each_limit(tmp_path: Path):
    curves = read_curves(write_run(tmp_path) / "metrics.jsonl")
    drawn: list[Any] = learning(curves, report().limits).axes
    returns, *axes = drawn
    assert returns.lines[0].get_xydata().tolist() == [[1000 * i, 100 * i] for i in range(2, 6)]
    assert returns.get_ylabel() == "return"
    for axis, (name, limit) in zip(axes, LIMITS.items(), strict=True):
        assert axis.lines[0].get_xydata().tolist() == [[1000 * i, i + 0.5] for i in range(2, 6)]
        assert set(axis.lines[1].get_ydata()) == {limit.value}
        assert axis.get_ylabel().startswith(f"{name}\n")
    assert axes[-1].get_xlabel() == "environment steps"


def test_multipliers_are_drawn_as_they_were_logged(tmp_path: Path):
    curves = read_curves(write_run(tmp_path) / "metrics.jsonl")
    axes: list[Any] = multipliers(curves, report().limits).axes
    assert len(axes) == len(LIMITS)
    for axis in axes:
        assert axis.lines[0].get_xydata() == pytest.approx(
            np.array([[1000 * i, 0.1 * i] for i in range(1, 6)])
        )


def test_a_histogram_counts_every_episode_once_in_the_limits_measure():
    of = report()
    kept = {name: np.array(x) for name, x in of.per_episode.items()}
    assert episode_costs(of, "speed").tolist() == kept["total/speed"].tolist()
    assert episode_costs(of, "tilt").tolist() == (kept["total/tilt"] / kept["span/tilt"]).tolist()
    assert episode_costs(of, "late").tolist() == kept["discounted/late"].tolist()
    assert episode_costs(of, "fall").tolist() == kept["total/fall"].tolist()
    assert episode_costs(of, "jolt").tolist() == kept["peak/jolt"].tolist()
    assert episode_costs(of, "heat").tolist() == kept["total/heat"].tolist()
    axes: list[Any] = costs(of).axes
    for axis, name in zip(axes, LIMITS, strict=True):
        counts, edges, _ = axis.patches[0].get_data()
        assert counts.sum() == EPISODES
        assert counts.tolist() == np.histogram(episode_costs(of, name), edges)[0].tolist()
        lines = {tuple(line.get_xdata()) for line in axis.lines}
        measured, limit = of.limits[name].measured.value, LIMITS[name].value
        assert lines == (set() if name == "fall" else {(measured, measured), (limit, limit)})


def test_a_line_that_is_still_being_written_is_left_out_and_a_damaged_one_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = write_run(tmp_path) / "metrics.jsonl"
    whole = file.read_text()
    file.write_text(whole + '{"steps": 6000, "lo')
    assert read_curves(file)["loss"][0].tolist() == [1000, 2000, 3000, 4000, 5000]
    for damage in ("{\n", '{"loss": 1}\n', "[]\n", '{"steps": 1, "loss": "x"}\n'):
        file.write_text(damage + whole)
        assert read_curves(file)["loss"][0].tolist() == [1000, 2000, 3000, 4000, 5000]
        assert f"note: line 1 of {file} is damaged, and left out" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"cannot read .*No such file"):
        read_curves(tmp_path / "nothing")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file/plots"):
        with pytest.raises(OptionError, match=f"cannot write plots into {folder}: "):
            writable(folder)


def test_without_matplotlib_plots_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OptionError, match=r"matplotlib is not installed: pip install 'robokit\[show\]'"):
        writable(tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


@pytest.mark.medium
def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, robokit.show.plots, robokit.cli.train; print('matplotlib' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"


@pytest.mark.medium
def test_the_command_measures_several_files_and_draws_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    env = Env(Arm(), 8, threads=1)
    for kind in ("a", "b"):
        write_run(tmp_path / kind)
        policy = make_policy(env, mirrored=kind == "b")
        export(policy, env, f"{kind}/policy.onnx")
    files = ["a/policy.onnx", "b/policy.onnx"]
    options = ["--task", f"{Path(__file__).parents[1] / 'arm.py'}:Arm", "--episodes", "4", "--threads", "1"]
    assert main(["evaluate", *files, *options, "--plots", "pictures", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [*said["runs"]] == said["across"]["runs"] == files
    each = [run["per_episode"]["return"] for run in said["runs"].values()]
    assert said["across"]["means"] == [np.mean(returns) for returns in each]
    assert said["across"]["iqm"]["value"] == interquartile_mean(np.concatenate(each))
    assert all(is_png(Path(f"pictures/{i}/learning.png")) for i in (1, 2))
    assert main(["evaluate", *files, *options]) == 0
    assert "2 runs, the same episodes of each resampled" in capsys.readouterr().out
    for wrong, why in (
        ([files[0], files[0]], "each once"),
        ([], "one or more"),
        ([files[0], "--plots", files[1]], f"cannot write plots into {files[1]}"),
    ):
        assert main(["evaluate", *wrong, *options]) == 2
        assert why in capsys.readouterr().err


def test_runs_of_different_tasks_are_refused_by_name(capsys: pytest.CaptureFixture[str]):
    files = [str(POLICIES / f"{name}.onnx") for name in ("hopper", "half_cheetah")]
    assert main(["evaluate", *files]) == 2
    assert f"of one task: {files[0]} is of 'hopper', {files[1]} of 'half_cheetah'" in capsys.readouterr().err
