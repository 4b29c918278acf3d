"""Convolutional networks from timm, with a mask token at one of their stages."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from ...config.fields import check_bounds, check_types
from ...parts import ImageSpec, Masking
from ...tokens import Mask
from .base import EncoderModule
from .batchnorm import checkpoint, replace_batch_norms
from .checks import check_masking, check_size, check_token_layer
from .create import TimmEncoder, create, overrides, take_module
from .layers import MaskToken, TokenMode, compute_dtype

STAGES = 4
"""Stages of every network."""
FULL_STRIDE = 32
"""Pixels between two positions of the last stage of a network without dilation."""


@dataclass(frozen=True)
class ConvNet(TimmEncoder):
    """Base of ResNet and ConvNeXt."""

    name: str = "resnet50"
    """timm model name."""
    token_layer: int = 3
    """Stage, 0 to 3, before whose blocks the token joins."""
    token: Literal["replace", "add", "gated"] = "gated"
    """Way in which the learned token joins hidden positions, see `MaskToken`. "add" keeps their content."""
    fill: Literal["none", "mean"] = "mean"
    """Content of hidden pixels: "mean" = the mean colour of the image, "none" = unchanged.

    With "none", hidden content leaks unless the token replaces it.
    """
    reads: Literal["all", "visible"] = "all"
    """Input of the encoder: "all" = whole images, "visible" = visible patches of 16 pixels.

    "visible" needs uniform masking: visible patches lie side by side on a grid of half the size. The token then stands
    for secondarily masked patches, after the stem, and the fields above have no effect.
    """
    depths: tuple[int, ...] | None = None
    """Blocks of each stage; None = the model's own."""
    dims: tuple[int, ...] | None = None
    """Width of each stage (of a ResNet's 3x3 convolutions); None = the model's own."""
    output_stride: Literal[32, 16, 8] = 32
    """Stride of the last stage, pixels, which is also the side of a patch.

    Below 32, the last stages keep the resolution of the stage before, with dilated convolutions. A small image then has
    more positions.
    """
    drop_path: float = 0.0
    """Stochastic depth rate of the last block, growing linearly from 0."""

    def __post_init__(self):
        check_types(self, "encoder.")
        check_bounds(self, "encoder.", "depths", "dims", "bn_batch", at_least=1)
        check_bounds(self, "encoder.", "drop_path", at_least=0, below=1)
        check_token_layer(self.token_layer, STAGES - 1, self.name)
        if self.reads == "visible" and self.output_stride != FULL_STRIDE:
            raise ValueError(
                f"encoder.output_stride: expected {FULL_STRIDE} where visible patches of 16 pixels are read "
                f"(reads=visible), got {self.output_stride}"
            )
        for field in ("depths", "dims"):
            if len(getattr(self, field) or range(STAGES)) != STAGES:
                raise ValueError(
                    f"encoder.{field}: expected a number for each of {STAGES} stages, got {getattr(self, field)}"
                )

    def create(self, kind: type[nn.Module], image: ImageSpec, masking: Masking) -> Any:
        """Creates timm's model.

        Raises:
            ValueError: timm has no such model, or the image size or the masking does not fit it.
        """
        check_masking(masking, self.reads)
        args = self.timm_args(image.size)
        backbone = create(self.name, kind, in_chans=image.channels, drop_path_rate=self.drop_path, **args)
        stride = backbone.feature_info[-1]["reduction"]
        check_size(image.size, stride if self.reads == "all" else 2 * stride, self.name)
        return backbone


@dataclass(frozen=True)
class ResNet(ConvNet):
    """A timm ResNet; the token joins the input of `layer{token_layer + 1}` (openmixup `mim_resnet.py`)."""

    bn_batch: int = 2048
    """Images in the statistics of a batch norm; on GPUs, smaller micro-batches share statistics."""

    def timm_args(self, size: tuple[int, int]) -> dict[str, Any]:
        return overrides(layers=self.depths, channels=self.dims, output_stride=self.output_stride)

    def build(self, image: ImageSpec, masking: Masking) -> ResNetEncoder:
        """Builds the network.

        Raises:
            ValueError: timm has no such ResNet, or the image size or the masking does not fit.
        """
        from timm.models import resnet

        backbone = self.create(resnet.ResNet, image, masking)
        replace_batch_norms(backbone, self.bn_batch)
        return ResNetEncoder(self, backbone, image, masking)


@dataclass(frozen=True)
class ConvNeXt(ConvNet):
    """A timm ConvNeXt; the token joins after the downsampling into stage `token_layer`.

    Source: openmixup `convnext.py`.
    """

    name: str = "convnext_small"
    """timm model name."""

    def timm_args(self, size: tuple[int, int]) -> dict[str, Any]:
        return overrides(depths=self.depths, dims=self.dims, output_stride=self.output_stride)

    def build(self, image: ImageSpec, masking: Masking) -> ConvNeXtEncoder:
        """Builds the network.

        Raises:
            ValueError: timm has no such ConvNeXt, or the image size or the masking does not fit.
        """
        from timm.models import convnext

        backbone = self.create(convnext.ConvNeXt, image, masking)
        for name, part in backbone.head.named_children():
            # Some models have a layer after the pooling, which no loss reaches.
            part.requires_grad_(name == "norm")
        return ConvNeXtEncoder(self, backbone, image, masking)


class ConvEncoder(EncoderModule):
    """Base of the networks of `ConvNet`: `encoder(images, mask) -> (B, N, D)`.

    The tokens are a raster of the last stage's positions. If the encoder reads whole images, a position is a patch. If
    the encoder reads visible patches of 16 pixels, a position stands for 2 x 2 visible patches of a uniform mask, in a
    raster of a quarter as many positions. `backbone` is timm's model, so an export is a copy.
    """

    has_visible_token = True

    backbone: Any
    """timm's model."""

    def __init__(self, spec: ConvNet, backbone: Any, image: ImageSpec, masking: Masking):
        stages = backbone.feature_info[-STAGES:]
        deepest = {stage["reduction"]: i for i, stage in enumerate(stages)}
        whole = spec.reads == "all"
        merge = 1 if whole else 2
        super().__init__(
            image,
            patch_size=stages[-1]["reduction"] // merge,
            embed_dim=backbone.num_features,
            strides=list(deepest),
            widths=[stages[i]["num_chs"] for i in deepest.values()],
            reads=spec.reads,
            merge=merge,
            fill=spec.fill if whole else "none",
        )
        self.deepest = tuple(deepest.values())
        self.backbone = backbone
        self.token_stage = spec.token_layer if whole else 0
        mode: TokenMode = spec.token if whole else "replace"
        if whole or masking.replaces:
            self.token = MaskToken(backbone.feature_info[self.token_stage]["num_chs"], mode)

    @abstractmethod
    def stem(self, images: Tensor) -> Tensor:
        """Runs the stem on (B, C, H, W) images."""

    @abstractmethod
    def stage(self, x: Tensor, index: int) -> tuple[Tensor, Iterable[nn.Module]]:
        """Returns the input of a stage's blocks, and the blocks."""

    @abstractmethod
    def norm(self, x: Tensor) -> Tensor:
        """Applies the last norm, if the network has any, to a (B, C, h, w) map."""

    def forward(self, images: Tensor, mask: Mask) -> Tensor:
        dtype = compute_dtype(next(self.backbone.parameters()))
        if self.reads == "all":
            return self.transform(self.input(images, mask, dtype), mask.mask.view(-1, *self.grid))
        hidden = None
        if mask.secondary is not None:
            hidden = mask.secondary.view(-1, self.grid[0] // 2, self.grid[1] // 2)
        return self.transform(self.input.compact(images, mask, self.patch_size, dtype), hidden)

    def features(self, images: Tensor) -> Tensor:
        """Encodes whole images as timm does, bit for bit: (B, N, D)."""
        return self.transform(images, None)

    def maps(self, images: Tensor) -> list[Tensor]:
        maps = self.stages(images, None)
        return [maps[i] for i in self.deepest]

    def transform(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """Returns the tokens of the last stage, normalised if timm normalises them; see `stages`."""
        return self.norm(self.stages(x, hidden)[-1]).flatten(2).transpose(1, 2)

    def stages(self, x: Tensor, hidden: Tensor | None) -> list[Tensor]:
        """Runs timm's stages and returns the (B, C, h, w) output of each.

        Args:
            x: (B, C, H, W) images.
            hidden: (B, rows, columns) bool patches that the mask token stands for.
        """
        x, maps = self.stem(x), []
        for i in range(STAGES):
            x, blocks = self.stage(x, i)
            if hidden is not None and i == self.token_stage:
                x = self.token(x.permute(0, 2, 3, 1), hidden).permute(0, 3, 1, 2)
            for block in blocks:
                x = checkpoint(block, x) if self.grad_checkpointing and self.training else block(x)
            maps.append(x)
        return maps


class ResNetEncoder(ConvEncoder):
    """The network of `ResNet`.

    The official initialisation is timm's: Kaiming-normal over fan-out, the last norm of a block zero. The token is
    normal with deviation 0.02.
    """

    def layers(self) -> list[tuple[str, ...]]:
        blocks = [(f"backbone.layer{i + 1}.{j}",) for i in range(STAGES) for j in range(len(self.blocks(i)))]
        return [("backbone.conv1", "backbone.bn1"), *blocks]

    def take_norm(self) -> None:
        """Returns None, because a ResNet has no last norm."""

    def stem(self, images: Tensor) -> Tensor:
        net = self.backbone
        return net.maxpool(net.act1(net.bn1(net.conv1(images))))

    def stage(self, x: Tensor, index: int) -> tuple[Tensor, nn.Sequential]:
        return x, self.blocks(index)

    def blocks(self, index: int) -> nn.Sequential:
        """Returns the blocks of a stage."""
        return self.backbone.get_submodule(f"layer{index + 1}")

    def norm(self, x: Tensor) -> Tensor:
        return x


class ConvNeXtEncoder(ConvEncoder):
    """The network of `ConvNeXt`.

    The official initialisation is timm's, normal with deviation 0.02 in all weights. The token of hidden patches is
    zero: openmixup passes it to a function that initialises modules, which leaves a parameter unchanged. The token of
    secondarily masked patches is UM-MAE's, normal with deviation 0.02.
    """

    def __init__(self, spec: ConvNeXt, backbone: Any, image: ImageSpec, masking: Masking):
        super().__init__(spec, backbone, image, masking)
        if self.reads == "all":
            # Not for compacted images: norms enlarge the gradient of a patch of zeros 1000-fold each.
            nn.init.zeros_(self.token.mask_token)

    def layers(self) -> list[tuple[str, ...]]:
        """Returns prefixes of whole stages; of the third stage, every three blocks are one layer (openmixup)."""
        third, depth = "backbone.stages.2", len(self.backbone.stages[2].blocks)
        threes = [tuple(f"{third}.blocks.{j}" for j in range(i, min(i + 3, depth))) for i in range(0, depth, 3)]
        threes[0] += (f"{third}.downsample",)
        first = [("backbone.stem",), ("backbone.stages.0",), ("backbone.stages.1",)]
        return [*first, *threes, ("backbone.stages.3",)]

    def take_norm(self) -> nn.Module:
        return take_module(self, "backbone.head.norm" if self.norm_in_head else "backbone.norm_pre")

    @property
    def norm_in_head(self) -> bool:
        """True if the last norm is in timm's head, after the pooling; in some models it precedes the pooling."""
        return hasattr(self.backbone.head, "norm")

    def stem(self, images: Tensor) -> Tensor:
        return self.backbone.stem(images)

    def stage(self, x: Tensor, index: int) -> tuple[Tensor, Iterable[nn.Module]]:
        stage = self.backbone.stages[index]
        return stage.downsample(x), stage.blocks

    def norm(self, x: Tensor) -> Tensor:
        norm = self.backbone.head.norm if self.norm_in_head else self.backbone.norm_pre
        return norm(x)
