"""In-place product in plain torch: the definition of correct."""

from torch import Tensor


def scale_gradient(x: Tensor, factor: Tensor) -> None:
    x.copy_(x * factor)  # not mul_, which would round the factor to the dtype of a low-precision x
