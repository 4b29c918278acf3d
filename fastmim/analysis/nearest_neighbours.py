"""k-nearest-neighbour accuracy of frozen features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_PIECE, _BANK_PIECE = 1024, 2**15  # queries and bank entries compared at a time: 128 MiB of similarities


def knn_accuracy(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, k: int = 20, temperature: float = 0.07
) -> float:
    """Returns the fraction of queries whose nearest neighbours in the bank vote for the right label.

    Each of the k entries with the largest cosine similarity s votes for its label with weight exp(s / temperature) (Wu
    et al., arXiv:1805.01978, section 3.4).

    Args:
        bank: (N, D) labelled features. They may lie on another device, as only pieces are moved.
        bank_labels: (N,) int64 labels, on the device that computes.
        queries: (M, D) features to classify, on any device.
        labels: (M,) int64 right labels of the queries, on the device that computes.
        k: number of neighbours that vote.
        temperature: divisor of the similarities.

    Raises:
        ValueError: the bank has fewer than k entries.
    """
    if len(bank) < k:
        raise ValueError(f"expected at least k={k} features to search in, got {len(bank)}")
    device, classes, right = labels.device, int(bank_labels.max()) + 1, 0
    for some, wanted in zip(queries.split(_PIECE), labels.split(_PIECE), strict=True):
        some = F.normalize(some.to(device), dim=1)
        nearest, found = some.new_empty(len(some), 0), wanted.new_empty(len(some), 0)
        for piece, piece_labels in zip(bank.split(_BANK_PIECE), bank_labels.split(_BANK_PIECE), strict=True):
            similarity = some @ F.normalize(piece.to(device), dim=1).T
            nearest = torch.cat([nearest, similarity], dim=1)
            found = torch.cat([found, piece_labels.expand(len(some), -1)], dim=1)
            nearest, index = nearest.topk(min(k, nearest.shape[1]), dim=1)
            found = found.gather(1, index)
        votes = nearest.new_zeros(len(some), classes).scatter_add_(1, found, (nearest / temperature).exp())
        right += int((votes.argmax(dim=1) == wanted).sum())
    return right / len(labels)
