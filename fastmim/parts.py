"""Base classes of the parts of a method, and `ImageSpec`.

A config consists of instances of these classes. A part is a frozen dataclass that describes a masking, an encoder, a
decoder, a target, a loss or a crop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from .tokens import Mask, patchify

if TYPE_CHECKING:
    from torch import Tensor

    from .model.decoders import DecoderModule
    from .model.encoders.base import EncoderModule


@dataclass(frozen=True)
class ImageSpec:
    """Size and normalisation of the images that a network reads."""

    size: tuple[int, int]
    """Height and width, pixels."""
    mean: tuple[float, ...]
    """Mean of each channel, on the 0..1 scale."""
    std: tuple[float, ...]
    """Standard deviation of each channel, on the 0..1 scale."""

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.mean)


@dataclass(frozen=True)
class Masking(ABC):
    """Base class of maskings: `masking(seed, ids, grid, patch_size) -> Mask`."""

    uniform: ClassVar[bool] = False
    """True if exactly one patch of each 2x2 block is visible, in raster order of the blocks.
    The visible patches in the order of `ids_keep` form an image of half the size."""

    @property
    def replaces(self) -> bool:
        """True if the masks have `Mask.secondary`, patches that a learned token replaces."""
        return False

    @abstractmethod
    def __call__(self, seed: int, ids: Tensor, grid: tuple[int, int], patch_size: int) -> Mask:
        """Draws the masks of a batch.

        Args:
            seed: seed of the run.
            ids: (B,) int64 sample ids.
            grid: rows and columns of patches.
            patch_size: side of a patch, pixels.

        Raises:
            ValueError: the grid does not allow such masks.
        """


@dataclass(frozen=True)
class Encoder(ABC):
    """Base class of encoders; `build` returns the network."""

    @abstractmethod
    def build(self, image: ImageSpec, masking: Masking) -> EncoderModule:
        """Builds the network.

        Args:
            image: the images that the network reads.
            masking: the masking of pre-training.

        Raises:
            ValueError: the image size or the masking does not fit the encoder.
        """


@dataclass(frozen=True)
class Decoder(ABC):
    """Base class of decoders; `build` returns the network."""

    @abstractmethod
    def build(self, encoder: EncoderModule) -> DecoderModule:
        """Builds the network for the tokens of an encoder.

        Raises:
            ValueError: the decoder cannot work on the tokens of this encoder.
        """


@dataclass(frozen=True)
class Target:
    """The values to predict: the patches of `source(images)`, standardised if `standardizes` is True."""

    @property
    def standardizes(self) -> bool:
        """True if each patch is standardised."""
        return False

    def source(
        self, images: Tensor, mean: Tensor, std: Tensor, rows: Tensor | None = None, patch_size: int = 1
    ) -> Tensor:
        """Removes content that the decoder need not predict from (B, H, W, C) images.

        Args:
            images: uint8 or normalised floats.
            mean: (C,) mean of each channel, on the 0..1 scale.
            std: (C,) standard deviation of each channel, on the 0..1 scale.
            rows: (N,) patches that will be read, or None for all. Patch l of image b has the number b * L + l.
            patch_size: side of these patches, pixels.

        Returns:
            Normalised floats, or the images unchanged.
        """
        return images

    def __call__(self, images: Tensor, patch_size: int, mean: Tensor, std: Tensor) -> Tensor:
        """Computes the (B, L, P) targets of all patches of normalised (B, H, W, C) float images.

        A standardised patch (MAE, models_mae.py `forward_loss`) is t = (x - mean(x)) / sqrt(var(x) + 1e-6) over all
        values of the patch, with the unbiased variance.

        Args:
            images: (B, H, W, C) normalised floats.
            patch_size: side of a patch, pixels.
            mean: (C,) mean of each channel, on the 0..1 scale.
            std: (C,) standard deviation of each channel, on the 0..1 scale.
        """
        patches = patchify(self.source(images, mean, std), patch_size)
        if not self.standardizes:
            return patches
        center, scale = patch_statistics(patches)
        return (patches - center) / scale

    def pixels(self, pred: Tensor, patches: Tensor) -> Tensor:
        """Converts (..., P) predictions to normalised pixels, for pictures.

        Args:
            pred: (..., P) predictions.
            patches: (..., P) true patches, whose statistics undo the standardisation.
        """
        if not self.standardizes:
            return pred
        center, scale = patch_statistics(patches)
        return pred * scale + center


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean, and the square root of (unbiased variance + 1e-6), of each patch: (..., 1) each."""
    return patches.mean(dim=-1, keepdim=True), (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()


@dataclass(frozen=True)
class Loss(ABC):
    """Base class of losses: `loss(pred, target) -> ()` fp32, the mean over the rows of hidden patches."""

    whole: ClassVar[bool] = False
    """True if the loss compares whole images instead of patches.
    The call is then `loss(pred, target, hidden)` with (B, H, W, C) fp32 images and (B, H, W, 1) bool `hidden`."""

    @abstractmethod
    def __call__(self, pred: Tensor, target: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Compares predictions with targets.

        Args:
            pred: predictions.
            target: targets, of the same shape.
            hidden: hidden pixels, True = hidden; only if `whole` is True.
        """

    def misfit(self, size: tuple[int, int]) -> str | None:
        """Returns why the loss cannot compare images of (height, width) pixels, or None."""
        return None

    def note(self, batch: int) -> str | None:
        """Returns a remark on this loss with micro-batches of `batch` images, or None."""
        return None


class Cut(NamedTuple):
    """A window of an image that is resized, and the sample that is cut from the result."""

    window: tuple[int, int, int, int]
    """Top, left, height and width in whole pixels of the image in its EXIF orientation."""
    resized: tuple[int, int]
    """Height and width to which the window is resized."""
    offset: tuple[int, int] = (0, 0)
    """Top and left of the sample in the resized window.
    Beyond the window's border, the sample shows a reflection without the border's own pixels, or the mean colour if
    `padded`."""
    padded: bool = False
    """True if the mean colour fills the sample beyond the window's border."""


@dataclass(frozen=True)
class Crop(ABC):
    """Base class of crops, which choose the part of an image that becomes a training sample."""

    interpolation: Literal["bicubic", "bilinear"] = field(default="bicubic", kw_only=True)
    """Filter of the resize, antialiased."""

    @property
    @abstractmethod
    def draws(self) -> int:
        """Number of uniform random numbers that `cut` takes."""

    @abstractmethod
    def cut(self, image: tuple[int, int], size: tuple[int, int], uniforms: Sequence[float]) -> Cut:
        """Returns the cut that makes a sample.

        Args:
            image: height and width of the image, pixels.
            size: height and width of the sample, pixels.
            uniforms: `draws` numbers in [0, 1).
        """
