"""The forms in which a trained encoder leaves: what is written, how it is checked, how it is used.

Here: timm's hub format, or ours where timm has no such model. May import L3 and below, and convert.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from .load import CONTENT, from_export
from .trained import Trained

TOLERANCE = 1e-4
"""Largest difference where arithmetic is done in another order, of features of root mean square 1."""


class Snippet(NamedTuple):
    """What a person pastes."""

    file: str
    code: str


@dataclass(frozen=True)
class Layout:
    """One form of an export.

    Attributes:
        weights: name of the file with the weights.
        place: raises ValueError where the form has no place for the encoder.
        write: puts the files into an empty folder; returns what a person should know of them, a sentence each.
        problem: why what was written is not what was trained, or None, found with normalised (B, C, H, W) images.
        snippet: how the export is used; the second argument is the folder as a person writes it.
    """

    weights: str
    place: Callable[[Trained], object]
    write: Callable[[Trained, Path], list[str]]
    problem: Callable[[Trained, Path, Tensor], str | None]
    snippet: Callable[[Trained, str], Snippet]


def place_timm(trained: Trained) -> None:
    """
    Raises:
        ValueError: timm has the encoder, but not with its classifier.
    """
    _ = trained.timm


def write_timm(trained: Trained, folder: Path) -> list[str]:
    """model.safetensors and config.json, for timm where it has the model, and for `fastmim.load`."""
    import timm

    plain = trained.merged()
    own, state = plain.timm, plain.model.state_dict()
    tensors = {theirs: state[ours].contiguous() for ours, theirs in plain.names().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    description = {CONTENT: trained.describe()}
    if own is not None:
        (height, width), channels, classes = trained.size, len(trained.mean), trained.model.num_classes
        published = timm.get_pretrained_cfg(own["architecture"])
        description |= {
            "architecture": own["architecture"],
            "num_classes": classes,
            "num_features": trained.model.num_features,
            "model_args": {"in_chans": channels} | own["model_args"],
            "pretrained_cfg": {
                "num_classes": classes,
                "input_size": [channels, height, width],
                "test_input_size": [channels, *trained.test_size],
                "interpolation": trained.crop.interpolation,
                "crop_pct": trained.crop.crop_pct,
                "mean": list(trained.mean),
                "std": list(trained.std),
                # So that timm can give the model another number of classes or channels.
                "classifier": published.classifier,
                "first_conv": published.first_conv,
            },
        }
    (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n")
    if plain is not trained:
        return ["The batch norm in front of the probe's linear layer is part of that layer's weights here."]
    return []


@torch.no_grad()
def timm_problem(trained: Trained, folder: Path, images: Tensor) -> str | None:
    """A loaded copy must be bit-equal, but for a probe's batch norm, which is merged: features, or logits if any."""
    import timm

    copies = {"fastmim": from_export(folder).model}
    if trained.timm is not None:
        copies["timm"] = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    exact = trained.merged() is trained
    for library, copy in copies.items():
        if trained.head is not None:
            ours, theirs = trained.model.logits(images), copy.logits(images) if library == "fastmim" else copy(images)
        else:
            ours = trained.model.tokens(images)
            theirs = copy.tokens(images) if library == "fastmim" else trained.spec.timm_tokens(copy, images)
        if exact and not torch.equal(ours, theirs):
            return f"a copy loaded by {library} gives other features (by up to {(ours - theirs).abs().max():.3g})"
        if not exact and (found := differs(ours, theirs)):
            return f"a copy loaded by {library} gives other features ({found})"
    return None


def timm_snippet(trained: Trained, folder: str) -> Snippet:
    """Python for timm, or for `fastmim.load`."""
    if trained.timm is None:
        return Snippet("usage.py", f'import fastmim\n\nencoder, transform = fastmim.load("{folder}")\n')
    source = folder if folder.startswith("hf-hub:") else f"local-dir:{folder}"
    return Snippet("usage.py", f'import timm\n\nmodel = timm.create_model("{source}", pretrained=True)\n')


def hub_snippet(trained: Trained, folder: str) -> Snippet:
    """The upload, and how others use what was uploaded."""
    upload = "from huggingface_hub import upload_folder\n\n"
    upload += f'upload_folder(repo_id="USER/NAME", folder_path="{folder}")\n'
    if trained.timm is not None:
        return Snippet("usage.py", f"{upload}\n{timm_snippet(trained, 'hf-hub:USER/NAME').code}")
    load = "import fastmim\nfrom huggingface_hub import snapshot_download\n\n"
    load += 'encoder, transform = fastmim.load(snapshot_download("USER/NAME"))\n'
    return Snippet("usage.py", f"{upload}\n{load}")


def differs(ours: Tensor, theirs: Tensor) -> str | None:
    """How far two results are apart, if that is more than TOLERANCE of their root mean square."""
    if ours.shape != theirs.shape:
        return f"{tuple(theirs.shape)}, not {tuple(ours.shape)}"
    difference = (ours - theirs).abs().max() / ours.square().mean().sqrt()
    return None if difference <= TOLERANCE else f"largest difference {difference:.3g} of their scale"  # NaN is told too


TIMM = Layout("model.safetensors", place_timm, write_timm, timm_problem, timm_snippet)
HUB = Layout("model.safetensors", place_timm, write_timm, timm_problem, hub_snippet)
