"""k-NN accuracy of frozen features."""

import pytest
import torch

from fastmim.analysis.knn import knn_accuracy


def test_separable_and_random_features():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    noise = torch.randn(400, 16, generator=generator)
    centres = 5 * torch.randn(4, 16, generator=generator)
    apart = centres[labels] + noise
    for dtype in (torch.float32, torch.float64):
        features = apart.to(dtype)
        assert knn_accuracy(features[:300], labels[:300], features[300:], labels[300:]) > 0.99
    assert knn_accuracy(noise[:300], labels[:300], noise[300:], labels[300:]) < 0.45


def test_votes_are_weighted_by_similarity():
    """One near neighbour outvotes two far ones."""
    bank = torch.tensor([[1.0, 0.05], [0.0, 1.0], [-0.2, 1.0]])
    assert knn_accuracy(bank, torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), k=3) == 1.0


def test_too_few_features():
    with pytest.raises(ValueError, match="at least k=20"):
        knn_accuracy(torch.randn(5, 2), torch.zeros(5).long(), torch.randn(1, 2), torch.zeros(1).long())
