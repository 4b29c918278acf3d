"""Export for timm and the Hugging Face hub, or in fastmim's own format if timm has no such model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..host.files import write, writing
from ..run.tensors import to_bytes
from .export_format import ExportFormat, Snippet, describe_difference
from .load import CONTENT, from_export
from .timm_models import tensor_names, timm_model, timm_tokens
from .trained_encoder import FeatureExtractor, TrainedEncoder

WEIGHTS = "model.safetensors"
"""Name of the file with the weights."""


def check_timm(trained: TrainedEncoder) -> None:
    """Checks that timm, if it has the encoder, also has the pooling that the encoder was trained with.

    Raises:
        ValueError: timm has the encoder, but not its pooling.
    """
    timm_model(trained)


def write_timm(trained: TrainedEncoder, folder: Path) -> list[str]:
    """Writes model.safetensors and config.json, for `fastmim.load` and, if timm has the model, for timm.

    Returns:
        Sentences for the user.
    """
    import timm

    plain = trained.merged()
    own, state = timm_model(plain), plain.model.state_dict()
    tensors = {theirs: state[ours] for ours, theirs in tensor_names(plain).items()}
    with writing(folder / WEIGHTS) as file:
        file.writelines(to_bytes(tensors))
    description = {CONTENT: trained.describe()}
    if own is not None:
        (height, width), channels, classes = trained.size, trained.image.channels, trained.model.num_classes
        published: Any = timm.get_pretrained_cfg(own["architecture"])
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
                # timm needs these names to change the number of classes or channels.
                "classifier": published.classifier,
                "first_conv": published.first_conv,
            },
        }
    write(folder / "config.json", json.dumps(description, indent=2) + "\n")
    call = "encoder" if own is None else "model"
    notes = [f"`{call}(images)` returns {_output_in_words(trained, own is None)}."]
    if plain is not trained:
        notes.append("The batch norm in front of the probe's linear layer is part of that layer's weights here.")
    return notes


@torch.no_grad()
def find_timm_problem(trained: TrainedEncoder, folder: Path, images: Tensor) -> str | None:
    """Compares copies loaded by `fastmim.load` and by timm with the encoder.

    Tokens must be equal bit for bit. Features and logits must agree within `TOLERANCE`.

    Args:
        trained: the encoder.
        folder: the export.
        images: normalised (B, C, H, W) images.

    Returns:
        The first difference, or None.
    """
    import timm

    copies: dict[str, Any] = {"fastmim": from_export(folder).model}
    if timm_model(trained) is not None:
        copies["timm"] = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    expected = _outputs(trained, trained.model, images)
    for library, copy in copies.items():
        for name, theirs in _outputs(trained, copy, images).items():
            ours = expected[name]
            if name == "tokens" and not torch.equal(ours, theirs):
                return f"a copy loaded by {library} gives other tokens (by up to {(ours - theirs).abs().max():.3g})"
            if found := describe_difference(ours, theirs):
                return f"a copy loaded by {library} gives other {name} ({found})"
    return None


def _outputs(trained: TrainedEncoder, model: Any, images: Tensor) -> dict[str, Tensor]:
    """Returns every output of a model, ours or timm's.

    Tokens are left out if the last norm follows the pooling, because timm's tokens then lack that norm.
    """
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


def _output_in_words(trained: TrainedEncoder, ours: bool) -> str:
    """Describes the output of a call of the model, ours or timm's."""
    if trained.head is None or ours:
        return f"pooled features: {trained.pooling}"
    return f"{trained.classes} logits, computed from {trained.pooling}"


def timm_snippet(trained: TrainedEncoder, folder: str) -> Snippet:
    """Returns Python that loads an export with timm, or with `fastmim.load`."""
    if timm_model(trained) is None:
        return Snippet("usage.py", f"import fastmim\n\n{_fastmim_call(trained, repr(folder))}")
    return Snippet("usage.py", f"import timm\n\n{_timm_call(trained, f'local-dir:{folder}')}")


def hub_snippet(trained: TrainedEncoder, folder: str) -> Snippet:
    """Returns Python that uploads an export to the hub and loads it from there."""
    upload = "from huggingface_hub import upload_folder\n\n"
    upload += f'upload_folder(repo_id="USER/NAME", folder_path={folder!r})\n\n'
    if timm_model(trained) is not None:
        return Snippet("usage.py", f"{upload}import timm\n\n{_timm_call(trained, 'hf-hub:USER/NAME')}")
    load = "import fastmim\nfrom huggingface_hub import snapshot_download\n\n"
    call = _fastmim_call(trained, 'snapshot_download("USER/NAME")')
    return Snippet("usage.py", f"{upload}{load}{call}")


def _timm_call(trained: TrainedEncoder, source: str) -> str:
    call = f"model = timm.create_model({source!r}, pretrained=True)\n"
    return f"{call}# model(images) returns {_output_in_words(trained, False)}.\n"


def _fastmim_call(trained: TrainedEncoder, source: str) -> str:
    call = f"encoder, transform = fastmim.load({source})\n"
    return f"{call}# encoder(images) returns {_output_in_words(trained, True)}.\n"


TIMM = ExportFormat(WEIGHTS, check_timm, write_timm, find_timm_problem, timm_snippet)
HUB = ExportFormat(WEIGHTS, check_timm, write_timm, find_timm_problem, hub_snippet)
