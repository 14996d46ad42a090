"""The figures of a model's report where the answers are known: a linear Gaussian system, ends by hand."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cart import Cart
from test_frame import Clocked
from test_svg import _short as _short, learner_of
from torch import Tensor

from robokit.algos import sac
from robokit.dynamics.calibration import (
    ends,
    ends_found,
    one_step,
    open_loop,
    pieces,
    recorded,
    spearman,
    windows,
)
from robokit.dynamics.ensemble import Dynamics, fold
from robokit.dynamics.imagine import Model
from robokit.env.env import Env
from robokit.errors import RunError, TaskError

E = 3


@torch.no_grad()
def known(net: Dynamics, weight: Tensor, sigma: Tensor, worse: float) -> None:
    """Make a net without hidden layers say y = x W + e `worse`, W (I, D), with deviation sigma (D,)."""
    [weights], [biases] = net.net.weights, net.net.biases
    weights.zero_()
    weights[:, :, : net.outputs] = weight
    biases[..., : net.outputs] = worse * torch.arange(float(net.members))[:, None, None]
    biases[..., net.outputs :] = 2 * sigma.log()
    net.low.fill_(-30.0)
    net.high.fill_(30.0)


def test_likelihood_error_and_intervals_of_a_known_system_are_its_noise_by_the_own_member_alone():
    rng, sigma = torch.Generator().manual_seed(0), torch.tensor([0.1, 0.5, 2.0, 0.3, 1.0])
    net = Dynamics(4, 3, changes=3, costs=1, members=E, hidden=())
    weight = torch.randn(4, 5, generator=rng)
    known(net, weight, sigma, worse=7.0)
    own = torch.randint(E, (20_000,), generator=rng)
    x, noise = torch.randn(20_000, 4, generator=rng), torch.randn(20_000, 5, generator=rng)
    y = x @ weight + 7.0 * own[:, None] + sigma * noise
    found = one_step(net, x, y, own, {"a": 1, "b": 2, "reward": 1, "cost c": 1})
    nll = 0.5 * math.log(2 * math.pi * math.e) + sigma.log()
    assert found["nll"] == pytest.approx(nll[:3].mean().item(), abs=0.02)
    columns = {"a": [0], "b": [1, 2], "reward": [3], "cost c": [4]}
    for name, at in columns.items():
        out = found["outputs"][name]
        assert out["nll"] == pytest.approx(nll[at].mean().item(), abs=0.03)
        assert out["error"] == pytest.approx(sigma[at].square().mean().sqrt().item(), rel=0.03)
        assert out["within_50"] == pytest.approx(0.5, abs=0.02)
        assert out["within_90"] == pytest.approx(0.9, abs=0.02)


def test_disagreement_that_is_the_error_has_rank_correlation_one_and_noise_none():
    net = Dynamics(1, 1, changes=1, costs=0, members=2, hidden=())
    known(net, torch.zeros(1, 2), torch.ones(2), worse=0.0)
    with torch.no_grad():
        net.net.weights[0][1, 0, 0] = 1.0  # the members differ by x
    x, own = torch.rand(500, 1, generator=torch.Generator().manual_seed(0)) + 0.1, torch.zeros(500).long()
    y = torch.cat((x, x), -1)  # member 0 says 0
    assert one_step(net, x, y, own, {"a": 1, "reward": 1})["rank"] == pytest.approx(1.0)
    assert one_step(net, x, 1 / y, own, {"a": 1, "reward": 1})["rank"] == pytest.approx(-1.0)
    assert spearman(torch.tensor([1.0, 2, 3, 4]), torch.tensor([10.0, 30, 20, 40])) == pytest.approx(0.8)


def test_a_wrong_end_is_counted():
    true = torch.tensor([1, 1, 1, 0, 0, 0, 0], dtype=torch.bool)
    found = torch.tensor([1, 1, 0, 1, 0, 0, 0], dtype=torch.bool)
    assert ends_found(found, true) == {"precision": 2 / 3, "recall": 2 / 3, "ends": 3.0, "found": 3.0}
    assert ends_found(true & ~true, true) == {"precision": None, "recall": 0.0, "ends": 3.0, "found": 0.0}
    assert ends_found(found, true & ~true)["recall"] is None


class Slides(Cart):
    """Ends where the slide is beyond .9, and tells so."""

    def ended(self, terms: dict[str, Tensor]) -> Tensor:
        return terms["slide"][:, 0].abs() > 0.9


def test_ends_are_found_in_the_frame_that_the_own_member_predicts():
    env, rng = Env(Slides(), 2, threads=1), torch.Generator().manual_seed(0)
    model = Model(env, 0, 0, E, ())
    frame, action = torch.randn(200, model.frames.size, generator=rng), torch.zeros(200, env.act_dim)
    model.net.out.mean[:] = 0.0
    known(
        model.net,
        torch.zeros(model.frames.size + 2, model.net.outputs),
        torch.ones(model.net.outputs),
        worse=0.5,
    )
    own = torch.randint(E, (200,), generator=rng)
    ended = (frame[:, 0] + 0.5 * own).abs() > 0.9
    with torch.no_grad():  # a classifier of members that all say: no end; but of the last, which says: always
        for layer in (*model.net.end.weights, *model.net.end.biases):
            layer.zero_()
        model.net.end.biases[-1][-1] = 5.0
        model.net.end.biases[-1][:-1] = -5.0
    zeros = torch.zeros(200, 0)
    found = ends(model, model.inputs(frame, zeros, action), frame, action, own, ended)
    assert found["task"] == {"precision": 1.0, "recall": 1.0, "ends": ended.sum(), "found": ended.sum()}
    last = own == E - 1
    assert found["learned"]["found"] == last.sum()
    assert found["learned"]["precision"] == pytest.approx(ended[last].float().mean().item())


@torch.no_grad()
def test_the_open_loop_of_a_true_model_has_no_error_though_commands_and_members_change():
    env, rng, t, m = Env(Clocked(), 2, threads=1), torch.Generator().manual_seed(0), 7, 80
    model = Model(env, 0, 0, E, ())
    frames = model.frames
    weight = 0.05 * torch.randn(frames.size + 2, model.net.outputs, generator=rng)
    known(model.net, weight, torch.ones(model.net.outputs), worse=0.3)
    model.net.seen.fit(torch.randn(50, env.obs_dim, generator=rng) * 3)
    policy = sac.make_actor(env, sac.Config(hidden=(8,)))
    own = torch.randint(E, (t, m), generator=rng)
    action = torch.rand(t, m, 2, generator=rng) * 2 - 1
    frame, frame_rows, final_rows = torch.randn(m, frames.size, generator=rng), [], []
    for step in range(t):
        frame_rows.append(frame)
        change = (torch.cat((frame, action[step]), -1) @ weight)[:, : frames.predicted] + 0.3 * own[step][
            :, None
        ]
        after = frames.next(frame, action[step], change)
        final_rows.append(after)
        parts = frames.split(after)
        parts = {
            k: torch.randn(x.shape, generator=rng) if k in env.task.commands else x for k, x in parts.items()
        }
        frame = torch.cat([*parts.values()], -1)  # redrawn commands
    valid = torch.ones(t, m, dtype=torch.bool)
    valid[3:, :20] = False  # their episodes have ended
    truth = torch.stack(final_rows)
    truth[3:, :20] = 1e9
    first = torch.zeros(t, m, dtype=torch.bool)
    given = {"frame": torch.stack(frame_rows), "final": truth, "action": action, "valid": valid, "own": own}
    given |= {"obs": given["frame"], "belief": torch.zeros(m, 0), "is_first": first}
    found = open_loop(SimpleNamespace(model=model, policy=policy), given)
    assert found["rows"] == {1: 80, 5: 60}
    unit = frames.split(model.net.seen.std)
    for h, kept in ((1, slice(0, None)), (5, slice(20, None))):
        start, before, end = (frames.split(x[kept]) for x in (frame_rows[1], frame_rows[0], final_rows[h]))
        for name in frames.sensed:
            still = ((start[name] - end[name]) / unit[name]).square().mean().sqrt().item()
            speed = (start[name] + h * (start[name] - before[name]) - end[name]) / unit[name]
            out = found["open_loop"][h][name]
            assert out["model"] < 1e-5 < 0.01 < still
            assert out["still"] == pytest.approx(still, rel=1e-4)
            assert out["velocity"] == pytest.approx(speed.square().mean().sqrt().item(), rel=1e-4)


def test_pieces_and_steps_of_a_replay_know_their_member_and_where_an_episode_ends(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("robokit.dynamics.ensemble.BLOCK", 4)
    learner, rng = learner_of(), torch.Generator().manual_seed(0)
    learner.iterate()
    learner.iterate()
    replay, agent = learner.replay, learner.agent
    picked = replay.pick(50, 6, torch.Generator().manual_seed(5))
    w = windows(agent, replay, picked, 6)
    for i, place in enumerate(picked.tolist()):
        step, simulation = divmod(place, 3)
        going = True
        for t in range(6):
            row = agent.batch(*replay.take(torch.tensor([place + 3 * t])))
            assert torch.equal(w["frame"][t, i], row["obs"][0, 0]) and torch.equal(
                w["final"][t, i], row["final_obs"][0, 0]
            )
            assert w["own"][t, i] == fold(torch.tensor(step + t), torch.tensor(simulation), 3)
            assert w["valid"][t, i] == going
            going = going and not row["done"][0, 0]
    assert 0.2 < w["valid"][-1].float().mean() < 1.0
    data = recorded(agent, replay, rng)
    assert len(data["x"]) == len(replay) * 3 and len({*data["own"].tolist()}) == 3
    with pytest.raises(RunError, match=r"must keep at least 99 control steps of each simulation.*got 22"):
        pieces(agent, replay, 5, 99, rng)
    replay.rows[3, 1, 2] = torch.nan
    with pytest.raises(TaskError, match=r"inputs must be finite in the replay; columns \[2\] are not"):
        recorded(agent, replay, rng)


def test_a_broken_simulation_is_in_no_figure():
    learner, rng = learner_of(), torch.Generator().manual_seed(0)
    learner.iterate()
    learner.iterate()
    replay, agent = learner.replay, learner.agent
    columns: dict[str, Any] = dict(zip(agent.widths, range(len(agent.widths)), strict=True))
    at = sum([*agent.widths.values()][: columns["bad"]])
    replay.rows[7, 1, at] = 1.0
    replay.rows[7, 1, 0] = torch.nan
    data = recorded(agent, replay, rng)
    assert len(data["x"]) == len(replay) * 3 - 1
    w = pieces(agent, replay, 400, 6, rng)
    assert w["frame"][w["valid"]].isfinite().all() and not w["frame"].isfinite().all()
