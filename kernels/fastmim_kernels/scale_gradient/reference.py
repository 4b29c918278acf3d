"""In-place scaling in plain torch: the definition of correct."""

from torch import Tensor


def scale_gradient(x: Tensor, factor: Tensor) -> None:
    x.copy_(x * factor)  # not mul_: a low-precision x would round the factor first
