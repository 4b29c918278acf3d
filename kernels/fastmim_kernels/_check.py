"""Checks of arguments that several ops share."""

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""Floating types that the kernels accept."""


def check_one_device(*tensors: Tensor) -> None:
    """Checks that all tensors are on one device.

    Raises:
        ValueError: the tensors are on several devices.
    """
    devices = {x.device for x in tensors}
    if len(devices) > 1:
        raise ValueError(f"expected all tensors on one device, got {sorted(map(str, devices))}")


def check_gradient(grad: Tensor, ids: Tensor, dtype: torch.dtype) -> None:
    """Checks an incoming gradient, the indices that go with it, and the dtype of the result.

    Raises:
        ValueError: `grad` or `dtype` is not floating, `ids` is not int64, or the two tensors are on several devices.
    """
    if grad.dtype not in FLOATS or dtype not in FLOATS or ids.dtype != torch.int64:
        raise ValueError(
            "expected grad and result float32, bfloat16 or float16, ids int64, "
            f"got {grad.dtype}, {dtype} and {ids.dtype}"
        )
    check_one_device(grad, ids)


def check_patches(height: int, width: int, patch_size: int) -> None:
    """Checks that images divide into whole patches.

    Raises:
        ValueError: the patch size does not divide height and width.
    """
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"expected images that divide into patches of {patch_size}, got {height} x {width}; resize or crop them"
        )


def check_tokens(num_ids: int, patch_size: int, token_size: int, columns: int) -> None:
    """Checks that patches divide into whole tokens, and that they fill rows of `columns` patches.

    Raises:
        ValueError: `token_size` does not divide `patch_size`, or `columns` does not divide `num_ids`.
    """
    if token_size < 1 or patch_size % token_size:
        raise ValueError(f"token_size: expected a divisor of the patch size {patch_size}, got {token_size}")
    if columns < 1 or num_ids % columns:
        raise ValueError(f"columns: expected a divisor of the {num_ids} patches, got {columns}")


def check_cells(hidden: Tensor, x: Tensor) -> None:
    """Checks a mask of cells against a map of features or pixels.

    Raises:
        ValueError: `hidden` is not (B, rows, columns) bool, its cells do not divide the (B, H, W, C) map `x`, or the
            two tensors are on several devices.
    """
    if hidden.ndim != 3 or hidden.dtype != torch.bool or hidden.shape[0] != x.shape[0]:
        raise ValueError(
            f"hidden: expected ({x.shape[0]}, rows, columns) bool, got {tuple(hidden.shape)} {hidden.dtype}"
        )
    if any(cells < 1 or n % cells for n, cells in zip(x.shape[1:3], hidden.shape[1:], strict=True)):
        raise ValueError(
            f"hidden: expected cells that divide a map of {tuple(x.shape[1:3])}, got {tuple(hidden.shape[1:])} cells"
        )
    check_one_device(hidden, x)


def check_channel_constants(mean: Tensor, std: Tensor, channels: int, dtypes=(torch.float32,)) -> None:
    """Checks the mean and standard deviation of the channels.

    Raises:
        ValueError: there are no channels; or `mean` or `std` is not (C,), has none of the `dtypes`, or requires a
            gradient, which no op gives.
    """
    if channels < 1:
        raise ValueError("images: expected at least one channel, got none")
    for name, value in (("mean", mean), ("std", std)):
        if value.shape != (channels,) or value.dtype not in dtypes:
            names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise ValueError(f"{name}: expected ({channels},) {names}, got {tuple(value.shape)} {value.dtype}")
        if value.requires_grad:
            raise ValueError(f"{name}: expected a constant, got a tensor that requires a gradient; detach it")


def check_predictions(
    pred: Tensor, images: Tensor, ids: Tensor, num_keep: int, patch_size: int, mean: Tensor, std: Tensor
) -> None:
    """Checks predictions of every patch of a batch of images.

    Raises:
        ValueError: `pred` is not (B, L, P), or `ids` not (B, L), for images (B, H, W, C); `num_keep` is not from 0 to
            L; or dtypes or devices do not fit together.
    """
    if images.ndim != 4:
        raise ValueError(f"expected images (B, H, W, C), got {tuple(images.shape)}")
    batch, height, width, channels = images.shape
    check_patches(height, width, patch_size)
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
    check_channel_constants(mean, std, channels)
    check_one_device(pred, images, ids, mean, std)
