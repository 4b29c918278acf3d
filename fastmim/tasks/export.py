"""A trained encoder as a folder: timm's hub format, or ours where timm has no such model; checked before it counts.

May import L3 and below.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..config import Config, from_json, to_json
from ..mim import MIM
from ..tokens import Mask
from .parts import PARTS, build

FILES = {"model.safetensors", "config.json"}
PRETRAINING_ONLY = {"mask_token", "mask_gamma", "vis_mask_token"}
"""Parameters beside those of timm's model, by the last part of their names."""
TOLERANCE = 1e-4
"""Largest difference, in fp32, between training's forward and timm's features of root mean square 1."""


def export_encoder(config: Config, mim_state: dict[str, Tensor], folder: Path) -> Path:
    """Writes the encoder as model.safetensors and config.json, and checks it by loading it.

    For timm.create_model("local-dir:FOLDER", pretrained=True) where timm has the model, else for `load_encoder`. It is
    written and checked beside `folder` and then takes its place, so that a failed export leaves nothing behind and an
    earlier one alone.

    Args:
        mim_state: fp32 tensors of the whole module by name, as checkpoints hold them.
    Raises:
        ValueError: `folder` holds something that is not an export.
        RuntimeError: the copy does not give bit-equal features, or training's forward gave others.
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
        if problem := _problem(config, mim, new):
            raise RuntimeError(
                f"{folder} was not written: {problem}. Please report it, with the version of timm, {timm.__version__}"
            )
        if target.exists():
            target.rename(Path(beside) / "old")
        new.rename(target)
    return folder


def how_to_load(config: Config, folder: Path) -> str:
    """The Python expression that loads an export."""
    if config.encoder.timm(config.data.size):
        return f'timm.create_model("local-dir:{folder}", pretrained=True)'
    return f'fastmim.tasks.export.load_encoder("{folder}")'


def load_encoder(folder: str | Path) -> nn.Module:
    """The encoder of an export that timm has no model for, in evaluation mode: use its `features(images)`.

    Raises:
        ValueError: not such a folder.
    """
    try:
        description = json.loads((Path(folder) / "config.json").read_text())["fastmim"]
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder}: expected an encoder exported in fastmim's own format, got {error!r}") from error
    parts = {name: from_json(value, PARTS) for name, value in description.items()}
    encoder = parts.pop("encoder").build(**parts)
    encoder.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return encoder.eval()


def _weights(config: Config, mim: MIM) -> dict[str, Tensor]:
    if config.encoder.timm(config.data.size) is None:
        return mim.encoder.state_dict()
    source = getattr(mim.encoder, "backbone", mim.encoder)
    state = source.state_dict().items()
    return {name: t.contiguous() for name, t in state if name.rpartition(".")[2] not in PRETRAINING_ONLY}


def _write(config: Config, mim: MIM, folder: Path) -> None:
    folder.mkdir()
    save_file(_weights(config, mim), folder / "model.safetensors", metadata={"format": "pt"})
    data, (height, width), channels = config.data, config.data.size, len(config.data.mean)
    own = config.encoder.timm(config.data.size)
    if own is None:
        fields = {"encoder": config.encoder, "masking": config.masking}
        description = {
            "fastmim": {name: to_json(part) for name, part in fields.items()}
            | {"size": [height, width], "mean": list(data.mean), "std": list(data.std)}
        }
    else:
        description = {
            "architecture": own["architecture"],
            "num_classes": 0,
            "num_features": mim.encoder.embed_dim,
            "model_args": {"in_chans": channels} | own["model_args"],
            "pretrained_cfg": {
                "num_classes": 0,
                "input_size": [channels, height, width],
                "interpolation": config.data.crop.interpolation,
                "mean": list(data.mean),
                "std": list(data.std),
            },
        }
    (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n")


@torch.no_grad()
def _problem(config: Config, mim: MIM, folder: Path) -> str | None:
    """Why an export is not the encoder that was trained, or None.

    Noise images go through what was trained (uint8, nothing hidden), through `features`, and through the loaded copy. A
    compact grid cannot hold a whole image, so there is no such forward for uniform masks.
    """
    encoder, data = mim.encoder, config.data
    shape = (2, *data.size, len(data.mean))
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = mim.objective.normalize(images).permute(0, 3, 1, 2).contiguous()
    ours = encoder.features(pixels)
    if config.encoder.timm(config.data.size):
        copy = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        theirs = config.encoder.timm_tokens(copy, pixels)
    else:
        theirs = load_encoder(folder).features(pixels)
    if not torch.equal(ours, theirs):
        return f"a loaded copy gives other features (largest difference {(ours - theirs).abs().max():.3g})"
    if config.masking.uniform and encoder.reads == "visible" and encoder.merge > 1:
        return None
    grid = encoder.grid
    everything = Mask(torch.arange(grid[0] * grid[1]).expand(2, -1), grid[0] * grid[1], grid)
    difference = (encoder(images, everything) - ours).abs().max() / ours.square().mean().sqrt()
    if not difference <= TOLERANCE:  # NaN is refused too
        return f"training's forward gives other features (largest difference {difference:.3g} of their scale)"
    return None
