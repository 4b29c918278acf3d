"""Losses: how a prediction is compared with its target. Parameter-free; may import L1 and L0."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .tokens import Loss


@dataclass(frozen=True)
class MaskedL1(Loss):
    """Mean absolute error over hidden patches."""

    def __call__(self, pred: Tensor, target: Tensor, hidden: Tensor | None = None) -> Tensor:
        return (pred.float() - target).abs().mean()


@dataclass(frozen=True)
class MaskedL2(Loss):
    """Mean squared error over hidden patches (MAE, arXiv:2111.06377, section 3, "Reconstruction target")."""

    def __call__(self, pred: Tensor, target: Tensor, hidden: Tensor | None = None) -> Tensor:
        return (pred.float() - target).square().mean()
