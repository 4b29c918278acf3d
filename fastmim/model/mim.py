"""Masked image modelling: mask, encode, decode, compare. Imports no part; may import L1 and L0."""

from __future__ import annotations

from torch import Tensor, nn

from ..parts import Masking
from ..tokens import Mask


class MIM(nn.Module):
    """One pre-training method, as a composition: `mim(images, ids) -> loss`.

    Args:
        images: (B, H, W, C) uint8.
        ids: (B,) int64 sample ids, from which the masks are drawn.
    """

    def __init__(self, masking: Masking, encoder: nn.Module, decoder: nn.Module, objective: nn.Module, seed: int):
        super().__init__()
        self.masking, self.seed = masking, seed
        self.encoder, self.decoder, self.objective = encoder, decoder, objective

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        mask = self.mask(ids)
        return self.objective(self.predict(images, mask), images, mask)

    def mask(self, ids: Tensor) -> Mask:
        """The mask of each sample."""
        return self.masking(self.seed, ids, self.encoder.grid, self.encoder.patch_size)

    def predict(self, images: Tensor, mask: Mask) -> Tensor:
        """(B, M, P) predictions of the patches `mask.ids[:, -M:]`: the hidden ones, or all if the loss wants those."""
        latent = self.encoder(images, mask)
        num_pred = mask.ids.shape[1] if self.objective.whole else mask.ids_hidden.shape[1]
        return self.decoder(latent, mask, num_pred)
