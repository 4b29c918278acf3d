"""Swin transformers from timm that read whole images. May import timm, L1 and L0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from timm.models import checkpoint_seq
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from ..tokens import Encoder, Mask, Masking
from .create import check_size, create, integer_buffers
from .dense import DenseInput, MaskToken, compute_dtype


@dataclass(frozen=True)
class Swin(Encoder):
    """A timm Swin with a learned token for what is hidden (SimMIM, arXiv:2111.09886, section 3)."""

    name: str = "swin_base_patch4_window7_224"
    """timm model name."""
    window: int | None = None
    """Side of the attention windows, tokens; None = the model's own. A stage of fewer tokens is one window."""
    patch_size: int | None = None
    """Side of a token of the first stage, pixels; None = the model's own."""
    embed_dim: int | None = None
    """Width of the first stage; None = the model's own."""
    depths: tuple[int, ...] | None = None
    """Blocks of each stage; None = the model's own."""
    num_heads: tuple[int, ...] | None = None
    """Attention heads of each stage; None = the model's own."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block, growing linearly from 0."""
    fill: Literal["none", "mean"] = "none"
    """What hidden pixels hold: their own values, which "replace" at layer 0 keeps from the encoder, or their image's
    mean colour."""
    token: Literal["replace", "add", "gated"] = "replace"
    """How the learned token stands for hidden tokens, see `MaskToken`."""
    token_layer: int = 0
    """Where it does: 0 and 1 = before the first stage, k = before the blocks of stage k."""

    timm_layout = "NHWC"

    def timm(self, size: tuple[int, int]) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("patch_size", "embed_dim", "depths", "num_heads")}
        own = {name: value for name, value in (own | {"window_size": self.window}).items() if value is not None}
        return {"architecture": self.name, "model_args": {"img_size": size} | own}

    def build(
        self, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...], masking: Masking
    ) -> nn.Module:
        """
        Raises:
            ValueError: timm has no such Swin, or the image size, the masking or `token_layer` does not fit it.
        """
        if masking.replaces:
            raise ValueError("masking.secondary must be 0 for Swin, which reads hidden patches too; or use UMSwin")
        args = self.timm(size)["model_args"]
        swin = create(self.name, SwinTransformer, in_chans=len(mean), drop_path_rate=self.drop_path, **args)
        check_size(size, swin.feature_info[-1]["reduction"], self.name)
        if not 0 <= self.token_layer <= len(swin.layers):
            raise ValueError(
                f"encoder.token_layer: expected at most {len(swin.layers)} for {self.name}, got {self.token_layer}"
            )
        return SwinEncoder(self, swin, mean, std)


class SwinEncoder(nn.Module):
    """`encoder(images, mask) -> (B, L, D)`: one token for each patch, which is the square of a token of the last stage.

    `backbone` is timm's model, so an export is a copy. Its initialisation is the official one: normal of deviation
    0.02 in linear layers and tables, torch's default in the patch embedding.
    """

    num_prefix_tokens = 0
    reads = "all"
    merge = 1

    def __init__(self, spec: Swin, swin: SwinTransformer, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.patch_size: int = swin.feature_info[-1]["reduction"]
        self.patch_values: int = self.patch_size**2 * len(mean)
        self.grid = tuple(side // self.patch_size for side in swin.patch_embed.img_size)
        self.embed_dim: int = swin.num_features
        self.grad_checkpointing = False
        self.input = DenseInput(mean, std, spec.fill)
        self.backbone = swin
        integer_buffers(swin)
        self.token_stage = max(spec.token_layer, 1) - 1
        self.token = MaskToken(swin.feature_info[self.token_stage]["num_chs"], spec.token)

    def forward(self, images: Tensor, mask: Mask) -> Tensor:
        """images: (B, H, W, C) uint8, or normalised floats."""
        return self.transform(self.input(images, mask, compute_dtype(self.token.mask_token)), mask)

    def features(self, images: Tensor) -> Tensor:
        """(B, L, D) of whole, normalised (B, C, H, W) images: timm's `forward_features`, bit for bit."""
        return self.transform(images, None)

    def transform(self, images: Tensor, mask: Mask | None) -> Tensor:
        """Runs timm's model, with the mask token in place of what `mask` hides."""
        x = self.backbone.patch_embed(images)
        for i, stage in enumerate(self.backbone.layers):
            x = stage.downsample(x)
            if mask is not None and i == self.token_stage:
                x = self.token(x, mask.hidden_map(x.shape[1:3]))
            x = checkpoint_seq(stage.blocks, x) if self.grad_checkpointing else stage.blocks(x)
        return self.backbone.norm(x).flatten(1, 2)
