"""Small forms of the models of all configs, which run on a CPU in seconds."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

from fastmim.config.base import Config
from fastmim.config.config_file import load
from fastmim.model.targets import LowPass

ROOT = Path(__file__).parents[2]
ROWS = sorted(ROOT.glob("configs/*/pretrain/*.py"))
"""Every row of the tables."""
row = cache(load)
"""Loads a config file once in a process."""
PARTS = ("masking", "encoder", "decoder", "target", "loss")
"""Fields of a config that make its method."""

ENCODERS = {
    "ViT": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "BEiT": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "Swin": {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)},
    "ConvMAE": {"embed_dims": (16, 16, 32), "depths": (1, 1, 2), "num_heads": 2},
    "UMSwin": {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)},
    "UMPVT": {"dims": (16, 16, 32, 32), "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2)},
    "ResNet": {"depths": (1, 1, 2, 1), "dims": (16, 32, 64, 128)},
    "ConvNeXt": {"depths": (1, 1, 2, 1), "dims": (8, 8, 16, 16)},
}
"""Fields of the small form of each encoder class."""
DECODERS = {"TransformerDecoder": {"dim": 32, "depth": 2, "num_heads": 2}, "LinearHead": {}}


def tiny(config: Config) -> Config:
    """Returns the config with a narrow and shallow model; method and image size stay the same."""
    encoder = replace(config.encoder, **ENCODERS[type(config.encoder).__name__])
    decoder = replace(config.decoder, **DECODERS[type(config.decoder).__name__])
    return replace(config, encoder=encoder, decoder=decoder, train=replace(config.train, precision="fp32"))


SIDES = {192: 96, 224: 96, 256: 128, 448: 128}
"""Side of the small images by the side of a row's images, pixels; several patches, blocks and windows fit."""


def small(config: Config) -> Config:
    """Returns the tiny config on small images; a low-pass filter is scaled so that it still removes something."""
    config = tiny(config)
    before = config.data.size[0]
    side = 84 if "patch14" in getattr(config.encoder, "name", "") else SIDES[before]
    target = config.target
    if isinstance(target, LowPass):
        target = replace(target, radius=target.radius * side // before)
    return replace(config, target=target, data=replace(config.data, size=(side, side)))


@cache
def methods() -> dict[str, Config]:
    """Returns the small config of each method by its name; rows that differ in size or recipe only count once."""
    found, seen = {}, []
    for path in ROWS:
        config = small(row(path))
        parts = [getattr(config, part) for part in PARTS] + [config.data.size, len(config.data.mean)]
        if parts not in seen:
            seen.append(parts)
            found[str(path.relative_to(ROOT / "configs")).removesuffix(".py")] = config
    return found


def traits(config: Config) -> set[Hashable]:
    """Returns the classes and settings of the parts, which a sample of methods must cover."""
    found = {config.data.size}
    for part in PARTS:
        spec = getattr(config, part)
        found |= {(part, type(spec), f.name, getattr(spec, f.name)) for f in fields(spec) if f.name != "name"}
        found |= {(part, type(spec))}
    return found
