"""The ensemble against a loop over its members and a system whose answers are known; which rows it skips."""

import pytest
import torch
from torch import Tensor, nn

from robokit.dynamics import ensemble
from robokit.dynamics.ensemble import BLOCK, Dynamics, Scale, deal, fold
from robokit.dynamics.fit import BATCH, Fit, Upkeep
from robokit.errors import TaskError
from robokit.learning.offpolicy.replay import Replay

E, M = 3, 7


def net_of(costs: int = 1, seed: int = 0) -> Dynamics:
    torch.manual_seed(seed)
    net = Dynamics(5, 4, changes=3, costs=costs, members=E, hidden=(8, 6))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    net.inp.fit(2 * torch.randn(50, 5) + 1)
    net.out.fit(3 * torch.randn(50, 3 + 1 + costs) - 1)
    net.seen.fit(torch.randn(50, 4))
    return net


def one_member(net: Dynamics, e: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """mu and log sigma (M, D) of member e, layer by layer."""
    x = (x - net.inp.mean) / net.inp.std
    layers = [*zip(net.net.weights, net.net.biases, strict=True)]
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight[e] + bias[e]
        if i < len(layers) - 1:
            x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
            x = x * torch.sigmoid(x)
    mean, log_var = x.chunk(2, -1)
    log_var = net.high - torch.log1p(torch.exp(net.high - log_var))
    return mean, (net.low + torch.log1p(torch.exp(log_var - net.low))) / 2


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, M])
def test_the_batched_ensemble_is_a_loop_over_members_and_each_row_is_of_one(rows: int):
    net = net_of()
    x, noise = torch.randn(rows, 5), torch.randn(rows, 3)
    loop = [one_member(net, e, x) for e in range(E)]
    mean, log_std = net(x)
    torch.testing.assert_close(mean, torch.stack([m for m, _ in loop]), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(log_std, torch.stack([s for _, s in loop]), atol=1e-6, rtol=1e-6)
    part, seen = -(-rows // E), set()
    for turn in range(E):
        dealt = deal(rows, E, turn)
        own = [(i // part + turn) % E for i in range(rows)]
        seen.add(tuple(own))
        y = torch.stack([loop[e][0][i] for i, e in enumerate(own)])
        y[:, :3] += torch.stack([loop[e][1][i] for i, e in enumerate(own)])[:, :3].exp() * noise
        expected = y * net.out.std + net.out.mean
        for spread in (False, True):
            drawn, doubt, costs = net.draw(x, noise, dealt, spread)
            torch.testing.assert_close(drawn, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(doubt, mean[..., :3].std(0, correction=0).mean(-1))
        torch.testing.assert_close(costs[:, 0], mean[..., 4].std(0, correction=0) * net.out.std[4])
        logits = net.logit(x[:, :4])
        assert net.ends(x[:, :4], dealt).tolist() == [bool(logits[e, i] > 0) for i, e in enumerate(own)]
    assert len(seen) == E


def test_beta_nll_by_hand_and_the_weight_has_no_gradient():
    net = net_of(costs=0)
    x, y, seen = torch.randn(E, M, 5), torch.randn(E, M, 4), torch.randn(E, M, 4)
    ended, valid = torch.rand(E, M) < 0.4, torch.ones(E, M, dtype=torch.bool)
    mean, log_std = net(x)
    z = (net.out(y) - mean) / log_std.exp()
    nll = (log_std.exp().detach() * (z.square() / 2 + log_std)).sum(-1).mean(1).sum()
    logit = net.logit(seen)
    cross = -nn.functional.logsigmoid(torch.where(ended, logit, -logit)).mean(1).sum()
    loss, parts = net.loss(x, y, valid, seen, ended)
    expected = nll + cross + 0.01 * (net.high - net.low).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(v, [*net.parameters()]) for v in (loss, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert parts["model_end"].item() == pytest.approx(cross.item(), rel=1e-5)


def test_a_member_learns_nothing_from_rows_it_leaves_out_be_they_nan():
    net = net_of()
    x, y, seen = torch.randn(E, M, 5), torch.randn(E, M, 5), torch.randn(E, M, 4)
    ended, valid = torch.rand(E, M) < 0.4, torch.rand(E, M) < 0.5

    def gradients(value: float) -> list[Tensor]:
        given = [torch.where(valid[..., None], part, value) for part in (x, y, seen)]
        return [
            *torch.autograd.grad(net.loss(given[0], given[1], valid, given[2], ended)[0], [*net.parameters()])
        ]

    one, other = gradients(0.0), gradients(torch.nan)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(g.isfinite().all() for g in one) and one[0].abs().max() > 0


def test_a_fold_is_of_whole_blocks_and_each_member_leaves_out_its_share():
    step, simulation = torch.arange(64 * 500)[:, None], torch.arange(3)[None]
    folds = fold(step, simulation, 5)
    blocks = folds.unflatten(0, (-1, BLOCK))
    assert (blocks == blocks[:, :1]).all()
    share = torch.bincount(blocks[:, 0].flatten(), minlength=5) / 1500
    assert share.min() > 0.16 and share.max() < 0.24
    assert (folds[:, 0] != folds[:, 1]).float().mean() > 0.7  # another simulation has others
    far = fold(torch.tensor([10**9]), torch.tensor([4095]), 5)
    assert 0 <= far < 5


def test_no_member_is_ever_given_a_row_of_its_fold_by_the_replays_own_numbers():
    replay, rng = Replay({"step": 1, "simulation": 1}, 0, 2, capacity=700), torch.Generator().manual_seed(0)
    for t in range(900):  # the ring has come round
        row = {"step": torch.full((2,), float(t)), "simulation": torch.arange(2.0)}
        replay.add(row, torch.zeros(2, 0))
    net, given = net_of(), list[tuple[Tensor, Tensor]]()

    def data(rows: Tensor, belief: Tensor) -> tuple[Tensor, ...]:
        m = rows.shape[1]
        return torch.randn(m, 5), torch.randn(m, 5), torch.randn(m, 4), rows[0, :, 0] < 0, rows[0, :, 0] >= 0

    def update(rows: Tensor, belief: Tensor, allowed: Tensor) -> dict[str, Tensor]:
        given.append((rows[0].unflatten(0, (E, BATCH)), allowed))
        return {"loss": rows.sum()}

    upkeep = Upkeep(net, data, update)
    assert "loss" in upkeep.catch_up(5, replay, rng) and upkeep.steps == len(given) == 5
    assert upkeep.catch_up(5, replay, rng) == {}
    for rows, allowed in given:
        for e in range(E):
            own = fold(rows[e, :, 0].long(), rows[e, :, 1].long(), E) == e
            assert torch.equal(own, ~allowed[e]) and 0.1 < own.float().mean() < 0.6


def test_units_of_a_replay_with_nan_are_refused_by_their_column():
    net = net_of()
    wrong = torch.randn(30, 5)
    wrong[4, 2] = torch.nan
    with pytest.raises(TaskError, match=r"the model's outputs must be finite in the replay; columns \[2\]"):
        net.fit_scales(torch.randn(30, 5), wrong, torch.randn(30, 4))


def test_a_scale_is_of_mean_and_deviation_and_leaves_constants_alone():
    scale, x = Scale(2), torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    scale.fit(x)
    assert scale(x).tolist() == [[-1.0, 0.0], [1.0, 0.0]] and torch.equal(scale.back(scale(x)), x)


@pytest.mark.slow
def test_a_linear_gaussian_system_is_known_with_its_noise_and_its_intervals(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ensemble, "END_HIDDEN", (4,))  # it has no end
    rng = torch.Generator().manual_seed(0)
    a = torch.tensor([[1.0, 0.1, 0.0], [-0.3, 0.9, 0.1], [0.0, 0.05, 0.95]])
    b, noise = torch.tensor([[0.0], [0.2], [0.1]]), torch.tensor([0.02, 0.1, 0.3, 0.5])

    def system(rows: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(rows, 3, generator=rng) * torch.tensor([1.0, 2.0, 5.0])
        u = 2 * torch.rand(rows, 1, generator=rng) - 1
        means = torch.cat((x @ a.T + u @ b.T - x, 3 * (x[:, :1] - u)), -1)  # the change, the reward
        return torch.cat((x, u), -1), means + noise * torch.randn(rows, 4, generator=rng)

    (x, y), (held, truth) = system(12_000), system(4000)
    torch.manual_seed(0)
    net, everyone = Dynamics(4, 3, 3, 0, members=5, hidden=(64, 64)), torch.ones(5, 256, dtype=torch.bool)
    net.fit_scales(x, y, x[:, :3])
    fit = Fit(net, 1e-3)
    for step in range(3000):
        fit.lr.fill_(1e-3 * 0.01 ** max(0.0, step / 3000 - 0.5))  # to a tenth
        rows = torch.randint(0, len(x), (5, 256), generator=rng)
        fit.update(x[rows], y[rows], everyone, x[rows][..., :3], torch.zeros(5, 256, dtype=torch.bool))

    def mean_change(v: Tensor) -> Tensor:
        return net.out.back(net(v[None])[0].mean((0, 1)))[:3]

    jacobian = torch.autograd.functional.jacobian(mean_change, torch.zeros(4))
    true = torch.cat((a - torch.eye(3), b), 1)
    assert (torch.as_tensor(jacobian) - true).abs().max() <= 0.03
    with torch.no_grad():
        mean, log_std = net(held)
        mean, own = net.out.back(mean), (log_std.exp() * net.out.std).square().mean(0)
        # the median: far out in the Gaussian's tails the noise that is learned is that of few rows
        assert (own.sqrt().median(0).values / noise - 1).abs().max() <= 0.03
        z = (truth - mean.mean(0)).abs() / (own + mean.var(0, correction=0)).sqrt()
        for quantile, share in ((0.6745, 0.5), (1.6449, 0.9)):
            assert ((z < quantile).float().mean(0) - share).abs().max() <= 0.02
