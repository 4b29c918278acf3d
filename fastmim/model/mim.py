"""The module of masked image modelling, which draws a mask, encodes, decodes and compares."""

from __future__ import annotations

from torch import Tensor, nn

from ..parts import Masking
from ..tokens import Mask
from .decoders import DecoderModule
from .encoders.base import EncoderModule
from .objective import Objective


class MIM(nn.Module):
    """One pre-training method: `mim(images, ids) -> loss`."""

    def __init__(
        self, masking: Masking, encoder: EncoderModule, decoder: DecoderModule, objective: Objective, seed: int
    ):
        super().__init__()
        self.masking, self.seed = masking, seed
        self.encoder, self.decoder, self.objective = encoder, decoder, objective

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """Returns the loss of a batch: () fp32.

        Args:
            images: (B, H, W, C) uint8.
            ids: (B,) int64 sample ids, from which the masks are drawn.
        """
        mask = self.mask(ids)
        return self.objective(self.predict(images, mask), images, mask)

    def mask(self, ids: Tensor) -> Mask:
        """Draws the mask of each sample."""
        return self.masking(self.seed, ids, self.encoder.grid, self.encoder.patch_size)

    def predict(self, images: Tensor, mask: Mask) -> Tensor:
        """Predicts the patches `mask.ids[:, -M:]`: (B, M, P).

        M is the number of hidden patches, or of all patches if the loss compares whole images.
        """
        latent = self.encoder(images, mask)
        num_pred = mask.ids.shape[1] if self.objective.whole else mask.ids_hidden.shape[1]
        return self.decoder(latent, mask, num_pred)
