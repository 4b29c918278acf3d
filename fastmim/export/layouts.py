"""The forms of an export: the files, the check of them, and the code that uses them.

Here: timm's hub format, or ours where timm has no such model. May import L3 and below, and convert.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..host.files import write, writing
from ..run.tensors import to_bytes
from .load import CONTENT, from_export
from .timm_models import tensor_names, timm_model, timm_tokens
from .trained_encoder import FeatureExtractor, TrainedEncoder

TOLERANCE = 1e-4
"""Largest difference where arithmetic is done in another order, of features of root mean square 1."""


WEIGHTS = "model.safetensors"


class Snippet(NamedTuple):
    """Code for a person to paste: the name of its file, and the text."""

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
    place: Callable[[TrainedEncoder], object]
    write: Callable[[TrainedEncoder, Path], list[str]]
    problem: Callable[[TrainedEncoder, Path, Tensor], str | None]
    snippet: Callable[[TrainedEncoder, str], Snippet]


def place_timm(trained: TrainedEncoder) -> None:
    """
    Raises:
        ValueError: timm has the encoder, but does not pool as it was trained to.
    """
    timm_model(trained)


def write_timm(trained: TrainedEncoder, folder: Path) -> list[str]:
    """model.safetensors and config.json, for timm where it has the model, and for `fastmim.load`."""
    import timm

    plain = trained.merged()
    own, state = timm_model(plain), plain.model.state_dict()
    tensors = {theirs: state[ours] for ours, theirs in tensor_names(plain).items()}
    with writing(folder / WEIGHTS) as file:
        file.writelines(to_bytes(tensors))
    description = {CONTENT: trained.describe()}
    if own is not None:
        (height, width), channels, classes = trained.size, trained.image.channels, trained.model.num_classes
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
    write(folder / "config.json", json.dumps(description, indent=2) + "\n")
    call = "encoder" if own is None else "model"
    notes = [f"`{call}(images)` gives {_gives(trained, own is None)}."]
    if plain is not trained:
        notes.append("The batch norm in front of the probe's linear layer is part of that layer's weights here.")
    return notes


@torch.no_grad()
def timm_problem(trained: TrainedEncoder, folder: Path, images: Tensor) -> str | None:
    """Compares copies loaded by `fastmim.load` and timm: tokens bit for bit, all else closely."""
    import timm

    copies = {"fastmim": from_export(folder).model}
    if timm_model(trained) is not None:
        copies["timm"] = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    expected = _outputs(trained, trained.model, images)
    for library, copy in copies.items():
        for name, theirs in _outputs(trained, copy, images).items():
            ours = expected[name]
            if name == "tokens" and not torch.equal(ours, theirs):
                return f"a copy loaded by {library} gives other tokens (by up to {(ours - theirs).abs().max():.3g})"
            if found := differs(ours, theirs):
                return f"a copy loaded by {library} gives other {name} ({found})"
    return None


def _outputs(trained: TrainedEncoder, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Everything that a model gives, ours or timm's: tokens where timm has them before the pooling's norm too."""
    if isinstance(model, FeatureExtractor):
        found = {"tokens": model.tokens(images), "features": model(images)}
        called = found["features"] if model.fc is None else model.logits(images)
    else:
        tokens = model.forward_features(images)
        found = {"tokens": timm_tokens(trained.spec, model, images)}
        found["features"] = model.forward_head(tokens, pre_logits=True)
        called = model(images)
    if trained.pooled_by.norm != "before":
        del found["tokens"]
    return found | {"outputs": called}


def _gives(trained: TrainedEncoder, ours: bool) -> str:
    """Says in words what a call of the model returns."""
    if trained.head is None or ours:
        return f"pooled features: {trained.pooling}"
    return f"{trained.classes} logits, computed from {trained.pooling}"


def timm_snippet(trained: TrainedEncoder, folder: str) -> Snippet:
    """Python for timm, or for `fastmim.load`."""
    if timm_model(trained) is None:
        return Snippet("usage.py", f"import fastmim\n\n{_fastmim_call(trained, repr(folder))}")
    return Snippet("usage.py", f"import timm\n\n{_timm_call(trained, f'local-dir:{folder}')}")


def hub_snippet(trained: TrainedEncoder, folder: str) -> Snippet:
    """The upload, and how others use what was uploaded."""
    upload = "from huggingface_hub import upload_folder\n\n"
    upload += f'upload_folder(repo_id="USER/NAME", folder_path={folder!r})\n\n'
    if timm_model(trained) is not None:
        return Snippet("usage.py", f"{upload}import timm\n\n{_timm_call(trained, 'hf-hub:USER/NAME')}")
    load = "import fastmim\nfrom huggingface_hub import snapshot_download\n\n"
    call = _fastmim_call(trained, 'snapshot_download("USER/NAME")')
    return Snippet("usage.py", f"{upload}{load}{call}")


def _timm_call(trained: TrainedEncoder, source: str) -> str:
    call = f"model = timm.create_model({source!r}, pretrained=True)\n"
    return f"{call}# model(images) gives {_gives(trained, False)}.\n"


def _fastmim_call(trained: TrainedEncoder, source: str) -> str:
    call = f"encoder, transform = fastmim.load({source})\n"
    return f"{call}# encoder(images) gives {_gives(trained, True)}.\n"


def differs(ours: Tensor, theirs: Tensor) -> str | None:
    """Says how far two results are apart if that is more than TOLERANCE of their root mean square; else None."""
    if ours.shape != theirs.shape:
        return f"{tuple(theirs.shape)}, not {tuple(ours.shape)}"
    difference = (ours - theirs).abs().max() / ours.square().mean().sqrt()
    return None if difference <= TOLERANCE else f"largest difference {difference:.3g} of their scale"  # NaN is told too


TIMM = Layout(WEIGHTS, place_timm, write_timm, timm_problem, timm_snippet)
HUB = Layout(WEIGHTS, place_timm, write_timm, timm_problem, hub_snippet)
