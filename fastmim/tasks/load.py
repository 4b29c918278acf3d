"""`fastmim.load`: a trained encoder and its transform, from a run, an export or an official checkpoint.

May import L3 and below, and convert.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import Tensor, nn

from fastmim_kernels import mean_fill

from .. import checkpoint
from ..classifier import pooling
from ..config import Config, Experiment, from_json, to_json
from ..convert import official
from ..data.crops import CenterCrop
from ..data.decode import FILTERS, MODES, to_mode
from ..masking import UniformMasking
from ..terminal import shown
from ..tokens import Encoder, Masking, as_map
from ..transfer import Finetune, Head, LabelledData, Probe
from . import classify
from .parts import PARTS, PRETRAINING_ONLY, build
from .runs import open_run, outline

if TYPE_CHECKING:
    from torchvision.transforms import Compose

CONTENT = "fastmim"
"""What an export's config.json calls the part that is ours."""


class FeatureExtractor(nn.Module):
    """A trained encoder: `encoder(images)` gives pooled features, for normalised (B, C, H, W) floats.

    In evaluation mode at first. Everything works under torch.compile, under autocast, and with gradients.

    Attributes:
        num_features: D. num_classes: 0 without a classifier. stride: pixels between the cells of `dense`.
        strides, widths: pixels between the cells of each map of `stages`, and its channels.
    """

    def __init__(self, encoder: nn.Module, pool: nn.Module, fc: nn.Module | None = None):
        super().__init__()
        self.encoder, self.pool, self.fc = encoder, pool, fc
        self.num_features: int = encoder.embed_dim
        self.num_classes: int = 0 if fc is None else linear(fc).out_features
        self.stride: int = encoder.patch_size * encoder.merge
        self.strides: tuple[int, ...] = encoder.strides
        self.widths: tuple[int, ...] = encoder.widths

    def forward(self, images: Tensor) -> Tensor:
        """As `pooled`."""
        return self.pooled(images)

    def tokens(self, images: Tensor) -> Tensor:
        """(B, prefix + N, D): class token, if there is one, and a raster of the image; timm's `forward_features`."""
        return self.encoder.features(images)

    def pooled(self, images: Tensor) -> Tensor:
        """(B, D): the mean of the raster, or what the classifier that the encoder was trained with is given."""
        return self.pool(self.tokens(images))

    def dense(self, images: Tensor) -> Tensor:
        """(B, D, h, w): the raster of tokens as a map."""
        grid = (images.shape[2] // self.stride, images.shape[3] // self.stride)
        return as_map(self.tokens(images)[:, self.encoder.num_prefix_tokens :], grid)

    def stages(self, images: Tensor) -> list[Tensor]:
        """(B, C_i, h_i, w_i) of each stride, the finest first; a plain ViT has one. See `tokens.Encoder`, maps."""
        return self.encoder.maps(images)

    def logits(self, images: Tensor) -> Tensor:
        """(B, classes).

        Raises:
            ValueError: no classifier was trained.
        """
        if self.fc is None:
            raise ValueError("this encoder was pre-trained only, so it has no classifier: use pooled, dense or stages")
        return self.fc(self.pooled(images))


def linear(fc: nn.Module) -> nn.Linear:
    """The layer that gives logits."""
    return fc[-1] if isinstance(fc, nn.Sequential) else fc


@dataclass(frozen=True)
class Trained:
    """What a run trained, with all that says how images get to it.

    spec, masking, size, mean, std: what the encoder was built from. crop, test_size: how whole images are cut, and the
    size (H, W) that they are resized to. head: None where no classifier was trained.
    """

    spec: Encoder
    masking: Masking
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: CenterCrop
    test_size: tuple[int, int]
    head: Head | None
    model: FeatureExtractor

    @property
    def timm(self) -> dict[str, Any] | None:
        """The timm model of the weights, see `Encoder.timm`, with the classifier's arguments.

        Raises:
            ValueError: timm has the encoder, but not with this classifier.
        """
        own = self.spec.timm(self.size)
        if own is None or self.head is None:
            return own
        args, _ = self.spec.timm_classifier(self.head.pool, self.head.norm)
        return own | {"model_args": own["model_args"] | args}

    def merged(self) -> Trained:
        """The same with one linear layer as its classifier, a probe's batch norm in its weights (in float64)."""
        if not isinstance(self.model.fc, nn.Sequential):
            return self
        norm, last = self.model.fc
        weight = last.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
        fc = nn.Linear(last.in_features, last.out_features)
        fc.weight.data = weight.detach().to(last.weight.dtype)
        fc.bias.data = (last.bias.double() - weight @ norm.running_mean.double()).detach().to(last.bias.dtype)
        return replace(self, model=FeatureExtractor(self.model.encoder, self.model.pool, fc).eval())

    def transform(self) -> Compose:
        """From a PIL image to a normalised (C, H, W) float32 tensor, with the pixels that evaluation sees."""
        from torchvision.transforms import Compose

        return Compose([Window(self.crop, self.test_size, len(self.mean)), Normalize(self.mean, self.std)])

    def normalize(self, images: Tensor) -> Tensor:
        """(B, H, W, C) uint8 to (B, C, H, W) float32, contiguous."""
        pixels = mean_fill(images, None, torch.tensor(self.mean), torch.tensor(self.std), torch.float32)
        return pixels.permute(0, 3, 1, 2).contiguous()

    def describe(self) -> dict[str, Any]:
        """What `from_export` needs beside the weights, as JSON values."""
        fields = ("spec", "masking", "size", "mean", "std", "crop", "test_size", "head")
        return {name: to_json(getattr(self, name)) for name in fields} | {"classes": self.model.num_classes}

    def names(self) -> dict[str, str]:
        """Name of each tensor of `model` in an export's file: timm's if it has the model, else ours."""
        if (own := self.timm) is None:
            return {name: name.removeprefix("encoder.") for name in self.model.state_dict()}
        prefix = "encoder.backbone." if hasattr(self.model.encoder, "backbone") else "encoder."
        renamed, args = {}, own["model_args"]
        if self.head is not None:
            renamed = self.spec.timm_classifier(self.head.pool, self.head.norm)[1]
        found = {}
        for name in self.model.state_dict():
            new = name.removeprefix(prefix)
            # A layer that timm's model has in front of its classifier, and ours has not.
            if new.rpartition(".")[2] in PRETRAINING_ONLY or ("head_hidden_size" in args and "pre_logits" in new):
                continue
            part = next((part for part in renamed if new.startswith(f"{part}.")), None)
            found[name] = new if part is None else renamed[part] + new.removeprefix(part)
        return found


class Window:
    """Cuts and resizes a PIL image as the decoder does with a file: (H, W, C) uint8."""

    def __init__(self, crop: CenterCrop, size: tuple[int, int], channels: int):
        self.crop, self.size, self.channels = crop, size, channels

    def __call__(self, image: Image.Image) -> np.ndarray:
        image = ImageOps.exif_transpose(image)
        top, left, height, width = self.crop.cut((image.height, image.width), self.size, ()).window
        image = to_mode(image.crop((left, top, left + width, top + height)), MODES[self.channels])
        image = image.resize(self.size[::-1], FILTERS[self.crop.interpolation])
        return np.array(image).reshape(*self.size, self.channels)

    def __repr__(self) -> str:
        return f"Window({self.crop}, size={self.size})"


class Normalize:
    """(H, W, C) uint8 to (C, H, W) float32, (x / 255 - mean) / std."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def __call__(self, pixels: np.ndarray) -> Tensor:
        image = mean_fill(torch.from_numpy(pixels)[None], None, self.mean, self.std, torch.float32)
        return image[0].permute(2, 0, 1)

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean.tolist()}, std={self.std.tolist()})"


def load(path: str | Path) -> tuple[FeatureExtractor, Compose]:
    """A trained encoder in evaluation mode, and the transform of its images.

    Args:
        path: run folder, folder of `fastmim export` (timm's layout or ours), or official checkpoint.
    Raises:
        ValueError: none of these.
    """
    trained = find(Path(path))
    return trained.model, trained.transform()


def find(path: Path) -> Trained:
    """
    Raises:
        ValueError: no run folder, no export to load, and no official checkpoint.
    """
    if path.is_file():
        return from_official(path)
    if (path / "model.safetensors").is_file():
        return from_export(path)
    if (path / "checkpoints").is_dir():
        config, loaded = open_run(path, shown(path))
        return from_run(config, weights(loaded))
    raise ValueError(
        f"{path}: expected a run folder, a folder written by `fastmim export` for timm or hub-folder, or an official "
        "checkpoint"
    )


def weights(loaded: checkpoint.Loaded) -> dict[str, Tensor]:
    """The tensors of a run's module that count: where an average of weights is kept, that."""
    return loaded.state["model"] | loaded.state.get("ema", {})


def from_run(config: Experiment, state: Mapping[str, Tensor]) -> Trained:
    """What a run of this config has trained, with these weights of its module.

    Raises:
        ValueError: a run of another kind. RuntimeError: the weights are another module's.
    """
    data, head, fc, masking = config.data, None, None, UniformMasking(secondary=0.0)
    crop, test_size = CenterCrop(interpolation=data.crop.interpolation), data.size
    if isinstance(config, Config):
        module, masking = build(config), config.masking
    elif isinstance(config, Finetune | Probe):
        head = config.head
        module = classify.build(config, len(state["fc.bias"]), torch.zeros(1, dtype=torch.int64))
    else:
        raise ValueError(
            f"expected a pre-training, fine-tuning or probing run, got a {type(config).__name__} run, which trains no "
            "final norm: the run that it was initialised from (run.init) can be loaded"
        )
    module.load_state_dict(state)
    if isinstance(data, LabelledData):
        crop = CenterCrop(data.crop_pct, interpolation=data.test_interpolation or data.crop.interpolation)
        test_size = data.test_size or data.size
    if head is None:
        pool = pooling(module.encoder, Head())
    else:
        pool, fc = module.pool, module.fc
    if isinstance(config, Probe):
        fc = nn.Sequential(module.norm, fc)
    model = FeatureExtractor(module.encoder, pool, fc).eval()
    return Trained(config.encoder, masking, data.size, data.mean, data.std, crop, test_size, head, model)


def from_export(folder: Path) -> Trained:
    """
    Raises:
        ValueError: not an export of this version.
    """
    try:
        stored = json.loads((folder / "config.json").read_text())[CONTENT]
        fields = {name: from_json(value, PARTS) for name, value in stored.items()}
        classes = fields.pop("classes")
        encoder = fields["spec"].build(*(fields[name] for name in ("size", "mean", "std", "masking")))
        pool = pooling(encoder, fields["head"] or Head())
        model = FeatureExtractor(encoder, pool, nn.Linear(encoder.embed_dim, classes) if classes else None)
        trained = Trained(**fields, model=model)
        file, state = load_file(folder / "model.safetensors"), model.state_dict()
        state |= {ours: file[theirs] for ours, theirs in trained.names().items()}
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder}: expected an encoder exported by this version of fastmim, got {error!r}: export it again, or "
            "load it with timm"
        ) from error
    model.load_state_dict(state)
    model.eval()
    return trained


def from_official(file: Path) -> Trained:
    """
    Raises:
        ValueError: no official checkpoint, or one that lacks a part of the encoder.
    """
    found = official.open_official(file)
    try:
        config = official.configuration(found.format, found.state)
        outline(config, found.state)
        state, _ = official.to_ours(found.format, found.state, build(config))
    except ValueError as error:
        raise ValueError(f"{shown(file)}: {error}") from error
    given = found.format.to_ours(found.format.prepare(found.state))[0]
    encoder = [name for name in state if name.startswith("encoder.")]
    if missing := [n for n in encoder if n not in given and n.rpartition(".")[2] not in PRETRAINING_ONLY]:
        raise ValueError(
            f"{shown(file)} lacks {len(missing)} tensors of the encoder, such as {missing[0]} (by our name)"
        )
    return from_run(config, state)
