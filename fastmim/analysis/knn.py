"""k-nearest-neighbour accuracy of frozen features: the quickest answer to "did it learn". May import L2 and below."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@torch.no_grad()
def pooled_features(encoder: nn.Module, images: Tensor, batch: int) -> Tensor:
    """(N, D) mean over the latent tokens, class tokens apart, of whole, normalised (N, C, H, W) images."""
    tokens = [encoder.features(part)[:, encoder.num_prefix_tokens :].mean(dim=1) for part in images.split(batch)]
    return torch.cat(tokens).float()


def knn_accuracy(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, k: int = 20, temperature: float = 0.07
) -> float:
    """Fraction of the queries whose k most similar bank entries vote for their label.

    Each of the k neighbours with the largest cosine similarity s votes with exp(s / temperature) (Wu et al.,
    arXiv:1805.01978, section 3.4).

    Args:
        bank, queries: (N, D) and (M, D) features. bank_labels, labels: (N,) and (M,) int64.
    Raises:
        ValueError: the bank has fewer than k entries.
    """
    if len(bank) < k:
        raise ValueError(f"expected at least k={k} features to search in, got {len(bank)}")
    similarity = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
    nearest, index = similarity.topk(k, dim=1)
    votes = similarity.new_zeros(len(queries), int(bank_labels.max()) + 1)
    votes.scatter_add_(1, bank_labels[index], (nearest / temperature).exp())
    return (votes.argmax(dim=1) == labels).double().mean().item()
