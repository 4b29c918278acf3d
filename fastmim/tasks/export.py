"""A trained encoder in timm's hub format, checked before it counts. May import L3 and below."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..config import Config
from ..mim import MIM
from ..tokens import Mask
from .pretrain import build

FILES = {"model.safetensors", "config.json"}
TOLERANCE = 1e-4
"""Largest difference, in fp32, between training's forward and timm's features of root mean square 1."""


def export_encoder(config: Config, mim_state: dict[str, Tensor], folder: Path) -> Path:
    """Writes the encoder as timm's hub format (model.safetensors, config.json) and checks it by loading it.

    It is written and checked beside `folder` and then takes its place, so that a failed export leaves nothing behind
    and an earlier one alone.

    Args:
        mim_state: fp32 tensors of the whole module by name, as checkpoints hold them.
    Raises:
        ValueError: `folder` holds something that is not an export.
        RuntimeError: timm's copy does not give bit-equal features, or training's forward gave others.
    """
    target = folder.resolve()  # a link stays, and what it leads to is replaced
    if target.exists() and (others := {path.name for path in target.iterdir()} - FILES):
        raise ValueError(
            f"{folder}: expected an earlier export or an empty folder, found {min(others)!r} there: "
            "move it away, or export to another folder"
        )
    mim = build(config)
    mim.load_state_dict(mim_state)
    mim.eval()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as beside:
        new = Path(beside) / "new"
        _write(config, mim, new)
        if problem := _problem(mim, new):
            raise RuntimeError(
                f"{folder} was not written: {problem}. Please report it, with the version of timm, {timm.__version__}"
            )
        if target.exists():
            target.rename(Path(beside) / "old")
        new.rename(target)
    return folder


def _write(config: Config, mim: MIM, folder: Path) -> None:
    folder.mkdir()
    weights = {name: tensor.contiguous() for name, tensor in mim.encoder.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    data, (height, width) = config.data, config.data.size
    description = {
        "architecture": config.encoder.name,
        "num_classes": 0,
        "num_features": mim.encoder.embed_dim,
        "global_pool": "token",
        "model_args": config.encoder.model_args() | {"img_size": [height, width], "in_chans": len(data.mean)},
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [len(data.mean), height, width],
            "interpolation": "bicubic",
            "mean": list(data.mean),
            "std": list(data.std),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n")


@torch.no_grad()
def _problem(mim: MIM, folder: Path) -> str | None:
    """Why an export is not the encoder that was trained, or None.

    Noise images go through what was trained (uint8, every patch visible), through `features`, and through timm's copy.
    """
    encoder = mim.encoder
    (rows, columns), size = encoder.grid, encoder.patch_size
    shape = (2, rows * size, columns * size, len(mim.objective.mean))
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = mim.objective.normalize(images).permute(0, 3, 1, 2).contiguous()
    everything = Mask(torch.arange(rows * columns).expand(2, -1), rows * columns, encoder.grid)
    copy = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    trained, ours, theirs = encoder(images, everything), encoder.features(pixels), copy.forward_features(pixels)
    if not torch.equal(ours, theirs):
        return f"timm loads it with other features (largest difference {(ours - theirs).abs().max():.3g})"
    difference = (trained - ours).abs().max() / ours.square().mean().sqrt()
    if not difference <= TOLERANCE:  # NaN is refused too
        return f"training's forward gives other features (largest difference {difference:.3g} of their scale)"
    return None
