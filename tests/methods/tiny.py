"""Makes the model of any config small, so that all of them can be tried on a CPU in seconds."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from fastmim.config import Config, load

ROOT = Path(__file__).parents[2]
ROWS = sorted(ROOT.glob("configs/*/pretrain/*.py"))
"""Every row of the tables."""

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
"""Fields of the small form of each kind of encoder."""
DECODERS = {"TransformerDecoder": {"dim": 32, "depth": 2, "num_heads": 2}, "LinearHead": {}}


def tiny(config: Config) -> Config:
    """The config with a narrow and shallow model; all that makes its method stays, and so does the image size."""
    encoder = replace(config.encoder, **ENCODERS[type(config.encoder).__name__])
    decoder = replace(config.decoder, **DECODERS[type(config.decoder).__name__])
    return replace(config, encoder=encoder, decoder=decoder, train=replace(config.train, precision="fp32"))


def methods() -> dict[str, Config]:
    """Name -> small config of each method that the rows use; rows that differ in size or recipe only count once."""
    found, seen = {}, []
    for path in ROWS:
        config = tiny(load(path))
        parts = [getattr(config, f.name) for f in fields(config) if f.name not in ("data", "optim", "train", "run")]
        parts.append((config.data.size, len(config.data.mean)))
        if parts not in seen:
            seen.append(parts)
            found[str(path.relative_to(ROOT / "configs")).removesuffix(".py")] = config
    return found
