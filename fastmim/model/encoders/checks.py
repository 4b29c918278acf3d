"""What encoders refuse: sizes, masks and layers that do not fit them. May import L1."""

from __future__ import annotations

from typing import Literal

from ...parts import Masking


def check_size(size: tuple[int, int], unit: int, name: str) -> None:
    """
    Raises:
        ValueError: `size` is not a multiple of `unit` pixels.
    """
    if size[0] % unit or size[1] % unit:
        near = tuple(max(unit, round(side / unit) * unit) for side in size)
        raise ValueError(f"data.size={size} must be a multiple of {unit} for {name}; the nearest is {near}")


def check_heads(width: int | None, heads: int | None) -> None:
    """
    Raises:
        ValueError: both are given, and heads of one width do not make up the whole.
    """
    if width and heads and width % heads:
        raise ValueError(f"encoder.embed_dim={width} must be a multiple of encoder.num_heads={heads}")


def check_masking(masking: Masking, reads: Literal["visible", "all"]) -> None:
    """For an encoder of dense maps, which can take visible patches only where they make a smaller image.

    Raises:
        ValueError: they do not, or masks replace visible patches while hidden ones are read too.
    """
    if reads == "visible" and not masking.uniform:
        raise ValueError(
            "encoder.reads=visible moves one patch of each 2x2 block together, so it needs a masking that leaves just "
            f"those: use UniformMasking, or reads=all with {type(masking).__name__}"
        )
    if reads == "all" and masking.replaces:
        raise ValueError("masking.secondary must be 0 for an encoder that reads hidden patches too (reads=all)")


def check_token_layer(layer: int, last: int, name: str) -> None:
    """
    Raises:
        ValueError: the encoder has no such layer.
    """
    if not 0 <= layer <= last:
        raise ValueError(f"encoder.token_layer: expected at most {last} for {name}, got {layer}")
