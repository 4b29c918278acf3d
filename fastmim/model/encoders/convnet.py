"""Convolutional networks from timm, with a mask token at one of their stages. May import timm, torch, L1 and L0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from ...config.fields import check_bounds, check_types
from ...parts import ImageSpec, Masking
from ...tokens import Mask
from .batchnorm import checkpoint, replace_batch_norms
from .checks import check_masking, check_size, check_token_layer
from .create import TimmEncoder, create, given, take_module
from .dense import DenseInput, MaskToken, compute_dtype

STAGES = 4
FULL_STRIDE = 32


@dataclass(frozen=True)
class ConvNet(TimmEncoder):
    """Settings that ResNet and ConvNeXt share; not a part by itself."""

    name: str = "resnet50"
    """timm model name."""
    token_layer: int = 3
    """Stage, 0 to 3, before whose blocks the token joins; see the class."""
    token: Literal["replace", "add", "gated"] = "gated"
    """Way in which the learned token joins hidden positions, see `dense.MaskToken`. "add" leaves their content in."""
    fill: Literal["none", "mean"] = "mean"
    """Content of hidden pixels: the image's mean colour, or their own, which the token then hides as far as it can."""
    reads: Literal["all", "visible"] = "all"
    """Whole images; or visible patches of 16 pixels only, side by side on a grid of half the size, which needs uniform
    masking. Then the token stands for secondarily masked patches, after the stem; the fields above have no effect."""
    depths: tuple[int, ...] | None = None
    """Blocks of each stage; None = the model's own."""
    dims: tuple[int, ...] | None = None
    """Width of each stage (of a ResNet's 3x3 convolutions); None = the model's own."""
    output_stride: Literal[32, 16, 8] = 32
    """Pixels from one position of the last stage to the next, so the side of a patch. Below 32 the last stages keep the
    resolution of the one before and their convolutions are dilated, so that a small image has more positions."""
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

    def create(self, kind: type[nn.Module], image: ImageSpec, masking: Masking) -> nn.Module:
        """timm's model, if masking and image size fit it."""
        check_masking(masking, self.reads)
        backbone = create(
            self.name, kind, in_chans=image.channels, drop_path_rate=self.drop_path, **self.timm_args(image.size)
        )
        stride = backbone.feature_info[-1]["reduction"]
        check_size(image.size, stride if self.reads == "all" else 2 * stride, self.name)
        return backbone


@dataclass(frozen=True)
class ResNet(ConvNet):
    """A timm ResNet; the token joins the input of `layer{token_layer + 1}`, as in A2MIM (openmixup `mim_resnet.py`)."""

    bn_batch: int = 2048
    """Images that batch norm takes its statistics of: all processes' if one's micro-batch is smaller (on GPUs)."""

    def timm_args(self, size: tuple[int, int]) -> dict[str, Any]:
        return given(layers=self.depths, channels=self.dims, output_stride=self.output_stride)

    def build(self, image: ImageSpec, masking: Masking) -> nn.Module:
        """
        Raises:
            ValueError: timm has no such ResNet, or the image size or the masking does not fit.
        """
        from timm.models import resnet

        backbone = self.create(resnet.ResNet, image, masking)
        replace_batch_norms(backbone, self.bn_batch)
        return ResNetEncoder(self, backbone, image, masking)


@dataclass(frozen=True)
class ConvNeXt(ConvNet):
    """A timm ConvNeXt; the token joins after the downsampling into stage `token_layer` (openmixup `convnext.py`)."""

    name: str = "convnext_small"
    """timm model name."""

    def timm_args(self, size: tuple[int, int]) -> dict[str, Any]:
        return given(depths=self.depths, dims=self.dims, output_stride=self.output_stride)

    def build(self, image: ImageSpec, masking: Masking) -> nn.Module:
        """
        Raises:
            ValueError: timm has no such ConvNeXt, or the image size or the masking does not fit.
        """
        from timm.models import convnext

        backbone = self.create(convnext.ConvNeXt, image, masking)
        for name, part in backbone.head.named_children():
            part.requires_grad_(name == "norm")  # some models have a layer behind the pooling, which no loss reaches
        return ConvNeXtEncoder(self, backbone, image, masking)


class ConvEncoder(nn.Module):
    """`encoder(images, mask) -> (B, N, D)`: a raster of the last stage's positions, `output_stride` pixels wide each.

    `backbone` is timm's model, so an export is a copy. Reading all, a position is a patch; reading visible patches of
    16 pixels, it stands for 2 x 2 of those that a uniform mask leaves, in a raster of a quarter as many positions.
    """

    num_prefix_tokens = 0

    def __init__(self, spec: ConvNet, backbone: nn.Module, image: ImageSpec, masking: Masking):
        super().__init__()
        stride = backbone.feature_info[-1]["reduction"]
        self.reads = spec.reads
        self.merge = 1 if spec.reads == "all" else 2
        self.patch_size: int = stride // self.merge
        self.patch_values: int = self.patch_size**2 * image.channels
        self.grid = (image.size[0] // self.patch_size, image.size[1] // self.patch_size)
        self.embed_dim: int = backbone.num_features
        stages = {stage["reduction"]: i for i, stage in enumerate(backbone.feature_info[-STAGES:])}
        self.deepest = tuple(stages.values())
        self.strides = tuple(stages)
        self.widths = tuple(backbone.feature_info[-STAGES:][i]["num_chs"] for i in self.deepest)
        self.grad_checkpointing = False
        self.input = DenseInput(image, spec.fill if spec.reads == "all" else "none")
        self.backbone = backbone
        self.token_stage, token = (spec.token_layer, spec.token) if spec.reads == "all" else (0, "replace")
        if spec.reads == "all" or masking.replaces:
            self.token = MaskToken(backbone.feature_info[self.token_stage]["num_chs"], token)

    def forward(self, images: Tensor, mask: Mask) -> Tensor:
        """images: (B, H, W, C) uint8, or normalised floats."""
        dtype = compute_dtype(next(self.backbone.parameters()))
        if self.reads == "all":
            return self.transform(self.input(images, mask, dtype), mask.mask.view(-1, *self.grid))
        hidden = None
        if mask.secondary is not None:
            hidden = mask.secondary.view(-1, self.grid[0] // 2, self.grid[1] // 2)
        return self.transform(self.input.compact(images, mask, self.patch_size, dtype), hidden)

    def features(self, images: Tensor) -> Tensor:
        """(B, N, D) of whole, normalised (B, C, H, W) images: timm's features, bit for bit."""
        return self.transform(images, None)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Of each stride the deepest stage's."""
        maps = self.stages(images, None)
        return [maps[i] for i in self.deepest]

    def transform(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """The last stage's tokens, normalised where timm's are."""
        return tokens(self.norm(self.stages(x, hidden)[-1]))

    def stages(self, x: Tensor, hidden: Tensor | None) -> list[Tensor]:
        """(B, C, h, w) after each stage of timm's model on (B, C, H, W) images, with the token at the cells
        (B, rows, columns) that are hidden."""
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
    """Official initialisation is timm's: Kaiming-normal over fan-out, last norm of a block zero; normal 0.02 tokens."""

    def layers(self) -> list[tuple[str, ...]]:
        blocks = [
            (f"backbone.layer{i + 1}.{j}",)
            for i in range(STAGES)
            for j in range(len(self.backbone.get_submodule(f"layer{i + 1}")))
        ]
        return [("backbone.conv1", "backbone.bn1"), *blocks]

    def take_norm(self) -> None:
        return None

    def stem(self, images: Tensor) -> Tensor:
        net = self.backbone
        return net.maxpool(net.act1(net.bn1(net.conv1(images))))

    def stage(self, x: Tensor, index: int) -> tuple[Tensor, nn.Module]:
        """The input of a stage's blocks, and these."""
        return x, self.backbone.get_submodule(f"layer{index + 1}")

    def norm(self, x: Tensor) -> Tensor:
        return x


class ConvNeXtEncoder(ConvEncoder):
    """Official initialisation is timm's, normal of deviation 0.02 in all weights, and a mask token of zeros.

    (openmixup hands the token to a function that initialises modules, which leaves a parameter as it is. One for
    secondarily masked patches is UM-MAE's, normal 0.02.)
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        if self.reads == "all":  # a patch of zeros meets norm after norm, each of which enlarges its gradient 1000-fold
            nn.init.zeros_(self.token.mask_token)

    def layers(self) -> list[tuple[str, ...]]:
        """Whole stages, but for the third, of which each three blocks are one (openmixup, as BEiT's code does it)."""
        third, depth = "backbone.stages.2", len(self.backbone.stages[2].blocks)
        threes = [tuple(f"{third}.blocks.{j}" for j in range(i, min(i + 3, depth))) for i in range(0, depth, 3)]
        threes[0] += (f"{third}.downsample",)
        first = [("backbone.stem",), ("backbone.stages.0",), ("backbone.stages.1",)]
        return [*first, *threes, ("backbone.stages.3",)]

    def take_norm(self) -> nn.Module:
        return take_module(self, "backbone.head.norm" if hasattr(self.backbone.head, "norm") else "backbone.norm_pre")

    def stem(self, images: Tensor) -> Tensor:
        return self.backbone.stem(images)

    def stage(self, x: Tensor, index: int) -> tuple[Tensor, nn.Module]:
        """The input of a stage's blocks, and these."""
        stage = self.backbone.stages[index]
        return stage.downsample(x), stage.blocks

    def norm(self, x: Tensor) -> Tensor:
        return final_norm(self.backbone)(x)


def final_norm(model: nn.Module) -> nn.Module:
    """A ConvNeXt's last norm, which timm applies after pooling in most models and before it in some."""
    return model.head.norm if hasattr(model.head, "norm") else model.norm_pre


def tokens(x: Tensor) -> Tensor:
    """(B, D, h, w) to (B, h * w, D)."""
    return x.flatten(2).transpose(1, 2)
