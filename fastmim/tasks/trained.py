"""A trained encoder with all that says how images get to it. May import L3 and below."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from fastmim_kernels import mean_fill

from ..config.base import to_json
from ..config.classify import Head
from ..config.fields import check_bounds, check_types
from ..data.crops import CenterCrop
from ..data.decode import FILTERS, MODES, to_mode
from ..model.classifier import pooling
from ..parts import Encoder, ImageSpec, Masking
from ..tokens import as_map
from .parts import PRETRAINING_ONLY

if TYPE_CHECKING:
    from torchvision.transforms import Compose

LARGEST_SIDE = 4096
"""Pixels of a side of an image: where weights of any number take images of any size, this bounds the memory."""
MOST_BLOCKS = 1_000
"""Blocks of an encoder or decoder: the deepest published ones have a few hundred."""
SPARE = 2**28
"""Bytes that tables which no file holds (of windows, of relative positions) may take beside twice the weights."""


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
        """Returns `pooled(images)`."""
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


def with_values(weights: Mapping[str, Tensor]) -> int:
    """Returns how many tensors are not empty: empty ones cost a file nothing."""
    return sum(tensor.numel() > 0 for tensor in weights.values())


def linear(fc: nn.Module) -> nn.Linear:
    """The layer that gives logits."""
    return fc[-1] if isinstance(fc, nn.Sequential) else fc


@dataclass(frozen=True)
class Description:
    """A trained encoder except its weights: what it was built from, and how images get to it.

    Attributes:
        spec, masking, size, mean, std: what the encoder is built from.
        crop, test_size: how whole images are cut, and the size (H, W) that they are resized to.
        head: None where no classifier was trained.
        classes: 0 where no classifier was trained.
    """

    spec: Encoder
    masking: Masking
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: CenterCrop
    test_size: tuple[int, int]
    head: Head | None
    classes: int

    def __post_init__(self):
        check_types(self)
        check_bounds(self, "", "size", "test_size", at_least=1, at_most=LARGEST_SIDE)
        check_bounds(self, "", "mean", above=-math.inf, below=math.inf)
        check_bounds(self, "", "std", above=0, below=math.inf)
        check_bounds(self, "", "classes", at_least=0)
        if not len(self.mean) == len(self.std) or len(self.mean) not in MODES:
            raise ValueError(
                f"mean and std: expected a number for each of {' or '.join(map(str, MODES))} channels, got "
                f"{len(self.mean)} and {len(self.std)}"
            )
        if (self.head is None) != (self.classes == 0):
            raise ValueError(f"head and classes: expected both or neither, got {self.head} and {self.classes}")

    @property
    def image(self) -> ImageSpec:
        """Size and normalisation of the images that the encoder is built for."""
        return ImageSpec(self.size, self.mean, self.std)

    def describe(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return {f.name: to_json(getattr(self, f.name)) for f in fields(Description)}

    def build(self, scaled: bool) -> FeatureExtractor:
        """Builds the model, in evaluation mode.

        Args:
            scaled: add a batch norm without parameters in front of the linear layer, as a probe has.

        Raises:
            ValueError: the fields do not fit each other.
        """
        try:
            encoder = self.spec.build(self.image, self.masking)
        except (RuntimeError, ArithmeticError, TypeError, IndexError, AssertionError, AttributeError) as error:
            raise ValueError(f"expected sizes that fit each other, got size={self.size} and {self.spec}") from error
        pool = pooling(encoder, self.head or Head())
        fc = nn.Linear(encoder.embed_dim, self.classes) if self.classes else None
        if scaled:
            fc = nn.Sequential(nn.BatchNorm1d(encoder.embed_dim, affine=False, eps=1e-6), fc)
        return FeatureExtractor(encoder, pool, fc).eval()

    def outline(self, tensors: int, scaled: bool = False) -> Trained:
        """Returns the model without memory for its weights, to compare their shapes with a file's first.

        Args:
            tensors: how many tensors with values the file holds, which bounds the blocks, see `with_values`.
            scaled: see `build`.

        Raises:
            ValueError: more blocks than tensors or than any encoder has, or fields that do not fit each other.
        """
        for name in ("depth", "depths"):
            found = getattr(self.spec, name, None)
            blocks = found if isinstance(found, tuple) else (found or 0,)
            if max(len(blocks), sum(blocks)) > (most := min(tensors, MOST_BLOCKS)):
                raise ValueError(
                    f"encoder.{name}: expected at most {most} blocks in {tensors} tensors with values, got {found}"
                )
        with torch.device("meta"):
            model = self.build(scaled)
        return Trained(**{f.name: getattr(self, f.name) for f in fields(Description)}, model=model)


@dataclass(frozen=True)
class Trained(Description):
    """A trained encoder with its weights."""

    model: FeatureExtractor

    def fill(self, state: Mapping[str, Tensor]) -> Trained:
        """Returns an `outline` with weights.

        Raises:
            ValueError: as `check`.
        """
        self.check(state)
        model, expected = self.build(isinstance(self.model.fc, nn.Sequential)), self.model.state_dict()
        model.load_state_dict(model.state_dict() | {name: state[name] for name in expected if name in state})
        return replace(self, model=model)

    def check(self, state: Mapping[str, Tensor]) -> None:
        """Compares weights with an `outline`.

        Args:
            state: by name of `model`. Only what pre-training alone needs, and what no output uses, may be missing.

        Raises:
            ValueError: a tensor is missing, has no place, or is of another shape or kind; or tables would be too large.
        """
        expected = self.model.state_dict()
        if others := [name for name in state if name.startswith(("encoder.", "pool.", "fc.")) and name not in expected]:
            raise ValueError(f"{others[0]} has no place in {type(self.spec).__name__}")
        for name, ours in expected.items():
            if name not in state:
                if not unused(name):
                    raise ValueError(f"{name} is missing")
            elif state[name].shape != ours.shape or state[name].is_floating_point() != ours.is_floating_point():
                found = state[name]
                raise ValueError(
                    f"{name}: expected {tuple(ours.shape)} of {_kind(ours)}, got {tuple(found.shape)} of {_kind(found)}"
                )
        weights = sum(tensor.nbytes for tensor in state.values())
        tables = sum(buffer.nbytes for buffer in self.model.buffers())
        if tables > 2 * weights + SPARE:
            raise ValueError(
                f"size={self.size}: expected tables of at most {(2 * weights + SPARE) / 2**20:.0f} MiB beside weights "
                f"of {weights / 2**20:.0f} MiB, got {tables / 2**20:.0f} MiB: give a smaller size"
            )

    @property
    def pooled_by(self) -> Head:
        """The head that `model.pooled` pools for: the classifier's, or without one the mean behind the last norm."""
        return self.head or Head()

    @property
    def pooling(self) -> str:
        """The pooling in words."""
        if self.pooled_by.pool == "cls":
            what = "the class token"
        else:
            what = "the mean over all positions" + (", without the class token" * self.model.encoder.num_prefix_tokens)
        return what + (", with a norm behind the pooling" if self.pooled_by.norm != "before" else "")

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

        return Compose([Window(self.crop, self.test_size, self.image.channels), Normalize(self.image)])

    def normalize(self, images: Tensor) -> Tensor:
        """(B, H, W, C) uint8 to (B, C, H, W) float32, contiguous."""
        pixels = mean_fill(images, None, torch.tensor(self.mean), torch.tensor(self.std), torch.float32)
        return pixels.permute(0, 3, 1, 2).contiguous()


def unused(name: str) -> bool:
    """True if no output for whole images depends on a parameter: of pre-training, or of a layer of timm's head."""
    return name.rpartition(".")[2] in PRETRAINING_ONLY or ".pre_logits." in name


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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

    def __init__(self, image: ImageSpec):
        self.mean, self.std = torch.tensor(image.mean), torch.tensor(image.std)

    def __call__(self, pixels: np.ndarray) -> Tensor:
        image = mean_fill(torch.from_numpy(pixels)[None], None, self.mean, self.std, torch.float32)
        return image[0].permute(2, 0, 1)

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean.tolist()}, std={self.std.tolist()})"
