"""Regions: draws lie in them, evenly, and impossible ones are refused."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from robokit.errors import TaskError
from robokit.task.command import Command
from robokit.task.region import Ball, Points, Region, Ring

N = 40_000


def drawn(region: Region, count: int = N) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return region.on(torch.device("cpu"))(lambda k: torch.rand(count, k, generator=rng))


def near(share: float, expected: float) -> bool:
    """Within four standard deviations of a share of N."""
    return abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / N)


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_a_ball_is_filled_evenly_by_its_volume_and_in_every_direction(d: int):
    center = torch.arange(d).double()
    points = drawn(Ball(tuple(center.tolist()), 2.0)) - center
    distance = points.norm(dim=-1)
    assert distance.max() <= 2
    assert near(float((distance < 1).double().mean()), 0.5**d)
    for column in points.unbind(-1):
        assert near(float((column > 0).double().mean()), 0.5)


def test_a_ring_lies_in_its_axes_between_its_radii_and_is_filled_evenly_by_its_area():
    points = drawn(Ring((1.0, 5.0, -1.0), 0.5, 1.5, axes=(0, 2)))
    assert points[:, 1].eq(5.0).all()
    distance = (points - torch.tensor([1.0, 5.0, -1.0])).norm(dim=-1)
    assert 0.5 <= distance.min() < 0.51
    assert 1.49 < distance.max() <= 1.5 + 1e-9
    assert near(float((distance < 1).double().mean()), (1 - 0.25) / (2.25 - 0.25))
    angle = torch.atan2(points[:, 2] + 1, points[:, 0] - 1)
    assert near(float((angle.abs() < 1).double().mean()), 1 / math.pi)


def test_each_of_a_list_of_points_is_drawn_equally_often():
    points = ((0.0, 1.0), (2.0, -1.0), (1.0, 0.0))
    found = drawn(Points(points))
    for point in points:
        assert near(float((found == torch.tensor(point)).all(-1).double().mean()), 1 / 3)


def test_the_numbers_at_the_ends_of_a_draw_are_points_too():
    for region in (Ball((0.0, 0.0), 1.0), Ring((0.0, 0.0), 1.0, 2.0), Points(((3.0,), (4.0,)))):
        for number in (0.0, 0.5, 1 - 2**-24):
            point = region.on(torch.device("cpu"))(lambda k, number=number: torch.full((1, k), number))
            assert point.isfinite().all()


@pytest.mark.parametrize(
    ("region", "low", "high"),
    [
        (Ball((1.0, 2.0), 0.5), (0.5, 1.5), (1.5, 2.5)),
        (Ring((0.0, 0.0, 0.25), 0.5, 1.0), (-1.0, -1.0, 0.25), (1.0, 1.0, 0.25)),
        (Points(((0.0, 3.0), (1.0, -1.0))), (0.0, -1.0), (1.0, 3.0)),
    ],
)
def test_the_bounds_of_a_region_are_those_of_its_points_and_of_its_command(
    region: Region, low: tuple[float, ...], high: tuple[float, ...]
):
    points = drawn(region)
    assert region.bounds() == (low, high)
    assert (points >= torch.tensor(low)).all()
    assert (points <= torch.tensor(high)).all()
    command = Command(region=region)
    assert (command.low, command.high) == (low, high)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Command(), "low <= high of one length"),
        (lambda: Ball((0.0,), 0.0), "places in its center, got Ball((0.0,), 0.0)"),
        (lambda: Ball((0.0,), -1.0), "Ball needs finite numbers, radii"),
        (lambda: Ball((math.nan,), 1.0), "Ball needs finite numbers"),
        (lambda: Ball((), 1.0), "Ball needs finite numbers, radii"),
        (
            lambda: Ring((0.0, 0.0), 2.0, 1.0),
            "Ring needs finite numbers, radii 0",
        ),
        (
            lambda: Ring((0.0, 0.0), 0.0, 0.0),
            "Ring needs finite numbers, radii 0",
        ),
        (
            lambda: Ring((0.0, 0.0), 0.5, 1.0, axes=(0, 2)),
            "Ring needs finite numbers, radii 0",
        ),
        (
            lambda: Ring((0.0, 0.0), 0.5, 1.0, axes=(1, 1)),
            "Ring needs finite numbers, radii 0",
        ),
        (lambda: Points(()), "one or more points of one width"),
        (lambda: Points(((0.0,), (0.0, 1.0))), "one or more points of one width"),
        (lambda: Points(((),)), "one or more points of one width"),
        (lambda: Command((0.0,), (1.0,), region=Ball((0.0,), 1.0)), "low and high or a region, got both"),
        (lambda: Command(region=3), "must be Ball, Ring, Points or a function, got 3"),  # pyright: ignore
        (lambda: Command((0.0,), (1.0,), every="sucess"), 'or "success", got sucess'),  # pyright: ignore
        (lambda: Command(region=Ball((1.0,), 0.5), still=0.1), "still needs 0 between low and high"),
    ],
)
def test_an_impossible_region_is_refused(make: Any, words: str):
    with pytest.raises(TaskError) as error:
        make()
    assert words in str(error.value)
