"""The base class of every encoder network, and the normalisation of the images that an encoder reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fastmim_kernels import mean_fill, patch_gather

from ...parts import ImageSpec
from ...tokens import Mask

Reads = Literal["visible", "all"]
Fill = Literal["none", "mean"]


class ImageInput(nn.Module):
    """Normalises (B, H, W, C) images: `input(images, mask, dtype) -> (B, C, H, W)`.

    With fill "mean", hidden pixels hold the mean of their image. The mean is taken per channel, in float32, over all
    pixels, hidden pixels included (A2MIM, arXiv:2205.13943; openmixup `BlockwiseMaskGenerator`).
    """

    mean: Tensor
    """(C,) mean of each channel, on the 0..1 scale."""
    std: Tensor
    """(C,) standard deviation of each channel, on the 0..1 scale."""

    def __init__(self, image: ImageSpec, fill: Fill = "none"):
        super().__init__()
        self.fill = fill
        self.register_buffer("mean", torch.tensor(image.mean), persistent=False)
        self.register_buffer("std", torch.tensor(image.std), persistent=False)

    def forward(self, images: Tensor, mask: Mask, dtype: torch.dtype) -> Tensor:
        """Returns whole images, (B, C, H, W) in `dtype`.

        Args:
            images: (B, H, W, C) uint8, or normalised floats.
            mask: the hidden patches, which `fill` replaces.
            dtype: dtype of the result.
        """
        hidden = mask.mask.view(-1, *mask.grid) if self.fill == "mean" else None
        return mean_fill(images, hidden, self.mean.float(), self.std.float(), dtype).permute(0, 3, 1, 2)

    def patches(
        self,
        images: Tensor,
        ids: Tensor,
        patch_size: int,
        dtype: torch.dtype,
        token_size: int | None = None,
        columns: int = 1,
    ) -> Tensor:
        """Returns some patches of the images, cut into tokens: (B, tokens, t * t * C).

        Args:
            images: (B, H, W, C) uint8, or normalised floats.
            ids: (B, K) patches.
            patch_size: side of a patch, pixels.
            dtype: dtype of the result.
            token_size: side t of a token, pixels; None = the patch size.
            columns: patches side by side, in the order of `ids`. Tokens are in raster order of that smaller image.
        """
        mean, std = self.mean.float(), self.std.float()
        return patch_gather(images, ids, patch_size, mean, std, dtype, token_size, columns)

    def tokens(
        self, images: Tensor, ids: Tensor, columns: int, patch_size: int, token_size: int, dtype: torch.dtype
    ) -> Tensor:
        """Returns the tokens of the smaller image that the patches `ids` form: (B, h, w, t * t * C).

        The visible patches of a uniform mask, each at the place of its 2x2 block, form such an image. UM-MAE embeds all
        tokens and compacts the map afterwards (models_mae_swin.py `forward_encoder`). Its patch embedding never crosses
        a patch, so gathering pixels first gives the same values from a quarter of the work.
        """
        x = self.patches(images, ids, patch_size, dtype, token_size, columns)
        return x.unflatten(1, (-1, columns * patch_size // token_size))

    def compact(self, images: Tensor, mask: Mask, patch_size: int, dtype: torch.dtype) -> Tensor:
        """Returns the (B, C, H/2, W/2) image that the visible patches of a uniform mask form."""
        return self.tokens(images, mask.ids_keep, mask.grid[1] // 2, patch_size, 1, dtype).permute(0, 3, 1, 2)


class EncoderModule(nn.Module, ABC):
    """Base class of encoders: `encoder(images, mask) -> (B, num_prefix_tokens + N, embed_dim)` tokens."""

    input: ImageInput
    """Normalisation of the images."""
    patch_size: int
    """Side of the patches that are hidden and predicted, pixels."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    patch_values: int
    """Numbers in one patch: patch_size * patch_size * channels."""
    embed_dim: int
    """Width of the tokens."""
    strides: tuple[int, ...]
    """Pixels between two positions of each map of `maps`."""
    widths: tuple[int, ...]
    """Channels of each map of `maps`."""
    reads: Reads
    """Input: "visible" = visible patches only, "all" = whole images with hidden content replaced."""
    merge: int
    """Side of the square of patches that one token covers, counted in the patches that are read."""
    num_prefix_tokens: int
    """Number of class tokens in front of the others."""
    has_visible_token: ClassVar[bool] = False
    """True if a learned token can take the place of visible patches (`Mask.secondary`)."""
    grad_checkpointing: bool
    """True if blocks are recomputed in the backward pass instead of stored."""

    def __init__(
        self,
        image: ImageSpec,
        *,
        patch_size: int,
        embed_dim: int,
        strides: Sequence[int] | None = None,
        widths: Sequence[int] | None = None,
        reads: Reads = "all",
        merge: int = 1,
        num_prefix_tokens: int = 0,
        fill: Fill = "none",
    ):
        """Sets the attributes of the class.

        Args:
            image: the images that the encoder reads.
            patch_size: side of a patch, pixels; must divide both sides of the images.
            embed_dim: width of the tokens.
            strides: pixels between two positions of each map; None = one map with one position per patch.
            widths: channels of each map; None = one map of the tokens' width.
            reads: "visible" patches only, or "all" of the image.
            merge: side of the square of patches that one token covers.
            num_prefix_tokens: number of class tokens.
            fill: content of hidden pixels, see `ImageInput`.
        """
        super().__init__()
        self.input = ImageInput(image, fill)
        self.patch_size, self.embed_dim = patch_size, embed_dim
        self.grid = (image.size[0] // patch_size, image.size[1] // patch_size)
        self.patch_values = patch_size**2 * image.channels
        self.strides = (patch_size,) if strides is None else tuple(strides)
        self.widths = (embed_dim,) if widths is None else tuple(widths)
        self.reads, self.merge, self.num_prefix_tokens = reads, merge, num_prefix_tokens
        self.grad_checkpointing = False

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images, pixels."""
        return self.grid[0] * self.patch_size, self.grid[1] * self.patch_size

    @abstractmethod
    def forward(self, images: Tensor, mask: Mask) -> Tensor:
        """Encodes images with hidden patches.

        Args:
            images: (B, H, W, C) uint8, or normalised floats.
            mask: the hidden patches.

        Returns:
            (B, num_prefix_tokens + N, D). The N tokens are the visible patches in the order of `mask.ids_keep`, a
            raster of the whole image, or a raster of the smaller image that the patches of a uniform mask form.
        """

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Encodes whole images: (B, num_prefix_tokens + N, D), in raster order.

        Args:
            images: (B, C, H, W) normalised floats.
        """

    @abstractmethod
    def maps(self, images: Tensor) -> list[Tensor]:
        """Returns the (B, C_i, H_i, W_i) map of each stage of whole images, finest first.

        If several stages have the same stride, only the map of the last of these stages is returned. The maps of a
        pyramid do not pass the norm before `features`. A plain ViT returns one map: its normalised tokens without class
        token.

        Args:
            images: (B, C, H, W) normalised floats.
        """

    def block_maps(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Returns the (B, D, rows, columns) output of some blocks of a plain ViT.

        Args:
            images: (B, C, H, W) normalised floats.
            blocks: numbers of blocks, ascending from 0.

        Raises:
            ValueError: the encoder is not a plain ViT.
        """
        raise ValueError(f"{type(self).__name__} does not return maps of single blocks: set decoder.blocks to ()")

    @abstractmethod
    def layers(self) -> list[tuple[str, ...]]:
        """Returns prefixes of parameter names from input to output, for layer decay.

        The first entry is the stem, each further entry a block. Parameters without a prefix come after the last block.
        """

    @abstractmethod
    def take_norm(self) -> nn.Module | None:
        """Removes and returns the last norm, which `features` then skips; returns None without a norm."""
