"""Checks that image size, masking and layers fit an encoder."""

from __future__ import annotations

from typing import Literal

from ...parts import Masking


def check_size(size: tuple[int, int], unit: int, name: str) -> None:
    """Checks that both sides of the images are multiples of `unit` pixels.

    Raises:
        ValueError: a side is not a multiple.
    """
    if size[0] % unit or size[1] % unit:
        near = tuple(max(unit, round(side / unit) * unit) for side in size)
        raise ValueError(f"data.size={size} must be a multiple of {unit} for {name}; the nearest is {near}")


def check_heads(width: int | None, heads: int | None) -> None:
    """Checks that the attention heads divide the width; None stands for the model's own number.

    Raises:
        ValueError: both are given, and the heads do not divide the width.
    """
    if width and heads and width % heads:
        raise ValueError(f"encoder.embed_dim={width} must be a multiple of encoder.num_heads={heads}")


def check_masking(masking: Masking, reads: Literal["visible", "all"]) -> None:
    """Checks the masking of an encoder of dense maps.

    Such an encoder can read visible patches only if they form a smaller image.

    Raises:
        ValueError: the visible patches form no image, or masks replace visible patches while hidden ones are read too.
    """
    if reads == "visible" and not masking.uniform:
        raise ValueError(
            "encoder.reads=visible moves one patch of each 2x2 block together, so it needs a masking that leaves just "
            f"those: use UniformMasking, or reads=all with {type(masking).__name__}"
        )
    if reads == "all" and masking.replaces:
        raise ValueError("masking.secondary must be 0 for an encoder that reads hidden patches too (reads=all)")


def check_token_layer(layer: int, last: int, name: str) -> None:
    """Checks that `encoder.token_layer`, before which the mask token joins, is a layer of the encoder.

    Raises:
        ValueError: the encoder has no such layer.
    """
    if not 0 <= layer <= last:
        raise ValueError(f"encoder.token_layer: expected at most {last} for {name}, got {layer}")
