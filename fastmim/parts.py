"""The base class of each part of a method. May import tokens and samples only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from .tokens import Mask, patchify

if TYPE_CHECKING:
    from torch import Tensor, nn


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
    """Chooses the hidden patches: `masking(seed, ids, grid, patch_size) -> Mask`.

    uniform: exactly one patch of each 2x2 block is visible, and `ids_keep` is in raster order of the blocks, so that
        the visible patches in that order are an image of half the size. replaces: masks have a `secondary`.
    """

    uniform: ClassVar[bool] = False

    @property
    def replaces(self) -> bool:
        return False

    @abstractmethod
    def __call__(self, seed: int, ids: Tensor, grid: tuple[int, int], patch_size: int) -> Mask:
        """
        Args:
            ids: (B,) int64 sample ids.
            grid: (rows, columns) of patches.
            patch_size: their side in pixels.
        Raises:
            ValueError: the grid does not allow such masks.
        """


@dataclass(frozen=True)
class Encoder(ABC):
    """Describes an encoder; `build` returns a module `(images, mask) -> (B, num_prefix_tokens + N, D)` tokens.

    Images are (B, H, W, C) uint8 or normalised floats. The N latent tokens are those of the visible patches in the
    order of `mask.ids_keep`, or a raster of the whole image, or a raster of the image that the visible patches of a
    uniform mask make. The module has these attributes:

    * grid, patch_size: of the patches that are hidden and predicted; patch_values: numbers in one, p * p * C.
    * embed_dim: D. num_prefix_tokens: class tokens in front.
    * reads: "visible" patches only, or "all" of the image, with something in place of the hidden ones.
    * merge: side of the square of patches that one latent token stands for; visible ones, if only those are read.
    * grad_checkpointing: may be set.
    * features(images): the same tokens of whole, normalised (B, C, H, W) images of which nothing is hidden.
    * maps(images): of such images, a list of what each stage gives, (B, C_i, H_i, W_i), the finest first, of
        stages of one stride only the last one's. A pyramid's are as the stages leave them: they do not pass the norm in
        front of `features`, and what reads them brings norms of its own. A plain ViT has one, the tokens of `features`
        without class token; given the numbers of some of its blocks as well, ascending from 0, it gives what leaves
        these.
    * strides, widths: pixels that a position of each map stands for, in both directions; its channels.
    * layers(): prefixes of parameter names from the input on, those of the stem, then those of each block; parameters
      without such a prefix come last. For layer decay.
    * take_norm(): takes the last norm away, from then on `features` gives what it would be given; returns it, or None.
    """

    @abstractmethod
    def build(self, image: ImageSpec, masking: Masking) -> nn.Module:
        """
        Raises:
            ValueError: the sizes, or this masking, do not fit the encoder.
        """


@dataclass(frozen=True)
class Decoder(ABC):
    """Describes a decoder; `build` returns a module `(latent, mask, num_pred) -> (B, num_pred, P)`.

    It predicts the patches `mask.ids[:, -num_pred:]`, each as (row, column, channel) values.
    """

    @abstractmethod
    def build(self, encoder: nn.Module) -> nn.Module:
        """
        Raises:
            ValueError: it cannot work on what this encoder gives.
        """


@dataclass(frozen=True)
class Target:
    """The values to predict: patches cut from `source(images)`, standardised one by one if `norm_pix`."""

    norm_pix: ClassVar[bool] = False

    def source(
        self, images: Tensor, mean: Tensor, std: Tensor, rows: Tensor | None = None, patch_size: int = 1
    ) -> Tensor:
        """(B, H, W, C) images, with what is not to be predicted taken out of them.

        Args:
            images: uint8 or normalised floats.
            rows: (N,) the patches of `patch_size` that will be read, b * L + l; None = all.
        Returns: normalised floats, or the images as they came.
        """
        return images

    def __call__(self, images: Tensor, patch_size: int, mean: Tensor, std: Tensor) -> Tensor:
        """(B, L, P) from normalised (B, H, W, C) float images.

        With norm_pix (MAE, models_mae.py `forward_loss`): t = (x - mean(x)) / sqrt(var(x) + 1e-6) over all values of
        the patch, with the unbiased variance.
        """
        patches = patchify(self.source(images, mean, std), patch_size)
        if not self.norm_pix:
            return patches
        mean, std = patch_statistics(patches)
        return (patches - mean) / std

    def pixels(self, pred: Tensor, patches: Tensor) -> Tensor:
        """(..., P) predictions as normalised pixels, for pictures; `patches` are the true ones, for lost statistics."""
        if not self.norm_pix:
            return pred
        mean, std = patch_statistics(patches)
        return pred * std + mean


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and square root of (unbiased variance + 1e-6) of each patch: (..., 1) each."""
    return patches.mean(dim=-1, keepdim=True), (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()


@dataclass(frozen=True)
class Loss(ABC):
    """Compares: `loss(pred, target) -> ()` fp32, the mean over the rows it is given (the hidden patches).

    One that is `whole` sees images instead: `loss(pred, target, hidden)` with (B, H, W, C) fp32 and (B, H, W, 1) bool.
    """

    whole: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, pred: Tensor, target: Tensor, hidden: Tensor | None = None) -> Tensor: ...

    def misfit(self, size: tuple[int, int]) -> str | None:
        """Why images of (H, W) pixels cannot be compared, or None."""
        return None

    def note(self, batch: int) -> str | None:
        """Returns a remark on this loss for micro-batches of `batch` images, or None."""
        return None


class Cut(NamedTuple):
    """A way to make a sample: a window of the image is resized, and the sample is cut from the result."""

    window: tuple[int, int, int, int]
    """Top, left, height and width in whole pixels of the image as seen, so after its EXIF orientation."""
    resized: tuple[int, int]
    """Height and width to which the window is resized."""
    offset: tuple[int, int] = (0, 0)
    """Top and left of the sample in the resized window; beyond its borders the sample shows its reflection, in which
    the pixels of the border are not repeated, or if `padded` the mean colour."""
    padded: bool = False


@dataclass(frozen=True)
class Crop(ABC):
    """Chooses the part of an image that becomes a training sample, from `draws` uniform numbers in [0, 1)."""

    interpolation: Literal["bicubic", "bilinear"] = field(default="bicubic", kw_only=True)
    """Filter of the resize, antialiased."""

    @property
    @abstractmethod
    def draws(self) -> int: ...

    @abstractmethod
    def cut(self, image: tuple[int, int], size: tuple[int, int], uniforms: Sequence[float]) -> Cut:
        """The cut of an image of (height, width) that makes a sample of `size`."""
