"""A pyramid of four maps from the maps of any encoder, for decoders that read several resolutions."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 4
"""Number of maps."""


class PyramidLevels(nn.Module):
    """Maps of `LEVELS` strides, each twice the stride before: `levels(encoder.maps(images))`.

    The one map of a plain ViT is resized to four strides: a quarter, a half, once and twice its own stride. Transposed
    convolutions, the identity and a max pool do this (ViTDet, arXiv:2203.16527; detectron2's `SimpleFeaturePyramid`
    before its 1x1 convolutions). For other encoders, a max pool halves the last map until there are enough maps.
    """

    strides: tuple[int, ...]
    """Pixels between two positions of each map."""
    widths: tuple[int, ...]
    """Channels of each map."""
    scales: nn.ModuleList | None
    """Module that resizes a plain ViT's map for each level; None for other encoders."""

    def __init__(self, strides: tuple[int, ...], widths: tuple[int, ...], size: tuple[int, int]):
        """Builds the layers that resize the maps.

        Args:
            strides: `EncoderModule.strides`.
            widths: `EncoderModule.widths`.
            size: height and width of the images, pixels.

        Raises:
            ValueError: the images are smaller than the last stride.
        """
        super().__init__()
        missing, plain = LEVELS - len(strides), len(strides) == 1
        if plain:
            (width,) = widths
            self.strides = tuple((strides[0] << i) // 4 for i in range(LEVELS))
            self.widths = (width // 4, width // 2, width, width)
        else:
            self.strides = strides + tuple(strides[-1] << i for i in range(1, missing + 1))
            self.widths = widths + widths[-1:] * missing
        if min(size) < self.strides[-1]:
            raise ValueError(
                f"data.size={size}: expected at least {self.strides[-1]} pixels a side, one position of a pyramid's "
                "last map"
            )
        self.scales = resizes(widths[0]) if plain else None

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Returns one (B, C, h, w) map per level.

        Args:
            maps: the encoder's maps, (B, C, h, w) each. A plain ViT gives one map for all levels, or one for each.
        """
        if self.scales is not None:
            maps = maps * LEVELS if len(maps) == 1 else maps
            return [scale(x) for scale, x in zip(self.scales, maps, strict=True)]
        while len(maps) < LEVELS:
            maps = [*maps, F.max_pool2d(maps[-1], 2)]
        return maps


def resizes(width: int) -> nn.ModuleList:
    """Builds the layers that resize a plain ViT's map of `width` channels for each level."""
    from timm.layers.norm import LayerNorm2d

    half = partial(nn.ConvTranspose2d, kernel_size=2, stride=2)
    quarter = nn.Sequential(half(width, width // 2), LayerNorm2d(width // 2), nn.GELU(), half(width // 2, width // 4))
    return nn.ModuleList([quarter, half(width, width // 2), nn.Identity(), nn.MaxPool2d(2)])
