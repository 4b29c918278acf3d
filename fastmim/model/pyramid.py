"""Four maps from what any encoder gives, for decoders that read a pyramid. May import torch, timm and L1."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 4


class Levels(nn.Module):
    """Maps of `LEVELS` strides, each twice the one before: `levels(encoder.maps(images))`.

    A plain ViT's maps of one stride are brought to a quarter, half, once and twice that by transposed convolutions,
    nothing, and a max pool (ViTDet, arXiv:2203.16527; detectron2's `SimpleFeaturePyramid` in front of its 1x1
    convolutions). Of other encoders the last map is halved by a max pool until there are enough.

    strides, widths: of the maps, as an encoder's.

    Raises:
        ValueError: images smaller than the last stride.
    """

    def __init__(self, strides: tuple[int, ...], widths: tuple[int, ...], size: tuple[int, int]):
        from timm.layers import LayerNorm2d

        super().__init__()
        missing, plain = LEVELS - len(strides), len(strides) == 1
        further = tuple(strides[-1] << i for i in range(1, missing + 1))
        self.strides = tuple((strides[0] << i) // 4 for i in range(LEVELS)) if plain else strides + further
        if min(size) < self.strides[-1]:
            raise ValueError(
                f"data.size={size}: expected at least {self.strides[-1]} pixels a side, one position of a pyramid's "
                "last map"
            )
        self.scales = None
        if not plain:
            self.widths = (*widths, *widths[-1:] * missing)
            return
        (width,) = widths
        half = partial(nn.ConvTranspose2d, kernel_size=2, stride=2)
        self.widths = (width // 4, width // 2, width, width)
        self.scales = nn.ModuleList(
            [
                nn.Sequential(
                    half(width, width // 2), LayerNorm2d(width // 2), nn.GELU(), half(width // 2, width // 4)
                ),
                half(width, width // 2),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """(B, C, h, w) each; of a plain ViT one, for all levels, or one for each."""
        if self.scales is not None:
            maps = maps * LEVELS if len(maps) == 1 else maps
            return [scale(x) for scale, x in zip(self.scales, maps, strict=True)]
        while len(maps) < LEVELS:
            maps = [*maps, F.max_pool2d(maps[-1], 2)]
        return maps
