"""Shaping functions, by hand."""

import math

import pytest
import torch

from robokit.rewards import exp_error, tolerance


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
