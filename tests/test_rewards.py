"""Shaping functions, by hand."""

import math

import pytest
import torch

from robokit.rewards import exp_error, tolerance, yaw_error


def test_tolerance_is_one_inside_and_a_tenth_at_the_margin():
    x = torch.tensor([1.0, 1.5, 2.0, 2.5, 0.5, 3.0])
    value = tolerance(x, 1.0, 2.0, margin=0.5)
    assert value.tolist() == pytest.approx([1.0, 1.0, 1.0, 0.1, 0.1, 1e-4])  # 0.1^(d^2 / margin^2)


def test_tolerance_without_a_margin_is_an_indicator():
    x = torch.tensor([0.999, 1.0, 2.0, 2.001], dtype=torch.float64)
    value = tolerance(x, 1.0, 2.0)
    assert value.dtype == x.dtype
    assert value.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_tolerance_falls_evenly_on_both_sides_and_takes_one_sided_bounds():
    x = torch.linspace(-3, 3, 61)
    value = tolerance(x, -1.0, 1.0, margin=1.0)
    assert torch.equal(value, value.flip(0))
    assert (value.diff()[:20] > 0).all()
    assert tolerance(x, -math.inf, 0.0, margin=1.0)[:31].tolist() == [1.0] * 31


@pytest.mark.parametrize("bounds", [(1.0, 0.0, 0.0), (0.0, 1.0, -0.1)])
def test_tolerance_refuses_impossible_bounds(bounds: tuple[float, float, float]):
    with pytest.raises(ValueError, match="low <= high and margin >= 0"):
        tolerance(torch.zeros(1), *bounds)


def test_exp_error_is_one_at_no_error_and_one_over_e_at_the_scale():
    error = torch.tensor([[0.0, 0.0], [0.3, 0.4], [3.0, 4.0]])
    assert exp_error(error, 0.5).tolist() == pytest.approx([1.0, math.exp(-1), math.exp(-100)])


def test_a_cubes_yaw_error_is_the_one_to_its_nearest_face():
    degrees = torch.tensor([0.0, 30, 45, 46, 90, -44, -46, 179, 1000], dtype=torch.float64)
    error = yaw_error(degrees.deg2rad(), fold=4).rad2deg()
    assert error.tolist() == pytest.approx([0, 30, 45, -44, 0, -44, 44, -1, 10])
    assert yaw_error(degrees.deg2rad()).rad2deg().tolist() == pytest.approx(
        [0, 30, 45, 46, 90, -44, -46, 179, -80]
    )


@pytest.mark.parametrize("fold", [1, 2, 4, 6])
def test_a_yaw_error_stays_within_half_a_turn_of_the_symmetry_and_has_the_slope_1(fold: int):
    angle = torch.linspace(-20, 20, 4001, dtype=torch.float64, requires_grad=True)
    error = yaw_error(angle, fold)
    assert error.min() > -math.pi / fold - 1e-12 and error.max() <= math.pi / fold + 1e-12
    assert torch.allclose((fold * error).cos(), (fold * angle).cos(), atol=1e-9)
    assert torch.allclose((fold * error).sin(), (fold * angle).sin(), atol=1e-9)
    assert torch.equal(torch.autograd.grad(error.sum(), angle)[0], torch.ones(4001, dtype=torch.float64))
