"""What several ops share: checks of arguments, and how wide their Triton programs are. May import torch only."""

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""What kernels compute on; integers aside."""


def one_device(*tensors: Tensor) -> None:
    """
    Raises:
        ValueError: the tensors are on several devices.
    """
    devices = {x.device for x in tensors}
    if len(devices) > 1:
        raise ValueError(f"expected all tensors on one device, got {sorted(map(str, devices))}")


def gradient(grad: Tensor, ids: Tensor, dtype: torch.dtype) -> None:
    """
    Raises:
        ValueError: an incoming gradient and the indices that it belongs to have other types than floating and int64, or
            lie on several devices; `dtype`, of the result, is not floating.
    """
    if grad.dtype not in FLOATS or dtype not in FLOATS or ids.dtype != torch.int64:
        raise ValueError(
            "expected grad and result float32, bfloat16 or float16, ids int64, "
            f"got {grad.dtype}, {dtype} and {ids.dtype}"
        )
    one_device(grad, ids)


def patches_fit(height: int, width: int, patch_size: int) -> None:
    """
    Raises:
        ValueError: the images cannot be cut into whole patches.
    """
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"images of {height} x {width} cannot be cut into patches of {patch_size}; resize or crop them"
        )


def tokens_fit(num_ids: int, patch_size: int, token_size: int, columns: int) -> None:
    """
    Raises:
        ValueError: the patches cannot be cut into whole tokens, or do not fill rows of `columns`.
    """
    if token_size < 1 or patch_size % token_size:
        raise ValueError(f"patches of {patch_size} cannot be cut into tokens of {token_size}; use a divisor")
    if columns < 1 or num_ids % columns:
        raise ValueError(f"{num_ids} patches do not fill rows of {columns}; use a divisor")


def cells_fit(hidden: Tensor, x: Tensor) -> None:
    """
    Raises:
        ValueError: `hidden` is not (B, rows, columns) bool, its cells do not divide the (B, H, W, C) map, or the two
            lie on several devices.
    """
    if hidden.ndim != 3 or hidden.dtype != torch.bool or hidden.shape[0] != x.shape[0]:
        raise ValueError(
            f"hidden: expected ({x.shape[0]}, rows, columns) bool, got {tuple(hidden.shape)} {hidden.dtype}"
        )
    if any(cells < 1 or n % cells for n, cells in zip(x.shape[1:3], hidden.shape[1:], strict=True)):
        raise ValueError(f"{tuple(x.shape[1:3])} is no whole multiple of the mask's {tuple(hidden.shape[1:])} cells")
    one_device(hidden, x)


def channel_constants(mean: Tensor, std: Tensor, channels: int, dtypes=(torch.float32,)) -> None:
    """
    Raises:
        ValueError: there are no channels; mean or std is not (C,) of one of `dtypes`, or wants a gradient, which no op
            gives.
    """
    if channels < 1:
        raise ValueError("images: expected at least one channel, got none")
    for name, value in (("mean", mean), ("std", std)):
        if value.shape != (channels,) or value.dtype not in dtypes:
            names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise ValueError(f"{name}: expected ({channels},) {names}, got {tuple(value.shape)} {value.dtype}")
        if value.requires_grad:
            raise ValueError(f"{name} is a constant and gets no gradient; detach it")


def predicted_images(
    pred: Tensor, images: Tensor, ids: Tensor, num_keep: int, patch_size: int, mean: Tensor, std: Tensor
) -> None:
    """
    Raises:
        ValueError: these are not predictions (B, L, P) of every patch of images (B, H, W, C) in the order of ids
            (B, L), of which the first `num_keep` are visible; or their types or devices do not fit.
    """
    if images.ndim != 4:
        raise ValueError(f"expected images (B, H, W, C), got {tuple(images.shape)}")
    batch, height, width, channels = images.shape
    patches_fit(height, width, patch_size)
    num_patches, values = height // patch_size * (width // patch_size), patch_size**2 * channels
    if pred.shape != (batch, num_patches, values) or ids.shape != (batch, num_patches):
        raise ValueError(
            f"expected pred {(batch, num_patches, values)} and ids {(batch, num_patches)} for images "
            f"{tuple(images.shape)} in patches of {patch_size}, got {tuple(pred.shape)} and {tuple(ids.shape)}"
        )
    if not 0 <= num_keep <= num_patches:
        raise ValueError(f"num_keep: expected 0 to {num_patches} visible patches, got {num_keep}")
    if pred.dtype not in FLOATS or images.dtype not in (torch.uint8, *FLOATS) or ids.dtype != torch.int64:
        raise ValueError(
            "expected pred float32, bfloat16 or float16, images the same or uint8, ids int64, "
            f"got {pred.dtype}, {images.dtype} and {ids.dtype}"
        )
    channel_constants(mean, std, channels)
    one_device(pred, images, ids, mean, std)


def warps(block: int) -> int:
    """Warps of a Triton program on `block` values: about 8 values a thread, so that they stay in registers."""
    return min(max(block // 256, 1), 16)
