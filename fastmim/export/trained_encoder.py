"""Trained encoder with the transform of its images, for `fastmim.load` and for exports."""

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

from ..config.classify import Head
from ..config.fields import check_bounds, check_types
from ..config.json_form import to_json
from ..data.crops import CenterCrop
from ..data.decode import FILTERS, MODES, to_mode
from ..model.classifier import pooling
from ..model.encoders import PRETRAINING_ONLY
from ..model.encoders.base import EncoderModule
from ..parts import Encoder, ImageSpec, Masking
from ..tokens import as_map
from .model_outline import LARGEST_SIDE, MOST_BLOCKS, SPARE

if TYPE_CHECKING:
    from torchvision.transforms import Compose


class ProbeHead(nn.Sequential):
    """Classifier of a linear probe: a batch norm without parameters, then a linear layer."""

    EPS = 1e-6

    def __init__(self, features: int, classes: int):
        super().__init__(nn.BatchNorm1d(features, affine=False, eps=self.EPS), nn.Linear(features, classes))
        self.out_features = classes

    def merged(self) -> nn.Linear:
        """Returns one linear layer with the batch norm folded into its weights, computed in float64."""
        mean, variance = self.get_buffer("0.running_mean").double(), self.get_buffer("0.running_var").double()
        weight, bias = self.get_parameter("1.weight"), self.get_parameter("1.bias")
        scaled = weight.double() * (variance + self.EPS).rsqrt()
        fc = nn.Linear(weight.shape[1], weight.shape[0])
        fc.weight.data = scaled.detach().to(weight.dtype)
        fc.bias.data = (bias.double() - scaled @ mean).detach().to(bias.dtype)
        return fc


class FeatureExtractor(nn.Module):
    """Trained encoder: `extractor(images)` returns pooled features of normalised (B, C, H, W) floats.

    The module starts in evaluation mode. Every method works under torch.compile, under autocast and with gradients.

    Attributes:
        num_features: number of features, D.
        num_classes: number of classes; 0 without a classifier.
        stride: pixels between the cells of `dense`.
        strides: pixels between the cells of each map of `stages`.
        widths: channels of each map of `stages`.
    """

    encoder: EncoderModule
    fc: nn.Linear | ProbeHead | None

    def __init__(self, encoder: EncoderModule, pool: nn.Module, fc: nn.Linear | ProbeHead | None = None):
        super().__init__()
        self.encoder, self.pool, self.fc = encoder, pool, fc
        self.num_features = encoder.embed_dim
        self.num_classes = 0 if fc is None else fc.out_features
        self.stride = encoder.patch_size * encoder.merge
        self.strides, self.widths = encoder.strides, encoder.widths

    def forward(self, images: Tensor) -> Tensor:
        """Returns `pooled(images)`."""
        return self.pooled(images)

    def tokens(self, images: Tensor) -> Tensor:
        """Returns (B, prefix + N, D) tokens: a class token if the encoder has one, then the image row by row."""
        return self.encoder.features(images)

    def pooled(self, images: Tensor) -> Tensor:
        """Returns (B, D) features: the classifier's input; without a classifier, the mean over positions."""
        return self.pool(self.tokens(images))

    def dense(self, images: Tensor) -> Tensor:
        """Returns the tokens of the image as a (B, D, h, w) map."""
        grid = (images.shape[2] // self.stride, images.shape[3] // self.stride)
        return as_map(self.tokens(images)[:, self.encoder.num_prefix_tokens :], grid)

    def stages(self, images: Tensor) -> list[Tensor]:
        """Returns a (B, C_i, h_i, w_i) map for each stride, the finest first. A plain ViT has one map."""
        return self.encoder.maps(images)

    def logits(self, images: Tensor) -> Tensor:
        """Returns (B, classes) logits.

        Raises:
            ValueError: no classifier was trained.
        """
        if self.fc is None:
            raise ValueError("this encoder was pre-trained only, so it has no classifier: use pooled, dense or stages")
        return self.fc(self.pooled(images))


@dataclass(frozen=True)
class EncoderDescription:
    """Trained encoder without its weights: the settings that build it, and the transform of its images.

    Attributes:
        spec: config of the encoder.
        masking: masking that the encoder was built for.
        size: height and width of the training images, pixels.
        mean: mean of each channel, on the 0..1 scale.
        std: standard deviation of each channel, on the 0..1 scale.
        crop: window that is cut from an image in evaluation.
        test_size: height and width that the window is resized to, pixels.
        head: config of the classifier; None if no classifier was trained.
        classes: number of classes; 0 if no classifier was trained.
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
        return {f.name: to_json(getattr(self, f.name)) for f in fields(EncoderDescription)}

    def build(self, scaled: bool) -> FeatureExtractor:
        """Builds the model in evaluation mode.

        Args:
            scaled: add a batch norm without parameters before the linear layer, as a linear probe has.

        Raises:
            ValueError: the fields do not fit each other.
        """
        try:
            encoder = self.spec.build(self.image, self.masking)
        except (RuntimeError, ArithmeticError, TypeError, IndexError, AssertionError, AttributeError) as error:
            raise ValueError(f"expected sizes that fit each other, got size={self.size} and {self.spec}") from error
        pool = pooling(encoder, self.head or Head())
        head = ProbeHead if scaled else nn.Linear
        fc = head(encoder.embed_dim, self.classes) if self.classes else None
        return FeatureExtractor(encoder, pool, fc).eval()

    def outline(self, tensors: int, scaled: bool = False) -> TrainedEncoder:
        """Returns the model without memory for its weights, to compare its shapes with a file first.

        Args:
            tensors: number of tensors with values in the file, see `tensors_with_values`. This number bounds the
                number of blocks.
            scaled: see `build`.

        Raises:
            ValueError: there are more blocks than tensors or than any encoder has, or the fields do not fit each other.
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
        return TrainedEncoder(**{f.name: getattr(self, f.name) for f in fields(EncoderDescription)}, model=model)


@dataclass(frozen=True)
class TrainedEncoder(EncoderDescription):
    """Trained encoder with its weights.

    Attributes:
        model: the module.
    """

    model: FeatureExtractor

    def fill(self, state: Mapping[str, Tensor]) -> TrainedEncoder:
        """Returns this outline with weights.

        Args:
            state: tensors by their name in `model`.

        Raises:
            ValueError: the weights do not fit, see `check`.
        """
        self.check(state)
        model, expected = self.build(isinstance(self.model.fc, ProbeHead)), self.model.state_dict()
        model.load_state_dict(model.state_dict() | {name: state[name] for name in expected if name in state})
        return replace(self, model=model)

    def check(self, state: Mapping[str, Tensor]) -> None:
        """Compares weights with this outline.

        Args:
            state: tensors by their name in `model`. Tensors that no output for whole images uses may be missing.

        Raises:
            ValueError: a tensor is missing, unknown, or has another shape or kind; or computed tables would be too
                large.
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
        """Head that `model.pooled` pools for; without a classifier, the mean after the last norm."""
        return self.head or Head()

    @property
    def pooling(self) -> str:
        """Description of the pooling in words."""
        if self.pooled_by.pool == "cls":
            words = "the class token"
        elif self.model.encoder.num_prefix_tokens:
            words = "the mean over all positions, without the class token"
        else:
            words = "the mean over all positions"
        return words + (", with a norm after the pooling" if self.pooled_by.norm != "before" else "")

    def merged(self) -> TrainedEncoder:
        """Returns this encoder with a probe's batch norm folded into the linear layer, computed in float64."""
        if not isinstance(self.model.fc, ProbeHead):
            return self
        model = FeatureExtractor(self.model.encoder, self.model.pool, self.model.fc.merged())
        return replace(self, model=model.eval())

    def transform(self) -> Compose:
        """Returns the transform of a PIL image to a normalised (C, H, W) float32 tensor, as in evaluation."""
        from torchvision.transforms import Compose

        return Compose([Window(self.crop, self.test_size, self.image.channels), Normalize(self.image)])

    def normalize(self, images: Tensor) -> Tensor:
        """Normalises (B, H, W, C) uint8 images to contiguous (B, C, H, W) float32."""
        pixels = mean_fill(images, None, torch.tensor(self.mean), torch.tensor(self.std), torch.float32)
        return pixels.permute(0, 3, 1, 2).contiguous()


def unused(name: str) -> bool:
    """True if no output for whole images depends on this parameter."""
    return name.rpartition(".")[2] in PRETRAINING_ONLY or ".pre_logits." in name


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


class Window:
    """Transform that cuts and resizes a window of a PIL image to (H, W, C) uint8, as the loader does."""

    def __init__(self, crop: CenterCrop, size: tuple[int, int], channels: int):
        self.crop, self.size, self.channels = crop, size, channels

    def __call__(self, image: Image.Image) -> np.ndarray:
        image = ImageOps.exif_transpose(image)
        top, left, height, width = self.crop.cut((image.height, image.width), self.size, ()).window
        image = to_mode(image.crop((left, top, left + width, top + height)), MODES[self.channels])
        image = image.resize((self.size[1], self.size[0]), FILTERS[self.crop.interpolation])
        return np.array(image).reshape(*self.size, self.channels)

    def __repr__(self) -> str:
        return f"Window({self.crop}, size={self.size})"


class Normalize:
    """Transform of (H, W, C) uint8 to (C, H, W) float32: (x / 255 - mean) / std."""

    def __init__(self, image: ImageSpec):
        self.mean, self.std = torch.tensor(image.mean), torch.tensor(image.std)

    def __call__(self, pixels: np.ndarray) -> Tensor:
        image = mean_fill(torch.from_numpy(pixels)[None], None, self.mean, self.std, torch.float32)
        return image[0].permute(2, 0, 1)

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean.tolist()}, std={self.std.tolist()})"
