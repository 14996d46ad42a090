"""The running mean and variance equal those of all valid observations, in batches of any size."""

import torch

from robokit.networks.normalizer import Normalizer


def test_normalizer_merges_batches_to_the_mean_and_variance_of_all_valid_rows():
    torch.manual_seed(0)
    rows, valid = torch.randn(100, 3) * 5 + 2, torch.rand(100) > 0.2
    rows[~valid] = float("nan")
    normalizer = Normalizer(3)
    for part in ((rows[:30], valid[:30]), (rows[30:31], valid[30:31]), (rows[31:], valid[31:])):
        normalizer.update(*part)
    torch.testing.assert_close(normalizer.mean, rows[valid].mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(normalizer.var, rows[valid].var(0, correction=0), rtol=1e-3, atol=1e-3)


def test_a_batch_without_a_valid_row_moves_nothing():
    normalizer = Normalizer(2)
    normalizer.update(torch.full((4, 2), float("nan")), torch.zeros(4, dtype=torch.bool))
    assert normalizer.mean.tolist() == [0.0, 0.0] and normalizer.var.tolist() == [1.0, 1.0]
