"""The temporal distance: a quasimetric by construction, and the known times of a corridor."""

import pytest
import torch
from torch import Tensor

from robokit.dynamics.distance import Distance, fit_distance, goals_by_distance, union


def test_the_length_of_a_union_is_that_of_a_loop_over_small_steps():
    rng = torch.Generator().manual_seed(0)
    low = torch.rand(20, 5, generator=rng)
    high = low + 0.4 * torch.rand(20, 5, generator=rng) * (torch.rand(20, 5, generator=rng) < 0.7)
    at = (torch.arange(4000) + 0.5) / 2000
    inside = ((at >= low[..., None]) & (at < high[..., None])).any(1).double().mean(-1) * 2
    torch.testing.assert_close(union(low, high).double(), inside, atol=1e-3, rtol=0)
    assert union(torch.tensor([0.0, 0.5, 3.0]), torch.tensor([1.0, 2.0, 3.0])) == 2.0


@torch.no_grad()
def test_any_weights_give_a_quasimetric():
    torch.manual_seed(0)
    distance, states = Distance(4, 10.0), 3 * torch.randn(3, 500, 4)
    for parameter in distance.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    s, t, u = states
    there, back, over = distance(s, u), distance(u, s), distance(s, t) + distance(t, u)
    assert (there <= over * (1 + 1e-5)).all() and (there >= 0).all() and there.max() > 1
    assert (distance(s, s) == 0).all() and (there - back).abs().max() > 1


LENGTH = 60.0  # m, a corridor: 2 m a control step forward, 1 m back


def seen(place: Tensor) -> Tensor:
    return torch.cat((place, (place / 10).sin()), -1)


@pytest.mark.medium
def test_a_corridor_has_its_known_times_there_and_back_and_goals_their_order():
    rng = torch.Generator().manual_seed(0)
    way = torch.where(torch.rand(300, generator=rng) < 0.5, 2.0, -1.0)
    place = LENGTH * torch.rand(300, generator=rng) + way * torch.arange(13)[:, None]
    valid = torch.ones(13, 300, dtype=torch.bool)
    valid[9:, :100] = False
    place[9:, :100] = LENGTH * torch.rand(4, 100, generator=rng)  # of other episodes: no path
    torch.manual_seed(0)
    distance = fit_distance(seen(place.clamp(0, LENGTH)[..., None]), valid, rng)
    pairs = torch.tensor([[10.0, 30], [30, 10], [5, 55], [55, 5], [20, 22], [22, 20]])
    with torch.no_grad():
        found = distance(*(seen(x[:, None]) for x in pairs.unbind(1)))
    assert found.tolist() == pytest.approx([10, 20, 25, 50, 1, 2], rel=0.12)
    start, along = torch.tensor([[40.0]]), torch.arange(61.0)[:, None]
    goals = torch.tensor([[10.0], [50.0], [99.0], [30.0]])
    steps = goals_by_distance(distance, seen(start), seen(along), along, goals, 0.1)
    assert steps[2] is None
    assert [steps[i] for i in (1, 3, 0)] == pytest.approx([5, 10, 30], rel=0.12)
