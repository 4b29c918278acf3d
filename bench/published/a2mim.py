"""A2MIM and its SimMIM baselines as published, on convolutional networks.

Source: arXiv:2205.13943; Westlake-AI/openmixup `a2mim.py`. The whole image is encoded, and a mask token joins one
intermediate feature map. Every pixel is predicted. Prediction and target are composed, and both are Fourier-transformed
in full. Parameter names are the official ones. The baselines are the same model with other options.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Token = Literal["replace", "add", "gated"]


class FocalFrequencyLoss(nn.Module):
    """Focal frequency loss of (N, C, H, W) images.

    Source: EndlessSora/focal-frequency-loss; openmixup's copy has no crops.

    Args:
        patch_factor: crops per side.
        ave_spectrum: average the spectra over the batch.
        log_matrix: take the logarithm of the weights.
        batch_matrix: True = divide weights by the largest of all entries; False = by the largest of each sample, crop
            and channel.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        alpha: float = 1.0,
        patch_factor: int = 1,
        ave_spectrum: bool = False,
        log_matrix: bool = False,
        batch_matrix: bool = False,
    ):
        super().__init__()
        self.loss_weight, self.alpha, self.patch_factor = loss_weight, alpha, patch_factor
        self.ave_spectrum, self.log_matrix, self.batch_matrix = ave_spectrum, log_matrix, batch_matrix

    def spectrum(self, images: Tensor) -> Tensor:
        """Returns the spectra of crops, (N, crops, C, h, w, 2): real and imaginary part."""
        n, c, h, w = images.shape
        p = self.patch_factor
        crops = images.reshape(n, c, p, h // p, p, w // p).permute(0, 2, 4, 1, 3, 5).reshape(n, p * p, c, h // p, -1)
        f = torch.fft.fft2(crops, norm="ortho")
        f = torch.stack([f.real, f.imag], dim=-1)
        return f.mean(dim=0, keepdim=True) if self.ave_spectrum else f

    def forward(self, pred: Tensor, target: Tensor, matrix: Tensor | None = None) -> Tensor:
        """Returns the loss; `matrix` is None or the weights to use, (N, crops, C, h, w)."""
        difference = self.spectrum(pred) - self.spectrum(target)
        distance = (difference**2).sum(dim=-1)
        if matrix is None:
            matrix = distance.detach().sqrt() ** self.alpha
            if self.log_matrix:
                matrix = torch.log(matrix + 1.0)
            matrix = matrix / (matrix.max() if self.batch_matrix else matrix.amax(dim=(-2, -1), keepdim=True))
            matrix = matrix.nan_to_num(nan=0.0).clamp(0.0, 1.0)
        return self.loss_weight * (matrix * distance).mean()


class A2MIMHead(nn.Module):
    """Masked pixel loss plus a Fourier loss of the composed prediction: `head(target, pred, mask) -> ()`.

    target, pred: (N, C, H, W). mask: (N, h, w), 1 = hidden, on a grid that divides the image.

    Args:
        mode: "l1_loss", "mse_loss" or "focal_l1_loss"; the last has `alpha` and `gamma`.
        unmask_weight: spatial weight of visible pixels.
        fft_weight: weight of the Fourier loss; 0 skips this loss.
        fft_focal: focal frequency loss of the batch's mean spectrum, instead of the spatial loss of complex
            differences.
        fft_unmask_weight: share of the prediction, with gradient, at visible pixels.
        fft_unmask_replace: source of the rest of visible pixels.
        fft_reweight: multiply each entry's loss of the complex difference by the loss itself.
    """

    def __init__(
        self,
        mode: Literal["l1_loss", "mse_loss", "focal_l1_loss"] = "l1_loss",
        alpha: float = 0.2,
        gamma: float = 1.0,
        unmask_weight: float = 0.0,
        fft_weight: float = 0.0,
        fft_focal: bool = False,
        fft_unmask_weight: float = 0.0,
        fft_unmask_replace: Literal["target", "prediction", "mean", "mixed"] = "mixed",
        fft_reweight: bool = False,
    ):
        super().__init__()
        self.mode, self.alpha, self.gamma = mode, alpha, gamma
        self.unmask_weight, self.fft_weight, self.fft_focal = unmask_weight, fft_weight, fft_focal
        self.fft_unmask_weight, self.fft_unmask_replace = fft_unmask_weight, fft_unmask_replace
        self.fft_reweight = fft_reweight
        self.focal_frequency = FocalFrequencyLoss(ave_spectrum=True, log_matrix=True, batch_matrix=True)

    def criterion(self, pred: Tensor, target: Tensor) -> Tensor:
        """Returns the spatial loss of every entry; of complex entries, from the modulus of their difference."""
        if self.mode == "mse_loss":
            return F.mse_loss(pred, target, reduction="none")
        distance = (pred - target).abs()
        if self.mode == "l1_loss":
            return distance
        return distance * (2 * torch.sigmoid(self.alpha * distance) - 1) ** self.gamma

    def forward(self, target: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        mask = enlarge(mask, target.shape[2]).to(target.dtype)
        weight = mask + (1 - mask) * self.unmask_weight
        loss = (self.criterion(pred, target) * weight).sum() / (weight.sum() + 1e-5) / target.shape[1]
        if self.fft_weight:
            loss = loss + self.fft_weight * self.fourier(target, pred, mask)
        return loss

    def fourier(self, target: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        match self.fft_unmask_replace:
            case "target":
                replaced = target.clone()
            case "prediction":
                replaced = pred.clone().detach()
            case "mean":
                replaced = target.mean(dim=[2, 3], keepdim=True).expand_as(target)
            case "mixed":
                replaced = 0.5 * pred.clone().detach() + 0.5 * target.clone()
        live = mask + (1 - mask) * self.fft_unmask_weight
        composed = pred * live + replaced * (1 - live)
        if self.fft_focal:
            return self.focal_frequency(composed, target)
        f_composed = torch.fft.fftn(composed, dim=(2, 3), norm="ortho")
        f_target = torch.fft.fftn(target, dim=(2, 3), norm="ortho")
        loss = self.criterion(f_composed, f_target)
        return (loss.detach() * loss).mean() if self.fft_reweight else loss.mean()


def enlarge(mask: Tensor, size: int) -> Tensor:
    """Repeats the entries of (N, h, w) to (N, 1, size, ...)."""
    scale = size // mask.shape[1]
    return mask.repeat_interleave(scale, 1).repeat_interleave(scale, 2)[:, None]


class MaskToken(nn.Module):
    """Base class of backbones that mix their `mask_token` and `mask_gamma` into one of their feature maps."""

    mask_token: Tensor
    mask_gamma: Tensor | None

    def add_token(self, dim: int, token: Token) -> None:
        self.replace = token == "replace"
        self.mask_token = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.mask_gamma = nn.Parameter(torch.full((1, dim, 1, 1), 1e-6)) if token == "gated" else None

    def forward_mask(self, x: Tensor, mask: Tensor) -> Tensor:
        """Returns x, (N, C, h, w), with the token at hidden positions; mask: (N, ...), may be coarser."""
        token = self.mask_token.expand(len(x), -1, *x.shape[2:])
        mask = enlarge(mask, x.shape[2]).type_as(token)
        if self.replace:
            return x * (1.0 - mask) + token * mask
        if self.mask_gamma is not None:
            x = x * (1.0 - mask) + (x * mask) * self.mask_gamma
        return x + token * mask


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride > 1 or inputs != 4 * width:
            projection = nn.Conv2d(inputs, 4 * width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class ResNet(MaskToken):
    """ResNet v1b (stride in the 3x3 convolution), where the token joins before `layer{mask_layer + 1}`."""

    def __init__(
        self,
        depths: tuple[int, ...] = (3, 4, 6, 3),
        mask_layer: int = 3,
        token: Token = "gated",
        base_channels: int = 64,
    ):
        super().__init__()
        self.mask_layer = mask_layer
        self.add_token(base_channels * 2 ** (mask_layer + 1) if mask_layer else 64, token)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        for i, depth in enumerate(depths):
            width = base_channels * 2**i
            inputs = 2 * width if i else 64
            first = Bottleneck(inputs, width, stride=1 if i == 0 else 2)
            blocks = [first, *(Bottleneck(4 * width, width, stride=1) for _ in range(depth - 1))]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        for i in range(4):
            if i == self.mask_layer:
                x = self.forward_mask(x, mask)
            x = self.get_submodule(f"layer{i + 1}")(x)
        return x


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of (N, C, h, w)."""

    def __init__(self, dim: int):
        super().__init__(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        # Contiguous as published: otherwise the later layers would run channels-last, at another speed.
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.depthwise_conv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pointwise_conv1 = nn.Linear(dim, 4 * dim)
        self.pointwise_conv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise_conv(x).permute(0, 2, 3, 1))
        y = self.pointwise_conv2(F.gelu(self.pointwise_conv1(y))).permute(0, 3, 1, 2)
        return x + y.mul(self.gamma.view(1, -1, 1, 1))


class ConvNeXt(MaskToken):
    """ConvNeXt v1 with a token after `downsample_layers[mask_layer]` and a final norm per position."""

    def __init__(
        self,
        depths: tuple[int, ...] = (3, 3, 27, 3),
        dims: tuple[int, ...] = (96, 192, 384, 768),
        mask_layer: int = 3,
        token: Token = "gated",
    ):
        super().__init__()
        self.mask_layer = mask_layer
        self.add_token(dims[mask_layer], token)
        stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), LayerNorm2d(dims[0]))
        down = [
            nn.Sequential(LayerNorm2d(a), nn.Conv2d(a, b, 2, stride=2))
            for a, b in zip(dims[:-1], dims[1:], strict=True)
        ]
        self.downsample_layers = nn.ModuleList([stem, *down])
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(dim) for _ in range(depth))) for depth, dim in zip(depths, dims, strict=True)
        )
        self.norm3 = LayerNorm2d(dims[-1])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for i, stage in enumerate(self.stages):
            x = self.downsample_layers[i](x)
            if i == self.mask_layer:
                x = self.forward_mask(x, mask)
            x = stage(x)
        return self.norm3(x)


class Neck(nn.Module):
    """A 1x1 convolution and a pixel shuffle: (N, D, h, w) to (N, 3, h * stride, w * stride).

    The parameter has another name in the SimMIM baselines, whose images are not filled (`fill="none"`).
    """

    def __init__(self, dim: int, stride: int, fill: str = "mean"):
        super().__init__()
        self.name = "decoder_pred" if fill == "mean" else "decoder"
        self.add_module(self.name, nn.Sequential(nn.Conv2d(dim, 3 * stride**2, 1), nn.PixelShuffle(stride)))

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.name)(x)


class A2MIM(nn.Module):
    """A2MIM on a convolutional network: `model(images, mask) -> (loss, pred, mask)`.

    images: (N, 3, H, W) float, mean/std-normalised. mask: (N, h, w) int64, 1 = hidden, on the grid of the feature map
    that the token joins, or on a coarser grid. pred: (N, 3, H, W).

    Args:
        fill: "mean" fills hidden pixels with the channel means of the whole image, as the official data set does.
            "none" leaves the images as they are.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: nn.Module, fill: Literal["mean", "none"] = "mean"):
        super().__init__()
        self.backbone, self.neck, self.head, self.fill = backbone, neck, head, fill

    def forward(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pred = self.neck(self.backbone(self.masked_input(images, mask), mask))
        return self.head(images, pred, mask), pred, mask

    def masked_input(self, images: Tensor, mask: Tensor) -> Tensor:
        if self.fill == "none":
            return images
        hidden = enlarge(mask, images.shape[2]).bool()
        return torch.where(hidden, images.mean(dim=(2, 3), keepdim=True), images)


# Depths, and of ConvNeXt widths, by timm's name.
RESNETS = {
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
    "resnet200": (3, 24, 36, 3),
}
CONVNEXTS = {
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
}


def head_of(loss: Any) -> A2MIMHead:
    """Returns the official head of a fastmim loss.

    Raises:
        ValueError: the official head has no such loss.
    """
    kind = type(loss).__name__
    if kind in ("MaskedL1", "MaskedL2"):
        return A2MIMHead({"MaskedL1": "l1_loss", "MaskedL2": "mse_loss"}[kind])
    if kind == "MaskedFocalL1":
        return A2MIMHead("focal_l1_loss", loss.alpha, loss.gamma)
    if kind != "WithFourier":
        raise ValueError(f"{kind}: the official A2MIM head takes MaskedL1, MaskedL2, MaskedFocalL1 or WithFourier")
    head, fourier = head_of(loss.spatial), loss.fourier
    head.fft_weight, head.fft_unmask_weight, head.fft_unmask_replace = loss.weight, loss.visible_weight, loss.visible
    head.fft_focal = type(fourier).__name__ == "FocalFrequency"
    if head.fft_focal:
        fixed = (fourier.reduce, fourier.log, fourier.peak, fourier.crops)
        if fixed != ("batch_mean", True, "all", 1):
            raise ValueError(f"{fourier}: the official head's is batch_mean, log, peak all, one crop")
        head.focal_frequency.alpha = fourier.alpha
    else:
        gamma = {"l1_loss": 0.0, "focal_l1_loss": head.gamma}.get(head.mode)
        if fourier.gamma != gamma or (gamma and fourier.alpha != head.alpha):
            raise ValueError(f"{fourier}: the official head takes the loss of pixels for spectra too: {loss.spatial}")
    return head


def from_config(cfg: Any, attention: Literal["explicit", "sdpa"] = "explicit") -> A2MIM:
    """Returns the official model of a fastmim config.

    Args:
        cfg: the config.
        attention: ignored, as convolutional networks have no attention.

    Raises:
        ValueError: not a config of A2MIM, or of a SimMIM baseline, on ResNet or ConvNeXt; or the official
            code lacks a form of it.
    """
    encoder, name = cfg.encoder, str(getattr(cfg.encoder, "name", ""))
    parts = (type(cfg.target).__name__, type(cfg.decoder).__name__)
    if name not in RESNETS | CONVNEXTS or parts != ("Pixels", "LinearHead") or encoder.reads != "all":
        known = ", ".join(RESNETS | CONVNEXTS)
        raise ValueError(
            f"not A2MIM on a convolutional network: expected {known}, reading all, with Pixels, LinearHead"
        )
    if encoder.drop_path:
        raise ValueError(f"encoder.drop_path={encoder.drop_path}: officially there is none here")
    if encoder.output_stride != 32:
        raise ValueError(f"encoder.output_stride={encoder.output_stride}: officially it is 32")
    place = {"mask_layer": encoder.token_layer, "token": encoder.token}
    if name in RESNETS:
        dims = encoder.dims or (64, 128, 256, 512)
        if tuple(dims) != tuple(dims[0] * 2**i for i in range(4)):
            raise ValueError(f"encoder.dims={dims}: officially each stage is twice as wide as the one before")
        backbone, dim = ResNet(encoder.depths or RESNETS[name], base_channels=dims[0], **place), 4 * dims[-1]
    else:
        depths, dims = (
            own or named for own, named in zip((encoder.depths, encoder.dims), CONVNEXTS[name], strict=True)
        )
        backbone, dim = ConvNeXt(depths, dims, **place), dims[-1]
    return A2MIM(backbone, Neck(dim, 32, encoder.fill), head_of(cfg.loss), encoder.fill)


def inputs(mask: Any) -> tuple[Tensor]:
    """Returns the inputs after `images` that hide the patches of a fastmim mask."""
    return (mask.mask.view(-1, *mask.grid).long(),)
